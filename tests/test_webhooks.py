"""Webhooks that the OpenAI SDK verifies: of batches and jobs, through deaf receivers and gateways that are killed."""

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest

from conftest import ENVIRONMENT, command, until
from replicas import tenant
from test_batches import CHAT, Answering, Door, client, ended, left, line, submit


class Ear:
    """Hears webhooks: what the SDK verifies is an event; a deaf ear answers 500."""

    def __init__(self, folder, certificate=None):
        self.secret = "whsec_" + base64.b64encode(os.urandom(24)).decode()
        self.file = folder / f"secret-{time.monotonic_ns()}"
        self.file.write_text(self.secret + "\n")
        self.deaf, self.events, self.refused = False, [], []
        ear, api = self, openai.OpenAI(api_key="none", webhook_secret=self.secret)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                if self.path == "/hook":
                    api.webhooks.verify_signature(body, dict(self.headers))
                    if '"batch.' in body:
                        # It knows the events of OpenAI.
                        assert api.webhooks.unwrap(body, dict(self.headers)).data.id.startswith("batch_")
                    kept = ear.refused if ear.deaf else ear.events
                    kept.append({**json.loads(body), "webhook-id": self.headers["webhook-id"]})
                self.send_response(500 if ear.deaf else 204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def settings(self):
        return f'{{ url = "{self.url}", secret_file = "{self.file}" }}'

    def heard(self, about):
        return [event["type"] for event in list(self.events) if event["data"]["id"] == about]


def job(door, text="hello", key="none", **more):
    body = {"endpoint": CHAT, "body": {"model": "sim", "messages": [{"role": "user", "content": text}]}, **more}
    answer = httpx.post(f"{door.url}/v1/jobs", json=body, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def unheard(door):
    folder = door.data / "files" / "webhooks"
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def world(start):
    start.ear, start.other = Ear(start.path), Ear(start.path)
    start.engine_of_ours = Answering("one")
    a = tenant(start.path, "a", webhook=start.other.settings())
    start.door = Door(start.path, [start.engine_of_ours], "[queue]\nattempts = 1\n" + a + tenant(start.path, "b") + f"\n[webhook]\nurl = \"{start.ear.url}\"\nsecret_file = \"{start.ear.file}\"\n")
    yield start
    start.door.run.kill()


def test_a_tenant_is_told_of_its_batches_and_jobs_where_it_wants_and_others_where_all_are(world):
    for name, ear, silent in [("a", world.other, world.ear), ("b", world.ear, world.other)]:
        api = client(world.door, f"key-{name}")
        good, bad = submit(api, [line("x", "hello")]), submit(api, ["{"])
        until(lambda: ear.heard(good.id) == ["batch.completed"] and ear.heard(bad.id) == ["batch.failed"], "both ends to be heard")
        jobs = {job(world.door, text, f"key-{name}"): kind for text, kind in [("hello", "job.succeeded"), ("refuse", "job.failed"), ("break", "job.failed")]}
        for one, kind in jobs.items():
            until(lambda: ear.heard(one) == [kind], f"{kind} of {one} to be heard")
        event = next(event for event in ear.events if event["data"]["id"] == good.id)
        assert event["object"] == "event" and event["webhook-id"] == event["id"] and event["created_at"] >= good.created_at
        assert all(silent.heard(about) == [] for about in [good.id, bad.id, *jobs])
    until(lambda: unheard(world.door) == [], "nothing to be left to tell")
    assert ear.heard("job_nothing") == []


def test_a_job_that_is_cancelled_is_told_so(world):
    one = job(world.door, key="key-b", delay="1h")
    assert unheard(world.door), "it is written down before it ends"
    assert httpx.delete(f"{world.door.url}/v1/jobs/{one}", headers={"authorization": "Bearer key-b"}).status_code == 200
    until(lambda: world.ear.heard(one) == ["job.cancelled"], "it to be heard")


def test_a_receiver_with_a_certificate_is_told_only_if_the_system_trusts_it(tmp_path, monkeypatch):
    certificate, key = tmp_path / "ear.pem", tmp_path / "ear.key"
    names = ["-subj", "/CN=ear", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", certificate, *names], check=True, capture_output=True)
    ear, engine = Ear(tmp_path, (certificate, key)), Answering("one")
    door = Door(tmp_path, [engine], f'[webhook]\nurl = "{ear.url}"\nsecret_file = "{ear.file}"\n')
    try:
        one = job(door)
        until(lambda: "certificate" in door.log.read_text(), "the stranger to be refused in words")
        assert not ear.events and unheard(door)
        door.run.kill()
        monkeypatch.setitem(ENVIRONMENT, "SSL_CERT_FILE", str(certificate))
        door.start()
        until(lambda: ear.heard(one) == ["job.succeeded"], "it to be heard", 60)
        until(lambda: unheard(door) == [], "nothing to be left to tell")
    finally:
        door.run.kill()


def test_what_is_not_heard_is_told_again_by_whoever_lives(tmp_path):
    ear, engine = Ear(tmp_path), Answering("one")
    door = Door(tmp_path, [engine], f'[webhook]\nurl = "{ear.url}"\nsecret_file = "{ear.file}"\n')
    try:
        ear.deaf = True
        engine.hold(after=0)
        api = client(door)
        waits = job(door, "this one ends after the death")
        until(lambda: len(engine.seen) == 1, "the engine to have it")
        engine.release()
        batch = submit(api, [line("x", "hello")])
        ended(api, batch)
        until(lambda: {event["data"]["id"] for event in ear.refused} == {batch.id, waits}, "both to be told to a deaf ear")
        door.run.kill(signal.SIGKILL)
        ear.deaf = False
        door.start()
        until(lambda: ear.heard(batch.id) and ear.heard(waits), "both to be heard", 60)
        assert set(ear.heard(batch.id)) == {"batch.completed"} and set(ear.heard(waits)) == {"job.succeeded"}
        ids = {event["id"] for event in ear.refused if event["data"]["id"] == batch.id}
        assert ids == {event["id"] for event in ear.events if event["data"]["id"] == batch.id}, "it is the same message"
        until(lambda: unheard(door) == [] and left(door) == [], "nothing to be left to tell")
    finally:
        door.run.kill()


def test_how_a_job_ended_is_told_when_its_outcome_is_kept_no_longer(tmp_path):
    ear, engine = Ear(tmp_path), Answering("one")
    hook = f'[webhook]\nurl = "{ear.url}"\nsecret_file = "{ear.file}"\n'
    door = Door(tmp_path, [engine], '[queue]\nkeep = "1s"\nattempts = 1\n' + hook)
    try:
        ear.deaf = True
        good, bad = job(door), job(door, "refuse this")
        until(lambda: ear.refused, "a deaf ear to be told")
        gone = lambda one: httpx.get(f"{door.url}/v1/jobs/{one}").status_code == 404
        until(lambda: gone(good) and gone(bad), "their outcomes to be kept no longer", 60)
        door.run.kill(signal.SIGKILL)
        # One of which nobody wrote down how it ended, as it was done before.
        [path] = [path for path in (door.data / "files" / "webhooks").rglob(f"evt_{bad}")]
        notice = json.loads(path.read_text())
        notice["about"]["job"].pop("end", None)
        path.write_text(json.dumps(notice))
        ear.deaf = False
        door.start()
        until(lambda: ear.heard(good) == ["job.succeeded"], "it to be heard", 60)
        until(lambda: unheard(door) == [], "nothing to be left to tell", 60)
        assert ear.heard(bad) == [], "nobody knows how it ended"
        assert (door.metric("warmline_webhooks_heard_total"), door.metric("warmline_webhooks_void_total")) == (1, 1)
    finally:
        door.run.kill()


def test_a_receiver_that_does_not_answer_holds_up_only_what_is_its_own(tmp_path):
    ear, engine = Ear(tmp_path), Answering("one")
    with socket.socket() as dead:
        # It takes connections and never says a word.
        dead.bind(("127.0.0.1", 0))
        dead.listen(256)
        held = []
        def hold():
            while True:
                try:
                    held.append(dead.accept()[0])
                except OSError:
                    return
        threading.Thread(target=hold, daemon=True).start()
        silent = f'{{ url = "http://127.0.0.1:{dead.getsockname()[1]}/hook", secret_file = "{ear.file}" }}'
        tenants = tenant(tmp_path, "a", webhook=silent) + tenant(tmp_path, "b", webhook=ear.settings())
        door = Door(tmp_path, [engine], tenants)
        try:
            for number in range(40):
                job(door, f"number {number}", "key-a")
            until(lambda: len(held) >= 4, "the dead one to be told")
            one = job(door, key="key-b")
            until(lambda: ear.heard(one) == ["job.succeeded"], "the other to hear", 10)
            assert len(held) == 4
        finally:
            door.run.kill()
            dead.shutdown(socket.SHUT_RDWR)


def test_where_webhooks_go_is_shown_without_what_may_be_a_secret(world):
    shown = httpx.get(f"{world.door.admin}/config").json()
    assert shown["webhook"]["url"] == world.ear.url.replace("/hook", "/(hidden)")
    assert [one["webhook"]["url"] for one in shown["tenants"]] == [world.other.url.replace("/hook", "/(hidden)"), None]
    dump = command("config", "--dump", "--config", world.door.config)
    assert dump.returncode == 0 and "/(hidden)" in dump.stdout and "/hook" not in dump.stdout, dump.stderr


def test_a_job_that_runs_when_its_gateway_is_killed_is_told_of_when_it_has_ended(tmp_path):
    ear, engine = Ear(tmp_path), Answering("one")
    door = Door(tmp_path, [engine], f'[webhook]\nurl = "{ear.url}"\nsecret_file = "{ear.file}"\n')
    try:
        engine.hold(after=0)
        one = job(door)
        until(lambda: len(engine.seen) == 1, "the engine to have it")
        door.run.kill(signal.SIGKILL)
        assert ear.heard(one) == []
        engine.release()
        door.start()
        until(lambda: ear.heard(one) == ["job.succeeded"], "it to be heard", 60)
    finally:
        door.run.kill()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('url = "https://example.com"', ["webhook.secret_file", "signed"]),
        ('secret_file = "/nowhere"', ["webhook.url"]),
        ('url = "ftp://example.com"\nsecret_file = "/nowhere"', ["webhook.url", "ftp://example.com", "https://"]),
        ('url = "https://example.com"\nsecret_file = "/nowhere"', ["webhook.secret_file", "/nowhere"]),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_start(tmp_path, text, words):
    config = tmp_path / "warmline.toml"
    config.write_text(f'[gateway]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n[webhook]\n{text}\n')
    ran = command("serve", "--config", config)
    assert ran.returncode != 0
    for word in words:
        assert word in ran.stderr, ran.stderr
