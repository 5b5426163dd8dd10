#!/usr/bin/env bash
# Our engine against PyTorch: same weights, same batches. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
bash tests/oracle/venv.sh >&2 || { echo "ok 1 - parity with PyTorch # SKIP PyTorch could not be installed"; echo "1..1"; exit 0; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
batch=32 steps=20 lr=1e-3
sed "s/lr: [0-9.e-]*/lr: $lr/" jobs/examples/fashion-mnist.yaml >"$out/spec.yaml"
build/release/tests/oracle/engine_driver "$out/spec.yaml" "$out" $batch $steps || { echo "not ok 1 - engine_driver"; exit 1; }
build/venv-oracle/bin/python tests/oracle/parity.py "$out" $batch $steps $lr
