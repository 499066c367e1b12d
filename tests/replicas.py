"""A Redis server of the tests' own, engines that count what they have in hand, and gateways that act as one."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from conftest import Gateway, free_port, until


class Redis:
    """One redis-server; with `durable` a restart finds what it had."""

    def __init__(self, folder, durable=False):
        self.port, self.folder = free_port(), folder / f"redis-{time.monotonic_ns()}"
        self.folder.mkdir()
        self.durable, self.process = durable, None
        self.dsn = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self):
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "", "--appendonly", "yes" if self.durable else "no", "--appendfsync", "always"]
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
        until(lambda: self.send("PING") == b"+PONG\r\n", "redis to answer")

    def send(self, *words):
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as line:
            text = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
            line.sendall(f"*{len(words)}\r\n{text}".encode())
            return line.recv(65536)

    def kill(self, with_signal=signal.SIGKILL):
        if self.process.poll() is None:
            os.kill(self.process.pid, with_signal)
            self.process.wait(timeout=30)


class Ledger:
    """How many requests all engines together have in hand, exactly, and the most there ever were."""

    def __init__(self):
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def count(self, more):
        with self.lock:
            self.now += more
            self.most = max(self.most, self.now)

    def forget(self):
        with self.lock:
            self.most = self.now


class Counting:
    """An engine that answers after a while and knows exactly how many requests it has in hand."""

    def __init__(self, name, seconds=0.05, ledger=None):
        self.name, self.seconds, self.served, self.status = name, seconds, 0, 200
        self.ledger = ledger or Ledger()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, body, status=200):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                self.answer({"data": [{"id": "sim"}]} if self.path == "/v1/models" else {})

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                engine.ledger.count(1)
                time.sleep(engine.seconds)
                # Counted as done before anybody can know it: the next one may be on its way at once.
                engine.ledger.count(-1)
                engine.served += 1
                tokens = asked.get("max_tokens", 1)
                self.answer({
                    "id": "x", "object": "chat.completion", "model": "sim",
                    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": 8 + tokens},
                }, engine.status)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 256

            def handle_error(self, *_):
                """A gateway that is killed leaves broken connections behind: that is no news."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def settings(dsn, replicas=3, tenants="", more=""):
    return (
        f'\n[coordination]\nbackend = "redis"\ndsn = "{dsn}"\nreplicas = {replicas}\nlease = "1500ms"\nbeat = "200ms"\n{more}'
        + tenants
    )


def tenant(folder, name, **limits):
    key = folder / f"{name}.keys"
    key.write_text(f"key-{name}\n")
    lines = "".join(f"{limit} = {value}\n" for limit, value in limits.items())
    return f'\n[[tenants]]\nname = "{name}"\nkeys_file = "{key}"\n{lines}'


class Plain(Gateway):
    """A gateway whose engines tell of no events."""

    def __init__(self, folder, engines, extra="", **more):
        super().__init__(folder, [], **more, extra=extra + "".join(f'\n[[engines]]\nname = "{e.name}"\nurl = "{e.url}"\n' for e in engines), tokenizer=False)
        until(self.ready, "the replica to be ready")

    def ready(self):
        import httpx

        return httpx.get(f"{self.url}/readyz").status_code == 200

    def replicas(self):
        return self.status()["replicas"]


class Load:
    """Users who send requests to all replicas in turn, until they are told to stop; every answer is kept."""

    def __init__(self, urls, users, key=None, patience=True):
        import httpx

        self.urls, self.stop, self.answers, self.broken = list(urls), threading.Event(), {}, []
        headers = {"authorization": f"Bearer {key}"} if key else {}
        body = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}

        def user(number):
            turn = number
            with httpx.Client(timeout=30) as client:
                while not self.stop.is_set():
                    turn += 1
                    try:
                        url = self.urls[turn % len(self.urls)]
                        status = client.post(f"{url}/v1/chat/completions", json=body, headers=headers).status_code
                    except httpx.HTTPError as error:
                        self.broken.append(repr(error))
                        time.sleep(0.02)
                        continue
                    self.answers[status] = self.answers.get(status, 0) + 1
                    if status == 429 and patience:
                        time.sleep(0.02)

        self.users = [threading.Thread(target=user, args=(i,), daemon=True) for i in range(users)]
        [one.start() for one in self.users]

    def end(self):
        self.stop.set()
        [one.join() for one in self.users]
        return self.answers
