"""kill -9 at named points of the protocol: every run completes by itself, with the same weights, and no sample is lost or doubled.

With --all: every point, 200 steps, and 20 kills at random moments on top; without: eight of them at 60 steps."""
import os
import random
import signal
import sys
from pathlib import Path

from harness import complete, exported, finish, one_site, processes, pruned, reference, report, run, spec, start, step_of, test, two_sites, wait_for, workspace

SOME = ["worker-lanes:kill:40", "worker-contribute:kill:25", "ps-store:kill:30", "ps-apply:kill:25", "ps-part:kill:1", "coordinator-commit:kill:30",
        "agent-manifest:kill:1", "export-write:kill:1"]
ALL = ["worker-join:kill", "worker-lanes:kill:100", "worker-reduce:kill:30", "worker-contribute:kill:50", "worker-pull:kill:40", "worker-gather:kill:60",
       "ps-join:kill", "ps-store:kill:70", "ps-prepared:kill:80", "ps-apply:kill:90", "ps-publish:kill:45", "ps-snapshot:kill:2", "ps-part:kill:2",
       "coordinator-start:kill", "coordinator-append:kill:50", "coordinator-commit:kill:60", "coordinator-view:kill:1", "coordinator-checkpoint:kill:2",
       "agent-start:kill", "agent-launch:kill:1", "agent-manifest:kill:2", "agent-export:kill", "export-start:kill", "export-write:kill", "export-rename:kill",
       "ps-apply:kill:50,ps-copy:kill:1", "worker-lanes:kill:90,ps-store:kill:120", "coordinator-commit:kill:40,ps-apply:kill:100"]


def at_points(w, job, wanted, points):
    for point in points:
        directory = Path(w) / point.replace(":", "-").replace(",", "+")
        result = run(job, directory, failpoint=point)
        wrong = complete(directory, result, wanted)
        fired = list((directory / "state").glob("failpoint-*"))
        if not fired:
            wrong = (wrong or "") + "the failpoint never fired"
        test(f"{point}: complete, same weights", not wrong, wrong)


PRUNING = [("two sites", ["worker-lanes:kill:90", "ps-apply:kill:70", "coordinator-commit:kill:35", "ps-snapshot:kill:1", "coordinator-checkpoint:kill:1",
                          "agent-manifest:kill:1"]),
           ("one site", ["ps-apply:kill:35", "ps-part:kill:1", "coordinator-commit:kill:35"])]


def while_pruning(w):
    """20 steps of training, 32 of pruning; the named points lie in the second phase, or at the checkpoint between the two."""
    train = {"steps": 20, "batch": 128, "lanes": 8, "seed": 7, "optimizer": {"name": "adamw", "lr": 0.01}}
    for name, points in PRUNING:
        folder = Path(w) / name.replace(" ", "-")
        folder.mkdir()
        job = spec(folder, sites=two_sites(2, 1) if name == "two sites" else one_site(2), train=train, checkpoint={"every": "1000 steps"},
                   export={"to": ["onnx", "safetensors"], "prune": {"sparsity": 0.75, "epochs": 1}})
        wanted, weights = reference(job), None
        for point in [None, *points]:
            directory = folder / (point or "undisturbed").replace(":", "-")
            result = run(job, directory, failpoint=point)
            wrong = pruned(directory, result, wanted, weights, 0.75)
            weights = weights or exported(directory)
            died = [r["at_step"] for r in report(directory).get("restarts", [])]
            if point and not (died and min(died) >= 20):
                wrong += f"nobody died in the phase: {died}"
            test(f"{name}, pruning, {point or 'nobody dies'}: complete, same weights and zeros", not wrong, wrong)


def at_random(w, job, wanted, count):
    for i in range(count):
        seed = random.randrange(1 << 30)
        rng = random.Random(seed)
        directory = Path(w) / f"random-{i}"
        p = start(job, directory)
        wait_for(lambda: step_of(directory) >= rng.randrange(1, 180) or p.poll() is not None)
        alive = processes(directory)
        victims = [x for x in alive if x[1][0] != "run"]
        pid, words = rng.choice(victims) if victims else (0, ["none"])
        if pid:
            os.kill(pid, signal.SIGKILL)
        out, err = p.communicate(timeout=240)
        p.stderr = err
        wrong = complete(directory, type("R", (), {"returncode": p.returncode, "stderr": err})(), wanted)
        test(f"a {words[0]} at a random moment (seed {seed}): complete, same weights", not wrong, wrong)


everything = "--all" in sys.argv
with workspace() as w:
    train = {"steps": 200 if everything else 60, "batch": 128, "lanes": 8, "seed": 7, "deterministic": True,
             "optimizer": {"name": "adamw", "lr": 0.01, "schedule": "cosine", "final": 0.01, "warmup": 10}}
    job = spec(w, sites=two_sites(2, 1), train=train)
    wanted = reference(job)
    at_points(w, job, wanted, ALL if everything else SOME)
    while_pruning(w)
    if everything:
        at_random(w, job, wanted, 20)
finish()
