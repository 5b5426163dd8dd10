#!/usr/bin/env bash
# tests/e2e/kills.py at its full length.
exec python3 "$(dirname "$0")/../e2e/kills.py" --all
