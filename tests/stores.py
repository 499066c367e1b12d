"""Tiered stores on free ports, with their operators' doors; values that say themselves whether they are whole."""

import hashlib
import json
import os
import signal
import subprocess
from urllib.parse import quote

import redis

from conftest import BINARY, ENVIRONMENT, HTTP, until


def value(name, size):
    """Bytes that only this name and size have; any other byte is a wrong one."""
    return hashlib.shake_128(f"{name} {size}".encode()).digest(size)


class Store:
    """`warmline store` with a data folder; a restart finds what is there, on other ports."""

    def __init__(self, folder, *args, settings="", key=None):
        self.folder, self.args, self.key = folder, args, key
        folder.mkdir(parents=True, exist_ok=True)
        self.data, self.config = folder / "data", folder / "store.toml"
        self.config.write_text(settings)
        self.process = None
        self.start()

    def start(self):
        command = [BINARY, "store", "--config", self.config, "--data", self.data, "--listen", "127.0.0.1:0",
                   "--admin-listen", "127.0.0.1:0", "--json", *self.args]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=log, env=ENVIRONMENT)
        told = self.process.stdout.readline()
        assert told, (self.folder / "log").read_text()
        told = json.loads(told)
        self.port, self.url = int(told["listen"].rsplit(":", 1)[1]), f"http://{told['admin']}"

    def kill(self, with_signal=signal.SIGKILL):
        if self.process.poll() is None:
            os.kill(self.process.pid, with_signal)
            self.process.wait(timeout=60)
        self.process.stdout.close()

    def client(self, **more):
        # Nothing is sent twice behind a test's back.
        return redis.Redis(port=self.port, **{"socket_timeout": 60, "retry": None, **more})

    def ask(self, method, path, **more):
        if self.key:
            more = {"headers": {"authorization": f"Bearer {self.key}"}, **more}
        return HTTP.request(method, self.url + path, timeout=60, **more)

    def get(self, path):
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def object(self, key, tenant="default"):
        """What is known of a key; none if it is not there."""
        answer = self.ask("GET", f"/objects/{tenant}/{quote(key, safe='')}")
        assert answer.status_code in (200, 404), answer.text
        return answer.json() if answer.status_code == 200 else None

    def tiers(self, key, tenant="default"):
        found = self.object(key, tenant)
        return {copy["tier"] for copy in found["copies"]} if found else set()

    def on_disk(self, key):
        return "disk" in self.tiers(key)

    def written(self):
        """Waits until nothing is on its way to disk."""
        def idle():
            status = self.get("/status")
            return status["now"]["offloads"] == 0 and status["node"]["working"] == 0 and status["node"]["unheard"] == 0
        until(idle, "everything to be written", seconds=60)

    def metric(self, name, **labels):
        """One value of /metrics; with labels that of the one row that has them."""
        for row in self.ask("GET", "/metrics").text.splitlines():
            head, _, number = row.rpartition(" ")
            called, _, rest = head.partition("{")
            if called == f"warmline_store_{name}" and all(f'{label}="{text}"' in rest for label, text in labels.items()):
                return float(number)
        return None
