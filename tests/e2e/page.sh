#!/usr/bin/env bash
# The run page in a real browser. Prints TAP.
exec python3 "$(dirname "$0")/page.py"
