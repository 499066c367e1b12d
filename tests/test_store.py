"""The tiered store: real clients of Redis, hostile ones, crashes and damage, and everything an operator can ask.

LMCache speaks to the store through its Redis connector. The package cannot be part of these tests: it asks for PyTorch, at
module level. So its way is taken here with the same library (redis.asyncio): the calls, the keys and the two parts of a
value are those of `RedisConnector` in lmcache 0.5.6 (`lmcache/v1/storage_backend/connector/redis_connector.py`).
"""

import asyncio
import random
import re
import signal
import socket
import struct
import subprocess
import threading

import pytest
import redis
import redis.asyncio

from conftest import command, free_port, until
from stores import Store, value


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One for everybody who only needs some space."""
    store = Store(tmp_path_factory.mktemp("store"), "--memory", "256MiB", "--disk", "1GiB")
    yield store
    store.kill()


@pytest.fixture
def begin(tmp_path):
    """begin(*flags, settings=…): stores of one test."""
    running = []

    def begin(*args, **more):
        running.append(Store(tmp_path / f"store-{len(running)}", *args, **more))
        return running[-1]

    yield begin
    for one in running:
        one.kill()


# === Clients ===


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_works_as_with_redis(store, protocol):
    client = store.client(protocol=protocol)
    pre = f"py{protocol}:".encode()
    binary = pre + bytes(range(256))
    assert client.ping() and client.set(binary, binary) and client.get(binary) == binary
    assert client.get(pre + b"missing") is None
    assert client.set(pre + b"empty", b"") and client.get(pre + b"empty") == b"", "empty is not missing"
    assert client.exists(pre + b"empty", pre + b"missing", binary) == 2
    assert client.strlen(binary) == len(binary) and client.getrange(binary, 4, 9) == binary[4:10]
    assert client.set(binary, b"no", nx=True) is None and client.get(binary) == binary
    assert client.set(pre + b"absent", b"no", xx=True) is None and client.get(pre + b"absent") is None
    assert client.set(binary, b"yes", xx=True) and client.set(pre + b"fresh", b"yes", nx=True)
    assert client.get(binary) == client.get(pre + b"fresh") == b"yes"
    assert client.ttl(binary) == -1 and client.ttl(pre + b"missing") == -2
    assert client.set(pre + b"mortal", b"x", ex=1000) and 990 <= client.ttl(pre + b"mortal") <= 1000
    assert client.set(pre + b"gone", b"x", px=1)
    until(lambda: client.get(pre + b"gone") is None, "a value to end")
    assert client.delete(binary, pre + b"missing") == 1 and client.get(binary) is None
    assert client.info()["redis_version"]
    with pytest.raises(redis.ResponseError):
        client.execute_command("LPUSH", "a", "b")
    assert client.ping(), "a refusal leaves the connection as it was"


def test_many_keys_at_once_and_pipelines(store):
    client = store.client()
    keys = {f"many:{i}": value(i, 10 + i * 13) for i in range(200)}
    assert client.mset(keys)
    names = [name for key in keys for name in (key, key + ":no")]
    assert client.mget(names) == [part for key in keys for part in (keys[key], None)]
    with client.pipeline(transaction=False) as pipe:
        for i in range(1000):
            pipe.set(f"pipe:{i}", value(i, i)).get(f"pipe:{i}")
        answers = pipe.execute()
    assert answers == [part for i in range(1000) for part in (True, value(i, i))]
    assert set(client.scan_iter(match="many:*", count=50)) == {key.encode() for key in keys}
    assert client.delete(*keys) == 200 and list(client.scan_iter(match="many:*")) == []


@pytest.mark.parametrize("size", [1, 4095, 4096, 1 << 20, 64 << 20])
def test_values_of_any_size_come_back_as_they_went(store, size):
    client = store.client()
    sent = value("size", size)
    assert client.set("big", sent) and client.get("big") == sent
    assert client.getrange("big", size - 1, size) == sent[-1:]
    client.delete("big")


def test_redis_cli_and_redis_benchmark_do_what_people_use_them_for(store):
    def ran(*words):
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    cli = ["redis-cli", "-p", store.port]
    assert ran(*cli, "set", "cli", "a value").strip() == "OK" and ran(*cli, "get", "cli").strip() == "a value"
    assert ran(*cli, "get", "cli:missing").strip() == "" and ran(*cli, "-3", "exists", "cli").strip() == "1"
    assert "redis_version" in ran(*cli, "info")
    assert "cli" in ran(*cli, "--scan", "--pattern", "cl*").split()
    for flags in [["-t", "set,get", "-n", 2000, "-d", 4096, "-c", 8], ["-t", "set,get,mset", "-n", 2000, "-P", 16, "-r", 100]]:
        before = store.get("/status")["clients"]
        said = ran("redis-benchmark", "-p", store.port, "-q", *flags)
        assert len(re.findall("requests per second", said)) >= 2 and "rror" not in said, said
        after = store.get("/status")["clients"]
        assert after["commands"]["SET"] - before["commands"].get("SET", 0) >= 2000
        asked = {code: count for code, count in after["refusals"].items() if count != before["refusals"].get(code, 0)}
        assert set(asked) <= {"ERR"}, "only CONFIG is refused, which redis-benchmark asks for and does without"


def test_tenants_come_in_by_their_keys_and_see_only_their_own(begin, tmp_path):
    for name in ["red", "blue"]:
        (tmp_path / name).write_text(f"key-of-{name}\nsecond-of-{name}\n")
    settings = "".join(f'[[tenants]]\nname = "{name}"\nkeys_file = "{tmp_path / name}"\n' for name in ["red", "blue"])
    store = begin(settings=settings)
    with pytest.raises(redis.AuthenticationError):
        store.client().get("a")
    with pytest.raises(redis.AuthenticationError):
        store.client(password="key-of-nobody").get("a")
    red, blue = store.client(password="key-of-red"), store.client(username="blue", password="second-of-blue", protocol=3)
    with pytest.raises(redis.AuthenticationError):
        store.client(username="red", password="key-of-blue").get("a")
    assert red.set("a", "red") and blue.get("a") is None and blue.set("a", "blue") and red.get("a") == b"red"
    assert list(blue.scan_iter()) == [b"a"] and red.delete("a") == 1 and blue.get("a") == b"blue"
    assert store.object("a", "blue")["bytes"] == 4 and store.object("a", "red") is None
    assert {tenant["name"]: tenant["objects"] for tenant in store.get("/tenants")} == {"red": 0, "blue": 1}


# === LMCache ===


class Lmcache:
    """The calls of LMCache's `RedisConnector`, in their order."""

    def __init__(self, port):
        self.pool = redis.asyncio.ConnectionPool.from_url(f"redis://127.0.0.1:{port}", max_connections=150)
        self.connection, self.sem = redis.asyncio.Redis.from_pool(self.pool), asyncio.Semaphore(150)

    @staticmethod
    def metadata(length):
        """As `RemoteMetadata.serialize`: length, type, format and shape as integers of four bytes."""
        return struct.pack("iiiiiii", length, 5, 1, 2, 32, length // 128, 1)

    async def put(self, key, kv_bytes):
        async with self.sem:
            # The bytes first, so that whoever finds the metadata finds them.
            await self.connection.set(key + "kv_bytes", memoryview(kv_bytes))
            await self.connection.set(key + "metadata", self.metadata(len(kv_bytes)))

    async def exists(self, key):
        async with self.sem:
            return bool(await self.connection.exists(key + "metadata"))

    async def get(self, key):
        async with self.sem:
            metadata = await self.connection.get(key + "metadata")
            if metadata is None:
                return None
            length = struct.unpack_from("i", metadata)[0]
            kv_bytes = await self.connection.get(key + "kv_bytes")
        if kv_bytes is None:
            async with self.sem:
                await self.connection.delete(key + "metadata")
            return None
        assert len(kv_bytes) == length
        return kv_bytes

    async def contains(self, keys):
        """How many from the first on are there."""
        for count, key in enumerate(keys):
            if not await self.exists(key):
                return count
        return len(keys)


def test_the_calls_of_lmcaches_redis_connector_work(begin):
    store = begin("--memory", "32MiB", "--disk", "256MiB")
    chunks = {f"vllm@meta-llama/Llama-3.1-8B-Instruct@1@0@{i:016x}@bfloat16": value(i, 2 << 20) for i in range(40)}
    keys = list(chunks)

    async def all_of_it():
        lmcache = Lmcache(store.port)
        assert await lmcache.contains(keys) == 0 and await lmcache.get(keys[0]) is None
        # More than memory holds, 8 at a time, as chunks of a prompt come.
        for first in range(0, 40, 8):
            await asyncio.gather(*(lmcache.put(key, bytearray(chunks[key])) for key in keys[first:first + 8]))
        until(lambda: all(store.on_disk(key + "kv_bytes") for key in keys), "everything to be on disk", seconds=60)
        assert await lmcache.contains(keys) == 40 and await lmcache.contains(["nothing", *keys]) == 0
        for first in range(0, 40, 8):
            found = await asyncio.gather(*(lmcache.get(key) for key in keys[first:first + 8]))
            assert found == [chunks[key] for key in keys[first:first + 8]], "from memory or from disk, what was put"
        # The bytes are gone and the metadata is not: the connector tidies up, and misses.
        assert store.ask("DELETE", f"/objects/default/{keys[3]}kv_bytes").status_code == 200
        assert await lmcache.get(keys[3]) is None and await lmcache.contains(keys) == 3
        await lmcache.connection.aclose()
        await lmcache.pool.disconnect()

    asyncio.run(all_of_it())
    assert store.get("/status")["reads"]["disk"] > 0
    # A restart of the store, and what was on disk is there.
    store.kill(signal.SIGTERM)
    store.start()

    async def after():
        lmcache = Lmcache(store.port)
        assert await lmcache.contains(keys[4:]) == 36
        assert await lmcache.get(keys[20]) == chunks[keys[20]]
        await lmcache.connection.aclose()
        await lmcache.pool.disconnect()

    asyncio.run(after())


# === Crashes and damage ===


def test_after_kill_9_what_was_said_to_be_on_disk_is_there_and_nothing_is_wrong(begin):
    store = begin("--memory", "64MiB", "--disk", "512MiB")
    acknowledged, sent, stop = [], {}, threading.Event()

    def write(writer):
        client, chance, number = store.client(), random.Random(writer), 0
        while not stop.is_set():
            key, size = f"w{writer}:{number}", chance.choice([1, 100, 5_000, 70_000])
            shared, number = f"shared:{number % 7}", number + 1
            try:
                client.set(key, value(key, size))
                acknowledged.append((key, size))
                # Keys that everybody writes: one of them wins, whole.
                sent.setdefault(shared, set()).add((writer, number, size))
                client.set(shared, value((writer, number), size))
            except (redis.RedisError, OSError):
                return

    writers = [threading.Thread(target=write, args=(writer,), daemon=True) for writer in range(4)]
    for writer in writers:
        writer.start()
    until(lambda: len(acknowledged) >= 150, "some values", seconds=60)
    durable = [(key, size) for key, size in acknowledged[:150] if store.on_disk(key)]
    # While they write on.
    store.kill(signal.SIGKILL)
    stop.set()
    for writer in writers:
        writer.join(timeout=60)
    assert durable and len(acknowledged) >= 150
    store.start()
    client = store.client()
    for key, size in durable:
        assert client.get(key) == value(key, size), f"{key} was on disk"
    for key, size in acknowledged:
        assert client.get(key) in (None, value(key, size)), f"{key} is wrong"
    for shared, writes in sent.items():
        assert client.get(shared) in {None, *(value(write[:2], write[2]) for write in writes)}, f"{shared} is wrong"


def test_a_kill_9_in_the_middle_of_promotions_costs_nothing_that_was_on_disk(begin):
    store = begin("--memory", "8MiB", "--disk", "256MiB")
    client, keys, stop, wrong = store.client(), [f"p{i}" for i in range(200)], threading.Event(), []
    for key in keys:
        client.set(key, value(key, 100_000))
    store.written()
    assert all(store.on_disk(key) for key in keys)

    def read(reader):
        client, chance = store.client(), random.Random(reader)
        while not stop.is_set():
            key = chance.choice(keys)
            try:
                if client.get(key) != value(key, 100_000):
                    wrong.append(key)
            except (redis.RedisError, OSError):
                return

    for _ in range(3):
        before = store.metric("promotion_admitted_total")
        readers = [threading.Thread(target=read, args=(reader,), daemon=True) for reader in range(4)]
        for reader in readers:
            reader.start()
        until(lambda: store.metric("promotion_admitted_total") >= before + 30, "promotions", seconds=60)
        # While they read on, and what they read is on its way to memory.
        store.kill(signal.SIGKILL)
        stop.set()
        for reader in readers:
            reader.join(timeout=60)
        store.start()
        stop.clear()
        client = store.client()
        for key in keys:
            assert client.get(key) == value(key, 100_000), f"{key} was on disk"
        assert not wrong


def test_after_an_orderly_stop_everything_is_there(begin):
    store = begin("--memory", "64MiB", "--disk", "256MiB")
    client = store.client()
    for i in range(100):
        client.set(f"k{i}", value(i, 50_000))
    client.set("mortal", "x", ex=1000)
    store.kill(signal.SIGTERM)
    store.start()
    client = store.client()
    assert all(client.get(f"k{i}") == value(i, 50_000) for i in range(100))
    assert 900 < client.ttl("mortal") <= 1000
    assert store.object("k5")["copies"][0]["tier"] == "disk"


def test_a_byte_that_flipped_on_disk_is_never_handed_out(begin):
    store = begin("--memory", "32MiB", "--disk", "256MiB")
    client = store.client()
    for i in range(40):
        client.set(f"k{i}", value(i, 30_000))
    store.kill(signal.SIGTERM)
    hurt = set()
    for segment in sorted((store.data / "segments").iterdir()):
        content = bytearray(segment.read_bytes())
        for i in range(0, 40, 4):
            at = content.find(value(i, 30_000))
            if at >= 0:
                content[at + 700 * i % 30_000] ^= 1
                hurt.add(i)
        segment.write_bytes(content)
    assert hurt == set(range(0, 40, 4)), "the values were found where they lie"
    store.start()
    client = store.client()
    for i in range(40):
        try:
            found = client.get(f"k{i}")
        except redis.ResponseError as error:
            assert str(error).split()[0].isupper(), error
            found = None
        assert found == (None if i in hurt else value(i, 30_000)), i
    until(lambda: store.get("/status")["node"]["done"]["damaged"] >= len(hurt), "the damage to be counted")
    assert any("not what was written" in words for words in store.get("/status")["trouble"])
    for i in hurt:
        client.set(f"k{i}", value(i, 30_000))
        assert client.get(f"k{i}") == value(i, 30_000), "it can be put again"


@pytest.mark.parametrize("flags", [[], ["--offload", "at-eviction"], ["--offload", "off"]])
def test_a_disk_that_is_far_too_small_costs_values_and_never_bytes(begin, flags):
    store = begin("--memory", "4MiB", "--disk", "16MiB", *flags)
    client, stored = store.client(), 0
    for i in range(200):
        try:
            client.set(f"k{i}", value(i, 256 << 10))
            stored += 1
        except redis.ResponseError as error:
            assert str(error).split()[0] in ("FULL", "QUOTA", "BUSY", "UNAVAILABLE"), error
    assert stored >= 100, "eviction makes room"
    there = sum(1 for i in range(200) if check(client.get(f"k{i}"), value(i, 256 << 10)))
    assert there >= 8, "what was written last is there"
    disk = store.get("/status")["node"]["disk"]
    assert disk["poisoned"] is None and disk["on_disk"] <= disk["budget"]
    with pytest.raises(redis.ResponseError, match="more than|larger|TOOLARGE"):
        client.set("huge", bytes(8 << 20))
    assert client.ping()


def check(found, expected):
    assert found in (None, expected), "a wrong byte"
    return found is not None


# === Hostile clients ===


def test_clients_that_stall_trickle_or_never_read_harm_nobody_else(begin):
    store = begin("--memory", "256MiB", settings='[tiers]\npatience = "1s"\n')
    good = store.client()
    good.set("wide", value("wide", 1 << 20))
    lines = []

    def line(first):
        lines.append(socket.create_connection(("127.0.0.1", store.port)))
        lines[-1].sendall(first)
        return lines[-1]

    for _ in range(2):
        line(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$%d\r\n" % (64 << 20))
    for junk in [b"\x00" * 1000, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"*999999999\r\n", b"$-5\r\n", b"*1\r\n$999999999999\r\n"]:
        line(junk)
    unread = line(b"")
    unread.setblocking(False)
    try:
        for _ in range(20_000):
            unread.send(b"*2\r\n$3\r\nGET\r\n$4\r\nwide\r\n")
    except BlockingIOError:
        pass

    def trickle():
        with socket.create_connection(("127.0.0.1", store.port)) as slow:
            slow.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in b"*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n$300\r\n" + b"s" * 300 + b"\r\n":
                slow.sendall(bytes([byte]))
            trickled.append(slow.recv(100))

    trickled = []
    slow = threading.Thread(target=trickle, daemon=True)
    slow.start()
    for i in range(300):
        assert good.set(f"good:{i}", value(i, 20_000)) and good.get(f"good:{i}") == value(i, 20_000)
    slow.join(timeout=60)
    assert trickled == [b"+OK\r\n"] and good.get("slow") == b"s" * 300
    assert good.get("half") is None, "what was never sent is not there"
    closed = ["half_sent", "unread", "broken"]
    until(lambda: all(store.get("/status")["clients"]["seen"][why] for why in closed), "the others to be closed")
    until(lambda: store.get("/status")["clients"]["arriving_bytes"] == 0, "their space to be free")
    assert good.get("wide") == value("wide", 1 << 20)
    assert store.metric("connections_closed_total", why="half_sent") >= 2
    for one in lines:
        one.close()


# === Operators ===


def test_where_a_key_is_and_what_is_known_of_it(store):
    client = store.client()
    key = "a/b %\u00e9+\x00"
    client.execute_command("SET", key, b"12345", "EX", "1000", "BLOCK", "ab", "-", "cd")
    until(lambda: store.on_disk(key), "it to be on disk")
    before = store.get("/status")["reads"]
    found = store.object(key)
    assert (found["tenant"], found["bytes"], found["pin"], found["group"]) == ("default", 5, "none", None)
    assert {copy["tier"] for copy in found["copies"]} == {"memory", "disk"} and all(copy["readable"] for copy in found["copies"])
    assert found["block"] == {"hash": f"{0xab:016x}", "parent": None, "tokens": f"{0xcd:016x}"}
    assert 900_000 < found["ends_in_ms"] <= 1_000_000 and found["candidate"] is None
    assert store.ask("GET", f"/objects/default/{found['key']}").json()["version"] == found["version"]
    assert store.get("/status")["reads"] == before, "who looks does not count"
    client.get(key)
    assert store.object(key)["heat"] >= 1 and store.object(key)["lease_ms"] > 0
    client.set(key, b"123456")
    assert store.object(key)["version"] > found["version"] and store.object(key)["block"] is None
    # Slashes may be written as they are.
    client.set("x/y/z", "1")
    assert store.get("/objects/default/x/y/z")["key"] == "x%2Fy%2Fz"
    assert store.ask("DELETE", "/objects/default/x/y/z").json()["status"] == "removed"
    assert client.get("x/y/z") is None and store.ask("GET", "/objects/default/x/y/z").status_code == 404


def test_pins_keep_objects_and_are_taken_back(begin):
    store = begin("--memory", "4MiB", "--disk", "64MiB")
    client = store.client()
    client.set("kept", value("kept", 100_000))
    for pin in ["soft", "hard"]:
        assert store.ask("POST", "/objects/default/kept/pin", json={"pin": pin}).json()["pin"] == pin
    for i in range(200):
        client.set(f"k{i}", value(i, 100_000))
    assert store.tiers("kept") == {"memory", "disk"}, "everything else passed by"
    assert store.tiers("k0") == {"disk"}
    assert store.ask("POST", "/objects/default/kept/pin", json={"pin": "none"}).json()["pin"] == "none"
    for i in range(200, 400):
        client.set(f"k{i}", value(i, 100_000))
    assert store.tiers("kept") == {"disk"}


def test_objects_are_listed_and_removed_by_prefix(store):
    client = store.client()
    client.mset({f"list/{i % 3}/\u00fc{i}": "x" for i in range(300)})
    cursor, keys = 0, []
    while True:
        page = store.get(f"/objects/default?cursor={cursor}&count=7")
        keys += page["keys"]
        cursor = page["cursor"]
        if cursor == 0:
            break
    assert len({key for key in keys if key.startswith("list%2F")}) == 300
    removed = store.ask("DELETE", "/objects/default", params={"prefix": "list/1/\u00fc"})
    assert removed.json() == {"status": "removed", "removed": 100}
    assert sum(1 for _ in client.scan_iter(match="list/*")) == 200
    for query in ["", "?prefix=", "?all=false", "?all=true&prefix=a"]:
        assert store.ask("DELETE", f"/objects/default{query}").status_code == 400
    assert store.ask("DELETE", "/objects/default?prefix=list").json()["removed"] == 200
    client.set("last", "x")
    assert store.ask("DELETE", "/objects/default?all=true").json()["removed"] >= 1
    assert client.dbsize() == 0 and store.get("/status")["now"]["objects"] == 0


def test_candidates_are_shown_hottest_first_cleared_and_promoted_when_there_is_room(begin):
    store = begin("--memory", "4MiB", "--disk", "64MiB", settings='[tiers]\nlease = "0ms"\n')
    client, fill = store.client(), [f"f{i}" for i in range(100)]
    for key in ["cold", "colder"]:
        client.set(key, value(key, 512 << 10))
    store.written()
    for key in fill:
        client.set(key, value(key, 64 << 10))
    store.written()
    assert store.tiers("cold") == store.tiers("colder") == {"disk"}
    held = [key for key in fill if "memory" in store.tiers(key)]
    for key in held:
        assert store.ask("POST", f"/objects/default/{key}/pin", json={"pin": "hard"}).status_code == 200
    for key, reads in [("cold", 4), ("colder", 2)]:
        assert all(client.get(key) == value(key, 512 << 10) for _ in range(reads)), "reads go on from disk"
    shown = store.get("/candidates")
    assert shown["total"] == 2 and [one["key"] for one in shown["candidates"]] == ["cold", "colder"]
    first = shown["candidates"][0]
    assert (first["tenant"], first["bytes"], first["score"], first["last_reason"]) == ("default", 512 << 10, 4, "watermark")
    assert first["due_in_ms"] <= 5_000 and first["first_seen_ms_ago"] >= first["last_seen_ms_ago"]
    assert store.get("/candidates?count=1")["candidates"][0]["key"] == "cold"
    assert store.object("cold")["candidate"]["score"] == 4
    assert store.metric("promotion_candidate_recorded_total") == 2 == store.metric("promotion_candidates")
    until(lambda: store.metric("promotion_candidate_admission_rejected_total", reason="watermark") >= 2, "them to be tried")
    assert store.ask("POST", "/candidates/clear").json() == {"status": "ok", "cleared": 2}
    assert store.get("/candidates") == {"candidates": [], "total": 0}
    assert store.metric("promotion_candidate_recorded_total") == 0
    assert client.get("cold") and store.get("/candidates")["total"] == 1, "it is still hot"
    for key in held:
        assert store.ask("DELETE", f"/objects/default/{key}").status_code == 200
    until(lambda: store.tiers("cold") == {"memory", "disk"}, "it to be promoted without another read")
    assert client.get("cold") == value("cold", 512 << 10)
    assert store.get("/candidates")["total"] == 0 and store.metric("promotion_candidate_admitted_total") == 1
    counted = {what: store.metric(f"promotion_{what}_total") for what in ["admitted", "completed", "failed", "expired", "cancelled"]}
    ended = counted["completed"] + counted["failed"] + counted["expired"] + counted["cancelled"]
    assert counted["admitted"] == ended + store.metric("promotions_in_flight") and counted["completed"] >= 1


def test_settings_that_are_read_again_count_at_once_or_are_said_to_wait(begin):
    store = begin("--memory", "4MiB", "--disk", "64MiB", settings='[tiers.quotas.default]\nmemory = "1MiB"\n')
    client = store.client()
    log = (store.folder / "log").read_text

    def reload(settings, words):
        store.config.write_text(settings)
        store.process.send_signal(signal.SIGHUP)
        until(lambda: words in log(), f"the log to say {words}")

    assert client.set("a", value("a", 1000))
    with pytest.raises(redis.ResponseError, match="TOOLARGE"):
        client.set("b", value("b", 2 << 20))
    reload('[tiers]\noffload = "off"\nmax_connections = 7\n[tiers.promotion]\non = false\n',
           "waits for a restart: tiers.max_connections, tiers.offload")
    assert "promotion=true quotas=true" in log() and "begin anew" in log()
    assert client.set("b", value("b", 2 << 20)), "its bound is gone"
    assert store.get("/tenants/default")["memory"]["quota"] is None
    store.written()
    for i in range(40):
        client.set(f"f{i}", value(i, 100_000))
    store.written()
    assert store.tiers("a") == {"disk"}
    assert all(client.get("a") == value("a", 1000) for _ in range(10))
    assert store.tiers("a") == {"disk"} and store.get("/candidates")["total"] == 0, "nothing is promoted any more"
    reload('[tiers]\nhigh = 7000\n', "make no sense: tiers.high")
    assert client.get("a") == value("a", 1000)
    reload('[tiers.promotion]\nthreshold = "two"\n', "invalid type")
    assert store.process.poll() is None
    reload("", "promotion=true quotas=false")
    for _ in range(3):
        assert client.get("a") == value("a", 1000)
    until(lambda: "memory" in store.tiers("a"), "it to be promoted again")


def test_quotas_are_shown_and_set_while_it_runs(begin):
    store = begin("--memory", "32MiB", settings='[tiers.quotas.default]\nmemory = "8MiB"\nweight = 2\n')
    client = store.client()
    tenant = store.get("/tenants")[0]
    assert (tenant["name"], tenant["memory"]["quota"], tenant["disk"]["quota"], tenant["weight"]) == ("default", 8 << 20, None, 2)
    set_to = store.ask("PUT", "/tenants/default", json={"memory": "1MiB"}).json()
    assert (set_to["memory"]["quota"], set_to["weight"]) == (1 << 20, 2), "what is not said stays"
    for i in range(40):
        client.set(f"k{i}", value(i, 100_000))
    used = store.get("/tenants/default")
    assert used["memory"]["used"] <= 1 << 20 and used["objects"] == 40
    assert store.metric("tenant_quota_bytes", tenant="default", tier="memory") == 1 << 20
    with pytest.raises(redis.ResponseError):
        client.set("too-much", bytes(2 << 20))
    assert store.ask("PUT", "/tenants/default", json={"memory": None, "weight": 5}).json()["memory"]["quota"] is None
    assert client.set("too-much", bytes(2 << 20)) and store.get("/tenants/default")["weight"] == 5
    assert client.get("k0") == value(0, 100_000)


def test_a_node_is_emptied_and_takes_part_again(begin):
    store = begin("--memory", "32MiB", "--disk", "128MiB", "--offload", "at-eviction")
    client = store.client()
    for i in range(50):
        client.set(f"k{i}", value(i, 100_000))
    assert store.tiers("k7") == {"memory"}
    node = store.get("/nodes")[0]
    assert (node["standing"], node["drain"]) == ("exact", None)
    assert node["memory"]["capacity"] == sum(node["memory"][part] for part in ["here", "reserved", "leaving", "free"])
    assert store.ask("POST", f"/nodes/{node['id']}/drain").status_code == 202
    with pytest.raises(redis.ResponseError):
        client.set("new", "x")
    assert client.get("k7") == value(7, 100_000), "what is there is read as before"
    until(lambda: store.get("/nodes")[0]["drain"]["done"], "it to be empty")
    assert store.get("/nodes")[0]["drain"]["only_in_memory"] == 0
    assert all(store.on_disk(f"k{i}") for i in range(50))
    store.kill(signal.SIGKILL)
    store.start()
    client = store.client()
    assert all(client.get(f"k{i}") == value(i, 100_000) for i in range(50)), "it could be taken away"
    node = store.get("/nodes")[0]
    assert store.ask("POST", f"/nodes/{node['id']}/drain").status_code == 202
    assert store.ask("POST", f"/nodes/{node['id']}/undrain").json()["status"] == "ok"
    assert store.get("/nodes")[0]["drain"] is None and client.set("new", "x")


def test_a_node_without_a_disk_cannot_be_emptied_and_says_so(begin, tmp_path):
    store = begin("--memory", "32MiB", "--disk", "16MiB", "--offload", "at-eviction")
    client = store.client()
    for i in range(28):
        client.set(f"k{i}", value(i, 1 << 20))
    node = store.get("/nodes")[0]["id"]
    store.ask("POST", f"/nodes/{node}/drain")
    until(lambda: store.get("/nodes")[0]["drain"]["refused"] > 0, "the disk to be full")
    drain = store.get("/nodes")[0]["drain"]
    assert not drain["done"] and drain["only_in_memory"] >= drain["refused"]
    shown = command("status", "--store", store.url)
    assert "draining" in shown.stdout and "only in its memory" in shown.stdout, shown.stdout


BAD = [
    ("GET", "/nothing", None, 404, "not_found"), ("GET", "/", None, 404, "not_found"),
    ("POST", "/status", None, 405, "method_not_allowed"), ("POST", "/healthz", None, 405, "method_not_allowed"),
    ("DELETE", "/metrics", None, 405, "method_not_allowed"), ("PUT", "/candidates", None, 405, "method_not_allowed"),
    ("GET", "/candidates/clear", None, 405, "method_not_allowed"), ("GET", "/candidates/now", None, 404, "not_found"),
    ("GET", "/status?verbose=1", None, 400, "invalid_request"), ("GET", "/candidates?count=0", None, 400, "invalid_request"),
    ("GET", "/candidates?count=x", None, 400, "invalid_request"), ("GET", "/objects", None, 404, "not_found"),
    ("GET", "/objects/nobody", None, 404, "not_found"), ("GET", "/objects/nobody/k", None, 404, "not_found"),
    ("GET", "/objects/%zz/k", None, 400, "invalid_request"), ("GET", "/objects/%ff/k", None, 400, "invalid_request"),
    ("GET", "/objects/default/%4", None, 400, "invalid_request"), ("GET", "/objects/default/no-such-key", None, 404, "not_found"),
    ("DELETE", "/objects/default/no-such-key", None, 404, "not_found"), ("PUT", "/objects/default/k", None, 405, "method_not_allowed"),
    ("POST", "/objects/default/k", None, 404, "not_found"), ("POST", "/objects/default", None, 405, "method_not_allowed"),
    ("GET", "/objects/default?count=-1", None, 400, "invalid_request"), ("GET", "/objects/default?cursor=x", None, 400, "invalid_request"),
    ("DELETE", "/objects/default?prefix=%", None, 400, "invalid_request"), ("DELETE", "/objects/default", None, 400, "invalid_request"),
    ("POST", "/objects/default/k/pin", b"{", 400, "invalid_request"), ("POST", "/objects/default/k/pin", b"", 400, "invalid_request"),
    ("POST", "/objects/default/k/pin", b'{"pin": "iron"}', 400, "invalid_request"),
    ("POST", "/objects/default/k/pin", b'{"pin": "soft", "more": 1}', 400, "invalid_request"),
    ("POST", "/objects/default/no-such-key/pin", b'{"pin": "soft"}', 404, "not_found"),
    ("PUT", "/tenants/default", b'{"memory": "4GB"}', 400, "invalid_request"), ("PUT", "/tenants/default", b"[]", 400, "invalid_request"),
    ("PUT", "/tenants/default", b'{"memory": -1}', 400, "invalid_request"), ("PUT", "/tenants/default", b'{"weight": 0}', 400, "invalid_request"),
    ("PUT", "/tenants/default", b'{"size": 1}', 400, "invalid_request"), ("PUT", "/tenants/nobody", b'{"weight": 1}', 404, "not_found"),
    ("POST", "/tenants/default", b"{}", 405, "method_not_allowed"), ("PUT", "/tenants", b"{}", 405, "method_not_allowed"),
    ("POST", "/nodes/nobody/drain", None, 404, "not_found"), ("GET", "/nodes/nobody/drain", None, 405, "method_not_allowed"),
    ("POST", "/nodes/nobody/burn", None, 404, "not_found"),
]


@pytest.mark.parametrize("method, path, body, status, code", BAD)
def test_what_makes_no_sense_is_refused_in_words(store, method, path, body, status, code):
    store.client().set("k", "v")
    answer = store.ask(method, path, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert len(answer.json()["error"]["message"]) > 10
    assert store.client().get("k") == b"v", "and nothing happened"


def test_status_health_settings_and_metrics(store):
    client = store.client()
    client.set("seen", "x")
    client.get("seen")
    client.get("unseen")
    assert store.get("/healthz") == {"status": "ok"} and store.get("/readyz") == {"status": "ready"}
    status = store.get("/status")
    assert status["ready"] and status["uptime_s"] > 0 and status["node"]["disk"]["poisoned"] is None
    assert 0 < status["reads"]["memory_ratio"] <= status["reads"]["ratio"] < 1
    assert store.get("/config")["tiers"]["memory"] == "256MiB"
    text = store.ask("GET", "/metrics").text
    names = re.findall(r"^# TYPE (\S+) (counter|gauge)$", text, re.M)
    assert len(names) == len(set(names)) > 80 and all(name.startswith("warmline_store_") for name, _ in names)
    for name, kind in names:
        assert name.endswith("_total") == (kind == "counter"), name
        assert re.search(rf"^# HELP {name} [A-Z0-9].+\.$", text, re.M), name
    for row in text.splitlines():
        assert row.startswith("# ") or re.fullmatch(r'\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [-+.e0-9]+', row), row
    seeds = ["recorded", "admitted", "expired_evaluated", "expired_unevaluated", "dropped_limit"]
    assert all(store.metric(f"promotion_candidate_{name}_total") is not None for name in seeds)
    assert store.metric("promotion_candidate_admission_rejected_total", reason="watermark") is not None
    assert store.metric("commands_total", command="GET") >= 2 and store.metric("reads_missed_total") >= 1
    with pytest.raises(redis.ResponseError):
        client.execute_command("NOSUCH")
    assert store.metric("refusals_total", code="ERR") >= 1
    assert store.metric("space_capacity_bytes", tier="memory") == 256 << 20


def test_the_door_asks_for_its_key_and_shows_no_secrets(begin, tmp_path):
    (tmp_path / "admin").write_text("open-sesame\n")
    (tmp_path / "acme").write_text("sk-secret\n")
    settings = f'[admin]\nkey_file = "{tmp_path / "admin"}"\n[[tenants]]\nname = "acme"\nkeys_file = "{tmp_path / "acme"}"\n'
    store = begin(settings=settings, key="open-sesame")
    for path in ["/status", "/metrics", "/objects/acme/k", "/config", "/nothing"]:
        for headers in [{}, {"authorization": "Bearer open"}, {"authorization": "open-sesame"}]:
            answer = store.ask("GET", path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert store.ask("GET", "/healthz", headers={}).status_code == 200 == store.ask("GET", "/readyz", headers={}).status_code
    config = store.ask("GET", "/config").text
    assert "acme" in config and "sk-secret" not in config and "open-sesame" not in config
    assert store.get("/objects/acme") == {"keys": [], "cursor": 0}, "a tenant of the settings is known before it comes"
    assert store.ask("GET", "/objects/default").status_code == 404, "where there are keys, nobody is the default tenant"
    refused = command("status", "--store", store.url)
    assert refused.returncode == 1 and "key" in refused.stderr


def test_warmline_status_shows_a_store_on_one_screen(store):
    store.client().set("shown", "x")
    shown = command("status", "--store", store.url)
    assert shown.returncode == 0, shown.stderr
    for word in ["ready", "memory", "disk", "reads", "evicted", "promoted", "candidates", "warmed"]:
        assert word in shown.stdout, shown.stdout
    assert len(shown.stdout.splitlines()) <= 24 and max(map(len, shown.stdout.splitlines())) <= 120
    as_json = command("status", "--store", store.url, "--json")
    assert '"fragmentation"' in as_json.stdout
    away = command("status", "--store", "http://127.0.0.1:1")
    assert away.returncode == 1 and "cannot reach" in away.stderr


@pytest.mark.parametrize("flag, setting", [("--listen", "tiers.listen"), ("--admin-listen", "tiers.admin")])
def test_a_taken_port_stops_the_start_and_is_named(store, tmp_path, flag, setting):
    taken = f"127.0.0.1:{store.port}"
    ports = {"--listen": "127.0.0.1:0", "--admin-listen": "127.0.0.1:0", flag: taken}
    ran = command("store", "--data", tmp_path / "data", *[word for pair in ports.items() for word in pair])
    assert ran.returncode == 2 and setting in ran.stderr and taken in ran.stderr, ran.stderr


def test_what_is_told_of_blocks_is_shown(begin):
    quiet = begin()
    assert quiet.get("/status")["events"] is None and quiet.metric("event_blocks") is None
    store = begin(settings=f'[tiers]\nevents = "tcp://127.0.0.1:{free_port()}"\nreplay = "tcp://127.0.0.1:{free_port()}"\n')
    store.client().execute_command("SET", "k", "v", "BLOCK", "ab", "-", "cd")
    until(lambda: store.get("/status")["events"]["misfits"] >= 1, "a block that is none to be seen")
    assert store.get("/status")["events"]["told"] == 0 == store.metric("event_blocks_told")
    assert store.metric("event_misfits_total") >= 1
