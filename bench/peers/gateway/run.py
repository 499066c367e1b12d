#!/usr/bin/env python3
"""Measures Warmline, a bare proxy and the public routers in front of the same two null engines, in one run.

    bench/peers/gateway/run.py                    everything: about ten minutes
    bench/peers/gateway/run.py --only warmline    rows whose name contains the word, beside the bare proxy
    bench/peers/gateway/run.py --json FILE        the figures, too

Installs each router into a virtual environment of its own under target/peers (sglang-router brings a script called
`smg`, too: in one environment it replaces smg's, and is measured in its name), builds the load generator and `warmline`,
starts everything on free loopback ports, and ends every process by its id. Every figure is the median of the rounds,
whose order alternates. The bare proxy is measured a second time under another name: what lies between the two is
noise, and so is any difference between others that is not larger. Progress goes to stderr.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
VENVS = ROOT / "target" / "peers"
# Each with the library that its process must have loaded.
PEERS = {
    "vllm-router": ("0.1.17", "vllm_router_rs"),
    "sglang-router": ("0.3.2", "sglang_router_rs"),
    "smg": ("1.13.0", "smg_rs"),
}
LOAD = HERE / "target" / "release" / "warmline-bench-peers-gateway"
WARMLINE = ROOT / "target" / "release" / "warmline"

LOADS = {
    "400 B": ["--bytes", "400"],
    "8 KiB": ["--bytes", "8192"],
    "400 B streamed": ["--bytes", "400", "--stream"],
    "8 KiB streamed": ["--bytes", "8192", "--stream"],
}
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def say(text):
    print(text, file=sys.stderr, flush=True)


# === Processes ===

def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Process:
    """A child in a session of its own whose CPU time and memory are read from the kernel, its children's included."""

    def __init__(self, command, log):
        self.log = open(log, "wb")
        self.child = subprocess.Popen(list(map(str, command)), stdout=self.log, stderr=self.log, cwd=log.parent)

    def pids(self):
        found, new = [], [self.child.pid]
        while new:
            pid = new.pop()
            found.append(pid)
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                new += map(int, (task / "children").read_text().split())
        return found

    def has_loaded(self, library):
        return any(library in pathlib.Path(f"/proc/{pid}/maps").read_text() for pid in self.pids())

    def cpu(self):
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def rss(self):
        return sum(int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids()) * PAGE

    def end(self):
        pids = self.pids() if self.child.poll() is None else []
        for how in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids:
                try:
                    os.kill(pid, how)
                except ProcessLookupError:
                    pass
            try:
                self.child.wait(timeout=5)
                break
            except subprocess.TimeoutExpired:
                continue
        self.log.close()


def ask(port):
    """One request as a client sends it; the answer's headers if it was good."""
    body = json.dumps({"model": "sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        json.load(answer)
        return answer.headers


def ready(process, port, log):
    deadline, last = time.monotonic() + 60, None
    while time.monotonic() < deadline:
        if process.child.poll() is not None:
            raise SystemExit(f"it ended with {process.child.returncode}; see {log}:\n{log.read_text()[-2000:]}")
        try:
            return ask(port)
        except (OSError, ValueError) as error:  # an HTTP error is an OSError, too
            last = error
        time.sleep(0.1)
    raise SystemExit(f"nothing good came from port {port} within a minute: {last}; see {log}")


# === Who stands in the middle ===

def bare(engines, folder):
    port = free_port()
    return port, [WARMLINE, "bench", "gateway", "--play", "bare", "--listen", f"127.0.0.1:{port}", "--engine", f"127.0.0.1:{engines[0]}"]


def warmline(policy, tokenizer=None):
    def start(engines, folder):
        port, admin = free_port(), free_port()
        text = f'[gateway]\nlisten = "127.0.0.1:{port}"\n[admin]\nlisten = "127.0.0.1:{admin}"\n[routing]\npolicy = "{policy}"\n'
        text += '[health]\nready_grace = "0s"\n[log]\nfilter = "error"\n'
        if tokenizer == "bytes":
            subprocess.run([WARMLINE, "sim", "model", folder / "model"], check=True, capture_output=True)
            text += f'[[models]]\nname = "sim"\ntokenizer = "{folder}/model/tokenizer.json"\nchat_template = "{folder}/model/chat_template.jinja"\n'
        elif tokenizer:
            files = ROOT / "target" / "fixtures" / tokenizer
            text += f'[[models]]\nname = "sim"\ntokenizer = "{files}/tokenizer.json"\nchat_template = "{files}/tokenizer_config.json"\n'
        for name, engine in zip("ab", engines):
            text += f'[[engines]]\nname = "{name}"\nurl = "http://127.0.0.1:{engine}"\n'
        config = folder / f"warmline-{port}.toml"
        config.write_text(text)
        return port, [WARMLINE, "serve", "--config", config]

    return start


def peer(words, policy):
    def start(engines, folder):
        port = free_port()
        level = "warning" if words[0] == "vllm-router" else "warn"
        return port, [
            VENVS / words[0] / "bin" / words[0], *words[1:], "--host", "127.0.0.1", "--port", port, "--policy", policy,
            "--prometheus-host", "127.0.0.1", "--prometheus-port", free_port(), "--log-level", level,
            "--worker-urls", *[f"http://127.0.0.1:{engine}" for engine in engines],
        ]

    return start


MIDDLES = {
    "bare proxy": bare,
    "warmline round-robin": warmline("round-robin"),
    "warmline warm, a token a byte": warmline("warm", "bytes"),
    "warmline warm, Qwen3": warmline("warm", "qwen3"),
    "vllm-router round_robin": peer(["vllm-router"], "round_robin"),
    "vllm-router cache_aware": peer(["vllm-router"], "cache_aware"),
    "sglang-router round_robin": peer(["sglang-router", "launch"], "round_robin"),
    "sglang-router cache_aware": peer(["sglang-router", "launch"], "cache_aware"),
    "smg round_robin": peer(["smg", "launch"], "round_robin"),
    "smg cache_aware": peer(["smg", "launch"], "cache_aware"),
    "bare proxy, again": bare,
}


# === The measurement ===

def load(port, *more):
    ran = subprocess.run([LOAD, "--to", f"127.0.0.1:{port}", *map(str, more)], check=True, capture_output=True, text=True)
    return json.loads(ran.stdout)


def cost(process, port, *more):
    before = process.cpu()
    result = load(port, *more)
    result["cpu_us"] = (process.cpu() - before) * 1e6 / max(1, result["requests"])
    result["requests_s"] = result["requests"] / result["seconds"]
    return result


def round_of(who, start, engines, folder, args, memory):
    port, command = start(engines, folder)
    log = folder / f"{port}.log"
    process = Process(command, log)
    try:
        headers = ready(process, port, log)
        library = PEERS.get(who.split()[0], (None, None))[1]
        if library and not process.has_loaded(library):
            raise SystemExit(f"{who} has not loaded {library}: this is another program under its name")
        found = {"route": headers.get("x-warmline-route")}
        load(port, "--seconds", 1)
        for name, flags in LOADS.items():
            load(port, *flags, "--seconds", args.seconds / 4)
            found[name] = cost(process, port, *flags, "--seconds", args.seconds, "--connections", args.connections)
        found["200/s"] = cost(process, port, "--rate", 200, "--seconds", args.seconds * 1.5, "--connections", args.connections)
        if memory:
            before = process.rss()
            unique = cost(process, port, "--unique", "--bytes", 8192, "--requests", args.unique, "--seconds", 3600)
            found["unique"] = {**unique, "rss_mib": before / 2**20, "grew_mib": (process.rss() - before) / 2**20}
        return found
    finally:
        process.end()


def direct(engines, args):
    """The engine without anybody in the middle: what "added" latency is added to."""
    return load(engines[0], "--rate", 200, "--seconds", args.seconds * 1.5, "--connections", args.connections)


def middle_of(rounds):
    """The median of every number over the rounds; counts of failures are summed."""
    out = {}
    for key in rounds[0]:
        values = [one[key] for one in rounds if key in one]
        if isinstance(values[-1], dict):
            out[key] = middle_of(values)
        elif key == "failed":
            out[key] = sum(values)
        elif isinstance(values[-1], (int, float)):
            out[key] = statistics.median(values)
            if key == "cpu_us":
                out["cpu_us_rounds"] = values
        else:
            out[key] = next((value for value in values if value), None)
    return out


def table(results, floor):
    lines = []
    for name in LOADS:
        lines += [f"### {name}", "| | requests/s | CPU us a request | lowest-highest round | ratio | p50 ms | p99 ms | failed |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
        # Beside Warmline round-robin: how many times its CPU the others take.
        ours = results.get("warmline round-robin", {}).get(name, {}).get("cpu_us")
        for who, found in results.items():
            one = found[name]
            ratio = f"{one['cpu_us'] / ours:.2f}" if ours else "-"
            lines.append(f"| {who} | {one['requests_s']:,.0f} | {one['cpu_us']:.0f} | {min(one['cpu_us_rounds']):.0f}-{max(one['cpu_us_rounds']):.0f} | {ratio} | {one['p50_ms']:.2f} | {one['p99_ms']:.2f} | {one['failed']} |")
        lines.append("")
    lines += [f"### 400 B at 200/s: latency added to the engine's own p50 {floor['p50_ms']:.3f} / p99 {floor['p99_ms']:.3f} ms, and memory",
              "| | added p50 ms | added p99 ms | RSS MiB | grew by under unique 8-KiB prompts | failed |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for who, found in results.items():
        slow, unique = found["200/s"], found["unique"]
        lines.append(f"| {who} | {slow['p50_ms'] - floor['p50_ms']:.3f} | {slow['p99_ms'] - floor['p99_ms']:.3f} | {unique['rss_mib']:.0f} | {unique['grew_mib']:.1f} | {unique['failed'] + slow['failed']} |")
    return "\n".join(lines)


def prepare():
    for name, (version, _) in PEERS.items():
        if not (VENVS / name / "bin" / "pip").exists():
            subprocess.run([sys.executable, "-m", "venv", VENVS / name], check=True)
        pip = [VENVS / name / "bin" / "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, f"{name}=={version}"], check=True)
    subprocess.run(["cargo", "build", "--release", "--quiet", "--locked"], cwd=HERE, check=True)
    subprocess.run(["cargo", "build", "--release", "--quiet", "--locked", "--bin", "warmline"], cwd=ROOT, check=True)
    subprocess.run([ROOT / "scripts" / "fetch-tokenizers.sh"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each row in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--unique", type=int, default=10_000, help="prompts that the memory is measured under")
    parser.add_argument("--only", default="", help="rows whose name contains this; the bare proxy is always there")
    parser.add_argument("--json", type=pathlib.Path, help="write the figures here")
    args = parser.parse_args()
    prepare()
    middles = {who: start for who, start in MIDDLES.items() if args.only in who or who.startswith("bare proxy")}
    folder = pathlib.Path(tempfile.mkdtemp(prefix="warmline-peers-"))
    engines, running = [free_port(), free_port()], []
    try:
        for engine in engines:
            log = folder / f"engine-{engine}.log"
            running.append(Process([WARMLINE, "bench", "gateway", "--play", "null", "--listen", f"127.0.0.1:{engine}"], log))
            ready(running[-1], engine, log)
        rounds, floors = {who: [] for who in middles}, []
        for number in range(args.rounds):
            floors.append(direct(engines, args))
            order = list(middles.items())[:: 1 if number % 2 == 0 else -1]
            for who, start in order:
                say(f"round {number + 1}/{args.rounds}: {who} (load average {os.getloadavg()[0]:.1f})")
                rounds[who].append(round_of(who, start, engines, folder, args, memory=number == 0))
        results, floor = {who: middle_of(found) for who, found in rounds.items()}, middle_of(floors)
        print(table(results, floor))
        if args.json:
            args.json.write_text(json.dumps({"engine": floor, "middles": results}, indent=1) + "\n")
    finally:
        for process in running:
            process.end()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
