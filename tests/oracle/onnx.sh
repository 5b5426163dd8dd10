#!/usr/bin/env bash
# Exported models against onnx.checker, ONNX Runtime and safetensors. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
python=$PWD/build/venv-oracle/bin/python
if ! "$python" -c 'import onnx, onnxruntime, safetensors' 2>/dev/null; then
    bash tests/oracle/venv.sh >&2 || { echo "ok 1 - onnx # SKIP onnx, onnxruntime and safetensors could not be installed"; echo "1..1"; exit 0; }
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${ONNX_DRIVER:-build/release/tests/oracle/onnx_driver}" "$work" || { echo "not ok 1 - onnx_driver"; exit 1; }
"$python" tests/oracle/onnx_check.py "$work" || echo "not ok - tests/oracle/onnx_check.py died"
