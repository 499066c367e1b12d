"""The same small engine, in Python and with nothing but ctypes. Its argument is the shared library."""

import ctypes as c
import sys


class Settings(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        ("endpoint", c.c_char_p),
        ("replay_endpoint", c.c_char_p),
        ("topic", c.c_char_p),
        ("block_size", c.c_uint32),
        ("buffer_steps", c.c_uint32),
        ("heartbeat_ms", c.c_uint32),
        ("rank", c.c_int32),
        ("compact", c.c_uint32),
        ("reserved", c.c_uint32),
    ]


class Run(c.Structure):
    _fields_ = [
        ("struct_size", c.c_size_t),
        ("blocks", c.POINTER(c.c_uint64)),
        ("block_count", c.c_size_t),
        ("parent", c.POINTER(c.c_uint64)),
        ("lora", c.c_char_p),
        ("cache_salt", c.c_char_p),
        ("tier", c.c_int32),
        ("reserved", c.c_uint32),
    ]


library = c.CDLL(sys.argv[1])
library.warmline_publisher_start.restype = c.c_void_p
for name in ("warmline_engine_error", "warmline_publisher_endpoint", "warmline_publisher_replay_endpoint"):
    getattr(library, name).restype = c.c_char_p


def said(code):
    if code != 0:
        raise ValueError(library.warmline_engine_error(code).decode())


anywhere = b"tcp://127.0.0.1:0"
settings = Settings(c.sizeof(Settings), anywhere, anywhere, None, 2, 10_000, 1_000, -1, 1, 0)
error = c.create_string_buffer(256)
publisher = c.c_void_p(library.warmline_publisher_start(c.byref(settings), error, c.c_size_t(len(error))))
if not publisher:
    raise OSError(error.value.decode())

blocks = (c.c_uint64 * 3)(11, 12, 13)
token_ids = (c.c_uint32 * 6)(101, 102, 103, 104, 105, 106)
run = Run(c.sizeof(Run), blocks, len(blocks), None, None, None, 0, 0)
said(library.warmline_publisher_stored_tokens(publisher, c.byref(run), token_ids, c.c_size_t(len(token_ids))))
last = (c.c_uint64 * 1)(blocks[2])
said(library.warmline_publisher_removed(publisher, last, c.c_size_t(1), c.c_int32(0)))

print("endpoint", library.warmline_publisher_endpoint(publisher).decode())
print("replay", library.warmline_publisher_replay_endpoint(publisher).decode(), flush=True)
sys.stdin.read()
library.warmline_publisher_stop(publisher)
