#!/usr/bin/env bash
# sanitized: see tests/e2e/sanitized.py
exec python3 "$(dirname "$0")/sanitized.py" "$@"
