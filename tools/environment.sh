#!/usr/bin/env bash
# Makes .venv beside the Makefile, or completes it. Called by `make env`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A name on the PATH need not run (version managers leave shims): ask each for its version.
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if ! { [ -x .venv/bin/python ] && recent .venv/bin/python; }; then
    for python in python3.11 python3.12 python3.13 python3; do
        recent "$python" && break
        python=
    done
    if [ -z "$python" ]; then
        echo "make: no Python 3.11 or newer found (looked for python3.11, python3.12, python3.13, python3)." >&2
        echo "make: install one from https://www.python.org/downloads/ or your system's packages, then run make again." >&2
        exit 1
    fi
    echo "Making .venv with $("$python" --version)."
    if ! "$python" -m venv --clear .venv; then
        echo "make: $python could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
fi

echo "Installing requirements.txt (torch is large: the first time takes some minutes)."
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
