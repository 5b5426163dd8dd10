#!/usr/bin/env bash
# slurm: see tests/e2e/slurm.py
exec python3 "$(dirname "$0")/slurm.py" "$@"
