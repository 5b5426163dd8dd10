#!/usr/bin/env bash
# Quantized models against ONNX Runtime and its own quantizer. INT8_RUN names a finished run to look at; without it the main job runs. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
python=$PWD/build/venv-oracle/bin/python
bash tests/oracle/venv.sh >&2 || { echo "ok 1 - int8 # SKIP onnx, onnxruntime and safetensors could not be installed"; echo "1..1"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
driver=${INT8_DRIVER:-build/release/tests/oracle/int8_driver}
run=${INT8_RUN:-$work/run}
mkdir "$work/models" "$work/of-run"
if [ -z "${INT8_RUN:-}" ]; then
    ./viaduct run jobs/examples/fashion-mnist.yaml --dir "$run" 'sites=[{name: one, via: local, ranks: 2}]' checkpoint.replicas=null >"$work/log" 2>&1 ||
        { echo "not ok 1 - training"; tail -n 20 "$work/log" | sed 's/^/# /'; exit 1; }
fi
"$driver" models "$work/models" && "$driver" run "$run" "$work/of-run" || { echo "not ok 1 - int8_driver"; exit 1; }
"$python" tests/oracle/int8_check.py "$work/models" "$run" "$work/of-run" || echo "not ok - tests/oracle/int8_check.py died"
