"""OpenAI's Batches with the real SDK: a thousand lines, bad ones among them, and gateways that are killed in the middle."""

import json
import re
import signal
import threading
import time

import httpx
import openai
import pytest

from bucket import Bucket
from conftest import until
from replicas import Counting, Plain, Redis, settings, tenant

CHAT = "/v1/chat/completions"
LINES = 1000


class Answering(Counting):
    """An engine that knows what it was asked: it echoes the text, refuses some, breaks at some, and waits at a gate."""

    def __init__(self, name, seconds=0.0):
        super().__init__(name, seconds)
        self.gate, self.seen, self.lock = threading.Event(), [], threading.Lock()
        self.gate.set()
        self.most = None
        engine, plain = self, self.server.RequestHandlerClass

        class Handler(plain):
            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                text = asked["messages"][0]["content"]
                with engine.lock:
                    engine.seen.append(text)
                    held = engine.most is not None and len(engine.seen) > engine.most
                engine.ledger.count(1)
                if held:
                    engine.gate.wait()
                time.sleep(engine.seconds)
                engine.ledger.count(-1)
                if text.startswith("refuse"):
                    return self.answer({"error": {"message": "no", "type": "invalid_request_error"}}, 400)
                if text.startswith("break"):
                    return self.answer({"error": {"message": "broken"}}, 500)
                self.answer({
                    "id": "x", "object": "chat.completion", "model": "sim",
                    "choices": [{"index": 0, "message": {"role": "assistant", "content": text[::-1]}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10},
                })

        self.server.RequestHandlerClass = Handler

    def hold(self, after):
        """Answers so many in all, and keeps the others waiting."""
        self.gate.clear()
        self.most = after

    def release(self):
        self.most = None
        self.gate.set()


class Door(Plain):
    """A gateway whose patience decides nothing, for engines wait at gates here; perhaps with a directory that it shares."""

    def __init__(self, folder, engines, extra="", shared=None):
        self.shared = shared
        super().__init__(folder, engines, extra)

    def start(self):
        text = self.config.read_text()
        for key in ["first_byte_timeout", "engine_stall_timeout", "head_timeout", "body_timeout"]:
            text = re.sub(f'^{key} = "[^"]*"', f'{key} = "10m"', text, flags=re.MULTILINE)
        if self.shared:
            text = text.replace(f'"{self.data}"', f'"{self.shared}"')
            self.data = self.shared
        self.config.write_text(text)
        super().start()


def line(name, text, **change):
    request = {
        "custom_id": name, "method": "POST", "url": CHAT,
        "body": {"model": "sim", "messages": [{"role": "user", "content": text}], "max_tokens": 4},
    }
    return {**request, **change}


def write(lines):
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines).encode()


def thousand():
    """The lines, what each good one must be answered, and the code that each bad one must be reported with, by number."""
    lines, good, bad = [], {}, {}
    for number in range(1, LINES + 1):
        name, text = f"request-{number}", f"line {number} of many"
        kind = number % 50
        if kind == 7:
            lines.append("{ this is no JSON")
            bad[number] = (None, "invalid_json_line")
        elif kind == 13:
            lines.append(line("request-1", text))
            bad[number] = ("request-1", "duplicate_custom_id")
        elif kind == 19:
            lines.append(line(name, text, url="/v1/embeddings"))
            bad[number] = (name, "mismatched_url")
        elif kind == 29:
            lines.append(line(name, text, body={"model": "nobody", "messages": []}))
            bad[number] = (name, "model_not_found")
        elif kind == 37:
            lines.append(line(name, f"refuse {number}"))
            bad[number] = (name, 400)
        else:
            lines.append(line(name, text))
            good[name] = text[::-1]
    return lines, good, bad


def client(door, key="none", **more):
    return openai.OpenAI(base_url=f"{door.url}/v1", api_key=key, max_retries=0, **more)


def submit(api, lines, **more):
    file = api.files.create(file=("in.jsonl", write(lines)), purpose="batch")
    return api.batches.create(input_file_id=file.id, endpoint=CHAT, **{"completion_window": "24h", **more})


def ended(api, batch, seconds=120.0):
    def over():
        found = api.batches.retrieve(batch.id)
        return found if found.status in ("completed", "failed", "expired", "cancelled") else None
    return until(lambda: patient(over), f"batch {batch.id} to end", seconds)


def patient(ask):
    """A gateway that is away, or has just come, is asked again."""
    try:
        return ask()
    except (openai.APIConnectionError, openai.InternalServerError):
        return None


def records(api, file_id):
    return [json.loads(text) for text in api.files.content(file_id).text.splitlines()] if file_id else []


def check(api, batch, good, bad):
    """Every good line is answered once, every bad one reported once."""
    assert batch.status == "completed"
    output, errors = records(api, batch.output_file_id), records(api, batch.error_file_id)
    answered = {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in output}
    assert len(output) == len(answered) and answered == good
    assert all(one["response"]["status_code"] == 200 and one["error"] is None for one in output)
    assert len({one["id"] for one in output + errors}) == len(output) + len(errors)
    assert all(re.fullmatch("batch_req_[0-9a-f]{32}", one["id"]) for one in output + errors)
    numbers = {f"request-{number}": number for number in range(1, LINES + 1)}
    found = []
    for one in errors:
        if one["error"]:
            assert one["response"] is None
            found.append((one["error"]["line"], one["custom_id"], one["error"]["code"]))
        else:
            found.append((numbers[one["custom_id"]], one["custom_id"], one["response"]["status_code"]))
    assert sorted(found, key=str) == sorted(((number, *why) for number, why in bad.items()), key=str)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (len(good) + len(bad), len(good), len(bad))
    assert batch.usage.output_tokens == 2 * len(good) and batch.usage.total_tokens == 10 * len(good)
    names = [one["custom_id"] for one in output]
    assert names == sorted(names, key=lambda name: numbers[name]), "answers come in the order of their lines"


def left(door):
    """What of batches is still on the shelf, besides what says how they ended."""
    folder = door.data / "files" / "batches"
    kinds = ("open", "parts", "begun", "cancel", "progress", "final")
    return [str(path.relative_to(folder)) for kind in kinds for path in (folder / kind).rglob("*") if path.is_file()]


# === What the SDK does ===

@pytest.fixture(scope="module")
def world(start):
    start.engine_of_ours = Answering("one")
    tenants = tenant(start.path, "a") + tenant(start.path, "b", models='["other"]') + tenant(start.path, "b2")
    start.door = Door(start.path, [start.engine_of_ours], tenants)
    yield start
    start.door.run.kill()


def test_a_batch_is_made_watched_and_read_with_the_sdk(world):
    api = client(world.door, "key-a")
    before = int(time.time())
    batch = submit(api, [line("x", "hello"), line("y", "refuse this")], metadata={"what": "test"})
    assert re.fullmatch("batch_[0-9a-v]{24}", batch.id) and batch.object == "batch" and batch.status == "validating"
    assert (batch.endpoint, batch.completion_window, batch.metadata) == (CHAT, "24h", {"what": "test"})
    assert before <= batch.created_at <= time.time() and batch.expires_at == batch.created_at + 24 * 3600
    done = ended(api, batch)
    assert done.status == "completed" and done.errors is None and done.failed_at is None and done.cancelled_at is None
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (2, 1, 1)
    [good], [bad] = records(api, done.output_file_id), records(api, done.error_file_id)
    assert good["custom_id"] == "x" and good["response"]["body"]["choices"][0]["message"]["content"] == "olleh"
    assert good["response"]["request_id"].startswith("wl-")
    assert bad["custom_id"] == "y" and bad["response"]["status_code"] == 400 and bad["response"]["body"]["error"]["message"] == "no"
    for file_id, name in [(done.output_file_id, "output"), (done.error_file_id, "errors")]:
        file = api.files.retrieve(file_id)
        assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_{name}.jsonl")
    until(lambda: left(world.door) == [], "what only helped to be gone")


def test_lists_have_pages_and_a_tenant_sees_only_its_own(world):
    api, other = client(world.door, "key-a"), client(world.door, "key-b")
    made = []
    for number in range(5):
        made.append(submit(api, [line("x", f"number {number}")]).id)
        time.sleep(0.002)  # Ids say the millisecond; within one their order is chance.
    for limit in [1, 2, 100]:
        found = [batch.id for batch in api.batches.list(limit=limit)]
        assert found[:5] == made[::-1], "the newest first, and the SDK goes through all pages"
    raw = httpx.get(f"{world.door.url}/v1/batches", params={"limit": 2}, headers={"authorization": "Bearer key-a"}).json()
    assert (raw["object"], raw["first_id"], raw["last_id"], raw["has_more"]) == ("list", made[4], made[3], True)
    assert list(other.batches.list()) == []
    for call in [other.batches.retrieve, other.batches.cancel]:
        with pytest.raises(openai.NotFoundError):
            call(made[0])
    with pytest.raises(openai.AuthenticationError):
        client(world.door, "nobody").batches.list()
    for one in made:
        ended(api, api.batches.retrieve(one))


def test_what_cannot_be_a_batch_is_refused_and_says_why(world):
    api = client(world.door, "key-a")
    data = api.files.create(file=("x", b"x"), purpose="user_data")
    good = api.files.create(file=("x", write([line("x", "x")])), purpose="batch")
    cases = [
        ({"input_file_id": data.id}, "input_file_id", "purpose"),
        ({"input_file_id": "file-" + "0" * 24}, "input_file_id", "no file"),
        ({"endpoint": "/v1/images/generations"}, "endpoint", "/v1/chat/completions"),
        ({"completion_window": "1y"}, "completion_window", "24h"),
        ({"metadata": {"x": "y" * 513}}, "metadata", "512"),
    ]
    for change, param, words in cases:
        with pytest.raises(openai.BadRequestError) as error:
            api.batches.create(**{"input_file_id": good.id, "endpoint": CHAT, "completion_window": "24h", **change})
        assert error.value.param == param and words in str(error.value), error.value
    with pytest.raises(openai.NotFoundError):
        api.batches.retrieve("batch_nothing")


def test_a_file_of_which_no_line_is_good_fails_and_says_what_is_wrong_with_each(world):
    api = client(world.door, "key-a")
    failed = ended(api, submit(api, ["{", "", line("x", "x", method="GET"), line("", "x")]))
    assert failed.status == "failed" and failed.failed_at and failed.output_file_id is None and failed.error_file_id is None
    told = [(one.line, one.code) for one in failed.errors.data]
    assert told == [(1, "invalid_json_line"), (3, "invalid_method"), (4, "invalid_custom_id")]
    empty = ended(api, submit(api, ["", "  "]))
    assert (empty.status, empty.errors.data[0].code) == ("failed", "empty_file")
    forbidden = ended(client(world.door, "key-b"), submit(client(world.door, "key-b"), [line("x", "x")]))
    assert (forbidden.status, forbidden.errors.data[0].code) == ("failed", "model_forbidden")
    with pytest.raises(openai.ConflictError):
        api.batches.cancel(failed.id)


def test_a_batch_that_is_cancelled_has_what_was_done_in_its_files(world):
    api, engine = client(world.door, "key-a"), world.engine_of_ours
    engine.seen.clear()
    engine.hold(after=40)
    try:
        batch = submit(api, [line(f"{number}", f"line {number}") for number in range(3000)])
        # Sixty-four run at a time: each one more means that one is done and written down.
        until(lambda: len(engine.seen) == 40 + 64, "forty to be done")
        assert api.batches.cancel(batch.id).status == "cancelling"
        done = ended(api, batch)
    finally:
        engine.release()
    assert done.status == "cancelled" and done.cancelled_at >= done.cancelling_at and done.completed_at is None
    output, errors = records(api, done.output_file_id), records(api, done.error_file_id)
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    names = [int(one["custom_id"]) for one in output + errors]
    assert sorted(names) == list(range(3000)) and len(output) == 40
    assert done.request_counts.completed == len(output) and done.request_counts.failed == len(errors)
    assert api.batches.cancel(batch.id).status == "cancelled", "twice is once"
    assert len(engine.seen) < 200, "what was not begun is not begun"
    until(lambda: left(world.door) == [], "what only helped to be gone")


def test_what_could_not_start_in_time_is_told_so(world):
    api, engine = client(world.door, "key-a"), world.engine_of_ours
    engine.seen.clear()
    engine.hold(after=10)
    try:
        batch = submit(api, [line(f"{number}", f"line {number}") for number in range(3000)], completion_window="2s")
        until(lambda: api.batches.retrieve(batch.id).request_counts.failed > 0, "its time to be over", 60)
        # What runs may come to its end, however late.
        engine.release()
        done = ended(api, batch)
    finally:
        engine.release()
    assert done.status == "expired" and done.expired_at >= done.expires_at
    output, errors = records(api, done.output_file_id), records(api, done.error_file_id)
    assert {one["error"]["code"] for one in errors} == {"batch_expired"}
    names = [int(one["custom_id"]) for one in output + errors]
    assert sorted(names) == list(range(3000))
    assert {f"line {one['custom_id']}" for one in output} == set(engine.seen), "what had begun came to its end"


def test_an_engine_that_breaks_at_a_line_is_reported_with_it(start):
    engine = Answering("one")
    door = Door(start.path, [engine], "[queue]\nattempts = 1\n")
    try:
        api = client(door)
        done = ended(api, submit(api, [line("x", "break here"), line("y", "fine")]))
        [good], [bad] = records(api, done.output_file_id), records(api, done.error_file_id)
        assert good["custom_id"] == "y"
        assert (bad["custom_id"], bad["response"], bad["error"]["code"], bad["error"]["line"]) == ("x", None, "engine_failed", 1)
    finally:
        door.run.kill()


def test_a_file_with_too_many_lines_fails(start):
    door = Door(start.path, [Answering("one")], "[batches]\nmax_lines = 3\n")
    try:
        api = client(door)
        failed = ended(api, submit(api, [line(f"{number}", "x") for number in range(4)]))
        assert (failed.status, failed.errors.data[0].code, failed.errors.data[0].line) == ("failed", "too_many_requests", 4)
        assert ended(api, submit(api, [line(f"{number}", "x") for number in range(3)])).status == "completed"
    finally:
        door.run.kill()


def test_the_file_of_a_batch_is_not_deleted_before_the_batch_is_over(world):
    api, engine = client(world.door, "key-a"), world.engine_of_ours
    engine.seen.clear()
    engine.hold(after=5)
    try:
        batch = submit(api, [line(f"{number}", f"line {number}") for number in range(100)])
        until(lambda: len(engine.seen) > 5, "its lines to be read")
        with pytest.raises(openai.ConflictError) as error:
            api.files.delete(batch.input_file_id)
        assert batch.id in str(error.value) and error.value.type == "invalid_request_error"
        # Somebody with another key learns nothing of it.
        with pytest.raises(openai.NotFoundError):
            client(world.door, "key-b").files.delete(batch.input_file_id)
        api.batches.cancel(batch.id)
    finally:
        engine.release()
    assert ended(api, batch).status == "cancelled"
    assert api.files.delete(batch.input_file_id).deleted


def test_a_batch_whose_file_is_taken_from_the_shelf_by_hand_reports_the_lines_that_nobody_read(world):
    api, engine = client(world.door, "key-a"), world.engine_of_ours
    engine.seen.clear()
    engine.hold(after=5)
    try:
        batch = submit(api, [line(f"{number}", f"line {number}") for number in range(100)])
        until(lambda: len(engine.seen) > 5, "its lines to be read")
        [path.unlink() for path in (world.door.data / "files").rglob(f"{batch.input_file_id}*")]
    finally:
        engine.release()
    done = ended(api, batch)
    assert done.status == "completed" and done.request_counts.completed == 100, "what was read is done"


def test_a_tenants_batch_leaves_it_room_to_look_to_ask_and_to_stop(tmp_path):
    engine = Answering("one", seconds=0.02)
    door = Door(tmp_path, [engine], tenant(tmp_path, "narrow", max_in_flight=3))
    try:
        api = client(door, "key-narrow")
        batch = submit(api, [line(f"{number}", f"line {number}") for number in range(2000)])
        until(lambda: len(engine.seen) > 20, "the engine to have some")
        for _ in range(10):
            assert api.batches.retrieve(batch.id).status == "in_progress"
            assert api.chat.completions.create(model="sim", messages=[{"role": "user", "content": "hello"}]).choices
        assert api.batches.cancel(batch.id).status == "cancelling"
        done = ended(api, batch)
        assert done.status == "cancelled" and done.request_counts.completed > 0
        assert {one["error"]["code"] for one in records(api, done.error_file_id)} == {"batch_cancelled"}
        assert engine.ledger.most <= 3
    finally:
        door.run.kill()


def test_a_batch_that_waits_for_its_turn_expires_and_can_be_cancelled(world):
    api, engine = client(world.door, "key-b2"), world.engine_of_ours
    engine.seen.clear()
    engine.hold(after=0)
    try:
        run = [submit(api, [line("x", f"this one runs: {number}")]) for number in range(4)]
        until(lambda: len(engine.seen) == 4, "four to run")
        waits = submit(api, [line("x", "this one waits")])
        late = submit(api, [line("x", "this one"), line("y", "is late")], completion_window="1s")
        gone = ended(api, late)
        assert gone.status == "expired" and gone.output_file_id is None
        assert [one["error"]["code"] for one in records(api, gone.error_file_id)] == ["batch_expired"] * 2
        assert api.batches.retrieve(waits.id).status == "validating"
        api.batches.cancel(waits.id)
        assert ended(api, waits, 20).status == "cancelled"
        assert len(engine.seen) == 4
    finally:
        engine.release()
    for one in run:
        assert ended(api, one).status == "completed"


def test_of_a_batch_that_is_over_no_empty_folder_is_left(world):
    api = client(world.door, "key-a")
    ended(api, submit(api, [line("x", "hello")]))
    until(lambda: left(world.door) == [], "what only helped to be gone")
    assert list((world.door.data / "files" / "batches" / "parts").glob("*/*")) == []


def test_a_batch_that_cannot_be_read_holds_up_no_other(world):
    api = client(world.door, "key-a")
    ended(api, submit(api, [line("x", "first")]))
    [partition] = (world.door.data / "files" / "batches" / "open").iterdir()
    # Its name comes before all others.
    damaged = partition / f"batch_{'0' * 24}"
    damaged.write_text("{ this is no JSON")
    try:
        assert ended(api, submit(api, [line("x", "second")]), 30).status == "completed"
        assert world.door.log.read_text().count(damaged.name) == 1, "it is said once"
    finally:
        damaged.unlink()


# === What dies ===

def halfway(api, batch, engine, at):
    until(lambda: len(engine.seen) > at, "the engine to have some")
    until(lambda: api.batches.retrieve(batch.id).request_counts.completed > 0, "some to be done")


def test_a_gateway_that_is_killed_and_comes_back_goes_on(tmp_path):
    engine = Answering("one", seconds=0.005)
    door = Door(tmp_path, [engine], '[coordination]\nlease = "1500ms"\nbeat = "200ms"\n')
    lines, good, bad = thousand()
    try:
        api = client(door)
        engine.hold(after=400)
        batch = submit(api, lines)
        halfway(api, batch, engine, 400)
        door.run.kill(signal.SIGKILL)
        engine.release()
        door.start()
        check(api, ended(api, batch), good, bad)
        # Only what ran when it was killed ran twice.
        assert len(engine.seen) <= len(good) + sum(why[1] == 400 for why in bad.values()) + 64
        until(lambda: left(door) == [], "what only helped to be gone")
    finally:
        door.run.kill()


def test_a_file_whose_time_runs_out_stays_for_the_batch_that_needs_it(tmp_path):
    """Whoever goes on with a batch reads its file again from the beginning, however long files are kept."""
    engine = Answering("one", seconds=0.005)
    door = Door(tmp_path, [engine], '[files]\nkeep = "3s"\n[coordination]\nlease = "1500ms"\nbeat = "200ms"\n')
    try:
        api = client(door)
        engine.hold(after=150)
        batch = submit(api, [line(f"{number}", f"line {number}") for number in range(1000)])
        halfway(api, batch, engine, 150)
        until(lambda: httpx.get(f"{door.url}/v1/files/{batch.input_file_id}").status_code == 404, "its time to be over")
        door.run.kill(signal.SIGKILL)
        # What it makes is to be read here.
        door.config.write_text(door.config.read_text().replace('keep = "3s"', 'keep = "1h"'))
        engine.release()
        door.start()
        done = ended(api, batch)
        assert done.status == "completed" and done.error_file_id is None
        assert [int(one["custom_id"]) for one in records(api, done.output_file_id)] == list(range(1000))
        assert len(engine.seen) <= 1000 + 64, "only what ran when it was killed ran twice"
        # It is taken away when nobody needs it any more.
        until(lambda: left(door) == [], "what only helped to be gone")
        door.run.kill(signal.SIGTERM)
        door.start()
        files = door.data / "files"
        until(lambda: not [path for path in files.rglob(f"{batch.input_file_id}*") if path.is_file()], "the file to go")
    finally:
        engine.release()
        door.run.kill()


def test_batches_that_wait_for_their_turn_ask_a_bucket_seldom(tmp_path):
    engine, bucket = Answering("one"), Bucket(tmp_path)
    door = Door(tmp_path, [engine], bucket.settings())
    try:
        api = client(door)
        engine.hold(after=0)
        [submit(api, [line("x", f"this one runs: {number}")]) for number in range(4)]
        until(lambda: len(engine.seen) == 4, "four to run")
        waits = [submit(api, [line("x", "this one waits")]).id for _ in range(3)]
        asked = lambda one: (tmp_path / f"moto-{bucket.port}.log").read_text().count(f"/batches/cancel/open/{one}")
        until(lambda: all(asked(one) for one in waits), "each to look once whether it was cancelled")
        time.sleep(6)
        assert all(asked(one) <= 2 for one in waits)
        # Here nobody has to look to see that.
        api.batches.cancel(waits[0])
        assert ended(api, api.batches.retrieve(waits[0]), 20).status == "cancelled"
    finally:
        engine.release()
        door.run.kill()
        bucket.kill()


@pytest.mark.parametrize("comes_back", [True, False])
def test_of_two_gateways_one_is_killed_and_the_batch_goes_on(tmp_path, comes_back):
    redis, engine = Redis(tmp_path), Answering("one", seconds=0.005)
    shared = tmp_path / "shared"
    doors = [Door(tmp_path, [engine], settings(redis.dsn, replicas=2), shared) for _ in range(2)]
    lines, good, bad = thousand()
    try:
        until(lambda: all(len(door.replicas()) == 2 for door in doors), "both to know of each other")
        api, other = client(doors[0]), client(doors[1])
        engine.hold(after=400)
        batch = submit(api, lines)
        halfway(other, batch, engine, 400)
        doors[0].run.kill(signal.SIGKILL)
        engine.release()
        if comes_back:
            doors[0].start()
        check(other, ended(other, batch), good, bad)
        if comes_back:
            check(api, ended(api, batch), good, bad)
        assert len(engine.seen) <= len(good) + sum(why[1] == 400 for why in bad.values()) + 64
        until(lambda: left(doors[1]) == [], "what only helped to be gone")
        assert [one.id for one in other.batches.list()] == [batch.id]
    finally:
        [door.run.kill() for door in doors]
        redis.kill()


def test_replicas_with_directories_of_their_own_see_each_others_batches_in_a_bucket(tmp_path):
    redis, engine, bucket = Redis(tmp_path), Answering("one", seconds=0.005), Bucket(tmp_path)
    doors = [Door(tmp_path, [engine], settings(redis.dsn, replicas=2) + bucket.settings()) for _ in range(2)]
    lines, good, bad = thousand()
    try:
        until(lambda: all(len(door.replicas()) == 2 for door in doors), "both to know of each other")
        api, other = client(doors[0]), client(doors[1])
        engine.hold(after=400)
        batch = submit(api, lines)
        halfway(other, batch, engine, 400)
        doors[0].run.kill(signal.SIGKILL)
        engine.release()
        # Its lines lie in the log of the one that is dead, and nowhere else.
        assert other.batches.retrieve(batch.id).status == "in_progress"
        doors[0].start()
        check(other, ended(other, batch), good, bad)
        check(api, ended(api, batch), good, bad)
        until(lambda: bucket.uploads() == [] and not [key for key in bucket.keys() if "batches/open/" in key or "/parts/" in key], "what only helped to be gone")
    finally:
        [door.run.kill() for door in doors]
        bucket.kill()
        redis.kill()


def test_what_was_done_before_a_death_is_in_the_files_of_a_batch_that_is_cancelled_after_it(tmp_path):
    """The log knows what is in no part yet, and whoever takes it over looks there."""
    redis, engine = Redis(tmp_path), Answering("one")
    shared = tmp_path / "shared"
    doors = [Door(tmp_path, [engine], settings(redis.dsn, replicas=2), shared) for _ in range(2)]
    try:
        api, other = client(doors[0]), client(doors[1])
        engine.hold(after=40)
        batch = submit(api, [line(f"{number}", f"line {number}") for number in range(3000)])
        until(lambda: len(engine.seen) == 40 + 64, "forty to be done")
        doors[0].run.kill(signal.SIGKILL)
        other.batches.cancel(batch.id)
        done = ended(other, batch)
        output, errors = records(other, done.output_file_id), records(other, done.error_file_id)
        assert (done.status, len(output), len(errors)) == ("cancelled", 40, 2960)
        assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
        assert sorted(int(one["custom_id"]) for one in output + errors) == list(range(3000))
    finally:
        engine.release()
        [door.run.kill() for door in doors]
        redis.kill()


def test_a_batch_ends_while_redis_is_killed_and_comes_back_empty(tmp_path):
    redis, engine = Redis(tmp_path), Answering("one", seconds=0.005)
    door = Door(tmp_path, [engine], settings(redis.dsn, replicas=2))
    lines, good, bad = thousand()
    try:
        api = client(door)
        engine.hold(after=400)
        batch = submit(api, lines)
        halfway(api, batch, engine, 400)
        redis.kill()
        redis.start()
        engine.release()
        check(api, ended(api, batch), good, bad)
    finally:
        door.run.kill()
        redis.kill()


def test_one_replica_cancels_what_another_goes_on_with(tmp_path):
    redis, engine = Redis(tmp_path), Answering("one")
    shared = tmp_path / "shared"
    doors = [Door(tmp_path, [engine], settings(redis.dsn, replicas=2), shared) for _ in range(2)]
    try:
        api, other = client(doors[0]), client(doors[1])
        engine.hold(after=10)
        batch = submit(api, [line(f"{number}", f"line {number}") for number in range(500)])
        until(lambda: len(engine.seen) > 10, "the engine to hold some")
        assert other.batches.cancel(batch.id).status == "cancelling"
        done = ended(other, batch)
        assert done.status == "cancelled"
        names = [int(one["custom_id"]) for file in (done.output_file_id, done.error_file_id) for one in records(other, file)]
        assert sorted(names) == list(range(500))
    finally:
        engine.release()
        [door.run.kill() for door in doors]
        redis.kill()
