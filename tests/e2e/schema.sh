#!/usr/bin/env bash
# The loader against the JSON Schema that the program exports. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
venv=build/venv-schema
if ! "$venv/bin/python" -c 'import jsonschema' 2>/dev/null; then
    { python3 -m venv "$venv" && "$venv/bin/pip" install -q jsonschema; } >&2 || { echo "ok 1 - schema # SKIP jsonschema could not be installed"; echo "1..1"; exit 0; }
fi
"$venv/bin/python" tests/e2e/schema.py ./viaduct 1000 "${VIADUCT_TEST_SEED:-$RANDOM}"
