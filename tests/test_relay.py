"""A gateway whose engines have small rings, behind relays: what the engines cannot tell again, the relays can."""

import signal
import time

import httpx

from conftest import Place, Process, command, free_ports, route, until
from test_fleet import LONG, exact
from test_indexer import BLOCK, Indexer, StockEngine, prompt


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


def test_a_gateway_relays_what_it_hears_to_those_who_come_later(start):
    engine, place = start.engine("told", "--buffer-steps", 4), Place()
    first = start.gateway([engine], tells=place, extra='ready_grace = "1s"\n')
    until(lambda: exact(first, "told"), "the first view to be exact")
    for i in range(12):
        assert first.chat(f"{i} {LONG}").status_code == 200
    second = start.gateway([engine], relays={"told": place})
    until(lambda: exact(second, "told"), "the second view to be exact")
    views = [door.engine("told")["views"][0] for door in (first, second)]
    assert views[0]["blocks"] == views[1]["blocks"] > 100
    answer = second.chat(f"3 {LONG}")
    assert int(route(answer)["cached"]) == answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 300
    # Whoever tells is gone: what was told is no longer called exact. It comes back late, and knows that.
    first.run.kill()
    until(lambda: not exact(second, "told"), "the loss to be noticed")
    first.start()
    until(lambda: second.engine("told")["views"][0]["view"] == "stale", "the view to be stale", 60)
    engine.run.kill()
    engine.start()
    until(lambda: exact(second, "told") and exact(first, "told"), "the new life to be exact", 60)
    # A place that is taken is no reason not to serve; it is said.
    third = start.gateway([engine], tells=place)
    until(lambda: exact(third, "told"), "the third view to be exact")
    assert "are not told again" in (third.folder / f"gateway-{third.port}.log").read_text()


def test_each_rank_of_an_engine_is_told_again(start):
    ranks = [StockEngine(ring=4) for _ in range(2)]
    while ranks[1].port != ranks[0].port + 1 or ranks[1].replay_port != ranks[0].replay_port + 1:
        for rank in ranks:
            rank.end()
        first, replay = free_ports(2), free_ports(2)
        if abs(first - replay) < 2:
            continue
        ranks = [StockEngine(ring=4, port=first + rank, replay=replay + rank) for rank in range(2)]
    place = Place(ranks=2)
    log = start.path / "ranks.log"
    relay = Process("relay", "--engine", f"{ranks[0].endpoint},{ranks[0].replay}", "--ranks", 2, "--block-size", BLOCK, "--listen", f"127.0.0.1:{place.port}", log=log)
    indexer = None
    try:
        until(lambda: "rank 1 is told again" in log.read_text(), "the relay to listen")
        for number in range(20):
            for rank, engine in enumerate(ranks):
                engine.store(prompt(100 * rank + number))
                time.sleep(0.01)
        until(lambda: log.read_text().count('view="exact"') == 2, "both ranks to be in step")
        indexer = Indexer(start.path)
        for rank in range(2):
            body = {"endpoint": f"tcp://127.0.0.1:{place.port + rank}", "replay_endpoint": f"tcp://127.0.0.1:{place.port + 2 + rank}"}
            assert indexer.register(ranks[rank], rank=rank, **body).status_code == 201
        for rank in range(2):
            indexer.until("exact", rank=rank)
            assert indexer.query(prompt(100 * rank + 3))["scores"] == {"1": {str(rank): 32}}
    finally:
        relay.kill()
        if indexer:
            indexer.run.kill()
        for rank in ranks:
            rank.end()


def test_a_relay_says_what_is_wrong_with_its_flags():
    for flags, word in [
        (["--engine", "10.0.0.5:5557"], "tcp://"),
        (["--engine", "tcp://127.0.0.1:1,nonsense"], "tcp://"),
        ([], "--engine"),
        (["--engine", "tcp://127.0.0.1:1", "--listen", "here"], "--listen"),
    ]:
        ran = command("relay", *flags)
        assert ran.returncode == 2 and word in ran.stderr, ran.stderr
