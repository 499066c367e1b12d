"""Bad input, bad engines, bad clients: each gets the right error, and nothing leaks."""

import json
import socket
import time

import httpx
import pytest

from conftest import command, until


@pytest.fixture(scope="module")
def fleet(start):
    start.engines = [start.engine("a")]
    start.door = start.gateway(start.engines)
    return start


def post(fleet, content, path="/v1/chat/completions", **more):
    headers = {"content-type": "application/json"}
    return httpx.post(fleet.door.url + path, content=content, headers=headers, timeout=10, **more)


GOOD = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


@pytest.mark.parametrize("content, status, word", [
    (b"", 400, "JSON"), (b"{", 400, "JSON"), (b"[]", 400, "JSON"), (b'{"model":"sim"}', 400, "messages"),
    (b'{"messages":[]}', 400, "model"), (b'{"model":1,"messages":[]}', 400, "model"),
    (b'{"model":"sim","messages":{}}', 400, "messages"), (b'{"model":"sim","messages":[],"stream":"x"}', 400, "stream"),
    (b'{"model":"x","model":"sim","messages":[]}', 400, "duplicate"), (b'{"model":"nobody","messages":[]}', 404, "nobody"),
    (b"\xff\xfe", 400, "JSON"), (b'{"model":"sim","messages":' + b"[" * 5000 + b"]" * 5000 + b"}", 400, ""),
])
def test_bodies_that_make_no_sense_are_refused_in_openais_form(fleet, content, status, word):
    answer = post(fleet, content)
    error = answer.json()["error"]
    assert (answer.status_code, set(error) >= {"message", "type", "code"}) == (status, True), answer.text
    assert word in error["message"]
    assert answer.headers["x-request-id"]


def test_paths_and_methods_that_do_not_exist_say_so(fleet):
    assert httpx.get(f"{fleet.door.url}/nowhere").json()["error"]["code"] == "unknown_url"
    wrong = httpx.get(f"{fleet.door.url}/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert httpx.get(f"{fleet.door.url}/v1/models/nobody").status_code == 404


def test_too_large_a_body_is_refused_with_its_length_known_or_not(fleet):
    big = json.dumps({**GOOD, "pad": "x" * 2_000_000}).encode()
    assert post(fleet, big).status_code == 413

    def chunks():
        for i in range(0, len(big), 65536):
            yield big[i:i + 65536]

    try:
        assert post(fleet, chunks()).status_code == 413
    except httpx.WriteError:
        pass  # the gateway answered and hung up before everything was sent; that is its right


def test_a_head_and_a_body_that_trickle_in_are_cut_off(fleet):
    for first in [b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n",
                  b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"]:
        with socket.create_connection(("127.0.0.1", fleet.door.port)) as client:
            client.sendall(first)
            client.settimeout(20)
            answer = b""
            while part := client.recv(4096):
                answer += part
                if b"408" in answer:
                    break
            assert answer == b"" or b" 408 " in answer, answer


def test_an_engine_that_dies_within_a_stream_leaves_an_error_and_no_done(fleet):
    fleet.engines[0].faults(die_after=3)
    try:
        with httpx.stream("POST", f"{fleet.door.url}/v1/chat/completions", json={**GOOD, "max_tokens": 50, "stream": True}) as stream:
            text = stream.read().decode()
        assert "[DONE]" not in text
        last = [line for line in text.splitlines() if line.startswith("data: ")][-1]
        assert json.loads(last[6:])["error"]["code"] == "engine_failed"
        plain = post(fleet, json.dumps({**GOOD, "max_tokens": 50}))
        assert plain.status_code == 502, "a plain answer that breaks off is an error, not a stump"
    finally:
        fleet.engines[0].faults()
    until(lambda: post(fleet, json.dumps(GOOD)).status_code == 200, "the breaker to close")


@pytest.mark.parametrize("fault, status", [({"hang": True}, 504), ({"garbage": True}, 502), ({"status": 500}, 500), ({"status": 503}, 503)])
def test_an_engine_that_misbehaves_is_named_and_forgiven(fleet, fault, status):
    fleet.engines[0].faults(**fault)
    try:
        answer = post(fleet, json.dumps(GOOD))
        assert answer.status_code == status, answer.text
    finally:
        fleet.engines[0].faults()
    until(lambda: post(fleet, json.dumps(GOOD)).status_code == 200, "the engine to be forgiven")


def test_no_engine_at_all_is_503_with_a_time_to_come_back(start):
    gone = start.gateway([])
    answer = gone.chat("hi")
    assert answer.status_code == 404, "a model that nobody serves"
    assert httpx.get(f"{gone.url}/readyz").status_code == 503
    engine = start.engine("late")
    registered = httpx.post(f"{gone.admin}/engines", json={"name": "late", "url": engine.url, "events": "auto"})
    assert registered.status_code == 201
    until(lambda: gone.chat("hi").status_code == 200, "the registered engine to serve")
    assert httpx.post(f"{gone.admin}/engines", json={"name": "late", "url": engine.url}).status_code == 409
    engine.run.kill()
    down = until(lambda: (answer := gone.chat("hi")).status_code == 503 and answer, "the engine to be missed")
    assert int(down.headers["retry-after"]) >= 1
    assert httpx.delete(f"{gone.admin}/engines/late").status_code == 200


def test_clients_that_leave_leave_nothing_behind(fleet):
    post(fleet, json.dumps(GOOD))
    before = fleet.door.files()
    for i in range(200):
        with socket.create_connection(("127.0.0.1", fleet.door.port)) as client:
            body = json.dumps({**GOOD, "max_tokens": 5000, "stream": i % 2 == 0}).encode()
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            if i % 4 == 0:
                client.recv(100)
    until(lambda: fleet.engines[0].running() == 0, "the engine to be free")
    until(lambda: fleet.door.metric("warmline_fleet_in_flight_requests") == 0, "nothing in flight")
    until(lambda: fleet.door.metric("warmline_gateway_connections") <= 1, "no connections")
    until(lambda: fleet.door.files() <= before + 4, "no descriptors to leak")


@pytest.mark.parametrize("text, words", [
    ("[gateway]\nlisten = 5\n", ["listen", "line 2"]), ("[gatway]\n", ["gatway", "gateway"]),
    ("[routing]\npolicy = \"hot\"\n", ["hot", "round-robin"]),
    ("[[engines]]\nname = \"a\"\nurl = \"ftp://x\"\n", ["engines[0].url", "ftp://x", "http://"]),
])
def test_bad_settings_stop_the_start_and_are_named(tmp_path, text, words):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    ran = command("serve", "--config", file)
    assert ran.returncode == 2
    assert all(word in ran.stderr for word in [*words, str(file)]), ran.stderr


def test_a_taken_port_stops_the_start(fleet):
    ran = command("serve", "--config", fleet.door.config)
    assert ran.returncode == 2 and "gateway.listen" in ran.stderr, ran.stderr


def test_who_is_refused_before_its_body_is_read_hears_why(fleet):
    # Bytes of the body that were there and unread once took the answer with them.
    for chunks in [1, 2, 3, 10]:
        for size in [10, 1000, 60_000]:
            with socket.create_connection(("127.0.0.1", fleet.door.port)) as client:
                head = b"POST /nothing-here HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
                client.sendall(head + (b"%x\r\n" % size + b"x" * size + b"\r\n") * chunks + b"0\r\n\r\n")
                client.settimeout(20)
                assert client.recv(100).startswith(b"HTTP/1.1 4"), (chunks, size)
