#!/usr/bin/env bash
# Training samples/s on the demo network, ours and PyTorch in turn (A B B A ...), the median of the paired ratios. bench/train.sh [THREADS [PAIRS]]
set -eu
cd "$(dirname "$0")/.."
threads=${1:-1} pairs=${2:-4} steps=40
bash tests/oracle/venv.sh >&2
ours() { ./viaduct bench train jobs/examples/fashion-mnist.yaml --steps $steps --threads "$threads" --json; }
peer() { env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE build/venv-oracle/bin/python bench/peer_train.py $steps "$threads"; }
rows=""
for i in $(seq "$pairs"); do
    if [ $((i % 2)) -eq 1 ]; then a=$(ours) b=$(peer); else b=$(peer) a=$(ours); fi
    rows="$rows$a"$'\t'"$b"$'\n'
done
printf '%s' "$rows" | python3 -c '
import json, statistics, sys
pairs = [[json.loads(x) for x in line.split("\t")] for line in sys.stdin if line.strip()]
ratios = [a["samples_per_second"] / b["samples_per_second"] for a, b in pairs]
cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
print(json.dumps({"bench": "train", "cpu": cpu, "threads": int(sys.argv[1]), "ours_samples_per_second": statistics.median(a["samples_per_second"] for a, _ in pairs),
    "peer_samples_per_second": statistics.median(b["samples_per_second"] for _, b in pairs), "peer": "PyTorch " + pairs[0][1]["torch"],
    "ratio": round(statistics.median(ratios), 3), "ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3)}))' "$threads"
