"""One weights_sha256 for ranks, threads, sites and launchers; the two sites' checkpoints are the same bytes.

60 steps of a small job; with --full the main job at its full length, and one run that is killed and resumed on another rank count."""
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from harness import (PROGRAM, ROOT, complete, environment, events, exported, finish, kill_all, one_site, pruned, reference, report, run, skip, spec, start, step_of, test,
                     two_sites, viaduct, wait_for, workspace)

FULL = "--full" in sys.argv
TIMEOUT_S = 900 if FULL else 60
LAYOUTS = [("1 rank", one_site(1)), ("2 ranks", one_site(2)), ("3 ranks", one_site(3)), ("4 ranks", one_site(4)), ("1 rank of 2 threads", one_site(1, 2)),
           ("sites of 1 + 1", two_sites(1, 1)), ("sites of 2 + 1", two_sites(2, 1)), ("sites of 2 + 2", two_sites(2, 2))]


def overrides(sites):
    """The main job keeps its checkpoints at two sites; one site cannot."""
    return ["sites=" + json.dumps(sites)] + (["checkpoint.replicas=1"] if FULL and len(sites) == 1 else [])


def job_in(w, name):
    folder = Path(w) / name.replace(" ", "-")
    folder.mkdir()
    return (ROOT / "jobs/examples/fashion-mnist.yaml" if FULL else spec(folder)), folder / "run"


def same_checkpoints(directory):
    """Every step that both sites keep: the same names, the same bytes."""
    a, b = Path(directory) / "ckpt" / "onprem", Path(directory) / "ckpt" / "cloud"
    steps = {p.name for p in a.iterdir()} & {p.name for p in b.iterdir()}
    sums = [{f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted((site / step).iterdir())} for step in sorted(steps) for site in (a, b)]
    return len(steps) > 0 and all(sums[i] == sums[i + 1] for i in range(0, len(sums), 2))


def look_closely(directory):
    test("both sites wrote the same checkpoints", same_checkpoints(directory))
    written = {}
    for e in events(directory, "published"):
        written.setdefault(e["step"], {})[e["who"]] = e["text"].split()[-1]
    both = [w for w in written.values() if len(w) == 2]
    test("each site's write event names the same manifest", both and all(len(set(w.values())) == 1 for w in both), written)
    r = viaduct("ckpt", "verify", directory)
    test("ckpt verify finds every byte in order", r.returncode == 0, r.stderr)
    keys = report(directory)
    wanted = ("name", "status", "steps", "epochs", "samples", "wall_seconds", "samples_per_second", "world", "final", "weights_sha256", "state_sha256", "ledger", "restarts",
              "wan", "checkpoint", "export", "lineage")
    test("the report has what the contract names", all(k in keys for k in wanted) and keys["wan"]["bytes_sent"] > 0, keys)
    lines = [json.loads(line) for line in (Path(directory) / "metrics.jsonl").read_text().splitlines()]
    test("metrics.jsonl has one line a step", [m["step"] for m in lines] == list(range(1, keys["steps"] + 1)), len(lines))


def pruning(w):
    """The phase after training: thresholds out of everybody's weights, the same zeros everywhere."""
    layouts = [LAYOUTS[i] for i in (0, 2, 4, 6, 7)]
    export = {"to": ["onnx", "safetensors"], "prune": {"sparsity": 0.8, "epochs": 1}}
    weights = wanted = None
    for name, sites in layouts:
        folder = Path(w) / ("pruned-" + name.replace(" ", "-"))
        folder.mkdir()
        job = spec(folder, export=export, checkpoint={"every": "50 steps", "keep": 1})
        wanted = wanted or reference(job)
        result = run(job, folder / "run", *overrides(sites), timeout=TIMEOUT_S)
        wrong = pruned(folder / "run", result, wanted, weights, 0.8)
        weights = weights or exported(folder / "run")
        test(f"pruned, {name}: complete, one hash of what was trained and one of what is left", not wrong, wrong)
    steps = {p.name for p in (folder / "run" / "ckpt" / "cloud").iterdir()}
    test("with keep: 1 the checkpoint that training ended with stays beside the last one", steps == {"step-00000060", "step-00000092"}, steps)
    test("both sites wrote the same checkpoints of the pruned model", same_checkpoints(folder / "run"))


def mpirun(w, wanted):
    job, directory = job_in(w, "mpirun")
    if not shutil.which("mpirun"):
        skip("mpirun -n 2: complete, one hash", "no mpirun (apt-get install openmpi-bin)")
        return
    env = environment(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_btl_tcp_if_include="lo",
                      OMPI_MCA_oob_tcp_if_include="lo")
    result = subprocess.run(["mpirun", "-n", "2", PROGRAM, "run", str(job), "--dir", str(directory), *overrides(one_site(2))], capture_output=True, text=True,
                            timeout=TIMEOUT_S, env=env, cwd=ROOT)
    wrong = complete(directory, result, wanted)
    test("mpirun -n 2: complete, one hash", not wrong, wrong)


def fake_device(w, wanted):
    """Weights and gradients lie where the host cannot read them while lanes run: a stray access faults."""
    for name, sites in (("one site", one_site(2)), ("two sites", two_sites(1, 1))):
        job, directory = job_in(w, f"fake {name}")
        result = run(job, directory, "sites=" + json.dumps(sites), timeout=TIMEOUT_S, VIADUCT_DEVICE="fake")
        wrong = complete(directory, result, wanted)
        test(f"on the fake device, {name}: complete, one hash", not wrong, wrong)


def large_shards(w):
    """Of 76 MB, which no frame holds: seeds, sums, copies and weights travel in pieces."""
    folder = Path(w) / "large"
    folder.mkdir()
    job = spec(folder, model={"family": "mlp", "classes": 10, "input": [1, 28, 28], "hidden": [5800, 5800]}, export=None, sites=two_sites(2, 1),
               train={"steps": 3, "batch": 16, "lanes": 4, "seed": 7, "deterministic": True, "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}})
    wrong = complete(folder / "run", run(job, folder / "run", timeout=300), reference(job, timeout=300))
    test("shards larger than a frame: complete, one hash", not wrong, wrong)


def killed_and_resumed(w, wanted):
    job, directory = job_in(w, "killed")
    p = start(job, directory, "sites=" + json.dumps(two_sites(2, 1)))
    wait_for(lambda: step_of(directory) >= 500, 300)
    kill_all(directory)
    p.communicate(timeout=60)
    result = run(job, directory, "--resume", *overrides(one_site(3)), timeout=TIMEOUT_S)
    wrong = complete(directory, result, wanted)
    test("killed at step 500, resumed on 3 ranks at one site: one hash", not wrong, wrong)


with workspace() as w:
    wanted = reference(job_in(w, "reference")[0], timeout=TIMEOUT_S)
    for name, sites in LAYOUTS:
        job, directory = job_in(w, name)
        result = run(job, directory, *overrides(sites), timeout=TIMEOUT_S)
        wrong = complete(directory, result, wanted)
        test(f"{name}: complete, one hash", not wrong, wrong)
    look_closely(Path(w) / "sites-of-2-+-2" / "run")
    mpirun(w, wanted)
    if not FULL:
        fake_device(w, wanted)
        pruning(w)
        large_shards(w)
    if FULL:
        killed_and_resumed(w, wanted)
finish()
