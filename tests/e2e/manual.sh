#!/usr/bin/env bash
# The first quarter of an hour: manual, examples, init, doctor, completion, man pages. Prints TAP.
cd "$(dirname "$0")/../.." || exit 1
exec python3 tests/e2e/manual.py
