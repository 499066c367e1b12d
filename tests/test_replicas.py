"""Any number of replicas behave like one: limits hold together, what one knows all know, and nothing stops when Redis does."""

import os
import signal
import time

import httpx
import pytest

from conftest import command, parse, until
from replicas import Counting, Ledger, Load, Plain, Redis, settings, tenant

LIMIT = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three replicas, two engines, one Redis that keeps nothing."""

    class World:
        pass

    world = World()
    world.folder = tmp_path_factory.mktemp("replicas")
    world.redis = Redis(world.folder)
    world.ledger = Ledger()
    world.engines = [Counting("a", ledger=world.ledger), Counting("b", ledger=world.ledger)]
    tenants = tenant(world.folder, "limited", max_in_flight=LIMIT) + tenant(world.folder, "free")
    tenants += tenant(world.folder, "slow", requests_per_minute=120) + tenant(world.folder, "short", tokens_per_minute=6000)
    world.extra = settings(world.redis.dsn, tenants=tenants)
    world.doors = [Plain(world.folder, world.engines, world.extra) for _ in range(3)]
    known = lambda door: len(door.replicas()) == 3 and all(row["ready"] for row in door.replicas())
    until(lambda: all(known(door) for door in world.doors), "all to know that all are ready")
    yield world
    for door in world.doors:
        door.run.kill()
    world.redis.kill()


def chat(door, key, **more):
    body = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, **more}
    return httpx.post(f"{door.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=30)


def slow(world, seconds):
    """So slow that all users are in flight at a time, however long they take to ask."""
    for engine in world.engines:
        engine.seconds = seconds


def used(world):
    return sum(share["used"] for door in world.doors for share in door.status()["coordination"]["shares"])


def test_status_shows_all_replicas_on_each(world):
    for door in world.doors:
        rows = door.replicas()
        assert sum(row["me"] for row in rows) == 1 and all(row["ready"] for row in rows)
        assert {row["gateway"] for row in rows} == {f"127.0.0.1:{one.port}" for one in world.doors}
    text = command("status", "--admin", world.doors[0].admin).stdout
    assert text.count("ready") >= 4 and f"redis at 127.0.0.1:{world.redis.port}" in text
    assert "limited: 0 in flight here" in text
    assert world.doors[0].metric("warmline_coord_replicas") == 3


def test_a_tenants_limit_holds_over_all_replicas_also_when_one_is_killed_and_redis_restarts(world):
    world.ledger.forget()
    load = Load([door.url for door in world.doors], users=40, key="key-limited")
    try:
        served = lambda: sum(engine.served for engine in world.engines)
        begun = served()
        until(lambda: served() > begun + 200, "the load to be under way")
        victim = world.doors[2]
        victim.run.kill(signal.SIGKILL)
        load.urls = [door.url for door in world.doors[:2]]
        until(lambda: len(world.doors[0].replicas()) == 2, "the dead one to be out of every sum")
        begun = served()
        until(lambda: served() > begun + 100, "the load to go on without it")
        victim.start()
        load.urls = [door.url for door in world.doors]
        until(lambda: len(world.doors[0].replicas()) == 3, "it to be back")
        # Redis goes and comes back with nothing.
        world.redis.kill()
        begun = served()
        until(lambda: served() > begun + 100, "requests to be served without Redis")
        world.redis.start()
        until(lambda: all(not door.status()["coordination"]["trouble"] and len(door.replicas()) == 3 for door in world.doors), "all to be together again", 40)
        begun = served()
        until(lambda: served() > begun + 100, "the load to go on with Redis")
    finally:
        answers = load.end()
    print(f"{answers}, at most {world.ledger.most} in hand at a time, {LIMIT} are allowed")
    assert set(answers) <= {200, 429}, answers
    # While Redis was away each gave its equal part, rounded up: here that is the limit (docs/replicas.md).
    assert world.ledger.most <= LIMIT
    until(lambda: used(world) == 0, "the totals to return to zero")


def test_one_replica_may_use_the_whole_limit_when_the_others_need_none_of_it(world):
    until(lambda: used(world) == 0, "nothing to be in flight")
    slow(world, 0.5)
    load = Load([world.doors[0].url], users=LIMIT, key="key-limited")
    try:
        until(lambda: world.ledger.now == LIMIT, "all of the limit to be in use on one replica")
    finally:
        slow(world, 0.05)
        load.end()
    assert world.ledger.now == 0


def test_a_share_moves_to_where_it_is_needed(world):
    slow(world, 0.3)
    first = Load([world.doors[0].url], users=LIMIT * 2, key="key-limited")
    try:
        until(lambda: world.ledger.now == LIMIT, "one replica to have it all")
        second = Load([world.doors[1].url], users=LIMIT * 2, key="key-limited")
        try:
            fair = lambda: all(3 <= share["used"] for door in world.doors[:2] for share in door.status()["coordination"]["shares"] if share["tenant"] == "limited")
            until(fair, "the other to have its part")
        finally:
            second.end()
    finally:
        slow(world, 0.05)
        first.end()


def test_a_budget_of_requests_is_that_of_all_together(world):
    # 120 a minute: 20 at once, and two a second after that.
    begun = time.monotonic()
    answers = [chat(world.doors[i % 3], "key-slow").status_code for i in range(60)]
    took = time.monotonic() - begun
    good = answers.count(200)
    assert set(answers) == {200, 429}
    assert good <= 20 + 2 * took + 3, (good, took)
    assert good >= 15
    refused = next(answer for answer in (chat(world.doors[0], "key-slow") for _ in range(30)) if answer.status_code == 429)
    assert "120 requests a minute" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) >= 1


def test_a_budget_of_tokens_counts_prompts_and_answers(world):
    # 6,000 a minute: 1,000 at once, 100 a second. Each request takes 8 + 200.
    answers = [chat(world.doors[i % 3], "key-short", max_tokens=200).status_code for i in range(30)]
    assert 3 <= answers.count(200) <= 12, answers
    until(lambda: chat(world.doors[0], "key-short", max_tokens=1).status_code == 200, "it to be paid back", 40)


def test_budgets_are_kept_without_redis_and_nobody_pays_for_it_afterwards(tmp_path):
    redis, engine = Redis(tmp_path), Counting("one", seconds=0.0)
    extra = settings(redis.dsn, replicas=2, tenants=tenant(tmp_path, "t", tokens_per_minute=60000))
    doors = [Plain(tmp_path, [engine], extra) for _ in range(2)]
    try:
        until(lambda: all(len(door.replicas()) == 2 for door in doors), "both to know of each other")
        redis.kill()
        until(lambda: doors[0].status()["coordination"]["trouble"], "its absence to be noticed")
        begun = time.monotonic()
        answers = [chat(doors[0], "key-t", max_tokens=1000).status_code for _ in range(60)]
        # The equal part is 500 a second and 5,000 at once; an answer's tokens are known only when it is there.
        most = 5000 + 500 * (time.monotonic() - begun) + 2 * 1008
        assert answers.count(200) * 1008 <= most and answers.count(429) > 0, (answers, most)
        redis.start()
        until(lambda: all(not door.status()["coordination"]["trouble"] for door in doors), "both to be in reach", 40)
        until(lambda: all(chat(door, "key-t", max_tokens=1).status_code == 200 for door in doors), "both to serve")
    finally:
        [door.run.kill() for door in doors]
        redis.kill()


def test_a_request_that_one_replica_served_can_be_asked_about_on_any(world):
    answer = httpx.post(
        f"{world.doors[1].url}/v1/chat/completions",
        json={"model": "sim", "messages": [{"role": "user", "content": "hello"}]},
        headers={"authorization": "Bearer key-free", "x-request-id": "who-knows"},
    )
    assert answer.status_code == 200
    for door in world.doors:
        ran = command("explain", "who-knows", "--json", "--admin", door.admin)
        assert ran.returncode == 0, ran.stderr
        told = parse(ran.stdout)
        assert told["attempts"][0]["outcome"] == "served"
        assert ("replica" in told) == (door is not world.doors[1])
    missing = command("explain", "nobody-knows", "--admin", world.doors[0].admin)
    assert missing.returncode == 1 and "2 other replica(s)" in missing.stderr


def engines(door):
    return {engine["name"]: engine["standing"] for engine in door.status()["engines"]}


def test_an_engine_that_is_registered_drained_or_removed_on_one_is_so_on_all(world):
    more = Counting("more")
    told = httpx.post(f"{world.doors[0].admin}/engines", json={"name": "more", "url": more.url})
    assert told.status_code == 201 and told.json()["shared"] is True
    until(lambda: all(engines(door).get("more") == "ready" for door in world.doors), "all to know it")
    assert httpx.post(f"{world.doors[1].admin}/engines/more/drain").json()["shared"] is True
    until(lambda: all(engines(door).get("more") == "draining" for door in world.doors), "all to drain it")
    assert httpx.post(f"{world.doors[2].admin}/engines/more/undrain").status_code == 200
    until(lambda: all(engines(door).get("more") == "ready" for door in world.doors), "all to use it again")
    late = Plain(world.folder, world.engines, world.extra)
    world.doors.append(late)
    until(lambda: engines(late).get("more") == "ready", "a newcomer to know it")
    late.run.kill(signal.SIGTERM)
    world.doors.remove(late)
    until(lambda: all(len(door.replicas()) == 3 for door in world.doors), "whoever ends in order to be gone at once")
    assert httpx.delete(f"{world.doors[1].admin}/engines/more").status_code == 200
    until(lambda: all("more" not in engines(door) for door in world.doors), "all to forget it")


def test_what_is_registered_while_redis_is_away_is_known_to_all_when_it_is_back_empty(world):
    more = Counting("later")
    world.redis.kill()
    until(lambda: world.doors[0].status()["coordination"]["trouble"], "its absence to be noticed")
    assert "! nothing new is known of the others" in command("status", "--admin", world.doors[0].admin).stdout
    told = httpx.post(f"{world.doors[0].admin}/engines", json={"name": "later", "url": more.url}, timeout=20)
    assert told.status_code == 201 and told.json()["shared"] is False
    assert chat(world.doors[1], "key-free").status_code == 200, "inference goes on"
    missing = command("explain", "nobody-knows", "--admin", world.doors[0].admin)
    assert missing.returncode == 1 and "could not be asked" in missing.stderr, missing.stderr
    world.redis.start()
    until(lambda: all(engines(door).get("later") == "ready" for door in world.doors), "all to know it", 40)
    httpx.delete(f"{world.doors[0].admin}/engines/later")
    until(lambda: all("later" not in engines(door) for door in world.doors), "all to forget it")


def test_a_replica_that_starts_without_redis_serves_and_joins_when_it_comes(world):
    port = world.redis.port
    world.redis.kill()
    lonely = Plain(world.folder, world.engines, world.extra)
    try:
        assert chat(lonely, "key-free").status_code == 200
        until(lambda: chat(lonely, "key-limited").status_code == 200, "a limited tenant to be served after a lease")
        world.redis.start()
        assert port == world.redis.port
        until(lambda: len(lonely.replicas()) == 4, "it to join", 40)
    finally:
        lonely.run.kill(signal.SIGTERM)
    until(lambda: all(len(door.replicas()) == 3 for door in world.doors), "it to be gone")


def test_a_frozen_redis_stops_no_request(world):
    os.kill(world.redis.process.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        load = Load([door.url for door in world.doors], users=6, key="key-free")
        until(lambda: load.answers.get(200, 0) > 100, "requests to be served")
        answers = load.end()
        print(f"{answers} in {time.monotonic() - begun:.1f} s with Redis frozen")
        assert set(answers) == {200} and not load.broken
    finally:
        os.kill(world.redis.process.pid, signal.SIGCONT)
    until(lambda: all(not door.status()["coordination"]["trouble"] for door in world.doors), "all to be together again", 40)


def test_a_rolling_restart_fails_no_request(world):
    """Clients go through a balancer of the plainest kind: a replica that says it is not ready, or takes no connection,
    is passed over, and a request that nobody took is sent to the next."""
    import threading

    failures, served, stop = [], [0], threading.Event()
    body = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}

    def user(turn):
        clients = {door.url: httpx.Client(timeout=30) for door in world.doors}
        while not stop.is_set():
            turn += 1
            for attempt in range(20):
                url = world.doors[(turn + attempt) % 3].url
                try:
                    answer = clients[url].post(f"{url}/v1/chat/completions", json=body, headers={"authorization": "Bearer key-free"})
                except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError):
                    # Nobody took it: refused, or an idle connection that was closed before it was used.
                    continue
                if answer.status_code == 503:
                    # It has just started, and says so.
                    continue
                if answer.status_code != 200:
                    failures.append(answer.text)
                served[0] += 1
                break
            else:
                failures.append("nobody took it")

    users = [threading.Thread(target=user, args=(i,), daemon=True) for i in range(8)]
    [one.start() for one in users]
    try:
        for door in world.doors:
            before = served[0]
            until(lambda: served[0] > before + 50, "the load to be under way")
            door.run.kill(signal.SIGTERM)
            door.start()
            until(door.ready, "it to be ready again")
        until(lambda: all(len(door.replicas()) == 3 for door in world.doors), "all to know of each other")
    finally:
        stop.set()
        [one.join() for one in users]
    assert failures == [] and served[0] > 150


def test_what_others_had_in_hand_is_forgotten_when_nobody_can_say_so_any_more(tmp_path):
    """An engine was full with another replica's requests when Redis went; it must not stay full for ever."""
    redis, engine = Redis(tmp_path), Counting("one", seconds=1.0)
    limited = settings(redis.dsn, replicas=2) + f'\n[[engines]]\nname = "one"\nurl = "{engine.url}"\nmax_in_flight = 4\n'
    limited += '[queue]\nmax_wait = "100ms"\n'
    doors = [Plain(tmp_path, [], limited) for _ in range(2)]
    try:
        until(lambda: all(len(door.replicas()) == 2 for door in doors), "both to know of each other")
        load = Load([doors[0].url], users=4)
        until(lambda: chat(doors[1], "none").status_code == 503, "the other to hear that the engine is full")
        redis.kill()
        load.end()
        doors[0].run.kill()
        until(lambda: chat(doors[1], "none").status_code == 200, "the idle engine to be used again")
    finally:
        [door.run.kill() for door in doors]
        redis.kill()


def test_an_orderly_end_is_an_end(tmp_path):
    redis, engine = Redis(tmp_path), Counting("one")
    stays = Plain(tmp_path, [engine], settings(redis.dsn, replicas=2, more='instance = "stays"\n').replace("1500ms", "60s"))
    try:
        for turn in range(8):
            goes = Plain(tmp_path, [engine], settings(redis.dsn, replicas=2, more=f'instance = "goes-{turn}"\n').replace("1500ms", "60s"))
            until(lambda: len(stays.replicas()) == 2, "it to be known")
            goes.run.kill(signal.SIGTERM)
            until(lambda: len(stays.replicas()) == 1, "it to be gone long before its lease")
    finally:
        stays.run.kill()
        redis.kill()


def test_conform_holds_a_backend_against_its_promises():
    ran = command("coord", "conform", "--backend", "memory")
    assert ran.returncode == 0 and "promises are kept" in ran.stdout, ran.stderr
    implied = command("coord", "conform", "--dsn", "redis://127.0.0.1:1/0")
    assert implied.returncode == 1 and "redis at 127.0.0.1:1" in implied.stdout
    unknown = command("coord", "conform", "--backend", "etcd")
    assert unknown.returncode != 0 and "known are memory, redis" in unknown.stderr


def test_conform_on_redis_and_on_nothing(world):
    ran = command("coord", "conform", "--backend", "redis", "--dsn", world.redis.dsn)
    assert ran.returncode == 0 and "promises are kept" in ran.stdout, ran.stderr
    gone = command("coord", "conform", "--backend", "redis", "--dsn", "redis://:hunter2@127.0.0.1:1/0")
    assert gone.returncode == 1 and "broken promise `counters_start_at_zero`" in gone.stderr
    assert "hunter2" not in gone.stderr + gone.stdout
    assert all(len(door.replicas()) == 3 for door in world.doors), "others on the same server are undisturbed"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("replicas = 3", ["coordination.backend", "memory", "redis"]),
        ('backend = "etcd"', ["coordination.backend", "etcd", "memory, redis"]),
        ('backend = "redis"', ["coordination.dsn", "empty", "WARMLINE_COORD_DSN"]),
        ('backend = "redis"\ndsn = "http://x"', ["coordination.dsn", "http", "redis://"]),
        ("ttl_sec = -1", ["coordination.ttl_sec", "-1", "0"]),
        ('key_prefix = "a{b"', ["coordination.key_prefix", "braces"]),
        ('lease = "100ms"', ["coordination.lease", "three beats"]),
        ('instance = "a b"', ["coordination.instance", "a b"]),
        ('dsn = "redis://a"\ndsn_file = "/x"', ["coordination.dsn_file"]),
        ('backend = "redis"\ndsn_file = "/nowhere"', ["coordination.dsn_file", "/nowhere"]),
        ('dns = "redis://:hunter2@10.0.0.1/0"', ["dns", "unknown field"]),
        ('backend = "redis"\ndsn = "me:hunter2@h://x"', ["coordination.dsn", "no scheme"]),
        ('backend = "redis"\ndsn = "redis://:hun/ter2@h"', ["coordination.dsn"]),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_start(tmp_path, text, words):
    config = tmp_path / "warmline.toml"
    config.write_text(f'[gateway]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n[coordination]\n{text}\n')
    ran = command("serve", "--config", config)
    assert ran.returncode != 0
    for word in words:
        assert word in ran.stderr, ran.stderr
    assert "hunter2" not in ran.stderr and "ter2" not in ran.stderr, ran.stderr


def test_a_password_is_in_no_dump(tmp_path):
    config = tmp_path / "warmline.toml"
    config.write_text('[coordination]\nbackend = "redis"\ndsn = "redis://me:hunter2@10.0.0.1/0"\n')
    ran = command("config", "--dump", "--config", config)
    assert ran.returncode == 0 and "10.0.0.1" in ran.stdout and "hunter2" not in ran.stdout
    config.write_text('[coordination]\ndsn = "me:hunter2@10.0.0.1/0"\ncustom_params = { token = "hunter3" }\n')
    ran = command("config", "--dump", "--config", config)
    assert ran.returncode == 0 and "token" in ran.stdout and "hunter" not in ran.stdout
