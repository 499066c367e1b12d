"""A tiered store of several processes: masters that take over from each other, nodes that find whoever leads, and what is
left of what clients were told when any of them is killed, stopped or cut off."""

import json
import os
import random
import signal
import subprocess
import threading

import pytest
import redis

from conftest import BINARY, ENVIRONMENT, HTTP, Engine, Gateway, command, free_port, until
from replicas import Redis
from stores import value

# What says "ask again": it is not known, or cannot be known now.
LATER = ("UNAVAILABLE", "LOADING", "BUSY")


def four_ports():
    """For clients, operators, nodes that look for a master, and other nodes."""
    return [free_port() for _ in range(4)]


class Part:
    """One process of a store. It listens where it listened before when it is started again."""

    def __init__(self, folder, name, roles, ports, masters, settings, *args):
        self.folder, self.name = folder, name
        self.client_port, self.admin_port, self.master_port, self.node_port = ports
        config = folder / f"{name}.toml"
        config.write_text(settings)
        at = "127.0.0.1:{}".format
        self.command = [BINARY, "store", "--config", config, "--roles", roles, "--json", "--admin-listen", at(self.admin_port),
                        "--listen", at(self.client_port), "--master-listen", at(self.master_port),
                        "--node-listen", at(self.node_port), *args]
        for master in masters:
            self.command += ["--master", at(master)]
        self.process = None
        self.start(wait=False)

    def start(self, wait=True):
        with open(self.folder / f"{self.name}.log", "ab") as log:
            self.process = subprocess.Popen([str(word) for word in self.command], stdout=subprocess.PIPE, stderr=log,
                                            env=ENVIRONMENT)
        if wait:
            self.told()

    def told(self):
        line = self.process.stdout.readline()
        assert line, self.log()
        return json.loads(line)

    def log(self):
        return (self.folder / f"{self.name}.log").read_text()

    def kill(self, with_signal=signal.SIGKILL):
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            os.kill(self.process.pid, with_signal)
            self.process.wait(timeout=60)
        self.process.stdout.close()

    def signal(self, number):
        os.kill(self.process.pid, number)

    def ask(self, path, method="GET"):
        return HTTP.request(method, f"http://127.0.0.1:{self.admin_port}{path}", timeout=60)

    def status(self):
        answer = self.ask("/status")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def leads(self):
        return self.process.poll() is None and self.status()["link"]["leads"]

    def client(self, **more):
        return redis.Redis(port=self.client_port, **{"socket_timeout": 60, "retry": None, **more})


class Fleet:
    """Masters and nodes. Leases are short: nobody should wait for long here, and none of the promises depends on it."""

    LINK = '\n[tiers.link]\nlease = "600ms"\nsilence = "1s"\nsettle = "700ms"\nlost = "1m"\n'

    def __init__(self, folder, redis, masters=2, nodes=2, both=False, link="", memory="64MiB", tells=False):
        self.folder, self.parts, self.tells = folder, {}, {}
        coordination = f'[coordination]\nbackend = "redis"\ndsn = "{redis.dsn}"\n' if redis else ""
        settings = coordination + self.LINK + link
        names = [f"m{n}" for n in range(masters)] + ([] if both else [f"n{n}" for n in range(nodes)])
        ports = {name: four_ports() for name in names}
        self.master_ports = [ports[name][2] for name in names if name[0] == "m"]
        for name in names:
            plays = "master,node" if both else "master" if name[0] == "m" else "node"
            known = [] if plays == "master" else self.master_ports
            data = ["--data", folder / name] if plays != "master" or not redis else []
            tiers = ["--memory", memory, "--disk", "256MiB"]
            if tells and plays == "master":
                self.tells[name] = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
                tiers += ["--events", self.tells[name][0], "--replay", self.tells[name][1]]
            self.parts[name] = Part(folder, name, plays, ports[name], known, settings, *data, *tiers)
        for part in self.parts.values():
            part.told()

    def __getitem__(self, name):
        return self.parts[name]

    def masters(self):
        return [part for name, part in self.parts.items() if name[0] == "m"]

    def nodes(self):
        return [part for name, part in self.parts.items() if "node" in part.command[part.command.index("--roles") + 1]]

    def leader(self):
        """The one master that leads, once there is one."""
        def one():
            leads = [part for part in self.masters() if part.leads()]
            assert len(leads) <= 1, "two lead at the same time"
            return leads[0] if leads else None
        return until(one, "a master to lead", seconds=60)

    def ready(self):
        """Waits until the master that leads knows every node, and every node knows it."""
        def all_ready():
            living = [part for part in self.parts.values() if part.process.poll() is None]
            return all(part.ask("/readyz").status_code == 200 for part in living)
        until(all_ready, "everybody to be ready", seconds=60)
        return self.leader()

    def end(self):
        for part in self.parts.values():
            part.kill()


@pytest.fixture
def fleet(tmp_path):
    """fleet(masters=…, nodes=…): with a coordinator of its own."""
    running = []

    def begin(coordinator=True, **more):
        coordinator = Redis(tmp_path) if coordinator else None
        running.append(coordinator)
        folder = tmp_path / f"fleet-{len(running)}"
        folder.mkdir()
        running.append(Fleet(folder, coordinator, **more))
        return running[-1]

    yield begin
    for one in reversed(running):
        if one:
            one.end() if isinstance(one, Fleet) else one.kill()


def code(error):
    """The code word of a refusal; redis-py makes an error of its own of one of them, and cuts it off."""
    return "LOADING" if isinstance(error, redis.BusyLoadingError) else str(error).split(" ")[0]


def said(ask):
    """The code word that somebody gets who asks this; OK if it is none."""
    try:
        ask()
        return "OK"
    except redis.RedisError as error:
        return code(error)


def patiently(ask):
    """What the store says in the end to somebody who asks again as long as it says so."""
    def answered():
        try:
            return (ask(),)
        except redis.RedisError as error:
            assert code(error) in LATER, error
            return None
    return until(answered, "an answer", seconds=60)[0]


class Writers:
    """Put and read without a pause through all nodes; keep account of what they were told. Any wrong byte is noted."""

    def __init__(self, nodes, threads=4, keys=40):
        self.nodes, self.keys, self.wrong, self.stop = nodes, keys, [], threading.Event()
        # By key: the last turn that was acknowledged, and those since of which nobody knows.
        self.known = {}
        self.done = [0] * threads
        self.threads = [threading.Thread(target=self.run, args=(n,), daemon=True) for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def name(self, thread, number):
        return f"w{thread}:{number}"

    @staticmethod
    def bytes_of(name, turn):
        return value(f"{name} {turn}", [3, 5_000, 120_000][(turn + len(name)) % 3])

    def run(self, thread):
        chance, turn = random.Random(thread), 0
        while not self.stop.is_set():
            turn += 1
            name = self.name(thread, chance.randrange(self.keys))
            last, since = self.known.get(name, (None, []))
            node = chance.choice(self.nodes)
            client = node.client(socket_timeout=20)
            try:
                if chance.random() < 0.5:
                    only = {"nx": True} if chance.random() < 0.2 else {}
                    try:
                        stored = client.set(name, self.bytes_of(name, turn), **only)
                    except redis.RedisError:
                        self.known[name] = (last, [*since, turn])
                        raise
                    if stored:
                        self.known[name] = (turn, [])
                    elif last is None and not since:
                        self.wrong.append(f"{name} was there, and nobody had put it")
                else:
                    found = client.get(name)
                    allowed = [last, *since]
                    if not any(found == (None if t is None else self.bytes_of(name, t)) for t in allowed):
                        self.wrong.append(f"{name}: {None if found is None else found[:20]} is none of {allowed}")
                self.done[thread] += 1
            except redis.RedisError as error:
                if code(error) not in LATER:
                    self.wrong.append(str(error))
            finally:
                client.close()

    def work(self, more):
        """Waits until each has done so much more."""
        before = list(self.done)
        until(lambda: self.wrong or all(now >= was + more for now, was in zip(self.done, before)), "work to be done", seconds=90)
        assert not self.wrong, self.wrong

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()
        assert not self.wrong, self.wrong

    def check(self, node):
        """Everything that was acknowledged is there."""
        client = node.client()
        for name, (last, since) in self.known.items():
            found = patiently(lambda: client.get(name))
            allowed = [last, *since]
            fits = any(found == (None if turn is None else self.bytes_of(name, turn)) for turn in allowed)
            assert fits, f"{name}: {None if found is None else found[:20]} is none of {allowed}"


# === What a fleet is ===


def test_any_node_answers_for_any_key_and_every_door_says_who_leads(fleet):
    fleet = fleet()
    leader = fleet.ready()
    ours, theirs = fleet["n0"].client(), fleet["n1"].client()
    sizes = [0, 1, 4096, 3 << 20]
    for size in sizes:
        assert ours.set(f"k{size}", value("k", size))
    assert [theirs.get(f"k{size}") for size in sizes] == [value("k", size) for size in sizes]
    assert theirs.set("k1", b"no", nx=True) is None and theirs.set("new", b"yes", nx=True) and ours.get("new") == b"yes"
    assert theirs.delete("k1") == 1 and ours.get("k1") is None and theirs.dbsize() == ours.dbsize() == 4

    address = f"127.0.0.1:{leader.master_port}"
    other = next(master for master in fleet.masters() if master is not leader)
    term = leader.status()["link"]["term"]
    for part in (fleet["n0"], fleet["n1"], other):
        link = part.status()["link"]
        assert (link["leads"], link["leader"]) == (False, address), "who is not the leader knows who is"
        refused = part.ask("/objects/default/new")
        assert refused.status_code == 409 and address in refused.text, "and sends whoever asks there"
    assert fleet["n0"].status()["link"]["term"] == term
    assert leader.ask("/objects/default/new").json()["copies"], "the one that leads knows where everything is"
    assert {node["standing"] for node in leader.ask("/nodes").json()} == {"exact"}
    assert other.ask("/readyz").json() == {"status": "standby"}

    shown = command("status", "--store", f"http://127.0.0.1:{leader.admin_port}").stdout
    assert f"master; it leads, in term {term}" in shown and "4 objects" in shown
    shown = command("status", "--store", f"http://127.0.0.1:{fleet['n0'].admin_port}").stdout
    assert f"node; {address} leads, in term {term}" in shown and "memory here" in shown
    rows = leader.ask("/metrics").text.splitlines()
    assert "warmline_store_leads 1" in rows and f"warmline_store_term {term}" in rows
    assert any(row.startswith("warmline_store_objects 4") for row in rows)
    rows = fleet["n0"].ask("/metrics").text.splitlines()
    assert "warmline_store_leads 0" in rows and any(row.startswith("warmline_store_node_copies ") for row in rows)
    assert not any(row.startswith("warmline_store_objects ") for row in rows), "what it does not know it does not say"


def test_what_lies_in_memory_reaches_the_disk_of_its_node_and_comes_back_with_it(fleet):
    fleet = fleet(masters=1)
    leader = fleet.ready()
    client = fleet["n0"].client()
    for n in range(30):
        assert client.set(f"d{n}", value(f"d{n}", 50_000))
    def written():
        now = leader.status()
        return now["now"]["offloads"] == 0 and now["counters"]["moves"]["offloaded"] >= 30
    until(written, "everything to be written", seconds=60)
    assert leader.status()["counters"]["moves"]["offloads_refused"] == 0
    fleet["n0"].kill()
    held_up = fleet["n1"].client()
    until(lambda: said(lambda: held_up.get("d0")) == "LOADING", "the master to miss the node", seconds=30)
    fleet["n0"].start()
    fleet.ready()
    for n in range(30):
        assert patiently(lambda: held_up.get(f"d{n}")) == value(f"d{n}", 50_000)


def test_processes_that_are_master_and_node_are_a_fleet_as_well(fleet):
    fleet = fleet(masters=3, both=True)
    leader = fleet.ready()
    clients = [part.client() for part in fleet.masters()]
    for n, client in enumerate(clients):
        assert client.set(f"b{n}", value(f"b{n}", 10_000))
    for client in clients:
        assert [client.get(f"b{n}") for n in range(3)] == [value(f"b{n}", 10_000) for n in range(3)]
    term = leader.status()["link"]["term"]
    # In order: it lets go, and the others need not wait for the end of its lease.
    leader.kill(signal.SIGTERM)
    assert leader.process.returncode == 0, leader.log()
    left = [part for part in fleet.masters() if part is not leader]
    until(lambda: any(part.leads() for part in left), "another to lead", seconds=60)
    assert next(part for part in left if part.leads()).status()["link"]["term"] > term
    leader.start()
    fleet.ready()
    for n in range(3):
        assert patiently(lambda: clients[(n + 1) % 3].get(f"b{n}")) == value(f"b{n}", 10_000), "its disk brought it back"


# === Who dies ===


def test_masters_that_are_killed_under_load_lose_nothing_that_was_acknowledged(fleet):
    fleet = fleet(masters=2, nodes=2)
    fleet.ready()
    writers = Writers(fleet.nodes())
    terms = []
    for _ in range(3):
        writers.work(30)
        leader = fleet.leader()
        terms.append(leader.status()["link"]["term"])
        leader.kill()
        until(lambda: any(part.leads() for part in fleet.masters() if part is not leader), "another to lead", seconds=60)
        writers.work(30)
        leader.start()
    writers.end()
    leader = fleet.ready()
    terms.append(leader.status()["link"]["term"])
    assert terms == sorted(set(terms)), "each began in a later term"
    for node in fleet.nodes():
        writers.check(node)
    status = leader.status()
    assert status["now"]["objects"] <= len(writers.known) and status["now"]["puts"] == 0


def test_a_master_that_was_stopped_wakes_up_and_decides_nothing(fleet):
    fleet = fleet(masters=2, nodes=2)
    fleet.ready()
    writers = Writers(fleet.nodes())
    writers.work(30)
    leader = fleet.leader()
    leader.signal(signal.SIGSTOP)
    other = next(part for part in fleet.masters() if part is not leader)
    until(other.leads, "the other one to lead", seconds=60)
    writers.work(30)
    leader.signal(signal.SIGCONT)
    until(lambda: not leader.leads(), "the one that was stopped to see it", seconds=60)
    writers.work(30)
    writers.end()
    assert fleet.leader() is other
    assert leader.status()["link"]["leader"] == f"127.0.0.1:{other.master_port}"
    fleet.ready()
    for node in fleet.nodes():
        writers.check(node)


def test_a_node_that_is_killed_under_load_takes_only_what_it_alone_had_in_memory(fleet):
    fleet = fleet(masters=1, nodes=3)
    leader = fleet.ready()
    first = fleet["n0"].client()
    for n in range(20):
        assert first.set(f"safe{n}", value(f"safe{n}", 20_000))
    until(lambda: leader.status()["counters"]["moves"]["offloaded"] >= 20, "them to be on disk", seconds=60)
    writers = Writers([fleet["n1"], fleet["n2"]])
    writers.work(20)
    for _ in range(2):
        fleet["n0"].kill()
        writers.work(30)
        fleet["n0"].start()
        writers.work(10)
    writers.end()
    fleet.ready()
    writers.check(fleet["n0"])
    client = fleet["n2"].client()
    for n in range(20):
        assert patiently(lambda: client.get(f"safe{n}")) == value(f"safe{n}", 20_000)


def test_without_a_coordinator_nobody_leads_for_longer_than_a_lease_and_all_go_on_when_it_is_back(tmp_path):
    coordinator = Redis(tmp_path)
    folder = tmp_path / "fleet"
    folder.mkdir()
    whole = Fleet(folder, coordinator, masters=2, nodes=1)
    try:
        term = whole.ready().status()["link"]["term"]
        client = whole["n0"].client()
        assert client.set("k", "v")
        coordinator.kill()
        until(lambda: not any(part.leads() for part in whole.masters()), "the lease to end", seconds=60)
        until(lambda: said(lambda: client.get("k")) == "UNAVAILABLE", "the node to be without a master", seconds=60)
        waits = whole["n0"].ask("/readyz")
        assert waits.status_code == 503 and "none answers at" in waits.text
        until(lambda: all(part.ask("/readyz").status_code == 503 for part in whole.masters()), "masters to say so", seconds=60)
        assert all("not known who leads" in part.ask("/readyz").text for part in whole.masters())
        # It comes back empty: nobody there knows how far terms had come.
        coordinator.start()
        leader = whole.ready()
        assert leader.status()["link"]["term"] > term
        assert patiently(lambda: client.get("k")) == b"v"
    finally:
        whole.end()
        coordinator.kill()


def test_one_master_without_a_coordinator_notes_its_terms(fleet):
    fleet = fleet(coordinator=False, masters=1, nodes=2)
    first = fleet.ready().status()["link"]["term"]
    client = fleet["n0"].client()
    assert client.set("k", value("k", 9_000))
    fleet["m0"].kill()
    fleet["m0"].start()
    assert fleet.ready().status()["link"]["term"] == first + 1
    assert patiently(lambda: fleet["n1"].client().get("k")) == value("k", 9_000)
    second = command("store", "--roles", "master", "--data", fleet.folder / "m0", "--master-listen", "127.0.0.1:0",
                     "--admin-listen", "127.0.0.1:0")
    assert second.returncode == 2 and "another process has it" in second.stderr


def test_a_gateway_follows_whoever_leads(fleet, tmp_path):
    fleet = fleet(tells=True)
    leader = fleet.ready()
    node = fleet["n0"].client_port
    engine = Engine(tmp_path, "e", "--store", f"127.0.0.1:{node}")
    told = [",".join(endpoints) for endpoints in zip(*fleet.tells.values())]
    extra = f'[store]\nevents = "{told[0]}"\nreplay = "{told[1]}"\naddress = "127.0.0.1:{node},127.0.0.1:{fleet["n1"].client_port}"\n'
    gateway = Gateway(tmp_path, [engine], extra=extra)
    try:
        asked = "a prompt that is long enough for some blocks " * 20
        assert gateway.chat(asked).status_code == 200

        def knows(part):
            store = gateway.status()["store"]
            at = fleet.tells[next(name for name, known in fleet.parts.items() if known is part)][0]
            return store if store["in_reach"] and store["view"]["blocks"] and store["events"] == at else None
        blocks = until(lambda: knows(leader), "the gateway to know what the store holds", seconds=60)["view"]["blocks"]
        leader.kill()
        other = next(part for part in fleet.masters() if part is not leader)
        until(lambda: (knows(other) or {"view": {"blocks": 0}})["view"]["blocks"] >= blocks, "it to hear it from the next one", seconds=60)
        # An engine that has nothing loads from the store what the gateway counts on.
        engine.run.kill()
        engine.start()
        until(lambda: gateway.engine("e")["views"][0]["blocks"] == 0, "the engine's blocks to be gone", seconds=60)
        answer = until(lambda: (lambda a: a if a.status_code == 200 else None)(gateway.chat(asked)), "an answer", seconds=60)
        assert "store=" in answer.headers["x-warmline-route"] and "store=0" not in answer.headers["x-warmline-route"]
        assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    finally:
        gateway.run.kill()
        engine.run.kill()


# === Who may not come in, and what is set wrong ===


def test_whoever_does_not_know_the_secret_is_not_listened_to(fleet, tmp_path):
    for name, text in [("secret", "0123456789abcdef0123"), ("other", "fedcba98765432100000")]:
        (tmp_path / name).write_text(text + "\n")
    fleet = fleet(masters=1, nodes=1, link=f'secret_file = "{tmp_path / "secret"}"\n')
    fleet.ready()
    assert fleet["n0"].client().set("k", "v")
    settings = Fleet.LINK + f'secret_file = "{tmp_path / "other"}"\n'
    stranger = Part(tmp_path, "stranger", "node", four_ports(), fleet.master_ports, settings)
    try:
        until(lambda: "its secret is another one" in stranger.log(), "the stranger to say why it finds nobody", seconds=60)
        answer = stranger.ask("/readyz")
        assert answer.status_code == 503 and "master" in answer.text
        until(lambda: "without the secret" in fleet["m0"].log(), "the master to say so")
        assert len(fleet["m0"].ask("/nodes").json()) == 1
        for text in ("0123456789abcdef0123", "fedcba98765432100000"):
            assert text not in stranger.log() + fleet["m0"].log()
    finally:
        stranger.kill(signal.SIGTERM)
    assert stranger.process.returncode == 0, "it can be ended while it looks for a master"


@pytest.mark.parametrize("flags, words", [
    (["--roles", "node"], "tiers.link.masters"),
    (["--roles", "master"], "coordination.backend"),
    (["--roles", "master", "--master", "10.0.0.1:1"], "looks for none"),
    (["--roles", "node", "--master", "10.0.0.1"], "allowed is host:port"),
    (["--roles", "master", "--master-listen", "0.0.0.0:0"], "secret_file"),
    (["--roles", "node", "--master", "a:1", "--node-listen", "0.0.0.0:0"], "secret_file"),
    (["--roles", "master,master"], "twice"),
    (["--roles", "king"], "master"),
    (["--roles", "node", "--master", "a:1", "--events", "tcp://127.0.0.1:1", "--replay", "tcp://127.0.0.1:2"], "tiers.events"),
])
def test_what_makes_no_sense_is_refused_before_anything_runs(flags, words):
    refused = command("store", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *flags)
    assert refused.returncode == 2 and words in refused.stderr, refused.stderr
