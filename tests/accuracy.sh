#!/usr/bin/env bash
# Fashion-MNIST test accuracy after the main job's training, three seeds, at least 0.915 each. Prints TAP.
set -u
cd "$(dirname "$0")/.." || exit 1
for seed in 1 2 3; do
    a=$(./viaduct bench train jobs/examples/fashion-mnist.yaml --full --threads "$(nproc)" --json train.seed=$seed | python3 -c 'import json,sys; print(json.load(sys.stdin)["eval_accuracy"])')
    if python3 -c "import sys; sys.exit(not float('${a:-0}') >= 0.915)"; then echo "ok $seed - seed $seed: accuracy $a"; else echo "not ok $seed - seed $seed: accuracy $a"; fi
done
