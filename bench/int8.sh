#!/usr/bin/env bash
# The exported int8 model against ONNX Runtime's own static quantizer, both in ONNX Runtime, in turn. bench/int8.sh [RUN]: a finished run of the main job;
# without it, one is trained.
set -eu
cd "$(dirname "$0")/.."
bash tests/oracle/venv.sh >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
run=${1:-$work/run}
[ $# -gt 0 ] || ./viaduct run jobs/examples/fashion-mnist.yaml --dir "$run" >&2
mkdir "$work/of-run"
build/release/tests/oracle/int8_driver run "$run" "$work/of-run"
build/venv-oracle/bin/python bench/peer_int8.py "$run" "$work/of-run"
