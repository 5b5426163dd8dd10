#!/usr/bin/env bash
# wan: see tests/e2e/far_visitor.py
exec python3 "$(dirname "$0")/far_visitor.py" "$@"
