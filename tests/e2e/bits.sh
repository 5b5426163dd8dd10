#!/usr/bin/env bash
# bits: see tests/e2e/bits.py
exec python3 "$(dirname "$0")/bits.py" "$@"
