"""An engine behind a gate: it holds what it has until a test lets it go, and knows exactly who came when and how much it had."""

import http.client
import json
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from conftest import until


class Gated:
    """Requests are told apart by their `user`; each counts for the tokens of its prompt and of its answer."""

    def __init__(self, name, wide_open=False):
        self.name, self.changed = name, threading.Condition()
        self.came, self.left, self.gone, self.passes = [], [], [], 0
        self.held, self.tokens, self.most, self.most_tokens = {}, 0, 0, 0  # tokens: the most of several together
        self.wide_open, self.sick = wide_open, False
        self.refuses = set()  # whose requests are answered with a 400
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
                self.answer({"data": [{"id": "sim"}]} if self.path == "/v1/models" else {}, 500 if engine.sick else 200)

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if asked.get("user") in engine.refuses:
                    self.answer({"error": {"message": "not this one"}}, 400)
                elif engine.hold(asked, self.connection):
                    prompt, answer = weigh(asked)
                    usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
                    choice = {"index": 0, "text": "ok", "finish_reason": "stop"}
                    self.answer({"id": "x", "object": "text_completion", "model": "sim", "choices": [choice], "usage": usage})
                else:
                    self.close_connection = True

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 1024

            def handle_error(self, *_):
                """Whoever leaves, leaves a broken connection behind: that is no news."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def hold(self, asked, line):
        """Whether the request may be answered; `False`: whoever asked has left."""
        who, (prompt, answer) = asked.get("user"), weigh(asked)
        with self.changed:
            self.came.append(who)
            number = len(self.came)
            self.held[number] = who
            self.tokens += prompt + answer
            self.most = max(self.most, len(self.held))
            if len(self.held) > 1:
                self.most_tokens = max(self.most_tokens, self.tokens)
            self.changed.notify_all()
            stays = True
            while not self.wide_open and self.passes == 0 and stays:
                self.changed.wait(0.02)
                stays = not has_left(line)
            if stays and not self.wide_open:
                self.passes -= 1
            # Gone from the books before anybody can know it: the next one may be on its way at once.
            del self.held[number]
            self.tokens -= prompt + answer
            (self.left if stays else self.gone).append(who)
            self.changed.notify_all()
            return stays

    def let(self, count=1):
        """Lets so many go."""
        with self.changed:
            self.passes += count
            self.changed.notify_all()

    def open(self):
        with self.changed:
            self.wide_open = True
            self.changed.notify_all()

    def close(self):
        with self.changed:
            self.wide_open, self.passes = False, 0

    def forget(self):
        """A new test begins: nobody is here."""
        self.open()
        until(lambda: not self.held, f"engine {self.name} to be empty")
        self.close()
        self.came, self.left, self.gone, self.most, self.most_tokens = [], [], [], 0, 0

    def has(self, count):
        until(lambda: len(self.held) == count, f"engine {self.name} to hold {count}")
        return list(self.held.values())


def weigh(asked):
    prompt = asked.get("prompt", "")
    return len(prompt) if isinstance(prompt, list) else 8, asked.get("max_tokens", 1)


def has_left(line):
    readable, _, _ = select.select([line], [], [], 0)
    try:
        return bool(readable) and line.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


class Asking(threading.Thread):
    """A client with one request, whose answer can be had when it has come; it can also leave."""

    def __init__(self, url, user, prompt=8, max_tokens=1, key=None, **more):
        super().__init__(daemon=True)
        self.url, self.answer, self.problem = url, None, None
        self.headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
        self.body = {"model": "sim", "prompt": list(range(prompt)), "max_tokens": max_tokens, "user": user, **more}
        self.start()

    def run(self):
        # Of these there are hundreds at a time: each of httpx's clients would take a tenth of a second to be made.
        try:
            line = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)
            line.request("POST", "/v1/completions", json.dumps(self.body), self.headers)
            answer = line.getresponse()
            self.answer = httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())
            line.close()
        except Exception as problem:  # noqa: BLE001: whoever reads the answer sees what it was
            self.problem = problem

    def end(self):
        self.join(60)
        assert not self.is_alive() and self.answer is not None, f"{self.body['user']}: {self.problem!r}"
        return self.answer


class Leaving:
    """A client that sends one request and hangs up when it is told to."""

    def __init__(self, port, user, key=None):
        body = json.dumps({"model": "sim", "prompt": [1] * 8, "max_tokens": 1, "user": user}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        head += f"authorization: Bearer {key}\r\n" if key else ""
        self.line = socket.create_connection(("127.0.0.1", port))
        self.line.sendall(head.encode() + b"\r\n" + body)

    def leave(self):
        self.line.close()
