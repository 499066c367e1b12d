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
command -v redis-server >/dev/null || missing+=(redis-server)
command -v openssl >/dev/null || missing+=(openssl)
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing ${missing[*]}" >&2
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    (
        # Debian starts what it installs; the tests start Redis themselves, and nobody else should have one running.
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap '$sudo rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
            $sudo chmod +x "$policy"
        fi
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
    )
    # Nor after the next boot.
    if [[ " ${missing[*]} " == *" redis-server "* ]] && command -v systemctl >/dev/null; then
        $sudo systemctl disable --quiet redis-server || true
    fi
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
