#!/usr/bin/env bash
# What a person watches on a terminal: top, logs, and the events of anomalies. Prints TAP.
exec python3 "$(dirname "$0")/watch.py"
