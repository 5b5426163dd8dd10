#!/usr/bin/env bash
# In-site all-reduce of 64 MiB of fp32 by 2 ranks against the memory limit of the same run, and the same with sums kept apart from the weights.
# bench/allreduce.sh [RANKS [MIB]]
set -eu
cd "$(dirname "$0")/.."
./viaduct bench allreduce --ranks "${1:-2}" --mib "${2:-64}" --json
./viaduct bench allreduce --ranks "${1:-2}" --mib "${2:-64}" --apart --json
