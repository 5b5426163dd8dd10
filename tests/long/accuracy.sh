#!/usr/bin/env bash
# Fashion-MNIST test accuracy after the main job over two sites, three seeds: at least 0.915 each as trained, and at most 0.005 less with the weights that
# pruning leaves. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for seed in 1 2 3; do
    ./viaduct run jobs/examples/fashion-mnist.yaml --dir "$work/$seed" train.seed=$seed >"$work/out" 2>&1
    said=$(python3 - "$work/$seed/report.json" <<'PY'
import json, sys
r = json.load(open(sys.argv[1]))
trained, left = r["final"]["eval_accuracy"], r["export"]["float"]
good = trained >= 0.915 and left["accuracy"] >= trained - 0.005 and left["sparsity"] >= 0.8
print(f"{'ok' if good else 'not ok'} accuracy {trained}, {left['accuracy']} with {100 * left['sparsity']:.2f} % of the weights zero, {r['wall_seconds']:.0f} s")
PY
)
    case $said in
        ok*) echo "ok $seed - seed $seed:${said#ok}" ;;
        *) echo "not ok $seed - seed $seed:${said#not ok}"; tail -5 "$work/out" | sed 's/^/# /' ;;
    esac
done
echo "1..3"
