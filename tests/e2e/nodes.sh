#!/usr/bin/env bash
# One site on two hosts, and two Slurm clusters as two sites of one job: see tests/e2e/nodes.py
exec python3 "$(dirname "$0")/nodes.py" "$@"
