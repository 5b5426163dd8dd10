#!/usr/bin/env bash
# Fashion-MNIST test accuracy after the main job over two sites, three seeds, at least 0.915 each. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for seed in 1 2 3; do
    ./viaduct run jobs/examples/fashion-mnist.yaml --dir "$work/$seed" train.seed=$seed export=null >"$work/out" 2>&1
    a=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["final"]["eval_accuracy"])' "$work/$seed/report.json")
    if python3 -c "import sys; sys.exit(not float('${a:-0}') >= 0.915)"; then echo "ok $seed - seed $seed: accuracy $a"; else echo "not ok $seed - seed $seed: accuracy $a"; tail -5 "$work/out" | sed 's/^/# /'; fi
done
echo "1..3"
