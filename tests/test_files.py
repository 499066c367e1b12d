"""OpenAI's Files with the real SDK, on a directory and on an S3-speaking store, through death, dirt and slowness."""

import http.client
import os
import re
import resource
import signal
import socket
import time

import httpx
import openai
import pytest

from bucket import Bucket
from conftest import command, parse, until

MIB = 1 << 20


@pytest.fixture(scope="module")
def bucket(start):
    bucket = Bucket(start.path)
    yield bucket
    bucket.kill()


def tenants(start, more=""):
    text = ""
    for name in ["a", "B_2"]:
        keys = start.path / f"keys-{name}"
        keys.write_text(f"sk-{name}\n")
        text += f'[[tenants]]\nname = "{name}"\nkeys_file = "{keys}"\n{more}'
    return text


@pytest.fixture(scope="module", params=["directory", "bucket"])
def door(request, start):
    """A gateway with two tenants, on each kind of shelf."""
    if request.param == "directory":
        door = start.gateway([], extra="[files]\nmax_file_bytes = 115343360\n" + tenants(start), tokenizer=False)
        door.on = Directory(door.data)
    else:
        bucket = request.getfixturevalue("bucket")
        door = start.gateway([], extra=bucket.settings("team/files") + "max_file_bytes = 115343360\n" + tenants(start), tokenizer=False)
        door.on = bucket
    return door


class Directory:
    def __init__(self, data):
        self.files = data / "files"

    def keys(self):
        found = [str(path.relative_to(self.files)) for path in self.files.rglob("*") if path.is_file()]
        return [name for name in found if not name.startswith(".unfinished")]

    def uploads(self):
        folder = self.files / ".unfinished"
        return list(folder.iterdir()) if folder.exists() else []


def client(door, tenant="a"):
    return openai.OpenAI(base_url=f"{door.url}/v1", api_key=f"sk-{tenant}", max_retries=0)


def clear(door):
    for tenant in ["a", "B_2"]:
        for file in client(door, tenant).files.list():
            client(door, tenant).files.delete(file.id)
    assert door.on.keys() == []


# === What the SDK does ===

def test_the_sdk_uploads_finds_reads_and_deletes_a_file(door, tmp_path):
    clear(door)
    api = client(door)
    before = int(time.time())
    lines = b'{"custom_id":"1"}\n{"custom_id":"2"}\n'
    path = tmp_path / "in put.jsonl"
    path.write_bytes(lines)
    file = api.files.create(file=path, purpose="batch")
    assert re.fullmatch("file-[0-9a-v]{24}", file.id) and file.object == "file"
    assert (file.bytes, file.filename, file.purpose, file.status, file.expires_at) == (len(lines), "in put.jsonl", "batch", "processed", None)
    assert before <= file.created_at <= time.time()
    assert api.files.retrieve(file.id) == file
    assert api.files.wait_for_processing(file.id, poll_interval=0.01) == file
    content = api.files.content(file.id)
    assert content.read() == lines and content.response.headers["content-length"] == str(len(lines))
    assert [one.id for one in api.files.list()] == [file.id]
    deleted = api.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    for call in [api.files.retrieve, api.files.content, api.files.delete]:
        with pytest.raises(openai.NotFoundError) as error:
            call(file.id)
        assert error.value.code == "file_not_found" and file.id in str(error.value)
    assert door.on.keys() == [], "nothing of it is left"


def test_every_purpose_and_odd_names_come_back_as_they_were(door):
    clear(door)
    api = client(door)
    names = ["a", "ünïcode – 名前.jsonl", 'quo"te.txt', "../../etc/passwd", "x" * 255, "new\tline"]
    for purpose, name in zip(["assistants", "batch", "evals", "fine-tune", "user_data", "vision"], names):
        file = api.files.create(file=(name, b"x"), purpose=purpose)
        assert (file.purpose, api.files.retrieve(file.id).filename) == (purpose, file.filename)
        if '"' not in name and "\t" not in name:
            assert file.filename == name
    assert len(list(api.files.list())) == 6
    assert len([key for key in door.on.keys() if "cards/t-a/file-" in key]) == 6, "names of clients are no paths"


def test_lists_have_pages_orders_and_purposes(door):
    clear(door)
    api = client(door)
    made = []
    for i in range(7):
        made.append(api.files.create(file=(f"{i}", b"x" * (i + 1)), purpose="batch" if i % 3 == 0 else "user_data").id)
        time.sleep(0.002)  # Ids say the millisecond; within one their order is chance.
    for order, expected in [("asc", made), ("desc", made[::-1])]:
        page = api.files.list(limit=3, order=order)
        assert [file.id for file in page.data] == expected[:3] and page.has_more
        raw = httpx.get(f"{door.url}/v1/files", params={"limit": 3, "order": order}, headers={"authorization": "Bearer sk-a"}).json()
        assert (raw["object"], raw["first_id"], raw["last_id"], raw["has_more"]) == ("list", expected[0], expected[2], True)
        for limit in [1, 2, 7, 100]:
            assert [file.id for file in api.files.list(limit=limit, order=order)] == expected, "the SDK goes through all pages"
        assert [file.id for file in api.files.list(limit=1, order=order, purpose="batch")] == [id for id in expected if made.index(id) % 3 == 0]
    assert [file.id for file in api.files.list()] == made[::-1], "the newest first, if nothing is said"
    empty = httpx.get(f"{door.url}/v1/files", params={"purpose": "evals"}, headers={"authorization": "Bearer sk-a"}).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_a_tenant_sees_only_its_own_files(door):
    clear(door)
    mine, theirs = client(door, "a"), client(door, "B_2")
    file = mine.files.create(file=("mine", b"secret"), purpose="user_data")
    for call in [theirs.files.retrieve, theirs.files.content, theirs.files.delete]:
        with pytest.raises(openai.NotFoundError):
            call(file.id)
    assert list(theirs.files.list()) == []
    assert mine.files.content(file.id).read() == b"secret"
    with pytest.raises(openai.AuthenticationError):
        client(door, "nobody").files.list()
    assert httpx.post(f"{door.url}/v1/files", files={"file": ("x", b"x")}, data={"purpose": "batch"}).status_code == 401


def test_a_part_of_a_file_is_a_range(door):
    clear(door)
    key = {"authorization": "Bearer sk-a"}
    content = os.urandom(9 * MIB + 7)
    file = client(door).files.create(file=("x", content), purpose="user_data")
    url = f"{door.url}/v1/files/{file.id}/content"
    whole = httpx.get(url, headers=key)
    assert whole.content == content and whole.status_code == 200 and whole.headers["accept-ranges"] == "bytes"
    for asked, part in [("0-0", slice(0, 1)), ("5-", slice(5, None)), ("-5", slice(-5, None)), (f"{4 * MIB - 1}-{8 * MIB}", slice(4 * MIB - 1, 8 * MIB + 1)), ("9000000-99999999", slice(9000000, None))]:
        answer = httpx.get(url, headers={**key, "range": f"bytes={asked}"})
        expected = content[part]
        assert (answer.status_code, len(answer.content)) == (206, len(expected)), asked
        assert answer.content == expected
        first = content.index(expected[:4096])
        assert answer.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(content)}"
    beyond = httpx.get(url, headers={**key, "range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.headers["content-range"], beyond.json()["error"]["code"]) == (416, f"bytes */{len(content)}", "range_not_satisfiable")
    head = httpx.head(url, headers=key)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))


def test_a_file_expires_when_its_owner_says(door):
    clear(door)
    api = client(door)
    file = api.files.create(file=("x", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600
    assert api.files.retrieve(file.id).expires_at == file.expires_at
    for seconds in [3599, 2592001]:
        with pytest.raises(openai.BadRequestError) as error:
            api.files.create(file=("x", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": seconds})
        assert error.value.param == "expires_after[seconds]" and "3600 to 2592000" in str(error.value)


# === What goes wrong ===

BOUNDARY = "----form"


def part(name, content, filename=None, head=""):
    about = f'; filename="{filename}"' if filename is not None else ""
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{about}\r\n{head}\r\n'.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
FILE = part("file", b"{}\n", "in.jsonl", "Content-Type: application/octet-stream\r\n")
PURPOSE = part("purpose", b"batch")
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def post(door, body, kind=FORM):
    headers = {"authorization": "Bearer sk-a", **({"content-type": kind} if kind else {})}
    return httpx.post(f"{door.url}/v1/files", content=body, headers=headers, timeout=30)


def test_forms_are_taken_in_any_order_and_with_what_others_add(door):
    clear(door)
    for body in [PURPOSE + FILE + END, FILE + PURPOSE + END, b"preamble\r\n" + FILE + part("user", b"me") + PURPOSE + END + b"epilogue"]:
        answer = post(door, body)
        assert (answer.status_code, answer.json()["bytes"]) == (200, 3), answer.text
    # A boundary that appears nearly in the content, in pieces of every size.
    content = f"\r\n--{BOUNDARY[:-1]}\r\n--{BOUNDARY}x".encode()[:-len(BOUNDARY) - 3] * 3
    body = part("file", content, "x") + PURPOSE + END
    for step in [1, 2, 3, 7, 50]:
        answer = post(door, (body[i:i + step] for i in range(0, len(body), step)))
        assert answer.status_code == 200, answer.text
        assert client(door).files.content(answer.json()["id"]).read() == content


BAD = [
    # What is sent, its content type, and a word that the answer must have.
    ("no type", PURPOSE + FILE + END, None, 400, "multipart/form-data"),
    ("json", b"{}", "application/json", 400, "multipart/form-data"),
    ("no boundary", PURPOSE + FILE + END, "multipart/form-data", 400, "boundary"),
    ("another boundary", PURPOSE + FILE + END, "multipart/form-data; boundary=other", 400, "cut off"),
    ("nothing", b"", FORM, 400, "cut off"),
    ("only an end", END, FORM, 400, "no file"),
    ("no file", PURPOSE + END, FORM, 400, "no file"),
    ("no purpose", FILE + END, FORM, 400, "no purpose"),
    ("two files", PURPOSE + FILE + FILE + END, FORM, 400, "two files"),
    ("two purposes", PURPOSE + PURPOSE + FILE + END, FORM, 400, "twice"),
    ("an empty file", PURPOSE + part("file", b"", "x") + END, FORM, 400, "empty"),
    ("no filename", PURPOSE + part("file", b"x") + END, FORM, 400, "filename"),
    ("a filename too long", PURPOSE + part("file", b"x", "x" * 256) + END, FORM, 400, "filename"),
    ("a wrong purpose", part("purpose", b"fun") + FILE + END, FORM, 400, "`batch`"),
    ("a purpose of ours", FILE + part("purpose", b"batch_output") + END, FORM, 400, "what batches make"),
    ("a purpose that is no text", part("purpose", b"\xff") + FILE + END, FORM, 400, "UTF-8"),
    ("a value too long", part("purpose", b"x" * 5000) + FILE + END, FORM, 400, "4096"),
    ("half an expiry", PURPOSE + part("expires_after[seconds]", b"3600") + FILE + END, FORM, 400, "anchor"),
    ("the other half", PURPOSE + part("expires_after[anchor]", b"created_at") + FILE + END, FORM, 400, "seconds"),
    ("a wrong anchor", PURPOSE + part("expires_after[anchor]", b"now") + FILE + END, FORM, 400, "created_at"),
    ("a wrong life", PURPOSE + part("expires_after[seconds]", b"-1") + FILE + END, FORM, 400, "3600 to 2592000"),
    ("a huge head", PURPOSE + part("file", b"x", "x", "X: " + "y" * 3 * MIB + "\r\n") + END, FORM, 400, "head of a part"),
    ("a huge preamble", b"x" * 3 * MIB, FORM, 400, "head of a part"),
    ("a part without a name", b"--" + BOUNDARY.encode() + b"\r\nX: y\r\n\r\nz\r\n" + END, FORM, 400, "no name"),
    ("too many parts", part("x", b"") * 40 + FILE + PURPOSE + END, FORM, 400, "more than 32"),
    ("cut off in the file", (PURPOSE + FILE)[:-4], FORM, 400, "cut off"),
    ("cut off in a head", (PURPOSE + FILE)[:80], FORM, 400, "cut off"),
    ("cut off before the end", PURPOSE + FILE, FORM, 400, "cut off"),
]


def test_what_is_no_upload_is_refused_in_words_and_leaves_nothing(door):
    clear(door)
    for what, body, kind, status, word in BAD:
        answer = post(door, body, kind)
        assert answer.status_code == status, (what, answer.text)
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error" and word in error["message"], (what, answer.text)
    until(lambda: door.on.uploads() == [], "all that was begun to be gone")
    assert door.on.keys() == []


def test_bad_questions_are_refused_with_their_parameter(door):
    key = {"authorization": "Bearer sk-a"}
    for query, param in [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("purpose=fun", "purpose"), ("after=file-1", "after")]:
        answer = httpx.get(f"{door.url}/v1/files?{query}", headers=key)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    for path in ["file-1", "file-" + "0" * 24, "%2e%2e%2f", "file-" + "0" * 24 + "/content"]:
        answer = httpx.get(f"{door.url}/v1/files/{path}", headers=key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found"), path
    for path in ["file-1/else", "file-1/content/", ""]:
        assert httpx.get(f"{door.url}/v1/files/{path}", headers=key).json()["error"]["code"] == "unknown_url"
    for method, path, allow in [("PUT", "", "GET, HEAD, POST"), ("DELETE", "", "GET, HEAD, POST"), ("POST", "/file-1", "GET, HEAD, DELETE"), ("PUT", "/file-1/content", "GET, HEAD")]:
        answer = httpx.request(method, f"{door.url}/v1/files{path}", headers=key)
        assert (answer.status_code, answer.headers["allow"]) == (405, allow)


class Slow:
    """A client that sends as it likes."""

    def __init__(self, door, length):
        self.connection = socket.create_connection(("127.0.0.1", door.port))
        head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-a\r\ncontent-type: {FORM}\r\ncontent-length: {length}\r\n\r\n"
        self.connection.sendall(head.encode())

    def send(self, body):
        self.connection.sendall(body)

    def answer(self):
        self.connection.settimeout(30)
        answer = http.client.HTTPResponse(self.connection)
        answer.begin()
        return answer.status, answer.read().decode()

    def leave(self):
        self.connection.close()


def begun(door, size=20 * MIB):
    """An upload of which half is there."""
    slow = Slow(door, 2 * size)
    slow.send(PURPOSE + FILE[:-5] + os.urandom(size))
    until(lambda: door.on.uploads(), "the upload to have begun")
    return slow


def test_a_client_that_leaves_in_the_middle_leaves_nothing(door):
    clear(door)
    begun(door).leave()
    until(lambda: door.on.uploads() == [], "what it had sent to be gone")
    assert door.on.keys() == [] and list(client(door).files.list()) == []
    assert door.metric("warmline_files_broken_total") >= 1


def test_a_client_that_stops_is_told_so_and_one_that_is_slow_is_not(door):
    clear(door)
    # body_timeout is one second here; this one takes longer, but goes on.
    piece = os.urandom(100_000)
    body = PURPOSE + part("file", piece * 12, "x") + END
    slow = Slow(door, len(body))
    for i in range(12):
        slow.send(body[i * len(body) // 12:(i + 1) * len(body) // 12])
        time.sleep(0.15)
    status, text = slow.answer()
    assert status == 200, text
    slow = begun(door)
    status, text = slow.answer()
    assert status == 408 and "body_timeout" in text
    until(lambda: door.on.uploads() == [], "what it had sent to be gone")
    # A byte now and then is no progress.
    slow = Slow(door, len(body))
    slow.send(body[:200_000])
    for i in range(8):
        try:
            slow.send(body[200_000 + i:200_001 + i])
        except OSError:
            break
        time.sleep(0.25)
    assert slow.answer()[0] == 408
    assert len(door.on.keys()) == 2, "one card and one content"


def test_a_file_that_is_too_large_is_refused_with_words_that_arrive(door):
    clear(door)
    limit = 115343360
    for extra in [200_000, 40 * MIB]:
        with pytest.raises(openai.APIStatusError) as error:
            client(door).files.create(file=("x", bytes(limit + extra)), purpose="batch")
        assert (error.value.status_code, error.value.code) == (413, "file_too_large") and str(limit) in str(error.value)

    # Nobody says beforehand how long it is.
    def endless():
        yield PURPOSE + FILE[:-5]
        for _ in range(limit // MIB + 2):
            yield bytes(MIB)

    answer = post(door, endless())
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
    until(lambda: door.on.uploads() == [], "what it had sent to be gone")
    assert door.on.keys() == []


def memory(door, what):
    with open(f"/proc/{door.run.process.pid}/status") as status:
        return int(next(line for line in status if line.startswith(what)).split()[1]) * 1024


def test_a_large_file_is_never_held_in_memory(door):
    clear(door)
    api = client(door)
    small = api.files.create(file=("warm", os.urandom(9 * MIB)), purpose="user_data")
    api.files.content(small.id).read()
    with open(f"/proc/{door.run.process.pid}/clear_refs", "w") as clear_refs:
        clear_refs.write("5")  # The peak is counted anew.
    before = memory(door, "VmRSS")
    content = os.urandom(MIB) * 100
    file = api.files.create(file=("large", content), purpose="batch")
    assert file.bytes == 100 * MIB
    assert api.files.content(file.id).read() == content
    assert memory(door, "VmHWM") - before < 32 * MIB, "neither on its way in nor on its way out"


def test_a_reader_that_is_slow_does_not_fill_memory(door):
    clear(door)
    file = client(door).files.create(file=("large", os.urandom(MIB) * 100), purpose="batch")
    with open(f"/proc/{door.run.process.pid}/clear_refs", "w") as clear_refs:
        clear_refs.write("5")
    before = memory(door, "VmRSS")
    with httpx.stream("GET", f"{door.url}/v1/files/{file.id}/content", headers={"authorization": "Bearer sk-a"}) as answer:
        pieces = answer.iter_raw(4096)
        next(pieces)
        time.sleep(1)
        assert memory(door, "VmHWM") - before < 32 * MIB
        assert 4096 + sum(len(piece) for piece in pieces) == 100 * MIB


def test_a_gateway_that_dies_in_the_middle_of_an_upload_leaves_nothing_to_be_seen(door):
    clear(door)
    kept = client(door).files.create(file=("kept", b"kept"), purpose="batch")
    slow = begun(door)
    unfinished = door.on.uploads()
    door.run.kill(signal.SIGKILL)
    slow.leave()
    assert unfinished and door.on.uploads(), "what was begun is still there"
    door.start()
    assert [file.id for file in client(door).files.list()] == [kept.id]
    assert client(door).files.content(kept.id).read() == b"kept"
    assert len(door.on.keys()) == 2
    if isinstance(door.on, Directory):
        until(lambda: door.on.uploads() == [], "the litter to be swept")
        until(lambda: door.metric("warmline_files_tidied_total") >= 1, "the sweeping to be counted")
    else:
        # In a bucket nobody sees it, and the bucket's own rule takes it away.
        for upload in door.on.uploads():
            door.on.s3.abort_multipart_upload(Bucket=door.on.name, Key=upload["Key"], UploadId=upload["UploadId"])


def test_gateways_that_share_a_shelf_see_the_same_files(door, start):
    clear(door)
    if isinstance(door.on, Directory):
        other = start.gateway([], extra=tenants(start), tokenizer=False, data=door.data)
    else:
        other = start.gateway([], extra=door.on.settings("team/files") + tenants(start), tokenizer=False)
    one, two = client(door), client(other)
    ids = [api.files.create(file=(name, name.encode()), purpose="batch").id for api, name in [(one, "first"), (two, "second")]]
    for api in [one, two]:
        assert {file.id for file in api.files.list()} == set(ids)
        assert [api.files.content(id).read() for id in ids] == [b"first", b"second"]
    # One sweeps at its start; what the other is at stays.
    slow = begun(door)
    other.run.kill()
    other.start()
    assert door.on.uploads(), "an upload of another replica is not litter"
    slow.leave()
    two.files.delete(ids[0])
    with pytest.raises(openai.NotFoundError):
        one.files.retrieve(ids[0])
    assert [file.id for file in one.files.list()] == [ids[1]]


# === Limits ===

def test_all_files_of_a_tenant_together_have_a_limit(start):
    door = start.gateway([], extra="[files]\nmax_total_bytes = 1000\n" + tenants(start), tokenizer=False)
    api = client(door)
    first = api.files.create(file=("x", bytes(600)), purpose="batch")
    with pytest.raises(openai.APIStatusError) as error:
        api.files.create(file=("x", bytes(600)), purpose="batch")
    assert (error.value.status_code, error.value.code) == (413, "file_quota_exceeded") and "1000" in str(error.value)
    client(door, "B_2").files.create(file=("x", bytes(600)), purpose="batch")
    api.files.delete(first.id)
    api.files.create(file=("x", bytes(600)), purpose="batch")


def test_uploads_have_a_number_at_a_time(start):
    door = start.gateway([], extra="[files]\nmax_uploads = 1\n" + tenants(start), tokenizer=False)
    door.on = Directory(door.data)
    slow = Slow(door, 10_000)
    slow.send(PURPOSE + FILE[:-5] + b"x")
    until(lambda: door.on.uploads(), "the first upload to have begun")
    answer = post(door, PURPOSE + FILE + END)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded") and int(answer.headers["retry-after"]) >= 1
    slow.leave()
    until(lambda: post(door, PURPOSE + FILE + END).status_code == 200, "the place to be free again")


def test_a_tenants_places_are_held_while_it_uploads(start):
    door = start.gateway([], extra=tenants(start, "max_in_flight = 1\n"), tokenizer=False)
    door.on = Directory(door.data)
    slow = Slow(door, 10_000)
    slow.send(PURPOSE + FILE[:-5] + b"x")
    until(lambda: door.on.uploads(), "the upload to have begun")
    with pytest.raises(openai.RateLimitError):
        client(door).files.create(file=("x", b"x"), purpose="batch")
    assert list(client(door).files.list()) == [], "looking takes no place"
    slow.leave()
    until(lambda: post(door, PURPOSE + FILE + END).status_code == 200, "the place to be free again")


def test_the_operator_says_how_long_files_are_kept(start):
    door = start.gateway([], extra='[files]\nkeep = "1s"\n', tokenizer=False)
    door.on = Directory(door.data)
    file = client(door).files.create(file=("x", b"x"), purpose="batch")
    assert file.expires_at == file.created_at + 1
    until(lambda: httpx.get(f"{door.url}/v1/files/{file.id}").status_code == 404, "the file to expire")
    assert list(client(door).files.list()) == []
    door.run.kill(signal.SIGTERM)
    door.start()
    until(lambda: door.on.keys() == [], "it to be taken away at the next start, or within the hour")


# === The shelf itself ===

def test_a_gateway_that_sees_no_file_writes_nothing(start):
    door = start.gateway([], tokenizer=False)
    assert list(client(door).files.list()) == []
    assert httpx.get(f"{door.url}/v1/files/file-{'0' * 24}").status_code == 404
    assert not door.data.exists()


def test_files_of_others_stay_private_on_the_disk(start):
    door = start.gateway([], tokenizer=False)
    client(door).files.create(file=("x", b"x"), purpose="batch")
    for path in [door.data, *door.data.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_full_disk_is_said_and_leaves_nothing(start):
    def limits():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, 2 * MIB))

    door = start.gateway([], tokenizer=False, limits=limits)
    door.on = Directory(door.data)
    small = client(door).files.create(file=("x", bytes(MIB)), purpose="batch")
    with pytest.raises(openai.InternalServerError) as error:
        client(door).files.create(file=("x", bytes(5 * MIB)), purpose="batch")
    assert (error.value.status_code, error.value.code) == (507, "storage_full")
    until(lambda: door.on.uploads() == [], "what was written to be gone")
    assert [file.id for file in client(door).files.list()] == [small.id]
    assert str(door.data) in door.log.read_text(), "the operator is told where"


def test_a_place_that_cannot_be_written_is_named_in_the_log(start):
    blocked = start.path / "blocked"
    blocked.write_text("a file where a directory should be")
    door = start.gateway([], tokenizer=False, data=blocked)
    with pytest.raises(openai.InternalServerError) as error:
        client(door).files.create(file=("x", b"x"), purpose="batch")
    assert (error.value.status_code, error.value.code) == (500, "storage_failed")
    assert str(blocked) not in str(error.value), "where our files lie is no business of clients"
    assert f"{blocked}/files" in door.log.read_text()


def test_a_bucket_that_refuses_or_is_away_is_said(start, bucket):
    door = start.gateway([], extra=bucket.settings(secret="wrong"), tokenizer=False)
    with pytest.raises(openai.InternalServerError) as error:
        client(door).files.create(file=("x", b"x"), purpose="batch")
    assert (error.value.status_code, error.value.code) == (500, "storage_failed")
    log = door.log.read_text()
    assert "files.secret_key" in log and bucket.secret not in log
    lost = Bucket(start.path)
    door = start.gateway([], extra=lost.settings(), tokenizer=False)
    file = client(door).files.create(file=("x", b"x"), purpose="batch")
    lost.kill()
    with pytest.raises(openai.InternalServerError) as error:
        client(door).with_options(timeout=60).files.retrieve(file.id)
    assert (error.value.status_code, error.value.code) == (503, "storage_unavailable")
    assert int(error.value.response.headers["retry-after"]) >= 1


def test_the_doctor_tries_the_place_of_files(start, bucket):
    def files(text):
        config = start.path / "doctor.toml"
        config.write_text('[gateway]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n' + text)
        found = parse(command("doctor", "--json", "--config", config).stdout)
        return next((one["verdict"], one["detail"]) for one in found if one["what"] == "files")

    assert files(bucket.settings("doctor"))[0] == "good" and bucket.keys("doctor") == [], "it leaves nothing"
    verdict, detail = files(bucket.settings("doctor", secret="wrong"))
    assert verdict == "bad" and "files.secret_key" in detail
    verdict, detail = files(bucket.settings().replace(bucket.name, "no-such-bucket"))
    assert verdict == "bad" and "no-such-bucket" in detail
    unmade = start.path / "unmade"
    assert files(f'[data]\ndir = "{unmade}"\n')[0] == "good" and not unmade.exists()
    blocked = start.path / "blocked-for-doctor"
    blocked.write_text("")
    verdict, detail = files(f'[data]\ndir = "{blocked}"\n')
    assert verdict == "bad" and "data.dir" in detail


def test_secrets_are_never_shown(start, bucket):
    config = start.path / "secrets.toml"
    config.write_text(f'[files]\nurl = "s3://b"\naccess_key = "{bucket.access}"\nsecret_key = "{bucket.secret}"\n')
    dump = command("config", "--dump", "--config", config)
    assert dump.returncode == 0 and "(hidden)" in dump.stdout, dump.stderr
    assert bucket.secret not in dump.stdout and bucket.access not in dump.stdout
