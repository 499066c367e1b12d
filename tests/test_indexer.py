"""The indexer as a service: engines that are libzmq and MessagePack only, clients that are plain HTTP, kills and restarts."""

import json
import random
import signal
import struct
import threading
import time

import httpx
import msgpack
import pytest
import zmq

from conftest import Process, command, free_port, until

BLOCK = 4
ROW = struct.Struct("<QIIIIII")


class StockEngine:
    """A stock engine's event sockets: a live stream, and a ring of the last batches. It knows nothing of snapshots."""

    def __init__(self, ring=10_000, framing="topic", port=None, replay=None, mark=1_000):
        self.port, self.replay_port = port or free_port(), replay or free_port()
        self.endpoint, self.replay = f"tcp://127.0.0.1:{self.port}", f"tcp://127.0.0.1:{self.replay_port}"
        self.sequence, self.ring, self.size, self.framing = 0, [], ring, framing
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.context = zmq.Context()
        self.live = self.context.socket(zmq.PUB)
        # What a slow listener has not taken is dropped beyond this many messages, and what the system holds.
        self.live.set_hwm(mark)
        self.live.setsockopt(zmq.SNDBUF, 4_096 if mark < 100 else -1)
        self.live.bind(self.endpoint)
        self.answers = self.context.socket(zmq.ROUTER)
        self.answers.bind(self.replay)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while not self.ended.is_set():
            if not self.answers.poll(20):
                continue
            who, empty, start = self.answers.recv_multipart()
            with self.lock:
                ring = list(self.ring)
            topic = [b"kv"] if self.framing == "topic" else []
            for sequence, payload in ring:
                if sequence >= int.from_bytes(start, "big"):
                    self.answers.send_multipart([who, empty, *topic, sequence.to_bytes(8, "big"), payload])
            self.answers.send_multipart([who, empty, *topic, b"\xff" * 8, b""])

    def say(self, *events):
        payload = msgpack.packb([time.time(), list(events), 0])
        with self.lock:
            self.ring = [*self.ring, (self.sequence, payload)][-self.size :]
            self.live.send_multipart([b"kv", self.sequence.to_bytes(8, "big"), payload])
            self.sequence += 1

    def store(self, tokens, parent=None, medium="GPU", base=0):
        """Blocks of a prompt whose names are told by what they say and what was before."""
        names = []
        for at in range(0, len(tokens), BLOCK):
            parent_name = names[-1] if names else parent
            names.append(hash((parent_name, tuple(tokens[at : at + BLOCK]))) & (2**63 - 1))
        self.say({
            "type": "BlockStored", "block_hashes": names, "parent_block_hash": parent, "token_ids": tokens,
            "block_size": BLOCK, "lora_id": None, "medium": medium,
        })
        return names

    def remove(self, names, medium="GPU"):
        self.say({"type": "BlockRemoved", "block_hashes": names, "medium": medium})

    def end(self):
        self.ended.set()
        self.thread.join()
        self.live.close(0)
        self.answers.close(0)
        self.context.term()


class Indexer:
    def __init__(self, folder, *args, port=None):
        self.folder, self.args, self.port = folder, args, port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self, *more):
        log = self.folder / f"indexer-{self.port}.log"
        self.run = Process("indexer", "--listen", f"127.0.0.1:{self.port}", *self.args, *more, log=log)
        until(lambda: httpx.get(f"{self.url}/health").status_code == 200, f"the indexer to answer; see {log}")

    def post(self, path, **body):
        return httpx.post(self.url + path, json=body, timeout=30)

    def register(self, engine, instance=1, rank=0, model="m", **more):
        body = {"instance_id": instance, "endpoint": engine.endpoint, "replay_endpoint": engine.replay, "model_name": model, "block_size": BLOCK, "dp_rank": rank, **more}
        return self.post("/register", **body)

    def workers(self, **filters):
        return httpx.get(f"{self.url}/workers", params=filters).json()

    def listener(self, instance=1, rank=0):
        found = [worker for worker in self.workers() if worker["instance_id"] == instance]
        return found[0]["listeners"][str(rank)] if found else None

    def until(self, view, instance=1, rank=0, position=None):
        def there():
            listener = self.listener(instance, rank)
            return listener and listener["view"] == view and (position is None or listener["position"] == position) and listener

        return until(there, f"instance {instance} to be {view} at {position}; it is {self.listener(instance, rank)}", 60)

    def query(self, tokens, model="m", **more):
        answer = self.post("/query", token_ids=tokens, model_name=model, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def held(self, tokens, instance=1):
        return self.query(tokens)["instances"].get(str(instance), {}).get("longest_matched", 0)


@pytest.fixture
def start(tmp_path):
    running = []

    class Start:
        folder = tmp_path

        @staticmethod
        def engine(**more):
            running.append(StockEngine(**more))
            return running[-1]

        @staticmethod
        def indexer(*args, **more):
            running.append(Indexer(tmp_path, *args, **more))
            return running[-1]

    yield Start
    for one in reversed(running):
        if isinstance(one, Indexer):
            one.run.kill()
        elif not one.ended.is_set():
            one.end()


def prompt(number, blocks=8):
    return [number * 1_000 + at for at in range(blocks * BLOCK)]


def test_engines_come_are_asked_about_and_go(start):
    indexer, a, b = start.indexer(), start.engine(), start.engine(framing="plain")
    assert indexer.register(a, instance=7).status_code == 201
    assert indexer.register(b, instance=2**64 - 2, rank=1).status_code == 201
    again = indexer.register(a, instance=7)
    assert again.status_code == 409 and "already" in again.json()["error"]
    other = indexer.register(a, instance=7, rank=1, model="another")
    assert other.status_code == 409 and "`m`" in other.json()["error"]
    size = indexer.register(b, instance=8, block_size=16)
    assert size.status_code == 409 and "block_size" in size.json()["error"]

    names = a.store(prompt(1))
    b.store(prompt(1)[: 3 * BLOCK])
    a.store(prompt(2)[: BLOCK], medium="CPU")
    a.remove(names[6:])
    indexer.until("exact", 7, position=2)
    indexer.until("exact", 2**64 - 2, rank=1, position=0)
    answer = indexer.query(prompt(1))
    assert answer["scores"] == {"7": {"0": 24}, str(2**64 - 2): {"1": 12}}
    assert answer["frequencies"] == []
    assert answer["instances"]["7"] == {"longest_matched": 24, "gpu": 24, "dp": {"0": 24}, "cpu": 24, "disk": 24, "views": {"0": "exact"}}
    on_host = indexer.query(prompt(2))
    assert on_host["scores"] == {} and on_host["instances"]["7"]["cpu"] == BLOCK and on_host["instances"]["7"]["gpu"] == 0
    assert indexer.query(prompt(3)) == {"scores": {}, "frequencies": [], "instances": {}}

    # The same by hashes, signed or not, and as bare numbers.
    line = json.dumps({"tokens": prompt(1), "block_size": BLOCK})
    hashes = [int(number) for number in json.loads(command("hash", "--json", stdin=line).stdout)["tokens_hashes"]]
    signed = [number - 2**64 if number >= 2**63 else number for number in hashes]
    for form in (hashes, signed):
        by_hash = indexer.post("/query_by_hash", block_hashes=form, model_name="m")
        assert by_hash.json() == answer
    bare = {"content-type": "application/octet-stream"}
    tokens = struct.pack(f"<{len(prompt(1))}I", *prompt(1))
    assert httpx.post(f"{indexer.url}/query?model_name=m", content=tokens, headers=bare).json() == answer
    packed = struct.pack(f"<{len(hashes)}Q", *hashes)
    rows = httpx.post(f"{indexer.url}/query_by_hash?model_name=m", content=packed, headers={**bare, "accept": "application/octet-stream"})
    assert rows.headers["content-type"] == "application/octet-stream"
    assert sorted(ROW.iter_unpack(rows.content)) == [(7, 0, 0, 24, 24, 24, 24), (2**64 - 2, 1, 0, 12, 12, 12, 12)]

    workers = indexer.workers()
    assert [worker["instance_id"] for worker in workers] == [7, 2**64 - 2]
    assert workers[0]["endpoints"] == {"0": a.endpoint} and workers[0]["source"] == "zmq" and workers[0]["status"] == "active"
    assert workers[0]["listeners"]["0"]["blocks"] == 7 and workers[0]["view"] == "exact"
    assert indexer.workers(model_name="another") == [] and len(indexer.workers(model_name="m", routing_group="default")) == 2
    metrics = httpx.get(f"{indexer.url}/metrics").text
    assert 'warmline_indexer_blocks{instance="7",rank="0"} 7' in metrics and "warmline_indexer_streams_exact 2" in metrics
    assert 'warmline_indexer_requests_total{path="/query"} 4' in metrics

    gone = indexer.post("/unregister", instance_id=7, model_name="m")
    assert gone.status_code == 200 and "7" not in indexer.query(prompt(1))["scores"]
    assert indexer.post("/unregister", instance_id=7, model_name="m").status_code == 404
    assert indexer.post("/unregister", instance_id=2**64 - 2, model_name="m", dp_rank=0).status_code == 404
    assert indexer.post("/register", instance_id=9, endpoint=b.endpoint, model_name="m", block_size=BLOCK, dp_rank=None, routing_group="blue").status_code == 201
    assert indexer.post("/unregister", instance_id=9, model_name="m", dp_rank=0).status_code == 200
    assert indexer.post("/unregister", instance_id=2**64 - 2, model_name="m", dp_rank=1).status_code == 200
    nobody = indexer.post("/query", token_ids=[1], model_name="m")
    assert nobody.status_code == 404 and "`m`" in nobody.json()["error"]


def test_adapters_salts_and_groups_are_kept_apart(start):
    indexer, a, b = start.indexer(), start.engine(), start.engine()
    assert indexer.register(a, instance=1).status_code == 201
    assert indexer.register(b, instance=2, routing_group="blue", block_size=BLOCK).status_code == 201
    event = {"type": "BlockStored", "parent_block_hash": None, "token_ids": prompt(1)[:BLOCK], "block_size": BLOCK, "medium": "GPU"}
    a.say({**event, "block_hashes": [1], "lora_name": "adapter"}, {**event, "block_hashes": [2], "extra_keys": [["pepper"]]})
    b.say({**event, "block_hashes": [3]})
    indexer.until("exact", 1, position=0)
    indexer.until("exact", 2, position=0)
    assert indexer.query(prompt(1))["scores"] == {}
    assert indexer.query(prompt(1), lora_name="adapter")["scores"] == {"1": {"0": BLOCK}}
    assert indexer.query(prompt(1), cache_salt="pepper")["scores"] == {"1": {"0": BLOCK}}
    assert indexer.query(prompt(1), routing_group="blue", tenant_id="x")["scores"] == {"2": {"0": BLOCK}}


def test_what_is_no_request_is_answered_with_what_would_be(start):
    indexer = start.indexer()
    engine = start.engine()
    for body, word in [
        ({"endpoint": "nonsense"}, "endpoint"), ({"endpoint": "tcp://10.0.0.5"}, "endpoint"), ({"block_size": 0}, "block_size"),
        ({"block_size": 2**31}, "block_size"), ({"model_name": ""}, "model_name"), ({"replay_endpoint": "x"}, "replay_endpoint"),
        ({"instance_id": -1}, "-1"), ({"instance_id": "one"}, "one"), ({"routing_group": "g" * 2_000}, "routing_group"),
    ]:
        whole = {"instance_id": 1, "endpoint": engine.endpoint, "model_name": "m", "block_size": BLOCK, **body}
        answer = indexer.post("/register", **whole)
        assert answer.status_code == 400 and word in answer.json()["error"], answer.text
    assert indexer.register(engine).status_code == 201
    for path, content, status, word in [
        ("/query", b"", 400, "EOF"), ("/query", b"\xff\xfe", 400, ""), ("/query", b"[]", 400, ""),
        ("/query", b'{"model_name":"m"}', 400, "token_ids"), ("/query", b'{"token_ids":[1]}', 400, "model_name"),
        ("/query", b'{"token_ids":[-1],"model_name":"m"}', 400, "-1"), ("/query", b"[" * 100_000, 400, ""),
        ("/query_by_hash", b'{"block_hashes":[1],"model_name":"m","cache_salt":"s"}', 400, "cache_salt"),
        ("/query", b'{"token_ids":[' + b"1," * 9_000_000, 413, "larger"), ("/nothing", b"", 404, "/query"), ("/workers", b"", 405, "GET"),
    ]:
        answer = httpx.post(indexer.url + path, content=content, timeout=60)
        assert answer.status_code == status and word in answer.json()["error"], (path, answer.status_code, answer.text[:200])
    for query, content, word in [("", b"", "model_name"), ("?model_name=m", b"abc", "4-byte"), ("?model_name=%zz", b"", "%")]:
        answer = httpx.post(f"{indexer.url}/query{query}", content=content, headers={"content-type": "application/octet-stream"})
        assert answer.status_code == 400 and word in answer.json()["error"], answer.text
    assert indexer.post("/register_peer", url="ftp://x").status_code == 400
    assert indexer.post("/deregister_peer", url="http://127.0.0.1:1").status_code == 404
    # A million tokens in one body.
    million = indexer.post("/query", token_ids=list(range(100_000, 1_100_000)), model_name="m")
    assert million.status_code == 200
    for flags, word in [
        (["--worker", "x"], "--model-name"), (["--worker", "x", "--model-name", "m"], "INSTANCE"), (["--worker", "a=tcp://h:1", "--model-name", "m"], "number"),
        (["--worker", "1=h:1", "--model-name", "m", "--listen", "127.0.0.1:0"], "endpoint"), (["--listen", "here"], "--listen"), (["--peers", "x", "--listen", "127.0.0.1:0"], "http://"),
    ]:
        ran = command("indexer", *flags)
        assert ran.returncode == 2 and word in ran.stderr, ran.stderr


def test_clients_that_leave_in_the_middle_leave_no_half_changes(start):
    data = start.folder / "data"
    indexer, engine, polite = start.indexer("--data", data), start.engine(), start.engine()
    engine.store(prompt(1))
    done, unreadable = threading.Event(), []

    def rude(instance):
        while not done.is_set():
            for path, body in [("/register", {"endpoint": engine.endpoint, "replay_endpoint": engine.replay, "block_size": BLOCK}), ("/unregister", {})]:
                try:
                    httpx.post(indexer.url + path, json={"instance_id": instance, "model_name": "m", **body}, timeout=random.uniform(0.001, 0.02))
                except httpx.HTTPError:
                    pass

    def tell():
        while not done.is_set():
            httpx.get(f"{indexer.url}/dump", timeout=60)

    def read():
        while not done.is_set():
            try:
                json.loads((data / "registry.json").read_text())
            except ValueError as error:
                unreadable.append(error)
            except FileNotFoundError:
                pass

    threads = [threading.Thread(target=rude, args=(instance,), daemon=True) for instance in range(10, 14)]
    threads += [threading.Thread(target=one, daemon=True) for one in (tell, read)]
    for thread in threads:
        thread.start()
    for instance in range(100, 160):
        answer = indexer.register(polite, instance=instance)
        assert answer.status_code == 201, answer.text
    done.set()
    for thread in threads:
        thread.join()
    assert unreadable == []
    for instance in range(10, 14):
        indexer.post("/unregister", instance_id=instance, model_name="m")
    # Whoever is gone is not found, and tells nothing any more.
    engine.store(prompt(2))
    polite.store(prompt(3))
    indexer.until("exact", 159, position=0)
    for number in (1, 2):
        assert indexer.query(prompt(number))["instances"] == {}
    assert {worker["instance_id"] for worker in indexer.workers()} == set(range(100, 160))


def test_engines_that_are_not_there_keep_nobody_waiting(start):
    indexer, engine = start.indexer("--data", start.folder / "data"), start.engine(ring=4)
    assert indexer.register(engine, instance=1).status_code == 201
    for number in range(20):
        engine.store(prompt(number))
        indexer.until("exact", 1, position=number)
    for instance in range(100, 300):
        assert indexer.post("/register", instance_id=instance, endpoint=f"tcp://127.0.0.1:{free_port()}", model_name="m", block_size=BLOCK).status_code == 201
    assert httpx.get(f"{indexer.url}/readyz").status_code == 503
    until(lambda: httpx.get(f"{indexer.url}/readyz").status_code == 200, "the indexer to be ready without them", 60)
    assert httpx.get(f"{indexer.url}/dump", timeout=30).status_code == 200
    # An orderly end keeps what the engine could not tell again.
    indexer.run.kill(signal.SIGTERM)
    indexer.start()
    indexer.until("exact", 1, position=19)
    assert indexer.held(prompt(3)) == 32


def test_who_is_registered_survives_a_kill(start):
    data = start.folder / "data"
    indexer, a, b = start.indexer("--data", data), start.engine(), start.engine()
    assert indexer.register(a, instance=1).status_code == 201
    assert indexer.register(b, instance=2, rank=3).status_code == 201
    a.store(prompt(1))
    indexer.until("exact", 1, position=0)
    second = command("indexer", "--listen", "127.0.0.1:0", "--data", data)
    assert second.returncode == 2 and "another process" in second.stderr, second.stderr

    indexer.run.kill()
    a.store(prompt(2))
    indexer.start()
    indexer.until("exact", 1, position=1)
    assert indexer.held(prompt(1)) == indexer.held(prompt(2)) == 32
    assert indexer.register(a, instance=1).status_code == 409
    assert indexer.post("/unregister", instance_id=2, model_name="m").status_code == 200
    assert indexer.post("/register_peer", url="http://127.0.0.1:9").status_code == 201
    indexer.run.kill()
    indexer.start()
    assert [worker["instance_id"] for worker in indexer.workers()] == [1]
    assert httpx.get(f"{indexer.url}/peers").json() == ["http://127.0.0.1:9"]

    # Killed while registrations come in: each that was answered is there, and the file is never half of one.
    answered = []

    def register():
        for instance in range(100, 2_000):
            try:
                if indexer.register(a, instance=instance, endpoint="tcp://127.0.0.1:9", replay_endpoint=None).status_code == 201:
                    answered.append(instance)
            except httpx.HTTPError:
                return

    thread = threading.Thread(target=register, daemon=True)
    thread.start()
    until(lambda: len(answered) >= 40, "registrations")
    indexer.run.kill()
    thread.join()
    indexer.start()
    there = {worker["instance_id"] for worker in indexer.workers()}
    assert {1, *answered} <= there and len(there) <= len(answered) + 2

    indexer.run.kill()
    (data / "registry.json").write_text("{")
    broken = command("indexer", "--listen", "127.0.0.1:0", "--data", data)
    assert broken.returncode == 2 and "registry.json" in broken.stderr and "move it away" in broken.stderr


def test_an_orderly_end_keeps_views_that_no_engine_could_tell_again(start):
    indexer, engine = start.indexer("--data", start.folder / "data"), start.engine(ring=8)
    engine.store(prompt(0))
    assert indexer.register(engine).status_code == 201
    indexer.until("exact", position=0)
    names = {}
    for number in range(1, 30):
        names[number] = engine.store(prompt(number))
        indexer.until("exact", position=number)
    # A hole: what lies below it is known, and of use again once it is filled.
    engine.remove([names[5][2]])
    indexer.until("exact", position=30)
    assert indexer.held(prompt(5)) == 2 * BLOCK
    indexer.run.kill(signal.SIGTERM)
    engine.store(prompt(30))
    indexer.start()
    # The ring reaches back to where the view stood, not to the beginning.
    indexer.until("exact", position=31)
    assert all(indexer.held(prompt(number)) == 32 for number in (0, 1, 17, 30))
    assert indexer.held(prompt(5)) == 2 * BLOCK
    engine.say({"type": "BlockStored", "block_hashes": [names[5][2]], "parent_block_hash": names[5][1], "token_ids": prompt(5)[8:12], "block_size": BLOCK, "medium": "GPU"})
    until(lambda: indexer.held(prompt(5)) == 32, "what lay below the hole")
    assert indexer.listener()["rebuilds"] == 0

    # Nobody goes back to it a second time: after a kill the engine has to tell, and cannot, and that is said.
    indexer.run.kill()
    indexer.start()
    indexer.until("stale")
    engine.say({"type": "AllBlocksCleared"})
    indexer.until("exact")

    # A new life behind the same address is no continuation.
    indexer.run.kill(signal.SIGTERM)
    engine.end()
    other = start.engine(port=engine.port, replay=engine.replay_port)
    other.store(prompt(99))
    indexer.start()
    indexer.until("exact", position=0)
    assert indexer.held(prompt(99)) == 32 and indexer.held(prompt(17)) == 0


def test_a_new_indexer_begins_with_what_a_peer_knows(start):
    first, engine, ranks = start.indexer(), start.engine(ring=8), [start.engine(ring=8) for _ in range(2)]
    assert first.register(engine, instance=1).status_code == 201
    for rank, one in enumerate(ranks):
        assert first.register(one, instance=2, rank=rank).status_code == 201
        one.store(prompt(100 + rank))
    for number in range(30):
        engine.store(prompt(number))
        first.until("exact", 1, position=number)
    first.until("exact", 2, 1)
    second = start.indexer("--peers", first.url)
    second.until("exact", 1, position=29)
    second.until("exact", 2, 1)
    assert second.query(prompt(3)) == first.query(prompt(3)) and second.held(prompt(3)) == 32
    assert second.held(prompt(101), 2) == 32
    assert httpx.get(f"{second.url}/peers").json() == [first.url]
    # What it has from a peer belongs to whoever registers it; from then on it is there.
    assert second.register(engine, instance=1).status_code == 201
    assert second.register(engine, instance=1).status_code == 409
    # It follows by itself.
    first.run.kill()
    engine.store(prompt(77))
    second.until("exact", 1, position=30)
    assert second.held(prompt(77)) == 32
    # In JSON as others tell it; and from one that tells only that, what waits for its registration.
    dump = httpx.get(f"{second.url}/dump").json()
    assert dump["m:default"]["block_size"] == BLOCK
    stored = [event for event in dump["m:default"]["events"] if "stored" in event["event"]["data"]]
    blocks = sum(len(event["event"]["data"]["stored"]["blocks"]) for event in stored)
    assert blocks == 31 * 8 + 16 and {event["worker_id"] for event in stored} == {1, 2}
    assert {event["event"]["dp_rank"] for event in stored if event["worker_id"] == 2} == {0, 1}
    assert stored[0]["storage_tier"] == "device"

    # One that was killed, and has its registrations but no views, gets those from a peer.
    keeper = start.indexer("--data", start.folder / "kept")
    assert keeper.register(engine, instance=1).status_code == 201
    keeper.until("stale", 1)
    keeper.run.kill()
    keeper.start("--peers", f"{keeper.url},{second.url}")
    keeper.until("exact", 1, position=30)
    assert keeper.held(prompt(3)) == 32 and keeper.register(engine, instance=1).status_code == 409
    # Whoever is named at the start is meant as named, wherever it was before.
    keeper.run.kill()
    elsewhere = start.engine()
    elsewhere.store(prompt(5))
    keeper.start("--model-name", "m", "--block-size", BLOCK, "--worker", f"1={elsewhere.endpoint},{elsewhere.replay}")
    keeper.until("exact", 1, position=0)
    assert keeper.held(prompt(5)) == 32 and keeper.held(prompt(3)) == 0

    # A peer that is not there, and one that is no indexer: said, and begun without.
    third = start.indexer("--peers", "http://127.0.0.1:9", "--peers", f"http://127.0.0.1:{engine.port}")
    assert third.workers() == []
    assert "trying the next" in (start.folder / f"indexer-{third.port}.log").read_text()


def test_engines_and_indexers_that_stop_hang_and_come_back(start):
    indexer, engine = start.indexer("--data", start.folder / "data"), start.engine()
    assert indexer.register(engine).status_code == 201
    for number in range(50):
        engine.store(prompt(number))
    indexer.until("exact", position=49)
    # A listener that hangs while the stream goes on.
    indexer.run.process.send_signal(signal.SIGSTOP)
    for number in range(50, 4_000):
        engine.store(prompt(number))
    indexer.run.process.send_signal(signal.SIGCONT)
    indexer.until("exact", position=3_999)
    assert all(indexer.held(prompt(number)) == 32 for number in range(0, 4_000, 500))
    # An engine that restarts has an empty cache, and that is known at once.
    engine.end()
    until(lambda: indexer.listener()["status"] == "pending", "the loss to be noticed")
    assert indexer.listener()["view"] == "recovering"
    engine = start.engine(port=engine.port, replay=engine.replay_port)
    engine.store(prompt(7))
    indexer.until("exact", position=0)
    assert indexer.held(prompt(7)) == 32 and indexer.held(prompt(8)) == 0
    # Both at once.
    indexer.run.kill()
    engine.end()
    engine = start.engine(port=engine.port, replay=engine.replay_port)
    indexer.start()
    engine.store(prompt(9))
    indexer.until("exact", position=0)
    assert indexer.held(prompt(9)) == 32 and indexer.held(prompt(7)) == 0


def test_what_overruns_the_high_water_mark_is_asked_for_again(start):
    indexer, engine = start.indexer(), start.engine(mark=5)
    assert indexer.register(engine).status_code == 201
    engine.store(prompt(0))
    indexer.until("exact", position=0)
    indexer.run.process.send_signal(signal.SIGSTOP)
    # More than any buffer between the two takes.
    for number in range(1, 8_000):
        engine.store(prompt(number, blocks=64))
    indexer.run.process.send_signal(signal.SIGCONT)
    engine.store(prompt(8_000))
    indexer.until("exact", position=8_000)
    assert indexer.listener()["gaps"] > 0
    assert all(indexer.held(prompt(number, blocks=64)) == 256 for number in range(1, 8_000, 500))


def test_many_ask_while_streams_are_rebuilt(start):
    indexer, engines = start.indexer(), [start.engine() for _ in range(4)]
    for instance, engine in enumerate(engines):
        assert indexer.register(engine, instance=instance).status_code == 201
        engine.store(prompt(1))
        indexer.until("exact", instance, position=0)
    wrong, done = [], threading.Event()

    def ask():
        with httpx.Client() as client:
            while not done.is_set():
                answer = client.post(f"{indexer.url}/query", json={"token_ids": prompt(1), "model_name": "m"}).json()
                if answer["scores"] != {str(instance): {"0": 32} for instance in range(4)}:
                    wrong.append(answer)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2, 200):
        engines[number % 4].store(prompt(number))
        if number % 20 == 0:
            # A batch that only the ring has: the view is repaired behind everybody's back.
            engine = engines[number % 4]
            with engine.lock:
                payload = msgpack.packb([0.0, [{"type": "BlockRemoved", "block_hashes": [5], "medium": "GPU"}], 0])
                engine.ring.append((engine.sequence, payload))
                engine.sequence += 1
    for instance, engine in enumerate(engines):
        indexer.until("exact", instance, position=engine.sequence - 1)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(indexer.listener(instance)["gaps"] for instance in range(4)) > 0
