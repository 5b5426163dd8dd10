"""A checkpoint that the run took back: it was decided while only one site held it, that site fell silent, and the run rolled back below it. Its folder is still
there when the run is resumed; the log says that it is void, and the resume begins below it (decision 0001, rule 14)."""
import os
import signal
from pathlib import Path

from harness import complete, events, finish, kill_all, logs, processes, reference, run, spec, start, test, two_sites, wait_for, workspace

TRAIN = {"steps": 80, "batch": 128, "lanes": 8, "seed": 7, "deterministic": True, "optimizer": {"name": "adamw", "lr": 0.01}}
SITES = ("onprem", "cloud")
# The third part that a ps writes is its first of step 40 (two shards): that ps stands still and is replaced, so step 40 is decided at the other site alone. A rank
# stands still soon after, so that step 60 is far.
FAILPOINTS = "ps-snapshot:stop:3,worker-reduce:stop:45"


def is_stopped(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    except OSError:
        return False


def pids(run_dir, role, site=None):
    return [pid for pid, words in processes(run_dir, role) if not site or site in words]


def manifests(run_dir):
    """Sites at which step 40 is published."""
    return [s for s in SITES if (run_dir / "ckpt" / s / "step-00000040" / "manifest.json").exists()]


with workspace() as w:
    job = spec(w, train=TRAIN, sites=two_sites(1, 1), checkpoint={"every": "20 steps", "keep": 3})
    run_dir = Path(w) / "run"
    p = start(job, run_dir, failpoint=FAILPOINTS, VIADUCT_LEASE_MS="2000", VIADUCT_RELAUNCH_MS="4000")
    slow = wait_for(lambda: [s for s in SITES for pid in pids(run_dir, "ps", s) if is_stopped(pid)])
    silent = next(s for s in SITES if s not in (slow or []))
    decided = wait_for(lambda: [e for e in events(run_dir, "checkpoint") if e["step"] == 40])
    os.kill(p.pid, signal.SIGSTOP)                    # nobody starts that site's agent again
    for pid in pids(run_dir, "agent", silent):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: [e for e in events(run_dir, "lost") if silent in e["who"]])
    for pid in pids(run_dir, "ps"):
        os.kill(pid, signal.SIGKILL)
    back = wait_for(lambda: events(run_dir, "rollback"))
    there = manifests(run_dir)
    kill_all(run_dir)
    p.communicate(timeout=60)
    test("all copies lost, and the only site that held step 40 silent: the run goes back to step 20", bool(slow and decided and back) and "to step 20," in back[0]["text"],
         f"{slow} {decided} {back} {logs(run_dir)}")
    test("step 40 of before still lies at that site", silent in there, there)
    result = run(job, run_dir, "--resume")
    void = [e for e in events(run_dir, "void") if e["step"] == 40 and "back to step 20" in e["text"]]
    resumed = [e["step"] for e in events(run_dir, "resumed")]
    test("a resume passes it over and says so", len(void) == len(there) and resumed == [20], f"{void} {resumed} {there}")
    wrong = complete(run_dir, result, reference(job))
    test("and completes: the same weights", not wrong, wrong)
    final = [e for e in events(run_dir, "checkpoint") if e["step"] == 40]
    test("step 40 of the new history took its place at both sites", len(final) == 2 and "2 of 2" in final[-1]["text"] and not events(run_dir, "checkpoint failed"),
         f"{final} {events(run_dir, 'checkpoint failed')}")
finish()
