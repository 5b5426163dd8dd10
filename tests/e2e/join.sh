#!/usr/bin/env bash
# join: see tests/e2e/join.py
exec python3 "$(dirname "$0")/join.py" "$@"
