#!/usr/bin/env bash
# resume: see tests/e2e/resume.py
exec python3 "$(dirname "$0")/resume.py" "$@"
