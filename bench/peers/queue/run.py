#!/usr/bin/env python3
"""Measures durable enqueue -> start -> finish of restate-server, of two bare hops, and of Warmline, in one run.

    bench/peers/queue/run.py                          restate-server and its floor: three to four minutes
    bench/peers/queue/run.py --ours target/release/warmline
                                                      Warmline beside them, by what its `bench queue` says of itself
    bench/peers/queue/run.py --json FILE              the figures, too

Installs the pinned packages of package-lock.json under target/peers/queue (needs Node 20 and npm; no install script is
run), starts everything on free loopback ports with fresh data under TMPDIR, and ends every process by its id. Telemetry
is off; the look for a newer release that restate-server makes at start cannot be turned off, and may fail. Every figure
is the median of the rounds, whose order alternates, with the lowest and the highest round beside it: what others do on
the machine is in there. Progress goes to stderr.

# Who is measured
- `restate-server`: as it is shipped (24 partitions; a send is acknowledged after its write was synced, and takes three
  fdatasync when it is alone). Each item is a one-way call of a keyed virtual object: `POST /Line/KEY/run/send`, without
  an idempotency key, a few bytes of body, to a handler of the public SDK that notes its start and returns.
- `restate-server, 1 partition`: the setting that was found to do best on two cores (1, 2, 4 and 24 were tried; another
  limit of running invocations, no journal retention, request-response and an older SDK were no better beyond the noise).
- `two bare hops`: the floor. The same client and the same service with nothing between them but a Node process that takes
  a send over HTTP/1 and hands it on over HTTP/2: no disk, no keys, no order.
- `warmline`: `warmline bench queue --items N --queues K --json FILE`, once a round.

# What is measured, in each round
1. `--sends` items one at a time, a pause between them: from the client's call, and from its acknowledgement, to the
   start of the handler.
2. `--items` items over `--queues` keys from `--connections` connections that are kept, one item at a time on each: from
   the first call until the last handler has started. CPU time is user and system of the process with all its threads,
   until a second after the last start, so that the finishes are in it; the service's and the client's are told apart.
3. Its resident memory then.
4. `--queued` items with their handlers held: one a key has started, the others wait. SIGKILL, and from just before the
   new process is executed until the first handler starts; and until the first starts that had not started before. That
   every item acknowledged before comes after is checked.

# What is unfair, and to whom
- To restate-server, in items a second: client and service are processes of their own, each item crosses HTTP twice, and
  they share its cores (the Node service alone takes about as much CPU time as it does). Warmline has producer and runner
  in its own process. "Had it all cores" is what its CPU time would allow if nobody else needed any.
- To restate-server, in CPU and latency: it takes HTTP apart twice an item, keeps a journal of each invocation for a day so
  that it can be asked and resumed, and could replicate its log. A queue needs none of it. The bare hops say what of the
  latency is HTTP, the client and the service; in CPU they are more than two hops cost a server that is not in Node.
- To Warmline, in CPU: what it takes to make the items and to run them counts as its own; of restate-server neither does.
- To whom `--connections` says: restate-server writes in batches, and with 16 connections it does little more than half as
  many items a second, for nearly twice the CPU time an item, as with 512. The default is what was found to suit it.
- To nobody, if Warmline says of itself what it does when every acknowledgement waits for a sync, as here. SIGKILL ends a
  process, not the machine: the page cache is warm at each restart.

# The file of --json
The figures of `restate-server`, flat; `beside` holds a list of the same shape for the others, and `fdatasync_ms` how long
the disk took to sync 4 KiB. A program given by --ours writes the same shape, of which it needs the first two lines:

    {"name": "restate-server", "version": "1.7.12", "items_per_second": .., "latency_ms": {"p50": .., "p99": ..},
     "cpu_us_per_item": .., "first_dispatch_s": .., "rss_mib": ..,
     "latency_from_ack_ms": {"p50": .., "p99": ..}, "acked_per_second": .., "service_cpu_us_per_item": ..,
     "client_cpu_us_per_item": .., "first_new_dispatch_s": .., "rounds": [the same of each round]}
"""

import argparse
import json
import os
import pathlib
import random
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PLACE = ROOT / "target" / "peers" / "queue"
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
CORES = len(os.sched_getaffinity(0))
# Generous: a machine that others use too is slow, but this slow it is broken.
PATIENCE = 180
# Sends that are made before anything is measured.
WARM = 1_000


def say(text):
    print(text, file=sys.stderr, flush=True)


# === Processes ===

def free_port():
    """A port that nobody has, and that nobody is given by the kernel: who was killed must find it free again."""
    given = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(min(10_000, given - 1_000), given)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Process:
    """A child whose CPU time and memory are read from the kernel, all its threads included."""

    def __init__(self, command, log, environment, pipes=None):
        self.log = log
        self.command = list(map(str, command))
        with open(log, "ab") as out:
            self.born = time.monotonic()
            self.child = subprocess.Popen(self.command, stdin=pipes or subprocess.DEVNULL, stdout=pipes or out, stderr=out, cwd=PLACE, env=environment)

    def must_live(self):
        if self.child.poll() is not None:
            raise SystemExit(f"{' '.join(self.command)} ended with {self.child.returncode}; the end of its log:\n{self.log_end()}")

    def log_end(self):
        return self.log.read_text(errors="replace")[-2000:]

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss(self):
        return int(pathlib.Path(f"/proc/{self.child.pid}/statm").read_text().split()[1]) * PAGE

    def end(self):
        self.child.kill()
        self.child.wait()


class Helper(Process):
    """A Node program beside this file that is told what to do through its pipes (pipe.mjs)."""

    def __init__(self, words, log):
        environment = {**os.environ, "NODE_ENV": "production", "RESTATE_LOGGING": "ERROR"}
        super().__init__(["node", *words], log, environment, subprocess.PIPE)

    def ask(self, verb, argument=None, others=()):
        """What the helper answers; `others` are who must live for it to come to an answer."""
        self.must_live()
        self.child.stdin.write(json.dumps({verb: argument}).encode() + b"\n")
        self.child.stdin.flush()
        deadline = time.monotonic() + PATIENCE
        while not select.select([self.child.stdout], [], [], 1)[0]:
            for process in (self, *others):
                process.must_live()
            if time.monotonic() > deadline:
                logs = "".join(f"\n{process.log}:\n{process.log_end()}" for process in (self, *others))
                raise SystemExit(f"{' '.join(self.command)} did not answer `{verb} {json.dumps(argument)}` within {PATIENCE} s; the ends of the logs:{logs}")
        line = self.child.stdout.readline()
        if not line:
            self.child.wait()
            self.must_live()
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            logs = "".join(f"\n{process.log}:\n{process.log_end()}" for process in others)
            raise SystemExit(f"{' '.join(self.command)} could not `{verb}`: {answer['error']}{logs}")
        return answer


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status


def ready(process, url, body):
    """Posts until it is answered well."""
    deadline, last = time.monotonic() + 60, None
    while time.monotonic() < deadline:
        process.must_live()
        try:
            return post(url, body)
        except OSError as error:  # an HTTP error is an OSError, too
            last = error
        time.sleep(0.05)
    raise SystemExit(f"nothing good came from {url} within a minute: {last}; the end of the log:\n{process.log_end()}")


# === Who is measured ===

class Restate:
    """restate-server with a service of its SDK."""

    def __init__(self, partitions=None):
        self.name = f"restate-server, {partitions} partition" if partitions else "restate-server"
        self.partitions = partitions
        found = sorted(PLACE.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
        if not found:
            raise SystemExit("npm installed no restate-server: its packages are for Linux and macOS on x64 and arm64")
        self.program = found[0]
        self.version = subprocess.run([self.program, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]

    def settings(self, folder, port):
        partitions = f"default-num-partitions = {self.partitions}\n" if self.partitions else ""
        self.admin = free_port()
        return (
            f'node-name = "peer"\nbase-dir = "{folder}/data"\nlisten-mode = "tcp"\nbind-address = "127.0.0.1:{free_port()}"\n'
            f'disable-telemetry = true\nlog-filter = "warn"\nlog-disable-ansi-codes = true\n{partitions}'
            f'[ingress]\nbind-address = "127.0.0.1:{port}"\n[admin]\nbind-address = "127.0.0.1:{self.admin}"\ndisable-web-ui = true\n'
        )

    def start(self, folder, port, service):
        config = folder / "restate.toml"
        if config.exists():
            return self.spawn(folder)
        config.write_text(self.settings(folder, port))
        process = self.spawn(folder)
        try:
            ready(process, f"http://127.0.0.1:{self.admin}/deployments", {"uri": f"http://127.0.0.1:{service}"})
            return process
        except BaseException:
            process.end()
            raise

    def spawn(self, folder):
        # Its settings can be overridden by the environment, and this one's owner may have some there.
        clean = {key: value for key, value in os.environ.items() if not key.startswith("RESTATE_") and key != "RUST_LOG"}
        return Process([self.program, "--no-logo", "--config-file", folder / "restate.toml"], folder / "server.log", {**clean, "DO_NOT_TRACK": "1"})

    def round(self, folder, args):
        return {**busy(self, "restate", folder, args), **killed(self, folder, args)}


class Hops:
    """The floor: what the client and the service cost with nothing durable between them."""

    name = "two bare hops"

    def __init__(self):
        self.version = "node " + subprocess.run(["node", "--version"], check=True, capture_output=True, text=True).stdout.strip()

    def start(self, folder, port, service):
        return Helper(["hops.mjs", port, service], folder / "server.log")

    def round(self, folder, args):
        return busy(self, "bare", folder, args)


class Ours:
    """Whatever says of itself what `warmline bench queue` says."""

    def __init__(self, program):
        self.program = program.resolve()
        self.name, self.version = "warmline", "?"
        if not os.access(self.program, os.X_OK) or self.program.is_dir():
            raise SystemExit(f"--ours {program}: not a program that can be run; build one with `cargo build --release --bin warmline`")
        self.run("--help")

    def run(self, *words, folder=None):
        command = [self.program, "bench", "queue", *map(str, words)]
        shown = " ".join(map(str, command))
        try:
            # It keeps its data where it stands: on the disk that the others were given.
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE, cwd=folder)
        except OSError as error:
            raise SystemExit(f"--ours: `{shown}` cannot be run: {error}") from None
        except subprocess.TimeoutExpired:
            raise SystemExit(f"--ours: `{shown}` did not end within {PATIENCE} s") from None
        except subprocess.CalledProcessError as error:
            hint = "; has this program a `bench queue`?" if words == ("--help",) else ""
            raise SystemExit(f"--ours: `{shown}` ended with {error.returncode}{hint}; it said:\n{(error.stderr or error.stdout)[-2000:]}") from None
        return shown

    def round(self, folder, args):
        file = folder / "ours.json"
        shown = self.run("--items", args.items, "--queues", args.queues, "--json", file, folder=folder)
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise SystemExit(f"--ours: `{shown}` ended well, but what it wrote is no JSON: {error}") from None
        wrong = misshapen(found)
        if wrong:
            raise SystemExit(f"--ours: `{shown}` wrote {wrong}; {__file__} says at its top what is expected")
        self.name, self.version = found.pop("name"), found.pop("version")
        found.pop("rounds", None)
        return found


NEEDED = ["items_per_second", "latency_ms.p50", "latency_ms.p99", "cpu_us_per_item", "first_dispatch_s", "rss_mib"]


def at(figures, path):
    """What stands under `a.b`, or None."""
    for key in path.split("."):
        figures = figures.get(key) if isinstance(figures, dict) else None
    return figures


def misshapen(found):
    """What is wrong with figures that somebody else wrote, or None."""
    if not isinstance(found, dict):
        return f"a {type(found).__name__}, not an object"
    for key in ("name", "version"):
        if not isinstance(found.get(key), str):
            return f"`{key}`: {found.get(key)!r}, not a text"
    for path in NEEDED:
        value = at(found, path)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
            return f"`{path}`: {value!r}, not a number above 0"
    return None


# === The measurement ===

def percentiles(values):
    ordered = sorted(values)
    return {name: ordered[int(share * (len(ordered) - 1))] for name, share in (("p50", 0.5), ("p99", 0.99))}


class Stage:
    """One contestant with a fresh service and a fresh client around it."""

    def __init__(self, who, kind, folder):
        self.who, self.folder, self.running = who, folder, []
        self.port, self.behind = free_port(), free_port()
        try:
            self.service = self.keep(Helper(["service.mjs", kind, self.behind], folder / "service.log"))
            # Answered once it listens.
            self.service.ask("forget")
            self.server = self.keep(who.start(folder, self.port, self.behind))
            ready(self.server, f"http://127.0.0.1:{self.port}/Line/warm/run/send", -1)
            self.service.ask("count", 1, [self.server])
            self.service.ask("forget")
            self.client = self.keep(Helper(["load.mjs", self.port], folder / "client.log"))
        except BaseException:
            self.__exit__()
            raise

    def keep(self, process):
        self.running.append(process)
        return process

    def send(self, first, count, args, over=None):
        over = min(over or args.connections, count)
        return self.client.ask("send", {"first": first, "count": count, "queues": args.queues, "over": over}, [self.server, self.service])

    def started(self, count):
        """Every start, once so many different items have started."""
        self.service.ask("count", count, [self.server])
        return self.service.ask("starts")

    def kill(self):
        self.server.end()
        self.running.remove(self.server)

    def again(self):
        self.server = self.keep(self.who.start(self.folder, self.port, self.behind))
        return self.server.born

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.end()


def busy(who, kind, folder, args):
    """Latency one at a time, then all at once: throughput, CPU time and memory."""
    (folder / "busy").mkdir()
    with Stage(who, kind, folder / "busy") as stage:
        stage.send(0, WARM, args)
        stage.service.ask("count", WARM, [stage.server])
        return {**alone(stage, args), **together(stage, args)}


def alone(stage, args):
    stage.service.ask("forget")
    calls = {}
    for item in range(args.sends):
        calls[item] = stage.send(item, 1, args, over=1)
        # Until this one is over, so that asking for it does not stand in its way; and not in step with anything that ticks.
        time.sleep(random.uniform(0.006, 0.010))
        stage.service.ask("item", item, [stage.server])
    starts = dict(stage.started(args.sends))
    return {
        "latency_ms": percentiles([(starts[item] - call["called"]) / 1e3 for item, call in calls.items()]),
        "latency_from_ack_ms": percentiles([(starts[item] - call["acked"]) / 1e3 for item, call in calls.items()]),
    }


def together(stage, args):
    stage.service.ask("forget")
    who = {"cpu_us_per_item": stage.server, "service_cpu_us_per_item": stage.service, "client_cpu_us_per_item": stage.client}
    before = {key: process.cpu() for key, process in who.items()}
    sent = stage.send(0, args.items, args)
    starts = stage.started(args.items)
    time.sleep(1)
    if len(starts) != args.items:
        say(f"{len(starts) - args.items} of {args.items} items started twice, though nothing failed")
    return {
        "items_per_second": args.items * 1e6 / (max(when for _, when in starts) - sent["called"]),
        "acked_per_second": args.items * 1e6 / (sent["acked"] - sent["called"]),
        **{key: (process.cpu() - before[key]) * 1e6 / args.items for key, process in who.items()},
        "rss_mib": stage.server.rss() / 2**20,
    }


def killed(who, folder, args):
    """The first dispatch after SIGKILL, with items waiting."""
    (folder / "killed").mkdir()
    with Stage(who, "restate", folder / "killed") as stage:
        stage.service.ask("shut")
        stage.send(0, args.queued, args)
        # One a key is on its way to its handler still.
        time.sleep(0.5)
        stage.kill()
        # What it had handed out before it was killed is no dispatch of the next.
        stage.service.ask("left")
        before = {item for item, _ in stage.service.ask("starts")}
        stage.service.ask("forget")
        stage.service.ask("open")
        born = stage.again()
        starts = stage.started(args.queued)
        return {
            "first_dispatch_s": min(when for _, when in starts) / 1e6 - born,
            "first_new_dispatch_s": min(when for item, when in starts if item not in before) / 1e6 - born,
        }


def fdatasync(folder, times=200):
    """How long the disk takes to sync 4 KiB behind a file's end, in milliseconds."""
    took = []
    with open(folder / "synced", "wb", buffering=0) as file:
        for _ in range(times):
            file.write(bytes(4096))
            before = time.monotonic()
            os.fdatasync(file)
            took.append((time.monotonic() - before) * 1e3)
    return percentiles(took)


def middle_of(rounds):
    """The median of every number over the rounds that have it."""
    keys = dict.fromkeys(key for one in rounds for key in one)
    out = {}
    for key in keys:
        values = [one[key] for one in rounds if key in one]
        if isinstance(values[0], dict):
            out[key] = middle_of(values)
        elif isinstance(values[0], (int, float)):
            out[key] = statistics.median(values)
    return out


# === What is printed ===

# What it is, where it stands, how it is written, whether more is better, and what Warmline aims at.
ROWS = [
    ("items a second", "items_per_second", "{:,.0f}", True, "10 x"),
    ("of them acknowledged a second", "acked_per_second", "{:,.0f}", True, ""),
    (f"had it all {CORES} cores, at most", "at_most", "{:,.0f}", True, ""),
    ("CPU us an item", "cpu_us_per_item", "{:.0f}", False, "10 x"),
    ("its service's", "service_cpu_us_per_item", "{:.0f}", False, ""),
    ("its client's", "client_cpu_us_per_item", "{:.0f}", False, ""),
    ("call to start alone, p50 ms", "latency_ms.p50", "{:.2f}", False, "5 x"),
    ("p99 ms", "latency_ms.p99", "{:.2f}", False, ""),
    ("acknowledgement to start, p50 ms", "latency_from_ack_ms.p50", "{:.2f}", False, ""),
    ("p99 ms", "latency_from_ack_ms.p99", "{:.2f}", False, ""),
    ("kill -9 to first dispatch, s", "first_dispatch_s", "{:.2f}", False, "0.3 s"),
    ("to the first new one, s", "first_new_dispatch_s", "{:.2f}", False, ""),
    ("memory MiB", "rss_mib", "{:.0f}", False, ""),
]


def cell(figures, path, form):
    value = at(figures, path)
    if value is None:
        return "-"
    each = [found for found in (at(one, path) for one in figures["rounds"]) if found is not None]
    return form.format(value) + (f" ({form.format(min(each))} to {form.format(max(each))})" if len(each) > 1 else "")


def better(ours, theirs, path, more):
    ours, theirs = at(ours, path), at(theirs, path)
    if not ours or not theirs:
        return "-"
    return f"{ours / theirs if more else theirs / ours:.3g}"


def table(results, ours):
    """A row a measure, a column a contestant; beside ours, how many times better it is than each that is durable, too."""
    # What its own CPU time would allow if nobody else had to run.
    shown = [{**one, "at_most": CORES * 1e6 / one["cpu_us_per_item"]} for one in results]
    head = [f"{one['name']} ({one['version']})" for one in shown]
    rivals = []
    if ours:
        rivals = [one for one in shown if one["name"].startswith("restate-server")]
        head += [f"times better than {one['name']}" for one in rivals] + ["aim"]
    lines = ["| | " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(head)]
    for what, path, form, more, aim in ROWS:
        cells = [cell(one, path, form) for one in shown]
        if ours:
            cells += [better(shown[-1], one, path, more) for one in rivals] + [aim]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def prepare():
    for tool in ("node", "npm"):
        if not shutil.which(tool):
            raise SystemExit(f"`{tool}` was not found: the peer is installed by npm and its service needs Node 20 or later (Debian: apt-get install nodejs npm)")
    PLACE.mkdir(parents=True, exist_ok=True)
    installed, lock = PLACE / "node_modules" / ".package-lock.json", "package-lock.json"
    if not installed.exists() or (PLACE / lock).read_bytes() != (HERE / lock).read_bytes():
        say(f"installing what {HERE / lock} pins")
        for name in ("package.json", lock):
            shutil.copy(HERE / name, PLACE / name)
        # No script: the only one there is tells its maker who installs.
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=PLACE, check=True, stdout=sys.stderr)
    for helper in HERE.glob("*.mjs"):
        shutil.copy(helper, PLACE / helper.name)


def above_zero(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, where a whole number above 0 is allowed")
    return int(text)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=above_zero, default=20_000, help="of a round's throughput (20000)")
    parser.add_argument("--queues", type=above_zero, default=1_000, help="keys that they are spread over (1000)")
    parser.add_argument("--connections", type=above_zero, default=512, help="of the client; with few of them it is they who are measured (512)")
    parser.add_argument("--sends", type=above_zero, default=500, help="of a round's latency, one at a time (500)")
    parser.add_argument("--queued", type=above_zero, default=5_000, help="items that wait when it is killed (5000)")
    parser.add_argument("--rounds", type=above_zero, default=3, help="(3)")
    parser.add_argument("--ours", type=pathlib.Path, metavar="WARMLINE", help="a program whose `bench queue` is measured beside")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures here")
    args = parser.parse_args()
    if args.queued <= args.queues:
        parser.error(f"--queued {args.queued} must be more than --queues {args.queues}: one of each key starts at once, and some must wait")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: its folder does not exist")
    return args


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    ours = Ours(args.ours) if args.ours else None
    prepare()
    contestants = [Restate(), Restate(partitions=1), Hops()] + ([ours] if ours else [])
    folder = pathlib.Path(tempfile.mkdtemp(prefix="warmline-peers-queue-"))
    rounds, synced = {who: [] for who in contestants}, []
    try:
        for number in range(args.rounds):
            synced.append(fdatasync(folder))
            for who in contestants[:: 1 if number % 2 == 0 else -1]:
                say(f"round {number + 1}/{args.rounds}: {who.name} (load average {os.getloadavg()[0]:.1f})")
                place = folder / "round"
                place.mkdir()
                rounds[who].append(who.round(place, args))
                shutil.rmtree(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results = [{"name": who.name, "version": who.version, **middle_of(found), "rounds": found} for who, found in rounds.items()]
    disk = middle_of(synced)
    print(table(results, ours))
    print(f"\n{args.items:,} items over {args.queues:,} queues, medians of {args.rounds} rounds (lowest to highest); one fdatasync of 4 KiB here: p50 {disk['p50']:.2f} ms, p99 {disk['p99']:.2f} ms.")
    if disk["p50"] < 0.01:
        say("A sync that fast is no disk's: nothing here is durable. Set TMPDIR to a folder on one.")
    if args.json:
        args.json.write_text(json.dumps({**results[0], "beside": results[1:], "fdatasync_ms": disk}, indent=1) + "\n")


if __name__ == "__main__":
    main()
