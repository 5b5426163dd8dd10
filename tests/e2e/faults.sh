#!/usr/bin/env bash
# faults: see tests/e2e/faults.py
exec python3 "$(dirname "$0")/faults.py" "$@"
