"""An engine's two sockets, or a subscriber's, on libzmq itself: one JSON command a line in, one JSON answer a line out."""

import json
import sys

import msgpack
import zmq

END = (1 << 64) - 1


def eight(number):
    return number.to_bytes(8, "big")


def answer(**words):
    print(json.dumps(words), flush=True)


def engine(live, replay, connect, framing, ring_size):
    context = zmq.Context()
    pub, router = context.socket(zmq.PUB), context.socket(zmq.ROUTER)
    for socket in (pub, router):
        socket.linger = 0
    (pub.connect if connect else pub.bind)(live)
    router.bind(replay)
    answer(live=live if connect else pub.last_endpoint.decode().rstrip("\0"), replay=router.last_endpoint.decode().rstrip("\0"))
    ring, sequence = [], 0
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if router in ready:
            who, delimiter, start = router.recv_multipart()
            topic = [b"kv@topic"] if framing == "topic" else []
            for number, payload in ring:
                if number >= int.from_bytes(start, "big"):
                    router.send_multipart([who, b"", *topic, eight(number), payload])
            router.send_multipart([who, b"", *([b""] if topic else []), eight(END), b""])
        if sys.stdin.fileno() in ready:
            line = sys.stdin.buffer.raw.readline()
            if not line:
                return
            said = json.loads(line)
            payload = bytes.fromhex(said["raw"]) if "raw" in said else msgpack.packb([0.5, said["events"], 0])
            ring = (ring + [(sequence, payload)])[-ring_size:]
            if not said.get("drop"):
                pub.send_multipart([b"kv@topic", eight(sequence), payload])
            answer(sequence=sequence)
            sequence += 1


def subscriber(live, replay):
    context = zmq.Context()
    sub = context.socket(zmq.SUB)
    sub.linger = 0
    sub.setsockopt(zmq.SUBSCRIBE, b"kv@")
    sub.connect(live)
    answer(ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "hear" in command:
            heard = []
            while len(heard) < command["hear"] and sub.poll(10_000):
                topic, sequence, payload = sub.recv_multipart()
                heard.append([topic.decode(), int.from_bytes(sequence, "big"), payload.hex()])
            answer(heard=heard)
        else:
            dealer = context.socket(zmq.DEALER)
            dealer.linger = 0
            dealer.connect(replay)
            dealer.send_multipart([*([b""] if command["delimiter"] else []), eight(command["ask"])])
            frames, end = [], False
            while not end and dealer.poll(command["patience"]):
                parts = dealer.recv_multipart()
                assert parts[0] == b"" and len(parts) == 4, parts
                number = int.from_bytes(parts[2], "big")
                end = number == END
                if not end:
                    frames.append([parts[1].decode(), number, parts[3].hex()])
            dealer.close()
            answer(frames=frames, ended=end)


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    {"engine": engine, "subscriber": subscriber}[settings.pop("role")](**settings)
