#!/usr/bin/env bash
# report/monitoring/dashboard.json as Grafana's own types read it: what they do not know, or read differently, is a finding. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
venv=build/venv-grafana
have() { "$venv/bin/python" -c 'import grafana_foundation_sdk' 2>/dev/null; }
have || { { [ -x "$venv/bin/python" ] || python3 -m venv "$venv"; } && "$venv/bin/pip" install -q grafana-foundation-sdk; } >&2
have || { echo "ok 1 - grafana # SKIP the grafana-foundation-sdk package could not be installed"; echo "1..1"; exit 0; }
exec "$venv/bin/python" tests/oracle/grafana_check.py
