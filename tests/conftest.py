"""Starts engines and gateways on free ports, waits until they are ready, and ends them by process id."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

import httpx
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What is asked of the tests is no setting of the program.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("WARMLINE_")}
BINARY = os.environ.get("WARMLINE_BINARY", str(ROOT / "target" / "debug" / "warmline"))


# Making a client of its own for each question takes a tenth of a second, and questions are asked in loops.
HTTP = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(condition, what, seconds=20.0):
    """Waits for a condition; the bound is generous because timing decides nothing here."""
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        try:
            last = condition()
            if last:
                return last
        except (httpx.HTTPError, OSError) as error:
            last = error
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s for {what}; last seen: {last!r}")


class Process:
    def __init__(self, *args, log, limits=None):
        """`limits` is called in the new process before the program begins; the signals that it ignores stay ignored."""
        self.log = open(log, "ab")
        self.process = subprocess.Popen([BINARY, *map(str, args)], stdout=self.log, stderr=self.log, env=ENVIRONMENT,
                                        preexec_fn=limits, restore_signals=not limits)

    def kill(self, with_signal=signal.SIGKILL):
        if self.process.poll() is None:
            os.kill(self.process.pid, with_signal)
            self.process.wait(timeout=30)
        self.log.close()


class Engine:
    def __init__(self, folder, name, *args):
        self.name, self.folder, self.args = name, folder, args
        self.port, self.events, self.replay = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        self.run = Process(
            "sim", "engine", "--listen", f"127.0.0.1:{self.port}", "--events", f"tcp://127.0.0.1:{self.events}",
            "--replay", f"tcp://127.0.0.1:{self.replay}", "--seed", self.port, *self.args,
            log=self.folder / f"{self.name}.log",
        )
        until(lambda: httpx.get(f"{self.url}/health").status_code == 200, f"engine {self.name}")

    def faults(self, **faults):
        assert httpx.post(f"{self.url}/sim/faults", json=faults).status_code == 200

    def running(self):
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(l.split()[-1]) for l in lines if l.startswith("vllm:num_requests_") and "{" in l)


def free_ports(count):
    """The first of so many free ports side by side."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return first


class Place:
    """Where an engine is told again."""

    def __init__(self, ranks=1):
        self.port = free_ports(2 * ranks)
        self.events, self.replay = f"tcp://127.0.0.1:{self.port}", f"tcp://127.0.0.1:{self.port + ranks}"


class Relay(Place):
    """A relay of one engine, whose events the gateway takes from here."""

    def __init__(self, folder, engine, *args):
        super().__init__()
        self.folder, self.engine, self.args = folder, engine, args
        self.start()

    def start(self):
        engine = f"tcp://127.0.0.1:{self.engine.events},tcp://127.0.0.1:{self.engine.replay}"
        self.run = Process("relay", "--engine", engine, "--listen", f"127.0.0.1:{self.port}", *self.args, log=self.folder / f"relay-{self.port}.log")


class Gateway:
    def __init__(self, folder, engines, extra="", tokenizer=True, relays=None, tells=None, data=None, limits=None, patience=None):
        self.folder, self.engines = folder, engines
        self.port, self.admin_port = free_port(), free_port()
        self.url, self.admin = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.admin_port}"
        self.data, self.limits = data or folder / f"data-{self.port}", limits
        model = folder / "model"
        subprocess.run([BINARY, "sim", "model", str(model)], check=True, capture_output=True)
        text = f'[gateway]\nlisten = "127.0.0.1:{self.port}"\n'
        # Most tests are about what happens when it runs out; where it is none of the matter, a busy machine must not decide.
        long, short = (patience, patience) if patience else ("2s", "1s")
        text += f'first_byte_timeout = "{long}"\nengine_stall_timeout = "{long}"\n'
        text += f'head_timeout = "{short}"\nbody_timeout = "{short}"\n'
        text += "max_body_bytes = 1048576\n"
        text += f'[admin]\nlisten = "127.0.0.1:{self.admin_port}"\n'
        text += f'[data]\ndir = "{self.data}"\n'
        text += "[health]\nprobe_every = \"200ms\"\nretry_after = \"500ms\"\n" + extra
        if tokenizer:
            text += f'\n[[models]]\nname = "sim"\ntokenizer = "{model}/tokenizer.json"\nchat_template = "{model}/chat_template.jinja"\n'
        for engine in engines:
            relay = (relays or {}).get(engine.name)
            events = f'"{relay.events}"\nreplay = "{relay.replay}"' if relay else '"auto"'
            if tells:
                events += f'\nrelay = "{tells.events}"'
            text += f'\n[[engines]]\nname = "{engine.name}"\nurl = "{engine.url}"\nevents = {events}\n'
        self.config = folder / f"{self.port}.toml"
        self.config.write_text(text)
        self.start()

    def start(self):
        self.log = self.folder / f"gateway-{self.port}.log"
        self.run = Process("serve", "--config", self.config, log=self.log, limits=self.limits)
        if self.engines:
            until(lambda: httpx.get(f"{self.url}/readyz").status_code == 200, "the gateway to be ready")
        else:
            until(lambda: httpx.get(f"{self.url}/healthz").status_code == 200, "the gateway to live")

    def status(self):
        return HTTP.get(f"{self.admin}/status").json()

    def engine(self, name):
        return next(engine for engine in self.status()["engines"] if engine["name"] == name)

    def metric(self, name):
        lines = HTTP.get(f"{self.admin}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def files(self):
        return len(os.listdir(f"/proc/{self.run.process.pid}/fd"))

    def chat(self, text, **more):
        body = {"model": "sim", "messages": [{"role": "user", "content": text}], "max_tokens": 4, **more}
        headers = more.pop("headers", None)
        body.pop("headers", None)
        return HTTP.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def command(*args, stdin=None):
    return subprocess.run([BINARY, *map(str, args)], env=ENVIRONMENT, input=stdin, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """start.engine(name, *args) and start.gateway(engines, …); everything ends with the module."""
    folder = tmp_path_factory.mktemp("run")
    running = []

    class Start:
        @staticmethod
        def engine(name, *args):
            engine = Engine(folder, name, *args)
            running.append(engine)
            return engine

        @staticmethod
        def relay(engine, *args):
            relay = Relay(folder, engine, *args)
            running.append(relay)
            return relay

        @staticmethod
        def gateway(engines, **more):
            gateway = Gateway(folder, engines, **more)
            running.append(gateway)
            return gateway

        path = folder

    yield Start
    for one in reversed(running):
        one.run.kill()


def route(response):
    return dict(part.split("=", 1) for part in response.headers["x-warmline-route"].split("; "))


def parse(text):
    return json.loads(text)
