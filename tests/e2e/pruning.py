"""The phase after training: what the report tells, power cuts and resumes in it, what may not change once it has begun, and pruning added to a run that was over."""
import json
from pathlib import Path

from harness import complete, events, exported, finish, kill_all, one_site, pruned, reference, report, run, spec, start, step_of, test, two_sites, viaduct, wait_for, workspace

HOW = {"sparsity": 0.8, "epochs": 2}      # 64 steps, after 40 of training
TRAIN = {"steps": 40, "batch": 128, "lanes": 8, "seed": 7, "optimizer": {"name": "adamw", "lr": 0.01, "schedule": "cosine", "final": 0.01, "warmup": 10}}


def folder(w, name, prune, sites):
    f = Path(w) / name
    f.mkdir()
    export = {"to": ["onnx", "safetensors"], **({"prune": prune} if prune else {})}
    return spec(f, train=TRAIN, sites=sites, export=export), f / "run"


def undisturbed(w):
    job, run_dir = folder(w, "pruned", HOW, two_sites(1, 1))
    wanted = reference(job)
    wrong = pruned(run_dir, run(job, run_dir), wanted, None, 0.8)
    weights = exported(run_dir)
    test("training, then pruning: complete", not wrong, wrong)
    r = report(run_dir)
    test("the report tells of both models", r["steps"] == 104 and r["final"]["eval_accuracy"] is not None and r["export"]["float"]["accuracy"] is not None and
         r["checkpoint"]["step"] == 104, r)
    for override in ("export.prune=null", "export={to: [onnx]}", "export.prune.sparsity=0.5", "train.steps=20", "name=other"):
        result = viaduct("export", run_dir, override)
        test(f"an export of its own does not take {override}", result.returncode == 2 and ("export.prune" in result.stderr or "only export" in result.stderr) and
             report(run_dir) == r, f"{result.returncode} {result.stderr}")
    return wanted, weights


def cut_and_resumed(w, wanted, weights):
    job, run_dir = folder(w, "cut", HOW, two_sites(2, 1))
    p = start(job, run_dir)
    wait_for(lambda: any(e["step"] > 40 for e in events(run_dir, "checkpoint")))   # durable; the next comes 20 steps later
    kill_all(run_dir)
    p.communicate(timeout=60)
    before = (run_dir / "spec.yaml").read_text()
    other = run(job, run_dir, "--resume", "export.prune.sparsity=0.5")
    test("other pruning than the one that has begun is refused with both values", other.returncode == 2 and "0.8" in other.stderr and "0.5" in other.stderr, other.stderr[-600:])
    none = run(job, run_dir, "--resume", "export.prune=null")
    test("so is none", none.returncode == 2 and "0.8" in none.stderr and "null" in none.stderr, none.stderr[-600:])
    longer = run(job, run_dir, "--resume", "train.steps=50")
    test("so is longer training", longer.returncode == 2 and "40" in longer.stderr and "50" in longer.stderr, longer.stderr[-600:])
    test("a refusal leaves the run as it was", (run_dir / "spec.yaml").read_text() == before)
    result = run(job, run_dir, "--resume", "sites=" + json.dumps(one_site(3)))
    wrong = pruned(run_dir, result, wanted, weights, 0.8)
    test("power cut while pruning, resumed at one site with 3 ranks: the same weights and zeros", not wrong, wrong)
    resumed = [e["step"] for e in events(run_dir, "resumed")]
    test("it started from a checkpoint of pruning", bool(resumed) and max(resumed) > 40, resumed)


def added_later(w, wanted, weights):
    job, run_dir = folder(w, "later", None, one_site(2))
    wrong = complete(run_dir, run(job, run_dir), wanted)
    test("trained without pruning: complete", not wrong, wrong)
    result = run(job, run_dir, "--resume", "export.prune={sparsity: 0.8, epochs: 2}")
    wrong = pruned(run_dir, result, wanted, weights, 0.8)
    test("pruning added to a completed run: the phase runs, the same weights and zeros", not wrong, wrong)


with workspace() as w:
    wanted, weights = undisturbed(w)
    cut_and_resumed(w, wanted, weights)
    added_later(w, wanted, weights)
finish()
