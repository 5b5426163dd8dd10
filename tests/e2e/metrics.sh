#!/usr/bin/env bash
# What machines read of a run: metrics by a real Prometheus, alert rules, the dashboard, documents of the log shippers. Prints TAP.
exec python3 "$(dirname "$0")/metrics.py"
