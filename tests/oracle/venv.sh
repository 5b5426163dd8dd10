#!/usr/bin/env bash
# PyTorch, ONNX Runtime and safetensors for comparisons, in a virtual environment under build/; a GPU set of libraries is not needed, so its large
# packages are left out.
set -eu
venv=build/venv-oracle
have() { "$venv/bin/python" -c "import $1" 2>/dev/null; }
have 'torch, numpy, onnx, onnxruntime, safetensors, tritonclient.grpc.model_config_pb2' && exit 0
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
if ! have 'torch, numpy'; then
    "$venv/bin/pip" install -q --no-deps torch nvidia-nccl-cu13 nvidia-nvshmem-cu13 nvidia-cusparselt-cu13 nvidia-cufile typing-extensions sympy mpmath \
        filelock jinja2 markupsafe networkx fsspec numpy
fi
if ! have 'torch, numpy'; then   # a machine without a CUDA 13 toolkit needs the whole set
    "$venv/bin/pip" install -q torch numpy
fi
have 'onnx, onnxruntime, safetensors' || "$venv/bin/pip" install -q onnx onnxruntime safetensors
"$venv/bin/python" -c 'import torch, numpy, onnx, onnxruntime, safetensors'
# Triton's schema of model configurations; its test is skipped without it.
have tritonclient.grpc.model_config_pb2 || "$venv/bin/pip" install -q 'tritonclient[grpc]' || true
