#!/usr/bin/env bash
# PyTorch for comparisons, in a virtual environment under build/; a GPU set of libraries is not needed, so its large packages are left out.
set -eu
venv=build/venv-oracle
[ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import torch, numpy' 2>/dev/null && exit 0
python3 -m venv "$venv"
"$venv/bin/pip" install -q --no-deps torch nvidia-nccl-cu13 nvidia-nvshmem-cu13 nvidia-cusparselt-cu13 nvidia-cufile typing-extensions sympy mpmath \
    filelock jinja2 markupsafe networkx fsspec numpy
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then   # a machine without a CUDA 13 toolkit needs the whole set
    "$venv/bin/pip" install -q torch numpy
fi
"$venv/bin/python" -c 'import torch, numpy'
