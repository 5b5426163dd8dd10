#!/usr/bin/env bash
# tests/e2e/bits.py at its full length.
exec python3 "$(dirname "$0")/../e2e/bits.py" --full
