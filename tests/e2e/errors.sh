#!/usr/bin/env bash
# errors: see tests/e2e/errors.py
exec python3 "$(dirname "$0")/errors.py" "$@"
