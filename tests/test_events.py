"""The operator's first tools: look at a stream, record it, play it back, and follow what is played."""

import signal
import subprocess

import httpx

from conftest import BINARY, command, free_port, parse, until

LONG = "A prompt that is long enough to fill a good number of blocks, said again and again. " * 8


def ask(engine, text):
    body = {"model": "sim", "messages": [{"role": "user", "content": text}], "max_tokens": 4}
    assert httpx.post(f"{engine.url}/v1/chat/completions", json=body).status_code == 200


def listening(path):
    return lambda: "listening to" in path.read_text()


def test_a_stream_is_seen_recorded_and_played_back(start, tmp_path):
    engine = start.engine("tapped")
    where = f"tcp://127.0.0.1:{engine.events}"
    log, kept = tmp_path / "log", tmp_path / "kept.jsonl"
    with open(log, "w") as errors:
        tap = subprocess.Popen([BINARY, "events", "tap", where, "--count", "2", "--json"], stdout=subprocess.PIPE, stderr=errors, text=True)
        record = subprocess.Popen([BINARY, "events", "record", where, "--to", kept], stderr=subprocess.PIPE, text=True)
    until(listening(log), "the tap to listen")
    # A subscription is on its way for a moment: say things until they are heard.
    number = 0
    while tap.poll() is None or not kept.read_text().strip():
        number += 1
        ask(engine, f"{number} {LONG}")
    events = [parse(line) for line in tap.stdout]
    assert events and all(event["type"] == "BlockStored" and event["token_ids"] for event in events)
    assert "2 messages" in log.read_text()
    record.send_signal(signal.SIGTERM)
    assert " 0 gaps" in record.communicate(timeout=10)[1]
    lines = kept.read_text().splitlines()
    assert len(lines) >= 1 and set(parse(lines[0])) == {"at_us", "topic", "sequence", "payload"}

    # Played back as a stock engine, replay included: whoever follows it holds what was recorded.
    live, replay = free_port(), free_port()
    player = subprocess.Popen(
        [BINARY, "events", "replay", "--from", kept, "--listen", f"tcp://127.0.0.1:{live}", "--replay", f"tcp://127.0.0.1:{replay}", "--speed", "0", "--stay"],
        stderr=subprocess.DEVNULL,
    )
    try:
        relay = subprocess.Popen(
            [BINARY, "relay", "--engine", f"tcp://127.0.0.1:{live},tcp://127.0.0.1:{replay}", "--listen", "127.0.0.1:0", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        try:
            place = parse(relay.stdout.readline())
            assert place["events"].startswith("tcp://127.0.0.1:")
            assert "exact" in relay.stderr.readline()
        finally:
            relay.kill()
            relay.wait()
    finally:
        player.kill()
        player.wait()


def test_what_cannot_be_listened_to_or_played_says_why(tmp_path):
    ran = command("events", "tap", "10.0.0.1:5557")
    assert ran.returncode == 2 and "tcp://" in ran.stderr
    broken = tmp_path / "broken.jsonl"
    for text, word in [("{}", "line 1"), ('{"at_us":0,"topic":"","sequence":0,"payload":"zz"}', "not hex"), ("nonsense", "line 1")]:
        broken.write_text(text + "\n")
        ran = command("events", "replay", "--from", broken, "--listen", "tcp://127.0.0.1:0", "--replay", "tcp://127.0.0.1:0")
        assert ran.returncode == 2 and word in ran.stderr, ran.stderr
    ran = command("events", "replay", "--from", tmp_path / "nowhere")
    assert ran.returncode == 2 and "nowhere" in ran.stderr
