"""Real sockets, real processes, and everything that goes wrong between them; what is called exact is held against the truth.

An engine (libzmq) talks through a lossy proxy, sometimes through a relay before it, to an indexer. Messages are lost and
doubled; replays have holes, garbage, no end or no answer; everybody is killed, stopped and restarted. Whenever the indexer
calls the view exact, it must be one that the engine's cache once was; once the network is well and the engine has cleared its
cache, it must be what the cache is now. `WARMLINE_CHAOS=50` asks for so many histories; a failure names its seed.
"""

import json
import os
import random
import signal
import struct
import threading
import time

import httpx
import msgpack
import pytest
import zmq

from conftest import Place, Process, free_port, until
from test_indexer import BLOCK, Indexer, StockEngine

SEEDS = range(int(os.environ.get("WARMLINE_CHAOS", 3)))
OWN = "application/x-warmline-views"


class Cache:
    """What an engine holds, and everything that it ever held: names only, a life has names of its own."""

    def __init__(self):
        self.lives, self.states, self.parents = 0, {frozenset()}, {None: None}
        self.begin()

    def begin(self):
        self.lives, self.held, self.next = self.lives + 1, set(), 0

    def usable(self, held):
        """Of what is held, what a prompt can use: a snapshot tells no more than that."""
        found = set()
        for name in sorted(held):
            if self.parents[name] is None or self.parents[name] in found:
                found.add(name)
        return frozenset(found)

    def event(self, chance):
        if self.held and chance.random() < 0.1:
            # The end of copies in host memory that nobody was told of, as offloading connectors say it.
            return {"type": "BlockRemoved", "block_hashes": chance.sample(sorted(self.held), 1), "medium": "CPU"}
        if self.held and chance.random() < 0.3:
            # Engines evict from the end of a prompt, mostly.
            parents = {self.parents[name] for name in self.held}
            leaves = self.held - parents if chance.random() < 0.9 else self.held
            gone = chance.sample(sorted(leaves), min(len(leaves), chance.randint(1, 3)))
            self.held -= set(gone)
            said = {"type": "BlockRemoved", "block_hashes": gone, "medium": "GPU"}
        else:
            parent = chance.choice(sorted(self.held)) if self.held and chance.random() < 0.8 else None
            names = [self.lives * 1_000_000 + self.next + at for at in range(chance.randint(1, 4))]
            self.next += len(names)
            self.held |= set(names)
            self.parents.update(zip(names, [parent, *names]))
            tokens = [name % 100_000 for name in names for _ in range(BLOCK)]
            said = {"type": "BlockStored", "block_hashes": names, "parent_block_hash": parent, "token_ids": tokens, "block_size": BLOCK, "medium": "GPU"}
        self.states.add(self.usable(self.held))
        return said

    def clear(self):
        self.held = set()
        return {"type": "AllBlocksCleared"}


class Proxy:
    """Between a publisher and its listener: the live stream and the replays, each with its own mishaps."""

    def __init__(self, live, replay, chance):
        self.chance, self.well, self.ended = chance, False, threading.Event()
        self.endpoint, self.replay = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        self.context = zmq.Context()
        self.heard, self.said = self.context.socket(zmq.SUB), self.context.socket(zmq.PUB)
        self.heard.setsockopt(zmq.SUBSCRIBE, b"")
        self.heard.setsockopt(zmq.RECONNECT_IVL, 20)
        self.heard.connect(live)
        self.said.bind(self.endpoint)
        self.front = self.context.socket(zmq.ROUTER)
        self.front.bind(self.replay)
        self.behind, self.backs = replay, {}
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def happens(self, percent):
        return not self.well and self.chance.random() * 100 < percent

    def run(self):
        poller = zmq.Poller()
        poller.register(self.heard, zmq.POLLIN)
        poller.register(self.front, zmq.POLLIN)
        while not self.ended.is_set():
            for socket, _ in poller.poll(20):
                if socket is self.heard:
                    frames = socket.recv_multipart()
                    for _ in range(0 if self.happens(2) else 2 if self.happens(2) else 1):
                        self.said.send_multipart(frames)
                elif socket is self.front:
                    who, *question = socket.recv_multipart()
                    if self.happens(4):
                        continue  # never answered
                    back = self.context.socket(zmq.DEALER)
                    back.setsockopt(zmq.LINGER, 0)
                    back.connect(self.behind)
                    back.send_multipart(question)
                    self.backs[back] = who
                    poller.register(back, zmq.POLLIN)
                else:
                    frames = socket.recv_multipart()
                    last = frames[-2] == b"\xff" * 8
                    if last:
                        poller.unregister(socket)
                    who = self.backs[socket]
                    if self.happens(5 if last else 0.7):
                        frames = None
                    elif not last and self.happens(0.3):
                        frames[-1] = b"\xc1garbage"
                    if frames:
                        self.front.send_multipart([who, *frames])
                    if last:
                        del self.backs[socket]
                        socket.close(0)

    def end(self):
        self.ended.set()
        self.thread.join()
        for socket in (self.heard, self.said, self.front, *self.backs):
            socket.close(0)
        self.context.term()


def view(url):
    """The one view of an indexer in its own form: the blocks that it holds, whatever hangs below what, and whether all of it
    is right up to where it stands."""
    body = httpx.get(f"{url}/dump", headers={"accept": OWN}, timeout=30).content
    head, rest = body.split(b"\n", 1)
    head = json.loads(head)
    held, rest = {}, memoryview(rest)[: head["bytes"]]
    while rest:
        (length,) = struct.unpack_from("<I", rest)
        for said in msgpack.unpackb(rest[4 : 4 + length])[1]:
            if said["type"] == "BlockStored":
                for name in said["block_hashes"]:
                    held[name] = held.get(name, 0) + 1
            else:
                for name in said["block_hashes"]:
                    held[name] -= 1
        rest = rest[4 + length :]
    right = head["mark"] is not None and head["mark"]["source"] == "exact"
    return frozenset(name for name, copies in held.items() if copies), right


class World:
    def __init__(self, folder, seed):
        self.chance, self.folder, self.cache = random.Random(seed), folder, Cache()
        self.ring, self.story = self.chance.choice([40, 10_000]), []
        self.engine = StockEngine(ring=self.ring, framing=self.chance.choice(["topic", "plain"]))
        live, replay = self.engine.endpoint, self.engine.replay
        self.relay, self.place = None, Place()
        if self.chance.random() < 0.5:
            self.start_relay()
            live, replay = self.place.events, self.place.replay
        self.proxy = Proxy(live, replay, random.Random(seed + 1))
        self.indexer = Indexer(folder, "--data", folder / f"data-{seed}")
        body = {"instance_id": 1, "endpoint": self.proxy.endpoint, "replay_endpoint": self.proxy.replay, "model_name": "m", "block_size": BLOCK}
        assert self.indexer.post("/register", **body).status_code == 201
        self.stopped, self.compared = [], 0

    def start_relay(self):
        flags = ["--listen", f"127.0.0.1:{self.place.port}", "--block-size", BLOCK, "--buffer-steps", self.chance.choice([4, 10_000]), "--heartbeat-ms", 200]
        self.relay = Process("relay", "--engine", f"{self.engine.endpoint},{self.engine.replay}", *flags, log=self.folder / "relay.log")

    def tell(self, what):
        self.story.append(f"{self.engine.sequence}: {what}")

    def turn(self):
        what = self.chance.random()
        if what < 0.86:
            self.engine.say(*(self.cache.event(self.chance) for _ in range(self.chance.randint(1, 3))))
        elif what < 0.87:
            self.engine.say(self.cache.clear())
        elif what < 0.90:
            time.sleep(self.chance.random() * 0.1)
        elif what < 0.98:
            # At once, and after long enough for most of what was lost to be asked for again.
            for pause in (0, 0.01, 0.1, 0.01):
                time.sleep(pause)
                self.compare()
        elif what < 0.99:
            self.misfortune()

    def misfortune(self):
        victim = self.chance.choice(["indexer", "indexer", "relay", "engine", "stop indexer", "stop relay"])
        if "relay" in victim and not self.relay:
            return
        self.tell(victim)
        if victim == "indexer":
            self.indexer.run.kill(self.chance.choice([signal.SIGKILL, signal.SIGTERM]))
            self.indexer.start()
        elif victim == "relay":
            self.relay.kill()
            self.start_relay()
        elif victim == "engine":
            old = self.engine
            old.end()
            self.cache.begin()
            self.engine = StockEngine(ring=self.ring, framing=old.framing, port=old.port, replay=old.replay_port)
        else:
            process = self.indexer.run.process if "indexer" in victim else self.relay.process
            process.send_signal(signal.SIGSTOP)
            for _ in range(self.chance.randint(1, 300)):
                self.engine.say(self.cache.event(self.chance))
            process.send_signal(signal.SIGCONT)

    def compare(self):
        """What others may go on from, and what is called exact twice at the same place, the engine once held."""
        before = self.indexer.listener()
        held, right = view(self.indexer.url)
        after = self.indexer.listener()
        exact = before["view"] == after["view"] == "exact" and before["position"] == after["position"]
        self.compared += exact
        if exact or right:
            held = self.cache.usable(held)
            assert held in self.cache.states, f"exact {exact}, right {right} at {after['position']}, but the engine never held just {sorted(held)[:20]}"

    def heal(self):
        self.proxy.well = True
        self.tell("well")

        def whole():
            # Of a stock ring that is too small nothing can make a view exact but this.
            self.engine.say(self.cache.clear())
            self.engine.say(self.cache.event(self.chance))
            time.sleep(0.2)
            listener = self.indexer.listener()
            return listener["view"] == "exact" and self.cache.usable(view(self.indexer.url)[0]) == self.cache.usable(self.cache.held)

        until(whole, f"the view to be what the engine holds; it is {self.indexer.listener()}", 90)
        # A relay's sign of life may come between two looks.
        compared = self.compared
        until(lambda: self.compare() or self.compared > compared, "two looks at the same place")

    def end(self):
        self.indexer.run.kill()
        if self.relay:
            self.relay.kill()
        self.proxy.end()
        self.engine.end()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_called_exact_is_what_the_engine_held(tmp_path, seed):
    world = World(tmp_path, seed)
    try:
        for _ in range(400):
            world.turn()
        world.heal()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}\n" + "\n".join(world.story[-20:])) from error
    finally:
        world.end()
