#!/usr/bin/env bash
# In-site all-reduce of 64 MiB of fp32 by 2 ranks against the memory limit of the same run, the same with sums kept apart from the weights, and the ranks on
# two hosts (of the loopback) against what TLS links alone take for the same bytes.
# bench/allreduce.sh [RANKS [MIB]]
set -eu
cd "$(dirname "$0")/.."
./viaduct bench allreduce --ranks "${1:-2}" --mib "${2:-64}" --json
./viaduct bench allreduce --ranks "${1:-2}" --mib "${2:-64}" --apart --json
./viaduct bench allreduce --ranks "${1:-2}" --hosts 2 --mib "${2:-64}" --json
