"""TensorBoard's EventAccumulator reads what a run wrote: every step once, the values of metrics.jsonl, also after a rollback and a resume."""
import json
import math
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from harness import complete, finish, logs, processes, run, spec, start, step_of, test, two_sites, wait_for, workspace  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

TAGS = {"train/loss": "loss", "train/accuracy": "accuracy", "train/learning_rate": "lr", **{f"step_seconds/{k}": f"{k}_seconds" for k in ("compute", "inside",
     "between", "data", "checkpoint")}}


def read(run_dir):
    files = list((run_dir / "tb").iterdir())
    a = EventAccumulator(str(run_dir / "tb"), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    a.Reload()
    return files, {tag: a.Scalars(tag) for tag in a.Tags()["scalars"]}


def check(run_dir, steps, name):
    files, scalars = read(run_dir)
    metrics = {m["step"]: m for m in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())}
    test(f"{name}: one events file", len(files) == 1 and "tfevents" in files[0].name, files)
    got = [e.step for e in scalars["train/loss"]]
    test(f"{name}: every step once, in order", got == list(range(1, steps + 1)), got)
    wrong = []
    for tag, key in TAGS.items():
        known = {s: m[key] for s, m in metrics.items() if m[key] is not None}
        there = {e.step: e.value for e in scalars.get(tag, [])}
        if set(known) != set(there) or any(not math.isclose(known[s], there[s], rel_tol=2e-4, abs_tol=1e-6) for s in known):
            wrong.append(f"{tag}: {len(known)} and {len(there)} values")
    test(f"{name}: the values of metrics.jsonl", not wrong, wrong)
    walls = [e.wall_time for e in scalars["train/loss"]]
    test(f"{name}: time goes forward", walls == sorted(walls) and walls[0] > 1.6e9, walls[:3])
    test(f"{name}: samples per second", len(scalars["speed/samples_per_second"]) >= steps - 2 and all(e.value > 0 for e in scalars["speed/samples_per_second"]))


def main():
    with workspace() as name:
        w = Path(name)
        job, run_dir = spec(w, sites=two_sites(1, 1)), w / "run"
        p = start(job, run_dir)
        wait_for(lambda: step_of(run_dir) >= 30)
        for pid, _words in processes(run_dir, "ps"):         # all copies at once: a rollback to the checkpoint
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: step_of(run_dir) >= 45)
        p.send_signal(signal.SIGINT)                         # a checkpoint, then the end
        p.communicate(timeout=60)
        events = (run_dir / "events.jsonl").read_text()
        test("the run was rolled back", "generation 2" in events, logs(run_dir))
        result = run(job, run_dir, "--resume")
        wrong = complete(run_dir, result)
        test("and resumed to its end", not wrong, wrong)
        check(run_dir, 60, "after a rollback and a resume")
    finish()


if __name__ == "__main__":
    main()
