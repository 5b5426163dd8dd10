#!/usr/bin/env bash
# The registry, and a live server that follows it. Prints TAP.
cd "$(dirname "$0")/../.." || exit 1
bash tests/oracle/serving_venv.sh >&2
python=build/venv-serving/bin/python
[ -x "$python" ] || python=python3
exec "$python" tests/e2e/registry.py
