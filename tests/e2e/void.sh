#!/usr/bin/env bash
# void: see tests/e2e/void.py
exec python3 "$(dirname "$0")/void.py" "$@"
