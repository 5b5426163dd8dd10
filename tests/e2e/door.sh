#!/usr/bin/env bash
# door: see tests/e2e/door.py
exec python3 "$(dirname "$0")/door.py" "$@"
