#!/usr/bin/env bash
# A visitor behind 100 Mbit/s and 50 ms (round trip) joins a run of a model of 10 million parameters: from its token to its first contributed lane, against plain
# TCP's time for the weights over the same link in the same run; and how long the other site's training stood still. As root (network namespaces, TUN).
# bench/join.sh [REPEATS [sgd|momentum|adamw [SHARDS_AT_THE_VISITOR [HIDDEN,WIDTHS]]]]
set -eu
cd "$(dirname "$0")/.."
exec python3 bench/join.py "${1:-3}" "${2:-momentum}" "${3:-1}" "${4:-3072,2432}"
