"""A gateway whose engines have small rings, behind relays: what the engines cannot tell again, the relays can."""

import signal

import httpx

from conftest import command, route, until
from test_fleet import LONG, exact


def test_a_gateway_that_comes_late_is_exact_because_of_the_relay(start):
    engine = start.engine("late", "--buffer-steps", 4)
    relay = start.relay(engine, "--buffer-steps", 4)
    body = {"model": "sim", "messages": [{"role": "user", "content": LONG}], "max_tokens": 4}
    log = relay.folder / f"relay-{relay.port}.log"
    until(lambda: "view=\"exact\"" in log.read_text(), "the relay to be in step")
    for i in range(12):
        body["messages"][0]["content"] = f"{i} {LONG}"
        assert httpx.post(f"{engine.url}/v1/chat/completions", json=body).status_code == 200
    # The engine's ring has moved on. A gateway that asked it would know nothing, and say so.
    plain = start.gateway([engine], extra='ready_grace = "1s"\n')
    until(lambda: plain.engine("late")["views"][0]["view"] == "stale", "a view without the relay to be stale")
    door = start.gateway([engine], relays={"late": relay})
    until(lambda: exact(door, "late"), "the view to be exact")
    answer = door.chat(f"3 {LONG}")
    cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert int(route(answer)["cached"]) == cached > 300

    # A stopped relay is silent: the view is no longer called exact. Resumed, it is again, without a word from outside.
    relay.run.process.send_signal(signal.SIGSTOP)
    until(lambda: not exact(door, "late"), "the silence to be noticed", 40)
    relay.run.process.send_signal(signal.SIGCONT)
    until(lambda: exact(door, "late"), "the view to be exact again", 60)

    # A relay that is killed and comes back has lost its memory, and the engine's ring cannot help: it says so.
    relay.run.kill()
    until(lambda: not exact(door, "late"), "the loss to be noticed")
    relay.start()
    until(lambda: door.engine("late")["views"][0]["view"] == "stale", "the view to be stale", 60)
    # And a new life of the engine is known whole.
    engine.run.kill()
    engine.start()
    until(lambda: exact(door, "late"), "the new life to be exact", 60)
    assert door.chat(LONG).status_code == 200


def test_a_relay_says_what_is_wrong_with_its_flags():
    for flags, word in [
        (["--engine", "10.0.0.5:5557"], "tcp://"),
        (["--engine", "tcp://127.0.0.1:1,nonsense"], "tcp://"),
        ([], "--engine"),
        (["--engine", "tcp://127.0.0.1:1", "--listen", "here"], "--listen"),
    ]:
        ran = command("relay", *flags)
        assert ran.returncode == 2 and word in ran.stderr, ran.stderr
