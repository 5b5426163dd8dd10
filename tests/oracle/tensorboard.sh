#!/usr/bin/env bash
# RUN/tb against TensorBoard's own reader, over a rollback and a resume. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
venv=build/venv-oracle
read_by='from tensorboard.backend.event_processing.event_accumulator import EventAccumulator'
if ! "$venv/bin/python" -c "$read_by" 2>/dev/null; then
    { [ -x "$venv/bin/python" ] || python3 -m venv "$venv"; } >&2
    "$venv/bin/pip" install -q tensorboard 'setuptools<81' >&2
fi
"$venv/bin/python" -c "$read_by" 2>/dev/null || { echo "ok 1 - tensorboard # SKIP the tensorboard package could not be installed"; echo "1..1"; exit 0; }
exec "$venv/bin/python" tests/oracle/tensorboard_check.py
