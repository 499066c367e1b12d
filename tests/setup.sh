#!/usr/bin/env bash
# Installs what the tests need and the machine lacks; quick when everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v curl >/dev/null || missing+=(curl)
command -v git >/dev/null || missing+=(git)
{ command -v cc && command -v c++; } >/dev/null || missing+=(build-essential)
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
command -v npm >/dev/null || missing+=(npm)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing ${missing[*]}" >&2
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

scripts/fetch-tokenizers.sh

stamp=target/venv/requirements.sha256
if ! sha256sum --check --status "$stamp" 2>/dev/null; then
    echo "installing the Python clients into target/venv" >&2
    mkdir -p target
    python3 -m venv target/venv
    target/venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
    sha256sum tests/requirements.txt > "$stamp"
fi
