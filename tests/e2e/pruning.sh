#!/usr/bin/env bash
# pruning: see tests/e2e/pruning.py
exec python3 "$(dirname "$0")/pruning.py" "$@"
