"""An operator's hands on queues: what waits and why, held back, let go, cancelled, tried again; and a log that cannot be written."""

import resource
import shutil
import signal

import httpx
import pytest

from conftest import HTTP, command, parse, until
from gated import Asking, Gated
from replicas import Plain, Redis, settings

NARROW = "[routing]\nmax_in_flight = 1\n[queue]\nmax_wait = \"60s\"\n"
JOBS = "everybody/jobs/sim"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """place(extra) starts a gateway with one engine behind a gate; everything ends with the module."""
    folder, running = tmp_path_factory.mktemp("queues"), []

    def make(extra="", engine=None):
        engine = engine or Gated("a")
        running.append(Plain(folder, [engine], NARROW + extra, patience="60s"))
        return running[-1], engine

    make.folder, make.running = folder, running
    yield make
    for one in running:
        one.run.kill()


@pytest.fixture(scope="module")
def shared(place):
    return place()


@pytest.fixture
def desk(shared):
    """The gateway that tests share, with nothing in its queues."""
    door, engine = shared
    engine.refuses = set()
    engine.open()
    # What runs comes to its end first, and leaves an outcome.
    until(lambda: queue(door, "purge", JOBS, "--yes", okay=(0, 1)) and listed(door)["queues"] == [], "no queue to be left")
    engine.forget()
    return door, engine


def queue(door, *words, okay=(0,)):
    ran = command("queue", *words, "--admin", door.admin)
    assert ran.returncode in okay, (words, ran.stdout, ran.stderr)
    return ran


def told(door, *words):
    return parse(queue(door, *words, "--json").stdout)


def listed(door, *words):
    return told(door, "ls", *words)


def job(door, user, **more):
    body = {"model": "sim", "prompt": [1] * 8, "max_tokens": 1, "user": user}
    answer = HTTP.post(f"{door.url}/v1/jobs", json={"endpoint": "/v1/completions", "body": body, **more})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def status(door, id, wait="0s"):
    answer = HTTP.get(f"{door.url}/v1/jobs/{id}?wait={wait}", timeout=60)
    return answer.json()["status"] if answer.status_code == 200 else answer.status_code


def ends(door, *ids):
    return [status(door, id, "30s") for id in ids]


def crowd(door, engine, users):
    """Jobs of which the first runs and the others wait."""
    ids = [job(door, users[0])]
    engine.has(1)
    return ids + [job(door, user) for user in users[1:]]


def test_what_waits_is_listed_with_its_depth_its_age_and_what_it_waits_for(desk):
    door, engine = desk
    crowd(door, engine, ["one", "two", "three"])
    asking = Asking(door.url, "in-line")
    until(lambda: door.metric("warmline_queue_standing_requests") == 1, "the request to stand in line")
    found = {row["durable"]: row for row in listed(door)["queues"]}
    durable, line = found[True], found[False]
    assert (durable["tenant"], durable["key"], durable["target"]) == ("everybody", "jobs/sim", "sim")
    assert (durable["entries"], durable["running"], durable["paused"]) == (3, 1, False)
    assert durable["oldest_s"] >= 0 and durable["waits_for"][0]["class"] == "job"
    assert "engine" in durable["waits_for"][0]["what"], durable
    assert (line["entries"], line["tenant"], line["partition"]) == (1, "everybody", None)
    assert line["waits_for"][0] == {"class": "normal", "what": durable["waits_for"][0]["what"]}
    text = queue(door, "ls").stdout
    assert JOBS in text and "3, 1 run" in text and "job waits for an engine" in text, text
    assert listed(door, "--tenant", "nobody")["queues"] == []
    short = listed(door, "--limit", "1", "--by", "depth")
    assert ([row["durable"] for row in short["queues"]], short["left_off"]) == ([True], 1)
    seen = command("status", "--admin", door.admin).stdout
    assert "1 stand in line, 1 run that had to wait; durable: 3 entries in 1 queues" in seen, seen
    engine.open()
    assert asking.end().status_code == 200
    assert engine.came[1] == "in-line", "who waits for an answer goes before jobs"


def test_a_queue_and_its_entries_are_shown_and_explain_themselves(desk):
    door, engine = desk
    ids = crowd(door, engine, ["one", "two", "three"])
    later = job(door, "later", delay="1h")
    shown = told(door, "show", JOBS)
    stages = [(f"job_{entry['id']}", entry["stage"], entry["class"]) for entry in shown["entries"]]
    assert stages == [(ids[0], "running", "job"), (ids[1], "waiting", "job"), (ids[2], "waiting", "job"), (later, "scheduled", "job")]
    assert shown["entries"][3]["age_s"] < -3000 and not shown["more"]
    assert told(door, "show", JOBS, "--limit", "2")["more"]
    assert "and more" in queue(door, "show", JOBS, "--limit", "2").stdout
    waits = [told(door, "explain", id)["waits_for"] for id in [*ids, later]]
    assert "runs" in waits[0] and "engine" in waits[1] and "engine" in waits[2] and "its time" in waits[3], waits
    plain = told(door, "explain", ids[1])
    assert "payload" not in plain and (plain["attempts"], plain["tokens"]) == (0, 9)
    whole = told(door, "explain", ids[1], "--payload")
    assert whole["payload"]["body"]["user"] == "two", "what it is, only when asked for"
    assert "it waits for an engine" in queue(door, "explain", ids[1]).stdout
    engine.open()
    assert ends(door, *ids) == ["succeeded"] * 3
    done = told(door, "explain", ids[2], "--payload")
    assert (done["stage"], done["outcome"], done["attempts"], done["result"]["status_code"]) == ("finished", "done", 1, 200)
    # Where it went can be asked about under the id that its result has.
    why = parse(command("explain", done["result"]["request_id"], "--json", "--admin", door.admin).stdout)
    assert why["attempts"][0]["engine"] == "a"


def test_a_paused_queue_starts_nothing_also_after_a_crash_until_it_is_resumed(desk):
    door, engine = desk
    ids = crowd(door, engine, ["one", "two", "three"])
    assert "paused" in queue(door, "pause", JOBS).stdout
    engine.let(1)
    assert ends(door, ids[0]) == ["succeeded"]
    engine.open()
    assert Asking(door.url, "in-line").end().status_code == 200, "who waits for an answer is not held up"
    row = next(row for row in listed(door)["queues"] if row["durable"])
    assert row["paused"] and "an operator" in row["waits_for"][0]["what"], row
    assert "PAUSED" in queue(door, "ls").stdout
    assert "operator" in told(door, "explain", ids[1])["waits_for"]
    door.run.kill(signal.SIGKILL)
    door.start()
    row = until(lambda: next((row for row in listed(door)["queues"] if row["durable"]), None), "the queue to be open again")
    assert row["paused"], row
    assert Asking(door.url, "after").end().status_code == 200
    assert engine.came == ["one", "in-line", "after"]
    until(lambda: queue(door, "resume", JOBS), "the queue to be resumed")
    assert ends(door, *ids[1:]) == ["succeeded"] * 2
    assert engine.came[3:] == ["two", "three"]


def test_an_entry_can_be_held_back_alone(desk):
    door, engine = desk
    ids = crowd(door, engine, ["one", "two", "three"])
    queue(door, "pause", ids[1])
    assert told(door, "explain", ids[1])["stage"] == "paused"
    assert queue(door, "pause", ids[0], okay=(1,)).stderr.count("running"), "what runs cannot be paused"
    engine.open()
    assert ends(door, ids[0], ids[2]) == ["succeeded"] * 2
    assert status(door, ids[1]) == "paused"
    queue(door, "resume", ids[1])
    assert ends(door, ids[1]) == ["succeeded"]
    assert engine.came == ["one", "three", "two"]


def test_what_waits_is_cancelled_and_what_runs_comes_to_its_end(desk):
    door, engine = desk
    ids = crowd(door, engine, ["one", "two", "three", "four"])
    later = job(door, "later", delay="1h")
    queue(door, "pause", ids[3])
    queue(door, "cancel", ids[1], "--yes")
    assert status(door, ids[1]) == "cancelled"
    assert "cannot be cancelled" in queue(door, "cancel", ids[1], "--yes", okay=(1,)).stderr
    done = told(door, "cancel", JOBS, "--yes")
    assert (done["done"], done["entries"], done["more"], done["running"]) == ("cancelled", 3, False, 1)
    engine.open()
    assert ends(door, *ids, later) == ["succeeded", "cancelled", "cancelled", "cancelled", "cancelled"]
    assert engine.came == ["one"]


def test_what_is_dangerous_must_be_meant(desk):
    door, engine = desk
    ids = crowd(door, engine, ["one", "two"])
    for words in [("cancel", JOBS), ("purge", JOBS), ("cancel", ids[1])]:
        ran = queue(door, *words, okay=(2,))
        assert "--yes" in ran.stderr, ran.stderr
    assert "2 entries" in queue(door, "cancel", JOBS, okay=(2,)).stderr
    engine.open()
    assert ends(door, *ids) == ["succeeded"] * 2, "nothing was done"


def test_what_failed_is_tried_again_and_nothing_else(desk):
    door, engine = desk
    engine.refuses = {"bad", "worse"}
    engine.open()
    ids = [job(door, user) for user in ["good", "bad", "worse"]]
    assert ends(door, *ids) == ["succeeded", "failed", "failed"]
    assert "done" in queue(door, "retry", ids[0], okay=(1,)).stderr
    engine.refuses = {"worse"}
    done = told(door, "retry", JOBS)
    assert (done["done"], done["entries"]) == ("retried", 2)
    assert ends(door, *ids) == ["succeeded", "succeeded", "failed"]
    engine.refuses = set()
    queue(door, "retry", ids[2])
    assert ends(door, ids[2]) == ["succeeded"]
    assert sorted(engine.came) == ["bad", "good", "worse"]
    assert told(door, "retry", JOBS)["entries"] == 0


def test_cancelled_ones_are_tried_again_when_that_is_asked_for(desk):
    door, engine = desk
    ids = crowd(door, engine, ["one", "two"])
    queue(door, "cancel", JOBS, "--yes")
    assert told(door, "retry", JOBS)["entries"] == 0, "only what failed"
    assert told(door, "retry", JOBS, "--outcome", "cancelled")["entries"] == 1
    engine.open()
    assert ends(door, *ids) == ["succeeded"] * 2


def test_a_purged_queue_is_gone_with_its_outcomes(desk):
    door, engine = desk
    engine.open()
    ids = [job(door, f"done-{i}") for i in range(5)]
    assert ends(door, *ids) == ["succeeded"] * 5
    engine.close()
    more = crowd(door, engine, ["one", "two", "three"])
    done = told(door, "purge", JOBS, "--yes")
    assert (done["done"], done["entries"], done["running"]) == ("purged", 7, 1)
    assert [status(door, id) for id in [*ids, *more[1:]]] == [404] * 7
    engine.open()
    assert ends(door, more[0]) == ["succeeded"]


def test_many_are_cancelled_in_portions_and_all_of_them(desk):
    door, engine = desk
    ids = crowd(door, engine, [f"n{i}" for i in range(700)])
    done = told(door, "cancel", JOBS, "--yes")
    assert (done["entries"], done["more"]) == (699, False)
    engine.open()
    assert ends(door, ids[0], ids[1], ids[-1]) == ["succeeded", "cancelled", "cancelled"]
    assert engine.came == ["n0"]
    assert door.metric("warmline_queue_ends_total") >= 700


@pytest.mark.parametrize("method, path, code, words", [
    ("GET", "/queues?limit=0", 400, ["limit", "1 to 10000"]), ("GET", "/queues?limit=x", 400, ["limit"]),
    ("GET", "/queues?by=name", 400, ["age and depth"]), ("GET", "/queues?limt=1", 400, ["limt", "limit"]),
    ("GET", "/queues?limit=1&limit=2", 400, ["twice"]), ("GET", "/queues/everybody/jobs%2Fsim?limit=5000", 400, ["1 to 1000"]),
    ("GET", "/queues/everybody/job%2Fsim", 404, ["everybody/job/sim", "there is everybody/jobs/sim"]),
    ("GET", "/queues/nobody/here", 404, ["nobody/here"]), ("GET", "/queues/a/%00", 400, ["control characters"]),
    ("GET", "/queues/everybody", 404, ["%2F"]), ("GET", "/queues/a/b/c/d", 404, ["/queues/TENANT/KEY"]),
    ("POST", "/queues", 405, ["POST"]), ("DELETE", "/queues/a/b", 405, ["DELETE"]), ("GET", "/queues/a/b/pause", 405, ["GET"]),
    ("POST", "/queues/everybody/jobs%2Fsim/drop", 404, ["drop", "pause, resume, cancel, purge, retry"]),
    ("POST", "/queues/nobody/here/pause", 404, ["nobody/here"]),
    ("POST", "/queues/everybody/jobs%2Fsim/retry?outcome=done", 400, ["failed, cancelled and expired"]),
    ("POST", "/queues/everybody/jobs%2Fsim/pause?outcome=failed", 400, ["only retry"]),
    ("GET", "/entries/xyz", 400, ["xyz", "3-1f4"]), ("GET", "/entries/1-1", 404, ["1-1", "00000001", "open here"]),
    ("GET", "/entries/job_1-1?payload=maybe", 400, ["true and false"]), ("POST", "/entries/1-1/cancel", 404, ["00000001"]),
    ("POST", "/entries/1-1/drop", 404, ["drop", "cancel, retry, pause, resume"]), ("DELETE", "/entries/1-1", 405, ["DELETE"]),
])
def test_what_makes_no_sense_is_refused_in_words_that_help(desk, method, path, code, words):
    door, _ = desk
    job(door, "one", delay="1h")
    answer = httpx.request(method, door.admin + path)
    assert answer.status_code == code, answer.text
    message = answer.json()["error"]["message"]
    assert all(word in message for word in words), message


@pytest.mark.parametrize("words, code, said", [
    (("show", "jobs"), 2, "TENANT/KEY"), (("show", "nobody/jobs"), 1, "nobody/jobs"), (("explain", "a/b"), 2, "3-1f4"),
    (("explain", "zzz"), 1, "3-1f4"), (("purge", "1-1", "--yes"), 2, "TENANT/KEY"), (("cancel", "/x", "--yes"), 2, "TENANT/KEY"),
    (("ls", "--by", "size"), 2, "age"), (("ls", "--limit", "0"), 2, "1..=10000"), (("retry", "a/b", "--outcome", "done"), 2, "failed"),
])
def test_commands_that_make_no_sense_end_as_they_should(desk, words, code, said):
    ran = queue(desk[0], *words, okay=(code,))
    assert said in ran.stderr, ran.stderr


def test_a_line_of_requests_cannot_be_held_back_and_says_what_can_be_done(desk):
    door, engine = desk
    first = Asking(door.url, "first")
    engine.has(1)
    second = Asking(door.url, "second")
    until(lambda: door.metric("warmline_queue_standing_requests") == 1, "the request to stand in line")
    ran = queue(door, "pause", "everybody/requests", okay=(1,))
    assert "drain" in ran.stderr, ran.stderr
    assert told(door, "show", "everybody/requests")["queues"][0]["entries"] == 1
    engine.open()
    assert [first.end().status_code, second.end().status_code] == [200, 200]


def test_the_admin_key_guards_queues_as_everything_else(place):
    key = place.folder / "admin.key"
    key.write_text("secret\n")
    # Settings of the listener come first in the file of a gateway: as variables they can be added.
    door, engine = place()
    door.run.kill()
    text = door.config.read_text().replace("[admin]\n", f'[admin]\nkey_file = "{key}"\n')
    door.config.write_text(text)
    door.start()
    assert httpx.get(f"{door.admin}/queues").status_code == 401
    assert httpx.post(f"{door.admin}/entries/1-1/cancel").status_code == 401
    assert command("queue", "ls", "--admin", door.admin).returncode == 1
    ran = command("queue", "ls", "--admin", door.admin, "--admin-key-file", key)
    assert ran.returncode == 0 and "nobody waits" in ran.stdout, ran.stderr


def test_metrics_of_queues_have_bounded_labels_and_count_what_happened(desk):
    door, engine = desk
    engine.open()
    before = door.metric("warmline_queue_ends_total")
    assert ends(door, job(door, "one")) == ["succeeded"]
    assert door.metric("warmline_queue_ends_total") == before + 1
    assert door.metric("warmline_queue_poisoned_logs") == 0
    for name in ["log_commits_total", "log_moves_total", "partitions", "starts_total"]:
        assert door.metric(f"warmline_queue_{name}") > 0, name
    # Looked at now and then.
    until(lambda: door.metric("warmline_queue_log_disk_bytes") > 0, "the log's size to be known")
    lines = httpx.get(f"{door.admin}/metrics").text.splitlines()
    labels = {line.split("{")[1].split("}")[0].split("=")[0] for line in lines if line.startswith("warmline_queue_") and "{" in line}
    assert labels == {"class", "outcome", "le"}


def test_a_log_that_cannot_be_written_is_loud_and_requests_go_on(place):
    engine = Gated("a", wide_open=True)

    def limits():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (80 << 20, 80 << 20))

    door, _ = place(engine=engine)
    door.run.kill()
    door.limits = limits
    door.start()
    kept = job(door, "kept", delay="1h")
    body = {"model": "sim", "prompt": "x" * 900_000, "max_tokens": 1}
    for _ in range(200):
        answer = HTTP.post(f"{door.url}/v1/jobs", json={"endpoint": "/v1/completions", "body": body, "delay": "1h"}, timeout=30)
        if answer.status_code != 202:
            break
    assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True), answer.text
    until(lambda: door.metric("warmline_queue_poisoned_logs") == 1, "the log to be counted as poisoned")
    for words in [("status",), ("queue", "ls")]:
        assert "POISONED" in command(*words, "--admin", door.admin).stdout, words
    assert "could not be written" in door.log.read_text()
    # Requests with a connection need no log: this replica stays in the load balancer.
    assert httpx.get(f"{door.url}/readyz").status_code == 200
    assert Asking(door.url, "in-line").end().status_code == 200
    door.run.kill(signal.SIGKILL)
    door.limits = None
    door.start()
    until(lambda: status(door, kept) == "scheduled", "what was acknowledged to be there after a start with room")
    assert door.metric("warmline_queue_poisoned_logs") == 0
    assert "POISONED" not in command("status", "--admin", door.admin).stdout


def test_a_log_that_cannot_be_opened_is_named_with_its_reason(place):
    door, engine = place()
    job(door, "one", delay="1h")
    door.run.kill()
    [log] = (door.data / "queue").iterdir()
    for file in [path for path in log.rglob("*") if path.is_file()]:
        file.write_bytes(b"not a log any more")
    door.start()
    found = until(lambda: [one for one in listed(door)["partitions"] if one["trouble"]], "the trouble to be told")
    assert [one["partition"] for one in found] == [log.name]
    assert f"NO OWNER: the log {log.name}" in command("status", "--admin", door.admin).stdout
    assert Asking(door.url, "in-line") and engine.has(1)
    shutil.rmtree(log)
    until(lambda: "NO OWNER" not in command("status", "--admin", door.admin).stdout, "the trouble to be over")
    engine.open()


def test_the_doctor_looks_at_the_disk_before_the_start(place):
    door, _ = place.running[0], None
    found = parse(command("doctor", "--json", "--config", door.config).stdout)
    of = {finding["what"]: finding for finding in found}
    assert "a sync takes" in of["data.dir"]["detail"] and "GiB are left" in of["data.dir space"]["detail"], found
    file = place.folder / "file"
    file.write_text("x")
    config = place.folder / "doctor.toml"
    config.write_text(f'[data]\ndir = "{file}"\n')
    bad = parse(command("doctor", "--json", "--config", config).stdout)
    assert [finding["verdict"] for finding in bad if finding["what"] == "data.dir"] == ["bad"], bad


def test_queues_of_other_replicas_are_seen_from_each_and_name_who_must_be_asked(place):
    redis = Redis(place.folder)
    try:
        engine = Gated("a")
        shared = settings(redis.dsn, replicas=2)
        one, _ = place(shared, engine)
        two, _ = place(shared, engine)
        until(lambda: len(one.replicas()) == len(two.replicas()) == 2, "both to know each other")
        id = job(one, "mine", delay="1h")
        mine = one.status()["coordination"]["instance"]
        rows = listed(two)["queues"]
        assert [(row["key"], row["replica"], row["entries"]) for row in rows] == [("jobs/sim", mine, 1)], rows
        assert listed(two)["partitions"] == listed(one)["partitions"]
        assert told(two, "show", JOBS)["entries"][0]["stage"] == "scheduled"
        assert told(two, "explain", id)["replica"] == mine
        for words in [("pause", JOBS), ("cancel", id, "--yes")]:
            ran = queue(two, *words, okay=(1,))
            assert f"127.0.0.1:{one.admin_port}" in ran.stderr, ran.stderr
        queue(one, "cancel", id, "--yes")
        assert status(two, id) == "cancelled", "asked through the other one"
    finally:
        redis.kill()
