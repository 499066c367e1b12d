"""Writes the corpus that fuzzing begins with: what clients and servers say, well and badly."""

from pathlib import Path

HERE = Path(__file__).parent / "corpus"


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


COMMANDS = {
    "set-get": command(b"SET", b"k", b"value") + command(b"GET", b"k") + command(b"get", b"none"),
    "options": command(b"SET", b"k", b"v", b"EX", b"10", b"NX") + command(b"SET", b"k", b"", b"XX", b"KEEPTTL"),
    "mset": command(b"MSET", b"a", b"1", b"b", b"22", b"c", b"") + command(b"MGET", b"a", b"b", b"c", b"d"),
    "timed": command(b"SETEX", b"k", b"10", b"v") + command(b"PSETEX", b"k", b"0", b"v") + command(b"SETNX", b"k", b"v"),
    "many": command(b"EXISTS", *[b"key%d" % i for i in range(20)]) + command(b"DEL", b"a", b"b"),
    "range": command(b"SET", b"k", b"x" * 150) + command(b"GETRANGE", b"k", b"-20", b"-1") + command(b"STRLEN", b"k"),
    "too-large": command(b"SET", b"k", b"x" * 300) + command(b"GET", b"y" * 100) + command(b"PING"),
    "scan": command(b"SET", b"a1", b"") + command(b"SCAN", b"0", b"MATCH", b"a[0-9]*", b"COUNT", b"3", b"TYPE", b"string"),
    "tools": command(b"HELLO", b"3", b"SETNAME", b"me") + command(b"INFO", b"all") + command(b"CLIENT", b"LIST"),
    "docs": command(b"COMMAND", b"DOCS", b"get") + command(b"COMMAND", b"COUNT") + command(b"COMMAND") + command(b"CONFIG", b"GET", b"*"),
    "connection": command(b"CLIENT", b"SETINFO", b"LIB-NAME", b"x") + command(b"SELECT", b"0") + command(b"RESET") + command(b"QUIT"),
    "unknown": command(b"FOO", b"a", b"b") + command(b"MULTI") + command(b"GET") + command(b"SET", b"a") + command(b"CLIENT", b"FOO"),
    "ends": command(b"SET", b"k", b"v", b"PX", b"1") + command(b"TTL", b"k") + command(b"FLUSHALL") + command(b"DBSIZE"),
    "typed": b"SET k \"a\\x41 b\"\r\nGET k\nset q 'it\\'s' EX 5\r\n\r\nMSET a 1 b 2\r\nPING\r\n",
    "unbalanced": b"SET k \"abc\r\n",
    "negative": b"*-1\r\n*0\r\n" + command(b"PING"),
    "no-dollar": b"*2\r\n$3\r\nGET\r\n:3\r\n",
    "huge-bulk": b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nxx",
    "too-huge-bulk": b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\nxx",
    "huge-list": b"*1048577\r\n",
    "no-end": b"*2\r\n$3\r\nGETxx$1\r\nk\r\n",
    "half": b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nhalf of it",
}

REPLIES = {
    "ok": b"+OK\r\n$5\r\nvalue\r\n:12\r\n$-1\r\n*-1\r\n$0\r\n\r\n",
    "refused": b"-FULL no space\r\n-ERR\r\n-WRONGNODE 10.0.0.1:1\r\n-MOVED 1\r\n",
    "list": b"*3\r\n$1\r\na\r\n*2\r\n:1\r\n:-2\r\n-BUSY x\r\n*0\r\n",
    "three": b"%1\r\n+a\r\n_\r\n~2\r\n#t\r\n#f\r\n,1.5\r\n(123\r\n=7\r\ntxt:abc\r\n!7\r\nERR abc\r\n>1\r\n:1\r\n",
    "deep": b"*1\r\n" * 9,
    "huge": b"$4097\r\n",
    "long-list": b"*4096\r\n" * 8,
    "half": b"*2\r\n$3\r\nabc\r\n$100\r\nhalf",
    "no-number": b"$x\r\n",
    "bare": b"+OK\n",
}


def write(target: str, name: str, content: bytes) -> None:
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


for name, content in COMMANDS.items():
    for target in ("commands", "talk"):
        write(target, name, b"\x05" + content)
for name, content in REPLIES.items():
    write("replies", name, b"\x03" + content)
