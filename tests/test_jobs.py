"""Jobs: requests that are taken now and answered later, whatever dies meanwhile."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import until
from gated import Gated
from replicas import Counting, Plain, Redis, settings, tenant

CHAT = {"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


def make(gateway, status=202, headers=None, endpoint="/v1/chat/completions", body=None, **more):
    job = {"endpoint": endpoint, "body": body or CHAT, **more}
    answer = httpx.post(f"{gateway.url}/v1/jobs", json=job, headers=headers, timeout=30)
    assert answer.status_code == status, answer.text
    return answer.json()


def job(gateway, one, wait=None, headers=None):
    query = f"?wait={wait}" if wait else ""
    return httpx.get(f"{gateway.url}/v1/jobs/{one['id']}{query}", timeout=60, headers=headers)


def done(gateway, one):
    return until(lambda: (seen := job(gateway, one, wait="5s")).status_code == 200 and seen.json()["result"] and seen.json(), "the job to be done", 60)


@pytest.fixture(scope="module")
def alone(start):
    engine = Counting("e")
    gateway = Plain(start.path, [engine])
    gateway.of = engine
    yield gateway
    gateway.run.kill()


def test_a_job_is_taken_at_once_and_its_answer_comes_to_whoever_waits(alone):
    made = make(alone, metadata={"for": "me"})
    assert made["object"] == "job" and made["status"] in ("queued", "running", "succeeded")
    seen = done(alone, made)
    assert seen["status"] == "succeeded" and seen["metadata"] == {"for": "me"}
    assert seen["result"]["status_code"] == 200
    assert seen["result"]["body"]["choices"][0]["message"]["content"]
    assert seen["attempts"] == 1 and seen["model"] == "sim"


def test_the_same_idempotency_key_runs_once_and_answers_twice(alone):
    before = alone.of.served
    key = {"idempotency-key": f"k-{time.monotonic_ns()}"}
    one, two = make(alone, headers=key), make(alone, headers=key)
    assert one["id"] == two["id"]
    done(alone, one)
    assert alone.of.served == before + 1
    other = {"model": "sim", "messages": [{"role": "user", "content": "something else"}]}
    refused = make(alone, status=400, headers=key, body=other)
    assert "idempotency key" in refused["error"]["message"]


def test_a_job_for_later_is_scheduled_and_can_be_taken_back(alone):
    made = make(alone, delay="1h")
    assert made["status"] == "scheduled"
    gone = httpx.delete(f"{alone.url}/v1/jobs/{made['id']}")
    assert gone.status_code == 200 and gone.json()["status"] == "cancelled"
    assert job(alone, made).json()["status"] == "cancelled"
    assert httpx.delete(f"{alone.url}/v1/jobs/{made['id']}").json()["deleted"] is True
    assert job(alone, made).status_code == 404
    soon = make(alone, delay="50ms")
    assert done(alone, soon)["status"] == "succeeded"


def test_what_an_engine_answers_is_kept_also_when_it_is_a_refusal(alone):
    alone.of.status = 422
    try:
        seen = done(alone, make(alone))
    finally:
        alone.of.status = 200
    assert seen["status"] == "failed" and seen["result"]["status_code"] == 422


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        ({"body": {"model": "nobody", "messages": []}}, 404, "nobody"),
        ({"endpoint": "/v1/nothing"}, 400, "/v1/chat/completions"),
        ({"body": {**CHAT, "stream": True}}, 400, "stream"),
        ({"delay": "soon"}, 400, "soon"),
        ({"delay": "1s", "not_before": 1}, 400, "one of the two"),
        ({"start_within": "0s"}, 400, "not"),
        ({"metadata": {"k" * 65: "v"}}, 400, "metadata"),
        ({"priority": "whenever"}, 400, "whenever"),
        ({"colour": "red"}, 400, "colour"),
        ({"not_before": 18446744073709549568}, 400, "10 years"),
        ({"not_before": 1e300}, 400, "seconds since 1970"),
        ({"delay": "999999999h"}, 400, "10 years"),
        ({"start_within": "999999999h"}, 400, "10 years"),
    ],
)
def test_a_bad_job_is_refused_with_what_would_be_right(alone, given, status, says):
    refused = make(alone, status=status, **given)
    assert says in refused["error"]["message"], refused


def test_bad_questions_are_answered(alone):
    made = make(alone)
    for path, status in [
        ("/v1/jobs/job_zz-1", 404),
        ("/v1/jobs/nothing", 404),
        (f"/v1/jobs/{made['id'][:-1]}ffffff", 404),
        (f"/v1/jobs/{made['id']}?wait=forever", 400),
        (f"/v1/jobs/{made['id']}?wait=1h", 400),
    ]:
        answer = httpx.get(alone.url + path, timeout=30)
        assert answer.status_code == status, (path, answer.text)
        assert answer.json()["error"]["message"]
    assert httpx.put(f"{alone.url}/v1/jobs/{made['id']}").status_code == 405
    assert httpx.get(f"{alone.url}/v1/jobs").status_code == 405


def test_jobs_survive_a_kill_and_each_is_done(start):
    engine = Counting("slow", seconds=0.02)
    gateway = Plain(start.path, [engine], extra="[routing]\nmax_in_flight = 2\n")
    try:
        made = [make(gateway) for _ in range(60)]
        assert len({one["id"] for one in made}) == 60
        until(lambda: engine.served >= 5, "some to be done")
        gateway.run.kill()
        gateway.start()
        seen = [done(gateway, one) for one in made]
        assert all(one["status"] == "succeeded" for one in seen)
        assert engine.ledger.most <= 2, "the engine is never given more than it may have"
        # What was in hand when it died runs again, and nothing else.
        assert 60 <= engine.served <= 60 + 4
    finally:
        gateway.run.kill()


def test_another_replica_answers_for_a_job_and_takes_over_when_its_owner_dies(start):
    redis = Redis(start.path)
    engine = Counting("shared", seconds=0.02)
    extra = settings(redis.dsn, replicas=2) + "\n[routing]\nmax_in_flight = 2\n"
    gateways = []
    try:
        for _ in range(2):
            gateways.append(Plain(start.path, [engine], extra=extra, data=start.path / "shared"))
        one, two = gateways
        made = [make(one) for _ in range(40)]
        seen = job(two, made[0], wait="20s")
        assert seen.status_code == 200 and seen.json()["status"] == "succeeded", seen.text
        one.run.kill()
        seen = [done(two, each) for each in made]
        assert all(each["status"] == "succeeded" for each in seen)
        # The dead one comes back, and leaves what is no longer its own to the other.
        one.start()
        again = job(one, made[-1], wait="20s")
        assert again.status_code == 200 and again.json()["status"] == "succeeded", again.text
    finally:
        for each in gateways:
            each.run.kill()
        redis.kill()



def test_the_same_idempotency_key_is_one_job_whichever_replica_is_asked(start):
    redis, engine = Redis(start.path), Counting("once")
    gateways = []
    try:
        for name in ["mine", "yours"]:
            gateways.append(Plain(start.path, [engine], extra=settings(redis.dsn, replicas=2), data=start.path / name))
        one, two = gateways
        until(lambda: all(len(each.replicas()) == 2 for each in gateways), "both to know of each other")
        # Each has a partition of its own.
        done(one, make(one)), done(two, make(two))
        before, key = engine.served, {"idempotency-key": "the same for both"}
        first, second = make(one, headers=key), make(two, headers=key)
        assert first["id"] == second["id"]
        assert done(two, second)["status"] == "succeeded" and engine.served == before + 1
        refused = make(two, status=400, headers=key, body={**CHAT, "messages": [{"role": "user", "content": "something else"}]})
        assert "idempotency key" in refused["error"]["message"]
    finally:
        [each.run.kill() for each in gateways]
        redis.kill()


# === Limits ===

def key(name):
    return {"authorization": f"Bearer key-{name}"}


def chat(gateway, name):
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=CHAT, headers=key(name), timeout=60).status_code


ASK = {"model": "sim", "prompt": "hello", "max_tokens": 2}


def work(gateway, name, many, **more):
    return [make(gateway, headers=key(name), endpoint="/v1/completions", body={**ASK, "user": "job"}, **more) for _ in range(many)]


def ended(gateway, made, name):
    def last(one):
        seen = job(gateway, one, wait="5s", headers=key(name)).json()
        return seen["result"] and seen

    return [until(lambda: last(one), "the job to be done", 60) for one in made]


def test_a_tenants_jobs_keep_within_its_limit_and_leave_it_room_to_look_and_to_ask(start):
    engine = Gated("busy")
    gateway = Plain(start.path, [engine], extra=tenant(start.path, "three", max_in_flight=3) + tenant(start.path, "lone", max_in_flight=1))
    try:
        made = work(gateway, "three", 20)
        until(lambda: len(engine.came) == 2, "two to run")
        # What it has in hand keeps it neither from looking, nor from stopping, nor from asking.
        assert all(job(gateway, one, headers=key("three")).status_code == 200 for one in made)
        stopped = httpx.delete(f"{gateway.url}/v1/jobs/{made[-1]['id']}", headers=key("three"))
        assert stopped.status_code == 200 and stopped.json()["status"] == "cancelled", stopped.text
        with ThreadPoolExecutor(1) as user:
            asks = user.submit(httpx.post, f"{gateway.url}/v1/completions", json={**ASK, "user": "request"}, headers=key("three"), timeout=60)
            until(lambda: "request" in engine.came or asks.done(), "the request to come to the engine")
            assert engine.came == ["job", "job", "request"]
            engine.open()
            assert asks.result().status_code == 200
        assert {(one["status"], one["attempts"]) for one in ended(gateway, made[:-1], "three")} == {("succeeded", 1)}, "waiting is no attempt"
        assert engine.most <= 3
        # A limit of one is enough for jobs.
        assert ended(gateway, work(gateway, "lone", 3), "lone")[0]["status"] == "succeeded"
    finally:
        engine.open()
        gateway.run.kill()


def test_jobs_are_charged_as_requests_are(start):
    engine = Counting("charged")
    gateway = Plain(start.path, [engine], extra=tenant(start.path, "slow", requests_per_minute=1))
    try:
        made = [make(gateway, headers=key("slow")) for _ in range(5)]
        seen = [job(gateway, one, headers=key("slow")).json() for one in made]
        until(lambda: engine.served == 1, "the first to be asked")
        assert chat(gateway, "slow") == 429
        until(lambda: sorted(job(gateway, one, headers=key("slow")).json()["status"] for one in made).count("succeeded") == 1, "the first to be done")
        seen = [job(gateway, one, headers=key("slow")).json() for one in made]
        assert all(one["attempts"] == 0 for one in seen if one["status"] != "succeeded"), seen
        assert engine.served == 1
    finally:
        gateway.run.kill()


def test_a_job_is_never_more_urgent_than_its_tenants_requests(start):
    engine = Counting("classes")
    gateway = Plain(start.path, [engine], extra=tenant(start.path, "late", priority='"batch"') + tenant(start.path, "any"))
    try:
        for name, asked, got in [("late", "urgent", "batch"), ("late", None, "batch"), ("any", "urgent", "normal"), ("any", None, "job")]:
            one = make(gateway, headers=key(name), delay="1h", **({"priority": asked} if asked else {}))
            entry = httpx.get(f"{gateway.admin}/entries/{one['id'].removeprefix('job_')}").json()
            assert entry["class"] == got, (name, asked, entry)
    finally:
        gateway.run.kill()


def test_jobs_that_are_as_urgent_as_requests_run_no_more_at_a_time_than_jobs_may(start):
    engine = Gated("many")
    gateway = Plain(start.path, [engine], extra="[queue]\njobs_in_flight = 4\n" + tenant(start.path, "any"))
    try:
        made = work(gateway, "any", 10, priority="normal") + work(gateway, "any", 10)
        until(lambda: len(engine.came) == 4, "four to run")
        seen = [job(gateway, one, headers=key("any")).json()["status"] for one in made]
        assert (seen.count("running"), seen.count("queued")) == (4, 16)
        engine.open()
        assert {one["status"] for one in ended(gateway, made, "any")} == {"succeeded"}
        assert engine.most <= 4
    finally:
        engine.open()
        gateway.run.kill()
