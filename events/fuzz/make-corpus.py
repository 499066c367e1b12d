"""Writes the corpus anew: frames of a real engine, what an independent MessagePack says, and what nobody should send.

usage: make-corpus.py, in a Python with msgpack; what is written is checked in, so only a change of it needs this.
"""

import json
import pathlib
import struct

import msgpack

HERE = pathlib.Path(__file__).parent
LIFE = 1 << 63 | 5


def write(target, name, content):
    (HERE / "corpus" / target / name).write_bytes(content)


def eight(*numbers):
    return b"".join(struct.pack(">Q", number % (1 << 64)) for number in numbers)


def batch(*events, rank=0, **more):
    return msgpack.packb([1.5, list(events), rank, *more.values()])


def stored(names, parent=None, size=2, **fields):
    tokens = [7 * name % 1000 for name in names for _ in range(size)]
    return {"type": "BlockStored", "block_hashes": names, "parent_block_hash": parent, "token_ids": tokens, "block_size": size, **fields}


# === Payloads: what engines send ===

captured = [
    bytes.fromhex(line["frames"][-1])
    for line in map(json.loads, (HERE.parent / "tests/vllm_0_32_capture.jsonl").read_text().splitlines())
    if line["kind"] == "pub"
]
shortest = sorted(set(captured), key=lambda payload: (len(payload), payload))
real = shortest[:4] + [payload for payload in captured if len(payload) < 1500][::18]
for i, payload in enumerate(real):
    write("codec", f"vllm-{i:02}", payload)

fine = {
    "empty": batch(),
    "heartbeat": batch(rank=None, epoch=LIFE, state=0),
    "a-state": batch(rank=3, epoch=None, state=2),
    "another-epoch": batch(rank=0, epoch=77),
    "later-fields": batch(rank=0, epoch=None, state=None, later={"a": [1, {"b": None}]}, still=b"x"),
    "stored": batch(stored([1, 2, 3]), stored([4], parent=3, medium="CPU", lora_name="adapter")),
    "array-form": batch(["BlockStored", [1, 2], None, [5, 6, 7, 8], 2, None, "GPU", None, [["salt"], None], 0, "full_attention", None, "later"]),
    "array-with-salt": batch(["BlockStored", [1], None, [5, 6], 2, None, "GPU", {"cache_salt": "s", "lora_name": "l", "x": 1}]),
    "removed": batch(["BlockRemoved", [-1, 2**64 - 1, b"\x01" * 32, "text"], "DISK", 1], {"type": "BlockRemoved", "block_hashes": []}),
    "cleared": batch("AllBlocksCleared", ["AllBlocksCleared"], {"type": "AllBlocksCleared"}),
    "eagle": batch({"type": "BlockStored", "block_hashes": [1], "token_ids": [[1, 2], [2, 3]], "block_size": 2}),
    "eagle-odd": batch({"type": "BlockStored", "block_hashes": [1], "token_ids": [[1, 2], [9, 3]], "block_size": 2}),
    "compact": batch({"type": "BlockStored", "block_hashes": [1, 2], "tokens_hashes": [2**64 - 1, 5], "block_size": 16}),
    "media": batch(stored([1, 2], extra_keys=[["adapter", ["0123456789abcdef", 3]], None])),
    "window": batch(stored([1], group_idx=2, kv_cache_spec_kind="sliding_window")),
    "unknown": batch({"type": "Rewound", "x": [1, 2, {"y": 3}]}, ["Elsewhere", 1]),
    "type-last": msgpack.packb([1, [{"block_hashes": [1], "type": "BlockRemoved"}]]),
    "integer-time": msgpack.packb([1700000000, []]),
    "not-utf8": msgpack.packb([1.0, [{"type": "BlockRemoved", "block_hashes": [1], "medium": b"\xff\xfe"}]], use_bin_type=False),
    "timestamp-type": msgpack.packb([1.0, [["BlockRemoved", [1]]], msgpack.Timestamp(1, 2), msgpack.ExtType(5, b"x" * 16)]),
}

# === Payloads: what nobody should send ===

HEAD = b"\x92\x01"
nasty = {
    "nothing": b"",
    "nan": b"\x92\xcb\x7f\xf8\x00\x00\x00\x00\x00\x01\x90",
    "reserved-tag": b"\xc1",
    "a-map": b"\x82\x01\x02\x03\x04",
    "events-4-billion": HEAD + b"\xdd\xff\xff\xff\xff",
    "events-65535-of-nothing": HEAD + b"\xdc\xff\xff",
    "map-4-billion": HEAD + b"\x91\xdf\xff\xff\xff\xff",
    "text-4-gib": HEAD + b"\x91\xdb\xff\xff\xff\xff",
    "bytes-1-gib": HEAD + b"\x91\x92\xacBlockRemoved\x91\xc6\x40\x00\x00\x00",
    "hashes-1-gib": HEAD + b"\x91\x92\xacBlockRemoved\xdd\x08\x00\x00\x00",
    "hashes-of-what-is-left": HEAD + b"\x91\x92\xacBlockRemoved\xdc\x02\x00" + b"\x01" * 511,
    "tokens-hashes-1-gib": HEAD + b"\x91\x82\xa4type\xabBlockStored\xadtokens_hashes\xdd\x08\x00\x00\x00",
    "extension-4-gib": b"\x93\x01\x90\xc9\xff\xff\xff\xff\x01",
    "deep": b"\x93\x01\x90" + b"\x91" * 2000,
    "deep-maps": b"\x93\x01\x90" + b"\x81\x01" * 500,
    "deep-event": HEAD + b"\x91\x82\xa4type\xa1x\xa1y" + b"\x91" * 100,
    "empty-words": HEAD + b"\xdc\x04\x00" + b"\xa0" * 1024,
    "bare-tags": HEAD + b"\xdc\x00\x64" + b"\xabBlockStored" * 100,
    "empty-events": HEAD + b"\xdc\x00\x40" + b"\x90" * 64,
    "maps-without-type": HEAD + b"\xdc\x00\x40" + b"\x80" * 64,
    "extras-of-nothing": batch(stored([1], extra_keys=[None] * 500 + [["x"]])),
    "extras-of-empty-words": batch(stored([1] * 200, extra_keys=[[""]] * 200)),
    "extras-where-lists-double": batch(stored([], extra_keys=[[""]] * 1025)),
    "words-where-lists-double": batch(stored([], extra_keys=[[""] * 1025])),
    "extras-of-empty-media": batch(stored([1] * 200, extra_keys=[[[""]]] * 200)),
    "more-extras-than-blocks": batch(stored([1], extra_keys=[None, None, ["x"]])),
    "extras-twice": HEAD + b"\x91\x84\xa4type\xabBlockStored\xacblock_hashes\x92\x01\x02\xaaextra_keys\x92\xc0\x91\xa1x\xaaextra_keys\x91\x91\xa1y",
    "hashes-twice": HEAD + b"\x91\x83\xa4type\xacBlockRemoved\xacblock_hashes\x92\x01\x02\xacblock_hashes\x91\x03",
    "type-twice": HEAD + b"\x91\x83\xa4type\xacBlockRemoved\xa4type\xabBlockStored\xacblock_hashes\x91\x03",
    "type-is-a-number": msgpack.packb([1.0, [{"type": 5}]]),
    "hash-of-33-bytes": batch(["BlockRemoved", [b"x" * 33]]),
    "hash-of-no-bytes": batch(["BlockRemoved", [b""]]),
    "token-of-33-bits": batch(["BlockStored", [1], None, [2**32], 1]),
    "token-below-zero": batch(["BlockStored", [1], None, [-1], 1]),
    "no-tokens-before-a-pair": msgpack.packb([1.0, [["BlockStored", [1], None, []], ["BlockRemoved", [1]]]]),
    "triples": batch({"type": "BlockStored", "block_hashes": [1], "token_ids": [[1, 2], [1, 2, 3]]}),
    "block-size-nil": batch(["BlockStored", [1], None, [1], None]),
    "wrong-everywhere": batch({"type": "BlockStored", "medium": 5, "lora_name": [1], "cache_salt": {}, "extra_keys": "x", "group_idx": "y", "kv_cache_spec_kind": 1.5}),
    "text-for-rank": msgpack.packb([1.0, [], "rank", "epoch", "state"]),
    "cut-in-a-number": batch(stored([2**63]))[:-40],
    "trailing": batch() + b"\xc1\xc1",
}
for name, payload in fine.items():
    write("codec", name, payload)
for name, payload in nasty.items():
    write("codec", f"nasty-{name}", payload)

# === Headers ===

for name, header in {
    "short": eight(7),
    "nothing-said": eight(-1, LIFE, 0, 0, 0),
    "whole": eight(7, LIFE, 0, 2, 1, 4, 5),
    "with-blocks": eight(7, LIFE, 3, 0, 0),
    "not-in-eights": eight(7, LIFE, 0) + b"\x00\x01\x02",
    "empty": b"",
    "seven-bytes": b"\x00" * 7,
    "version-of-a-header": eight(-2, LIFE, 0, 0, 0),
    "version-minus-three": eight(-3, LIFE, 0, 0, 0),
    "everything-is-gone": eight(1, LIFE, 0, 2**64 - 1, 9, *range(200)),
    "blocks-beyond-count": eight(1, LIFE, 2**64 - 1, 0, 0),
}.items():
    write("snapshot", name, header)

# === Conversations: one byte of settings, then steps as targets.rs cuts them ===

LIVE, REPLAYED, HEADER, ENDED, FAILED, CONNECTED, GONE, WAIT, NEXT, TOLD = 0, 5, 8, 9, 10, 11, 12, 13, 14, 15
NEXT_ONE = 255


def raw(payload):
    assert len(payload) < 8192
    return bytes([len(payload)] if len(payload) < 96 else [96 + (len(payload) >> 8), len(payload) & 255]) + payload


def says(kind, number=0):
    return bytes([200, number << 3 | kind])


def live(sequence, payload):
    return bytes([LIVE, sequence]) + payload


def again(sequence, payload):
    return bytes([REPLAYED, sequence]) + payload


def header(*numbers):
    return bytes([HEADER]) + raw(eight(*numbers))


ROOT, CHILD, SALTED, REMOVED, CLEARED, BEAT, STATE, MISFIT = range(8)
joined = b"\x01" + bytes([CONNECTED])
begun = joined + bytes([ENDED]) + b"".join(live(i, says(ROOT, i)) for i in range(4))
talks = {
    "in-step": begun + live(4, says(CHILD, 3)) + live(5, says(REMOVED, 1)) + live(6, says(BEAT, 1)),
    "a-hole-filled": begun + live(6, says(ROOT, 6)) + again(3, says(ROOT, 3)) + again(4, says(ROOT, 4)) + again(5, says(ROOT, 5)) + bytes([ENDED]) + live(7, says(CLEARED)),
    "a-hole-within-what-is-held": begun + live(6, says(ROOT, 6)) + live(9, says(ROOT, 9)) + live(10, says(ROOT, 10)) + again(3, says(ROOT, 3)) + again(4, says(ROOT, 4)) + again(5, says(ROOT, 5)) + bytes([ENDED]) + bytes([FAILED, NEXT, ENDED]),
    "a-snapshot": begun + live(9, says(ROOT, 9)) + header(8, LIFE, 0, 0, 0) + again(8, says(CLEARED)) + bytes([ENDED]) + live(9, says(ROOT, 9)) + live(7, says(BEAT, 1)),
    "a-snapshot-cut-short": begun + live(9, says(ROOT, 9)) + header(8, LIFE, 3, 1, 0, 7) + again(8, says(ROOT, 7)) + bytes([ENDED, NEXT]) + header(8, LIFE, 1, 1, 2, 6) + again(8, says(ROOT, 7)) + bytes([ENDED]) + live(9, says(ROOT, 6)),
    "another-life": begun + live(4, says(BEAT, 1)) + live(5, says(BEAT, 2)) + bytes([ENDED]) + live(0, says(ROOT, 1)) + live(1, says(BEAT, 2)),
    "an-echo": begun + live(2, says(ROOT, 2)) + live(2, says(ROOT, 9)) + live(0, says(ROOT, 0)),
    "silence": begun + live(4, says(BEAT, 1)) + bytes([WAIT, 200, WAIT, 200, NEXT, NEXT, NEXT, NEXT, NEXT, NEXT]),
    "no-replay": b"\x00" + bytes([CONNECTED]) + live(0, says(ROOT)) + live(2, says(ROOT, 2)) + live(3, says(CLEARED)) + bytes([GONE, CONNECTED]) + live(4, says(ROOT, 4)),
    "failures": joined + bytes([FAILED, NEXT, FAILED, NEXT, FAILED, NEXT, FAILED, NEXT, FAILED]) + live(5, says(ROOT, 5)) + bytes([NEXT, ENDED]),
    "refused": begun + live(4, says(CHILD, 0)) + again(0, says(ROOT)) + bytes([ENDED]) + live(5, says(MISFIT)) + live(6, says(CLEARED)),
    "a-relay": begun + live(4, says(STATE, 6)) + live(5, says(STATE, 4)) + live(6, says(STATE, 2)) + header(9, LIFE, 0, 0, 2),
    "told": begun + bytes([TOLD, 0]) + again(0, says(ROOT)) + bytes([ENDED, TOLD, 1, GONE, TOLD, 0, CONNECTED, TOLD, 1]),
    "confirmed": begun + bytes([WAIT, 50]) + again(3, says(ROOT, 3)) + bytes([ENDED, WAIT, 50, GONE, GONE]),
    "before-anything": b"\x01" + live(0, says(ROOT)) + live(1, says(CLEARED)) + again(1, says(ROOT)) + bytes([ENDED, NEXT, GONE]),
    "the-last-sequence": b"\x00" + bytes([CONNECTED]) + live(248, says(ROOT)) + live(NEXT_ONE, says(ROOT, 1)) + live(248, says(ROOT, 2)),
    "sequences-of-no-batch": joined + live(249, says(ROOT)) + live(250, says(CLEARED)) + live(250, says(ROOT)) + again(248, says(ROOT)) + bytes([ENDED]) + live(248, says(ROOT)),
    "a-replay-of-nothing-for-ever": joined + again(0, raw(b"")) + b"".join(again(64 + 5, raw(b"")) for _ in range(200)) + bytes([ENDED]),
    "version-of-a-header": joined + header(-2, LIFE, 0, 0, 0) + bytes([ENDED]) + live(NEXT_ONE, says(ROOT)) + live(NEXT_ONE, says(ROOT)),
    "garbage": begun + live(4, raw(b"\xc1")) + again(0, raw(b"\x92\x01\xdd\xff\xff\xff\xff")) + bytes([ENDED]) + live(5, raw(b"")) + bytes([HEADER]) + raw(b"short"),
    "captured": b"\x01" + bytes([CONNECTED, ENDED]) + b"".join(live(i, raw(payload)) for i, payload in enumerate(captured[:8])),
}
for name, talk in talks.items():
    write("frames", name, talk)
