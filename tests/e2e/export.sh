#!/usr/bin/env bash
# After training: quantized, gated, served. Prints TAP.
cd "$(dirname "$0")/../.." || exit 1
exec python3 tests/e2e/export.py
