"""Requests that find no room stand in line: nobody is sent away, nobody is starved, no engine gets more than it may have."""

import collections

import httpx
import pytest

from conftest import command, parse, route, until
from gated import Asking, Gated, Leaving
from replicas import Plain, tenant


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    """doors(engines, extra) starts a gateway in front of them; everything ends with the module."""
    folder, running = tmp_path_factory.mktemp("lines"), []

    def door(engines, extra):
        running.append(Plain(folder, engines, extra, patience="60s"))
        return running[-1]

    door.folder = folder
    yield door
    for one in running:
        one.run.kill()


@pytest.fixture(scope="module")
def narrow(doors):
    """One engine that takes one request at a time, and tenants of every kind."""
    engine = Gated("a")
    kinds = [("small", {}), ("flood", {}), ("boss", {"priority": '"urgent"'}), ("heavy", {"weight": 3})]
    text = "".join(tenant(doors.folder, name, **limits) for name, limits in kinds)
    return doors([engine], "[routing]\nmax_in_flight = 1\n[queue]\nmax_wait = \"60s\"\n" + text), engine


def standing(door, count):
    until(lambda: door.metric("warmline_queue_standing_requests") == count, f"{count} to stand in line")


def lined_up(door, users, **more):
    """Clients that stand in line in this order."""
    before = int(door.metric("warmline_queue_standing_requests"))
    asking = []
    for number, user in enumerate(users):
        asking.append(Asking(door.url, user, key=f"key-{user.split('-')[0]}", **more))
        standing(door, before + number + 1)
    return asking


def hold_one(door, engine, user="small-first"):
    engine.forget()
    standing(door, 0)
    first = Asking(door.url, user, key=f"key-{user.split('-')[0]}")
    engine.has(1)
    return first


def test_many_at_once_all_succeed_one_at_a_time_and_say_that_they_waited(narrow):
    door, engine = narrow
    first = hold_one(door, engine)
    asking = [Asking(door.url, f"r{i}", key="key-small") for i in range(60)]
    standing(door, 60)
    engine.open()
    answers = [one.end() for one in asking]
    assert collections.Counter(answer.status_code for answer in [first.end(), *answers]) == {200: 61}
    assert engine.most == 1, "the engine was given more at a time than it may have"
    waits = [route(answer).get("waited") for answer in answers]
    waited = [int(wait.removesuffix("ms")) for wait in waits if wait]
    assert len(waited) == 60, waits
    assert door.metric("warmline_queue_wait_seconds_count") >= len(waited)
    assert door.metric("warmline_queue_standing_requests") == 0


def test_whoever_came_first_is_served_first(narrow):
    door, engine = narrow
    first = hold_one(door, engine)
    users = [f"small-{i}" for i in range(6)]
    asking = lined_up(door, users)
    engine.open()
    assert [one.end().status_code for one in [first, *asking]] == [200] * 7
    assert engine.came == ["small-first", *users]


def test_a_flood_of_one_tenant_leaves_another_its_turns(narrow):
    door, engine = narrow
    first = hold_one(door, engine, "flood-first")
    flood = [Asking(door.url, f"flood-{i}", key="key-flood") for i in range(300)]
    standing(door, 300)
    small = lined_up(door, ["small-0", "small-1", "small-2"])
    engine.open()
    assert {one.end().status_code for one in [first, *small, *flood]} == {200}
    places = [engine.came.index(f"small-{i}") for i in range(3)]
    # Two tenants take turns: each of the small one's comes at the latest as every second.
    assert all(place <= 2 * (i + 1) + 1 for i, place in enumerate(places)), places


def test_a_tenant_of_three_times_the_weight_gets_three_times_the_turns(narrow):
    door, engine = narrow
    first = hold_one(door, engine, "flood-first")
    flood = [Asking(door.url, f"flood-{i}", key="key-flood") for i in range(40)]
    standing(door, 40)
    heavy = [Asking(door.url, f"heavy-{i}", key="key-heavy") for i in range(40)]
    standing(door, 80)
    engine.open()
    assert {one.end().status_code for one in [first, *flood, *heavy]} == {200}
    early = collections.Counter(user.split("-")[0] for user in engine.came[1:41])
    assert 28 <= early["heavy"] <= 32, early


def test_the_urgent_overtake(narrow):
    door, engine = narrow
    first = hold_one(door, engine)
    asking = lined_up(door, ["small-0", "small-1", "small-2", "boss-0"])
    engine.open()
    assert {one.end().status_code for one in [first, *asking]} == {200}
    assert engine.came == ["small-first", "boss-0", "small-0", "small-1", "small-2"]


def test_who_leaves_leaves_the_line_at_once_and_the_others_move_up(narrow):
    door, engine = narrow
    first = hold_one(door, engine)
    leaving = Leaving(door.port, "small-leaves", "key-small")
    standing(door, 1)
    asking = lined_up(door, ["small-0", "small-1"])
    leaving.leave()
    standing(door, 2)
    engine.let(1)
    first.end()
    assert engine.has(1) == ["small-0"]
    engine.open()
    assert [one.end().status_code for one in asking] == [200, 200]
    assert engine.came == ["small-first", "small-0", "small-1"]


def test_who_leaves_while_it_is_served_lets_the_next_in(narrow):
    door, engine = narrow
    engine.forget()
    standing(door, 0)
    leaving = Leaving(door.port, "small-leaves", "key-small")
    engine.has(1)
    asking = lined_up(door, ["small-0"])
    leaving.leave()
    until(lambda: engine.came == ["small-leaves", "small-0"], "the next to come without anybody being let go")
    engine.open()
    assert asking[0].end().status_code == 200
    assert engine.gone == ["small-leaves"]


@pytest.mark.parametrize("away", ["drained", "sick"])
def test_with_the_engines_away_those_in_line_wait_and_go_on_when_one_is_back(narrow, away):
    door, engine = narrow
    first = hold_one(door, engine)
    asking = lined_up(door, ["small-0", "small-1"])

    def go_away(gone):
        if away == "drained":
            word = "drain" if gone else "undrain"
            assert httpx.post(f"{door.admin}/engines/a/{word}").status_code == 200
        else:
            engine.sick = gone
        wanted = {"drained": "draining", "sick": "down"}[away] if gone else "ready"
        until(lambda: door.engine("a")["standing"] == wanted, f"the engine to be {wanted}")

    go_away(True)
    engine.let(1)
    assert first.end().status_code == 200
    engine.has(0)
    # Whoever comes new hears that nobody is there; who stands in line keeps the place.
    late = Asking(door.url, "small-late", key="key-small").end()
    assert (late.status_code, int(late.headers["retry-after"]) >= 1) == (503, True), late.text
    assert door.metric("warmline_queue_standing_requests") == 2
    assert engine.came == ["small-first"]
    go_away(False)
    engine.open()
    assert [one.end().status_code for one in asking] == [200, 200]
    assert engine.came == ["small-first", "small-0", "small-1"]


def test_a_line_that_is_too_long_and_too_many_in_all_lines_say_when_to_come_back(doors):
    engine = Gated("a")
    tenants = tenant(doors.folder, "one") + tenant(doors.folder, "two")
    door = doors([engine], "[routing]\nmax_in_flight = 1\n[queue]\nmax_line = 3\nmax_standing = 5\n" + tenants)
    first = hold_one(door, engine, "one-first")
    asking = lined_up(door, ["one-0", "one-1", "one-2"])
    error = refused(door, "one", 429)
    assert "3 requests of this tenant" in error, error
    asking += lined_up(door, ["two-0", "two-1"])
    error = refused(door, "two", 503)
    assert "5 requests stand in line" in error, error
    assert door.metric("warmline_queue_refused_requests_total") == 2
    engine.open()
    assert {one.end().status_code for one in [first, *asking]} == {200}
    assert not any("refused" in user for user in engine.came)


def refused(door, who, status):
    answer = Asking(door.url, f"{who}-refused", key=f"key-{who}").end()
    assert (answer.status_code, int(answer.headers["retry-after"]) >= 1) == (status, True), answer.text
    return answer.json()["error"]["message"]


def test_a_line_that_is_too_slow_says_so_and_when_to_come_back(doors):
    engine = Gated("a")
    door = doors([engine], "[routing]\nmax_in_flight = 1\n[queue]\nmax_wait = \"300ms\"\n" + tenant(doors.folder, "late"))
    first = hold_one(door, engine, "late-first")
    error = refused(door, "late", 503)
    assert "within 0.3 s" in error, error
    assert door.metric("warmline_queue_expired_requests_total") == 1
    standing(door, 0)
    engine.open()
    assert first.end().status_code == 200
    assert engine.came == ["late-first"]


def test_refusals_and_turns_at_the_same_time_never_stand_in_each_others_way(doors):
    # Whoever was refused once asked how long the line is while it held what placing needs: both waited for ever.
    engine = Gated("a")
    door = doors([engine], "[routing]\nmax_in_flight = 1\n[queue]\nmax_line = 4\n" + tenant(doors.folder, "crowd"))
    for turn in range(5):
        first = hold_one(door, engine, "crowd-first")
        asking = [Asking(door.url, f"crowd-{i}", key="key-crowd") for i in range(64)]
        until(lambda: door.metric("warmline_queue_refused_requests_total") >= 10 * (turn + 1), "some to be sent away")
        engine.open()
        answers = collections.Counter(one.end().status_code for one in [first, *asking])
        assert set(answers) == {200, 429} and answers[200] >= 5, answers
    assert engine.most == 1


@pytest.mark.parametrize("budget", ["routing", "engines"])
def test_no_engine_has_more_tokens_in_flight_than_its_budget(doors, budget):
    engines = [Gated("a", wide_open=True), Gated("b", wide_open=True)]
    patient = "[queue]\nmax_wait = \"60s\"\n"
    door = doors(engines, "[routing]\nmax_tokens = 100\n" + patient) if budget == "routing" else limited(doors, engines, patient)
    sizes = [(10 + 7 * i % 41, 1 + i % 20) for i in range(120)]
    asking = [Asking(door.url, f"t{i}", prompt=prompt, max_tokens=answer) for i, (prompt, answer) in enumerate(sizes)]
    asking.append(Asking(door.url, "huge", prompt=300, max_tokens=10))
    assert {one.end().status_code for one in asking} == {200}
    for engine in engines:
        assert engine.came and engine.most_tokens <= 100, (engine.name, engine.most_tokens)
    assert sum(engine.came.count("huge") for engine in engines) == 1, "what is larger than any budget runs alone"


def limited(doors, engines, extra):
    """The budget is the engines' own."""
    door = doors([Gated("other")], extra)
    assert httpx.delete(f"{door.admin}/engines/other").status_code == 200
    for engine in engines:
        told = httpx.post(f"{door.admin}/engines", json={"name": engine.name, "url": engine.url, "max_tokens": 100})
        assert told.status_code == 201, told.text
    until(lambda: all(one["standing"] == "ready" for one in door.status()["engines"]), "the engines to be ready")
    return door


def test_simulated_engines_with_one_place_each_serve_everybody_and_streams_as_well(start):
    engines = [start.engine("a", "--speed", "0.5"), start.engine("b", "--speed", "0.5")]
    door = start.gateway(engines, patience="60s", extra="[routing]\nmax_in_flight = 1\n[queue]\nmax_wait = \"60s\"\n")
    asking = [Chatting(door, i) for i in range(20)]
    answers = [one.end() for one in asking]
    assert {answer.status_code for answer in answers} == {200}
    assert all("[DONE]" in answer.text for answer in answers[::2]), "streams came to their end"
    waited = [answer for answer in answers if "waited" in route(answer)]
    assert len(waited) >= 5
    # Why it waited can be asked about, as everything else.
    told = parse(command("explain", waited[0].headers["x-request-id"], "--json", "--admin", door.admin).stdout)
    assert f'{told["waited_ms"]:.0f}' and told["waited_ms"] >= 0 and told["waited_for"], told
    shown = command("explain", waited[0].headers["x-request-id"], "--admin", door.admin).stdout
    assert "stood in line" in shown, shown


class Chatting(Asking):
    """A chat with a simulated engine; every second one is streamed."""

    def __init__(self, door, number):
        self.door, self.number = door, number
        super().__init__(door.url, f"chat-{number}")

    def run(self):
        try:
            self.answer = self.door.chat(f"question {self.number}", max_tokens=8, stream=self.number % 2 == 0)
        except Exception as problem:  # noqa: BLE001
            self.problem = problem
