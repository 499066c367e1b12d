"""The main job from outside: requests go where their prefix is, engines come and go, and predictions are held to account."""

import signal
import threading
import time

import httpx
import pytest

from conftest import command, parse, route, until

LONG = "The same long beginning that many requests share, word for word, so that it fills some blocks. " * 6


@pytest.fixture(scope="module")
def fleet(start):
    start.engines = [start.engine("a"), start.engine("b")]
    start.door = start.gateway(start.engines)
    return start


def exact(door, name):
    views = door.engine(name)["views"]
    return views and all(view["view"] == "exact" for view in views)


def test_a_second_request_goes_where_the_first_left_its_prefix(fleet):
    first = route(fleet.door.chat(LONG + "one"))
    for i in range(6):
        again = fleet.door.chat(LONG + f"two {i}")
        assert route(again)["engine"] == first["engine"] and route(again)["why"] == "warm"
        assert int(route(again)["cached"]) == again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 300


def test_every_decision_can_be_asked_about(fleet):
    answer = fleet.door.chat(LONG + "ask me", headers={"x-request-id": "why-there"})
    assert answer.headers["x-request-id"] == "why-there"
    ran = command("explain", "why-there", "--json", "--admin", fleet.door.admin)
    told = parse(ran.stdout)
    assert told["attempts"][0]["engine"] == route(answer)["engine"]
    assert told["predicted_tokens"] == told["cached_tokens"] == answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert len(told["attempts"][0]["candidates"]) == 2
    body = '{"model":"sim","messages":[{"role":"user","content":"%s"}]}' % LONG
    ran = command("route", "--dry-run", body, "--json", "--admin", fleet.door.admin)
    assert parse(ran.stdout)["engine"] == route(answer)["engine"], ran.stderr
    missing = command("explain", "no-such-id", "--admin", fleet.door.admin)
    assert missing.returncode == 1 and "no-such-id" in missing.stderr


def test_an_engine_that_is_killed_under_load_costs_no_request_and_comes_back_exact(fleet):
    door, victim = fleet.door, fleet.engines[0]
    failures, stop = [], threading.Event()

    def user(number):
        turn = 0
        while not stop.is_set():
            turn += 1
            # New prompts, which are cold everywhere: warm ones would rightly stay where they are warm.
            answer = door.chat(f"user {number} turn {turn} {LONG}", max_tokens=2)
            if answer.status_code != 200:
                failures.append(answer.text)

    users = [threading.Thread(target=user, args=(i,), daemon=True) for i in range(8)]
    [one.start() for one in users]
    try:
        until(lambda: door.engine("a")["views"][0]["blocks"] > 0, "both engines to hold something")
        victim.run.kill(signal.SIGKILL)
        until(lambda: door.engine("a")["standing"] == "down", "the dead engine to be missed")
        until(lambda: door.engine("a")["views"][0]["blocks"] == 0, "its view to be gone")
        victim.start()
        back = time.monotonic()
        until(lambda: door.engine("a")["standing"] == "ready" and exact(door, "a"), "the engine to be exact again")
        print(f"exact again {1000 * (time.monotonic() - back):.0f} ms after its return")
        until(lambda: door.engine("a")["views"][0]["blocks"] > 0, "it to be used again")
    finally:
        stop.set()
        [one.join() for one in users]
    # A plain answer has no first byte before its end, so none of them may fail.
    assert failures == []


def test_a_template_that_differs_is_named_and_routed_approximately(start):
    engine = start.engine("odd", "--faults", '{"template_prefix":"!"}')
    door = start.gateway([engine])
    for i in range(6):
        assert door.chat(f"question number {i}: " + LONG[:200]).status_code == 200
        time.sleep(0.05)
    found = until(lambda: door.engine("odd")["mismatch"], "the mismatch to be named")
    assert (found["position"], found["theirs"]) == (0, ord("!")), found
    answer = door.chat("and another one: " + LONG[:200])
    assert answer.status_code == 200 and route(answer)["view"] == "none"
    shown = command("status", "--admin", door.admin)
    assert "differ from token 0" in shown.stdout


def test_an_engine_that_swallows_events_loses_confidence_and_is_rebuilt(start):
    engine = start.engine("mute")
    door = start.gateway([engine], extra="[routing]\nexpect_for = \"1ms\"\n")
    door.chat(LONG)
    engine.faults(drop_events=True)
    texts = [f"{i} " + LONG for i in range(4)]
    for _ in range(60):
        for text in texts:
            door.chat(text, max_tokens=1)
        time.sleep(0.25)
        if door.engine("mute")["rebuilds"] > 0:
            break
    told = door.engine("mute")
    assert told["confidence"] < 0.6 and told["rebuilds"] > 0, told


def test_commands_explain_themselves_and_end_as_they_should(fleet):
    for name in ["serve", "demo", "status", "explain", "route", "doctor", "config", "hash", "sim", "bench"]:
        assert command(name, "--help").returncode == 0, name
    assert parse(command("status", "--json", "--admin", fleet.door.admin).stdout)["engines"][0]["name"] == "a"
    assert command("status", "--admin", "http://127.0.0.1:1").returncode == 1
    assert parse(command("config", "--json").stdout)["gateway"]["listen"] == "127.0.0.1:8080"
    assert command("nonsense").returncode == 2
    found = parse(command("doctor", "--json", "--config", fleet.door.config).stdout)
    assert any("same" in finding["detail"] for finding in found if finding["what"] == "engine a tokens")


def test_hashes_are_those_that_were_published():
    import json
    from conftest import ROOT

    vectors = json.loads((ROOT / "blocks/tests/block_hashes.json").read_text())["vectors"]
    keys = ["tokens", "block_size", "lora_name", "cache_salt", "mm_hashes_per_block", "is_eagle"]
    lines = "\n".join(json.dumps({key: vector[key] for key in keys}) for vector in vectors)
    ran = command("hash", "--json", stdin=lines + "\n")
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(answers) == len(vectors)
    for vector, answer in zip(vectors, answers):
        assert answer["tokens_hashes"] == vector["tokens_hashes"], vector["name"]
        assert answer["prefix_hashes"] == vector.get("prefix_hashes", answer["prefix_hashes"]), vector["name"]
    bad = command("hash", "--json", stdin=lines.splitlines()[0] + "\n{\"tokens\":[-1],\"block_size\":4}\n")
    assert bad.returncode == 2 and "line 2" in bad.stderr and len(bad.stdout.splitlines()) == 1


def test_sigterm_lets_a_stream_come_to_its_end(start):
    door = start.gateway([start.engine("last")])
    with httpx.stream("POST", f"{door.url}/v1/chat/completions", timeout=30,
                      json={"model": "sim", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 120, "stream": True}) as stream:
        text = stream.iter_text()
        first = next(text)
        door.run.process.send_signal(signal.SIGTERM)
        rest = first + "".join(text)
    assert rest.rstrip().endswith("data: [DONE]")
    assert door.run.process.wait(timeout=30) == 0


def test_a_long_prompt_is_tokenised_here_as_well(start):
    door = start.gateway([start.engine("quick", "--speed", "50")])
    text = "a long prompt " * 6000
    first = door.chat(text)
    again = door.chat(text)
    assert route(first)["tokens"] == route(again)["tokens"] == "local"
    assert int(route(again)["cached"]) == again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 80_000
