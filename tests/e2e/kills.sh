#!/usr/bin/env bash
# kills: see tests/e2e/kills.py
exec python3 "$(dirname "$0")/kills.py" "$@"
