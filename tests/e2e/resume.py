"""Stopping, power cuts, resuming elsewhere, damaged copies, one's own trainer: nothing is lost and every refusal says why."""
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

from harness import (PROGRAM, ROOT, complete, environment, events, finish, kill_all, logs, one_site, processes, reference, report, run, skip, spec, start, step_of, test,
                     two_sites, viaduct, wait_for, workspace)

LONG = {"steps": 150, "batch": 128, "lanes": 8, "seed": 7, "deterministic": True,
        "optimizer": {"name": "adamw", "lr": 0.01, "schedule": "cosine", "final": 0.01, "warmup": 10}}


def folder(w, name, **keys):
    f = Path(w) / name
    f.mkdir()
    return spec(f, train=LONG, **keys), f / "run"


def stop_and_resume(w, wanted):
    job, run_dir = folder(w, "stop", sites=two_sites(1, 1))
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 30)
    status = viaduct("status", run_dir, "--json")
    test("status tells the step of a running run", status.returncode == 0 and json.loads(status.stdout).get("step", 0) > 0, status.stdout + status.stderr)
    stopped = viaduct("stop", run_dir)
    out, err = p.communicate(timeout=60)
    r = report(run_dir)
    test("stop: a checkpoint, then the end", stopped.returncode == 0 and p.returncode == 0 and r.get("status") == "stopped" and (r.get("checkpoint") or {}).get("step", 0) > 0,
         f"{stopped.stderr}\n{p.returncode} {err}\n{r}\n{logs(run_dir)}")
    again = run(job, run_dir)
    test("a used directory is refused without --resume", again.returncode == 6, again.stderr)
    fewer = run(job, run_dir, "--resume", "train.steps=5")
    test("a resume to fewer steps than are trained is refused with both numbers", fewer.returncode == 2 and "asks for 5" in fewer.stderr, fewer.stderr[-600:])
    other = run(job, run_dir, "--resume", "train.batch=64")
    test("a resume with another batch is refused with both values", other.returncode == 2 and "128" in other.stderr and "64" in other.stderr, other.stderr)
    result = run(job, run_dir, "--resume", "sites=" + json.dumps(one_site(3)))
    wrong = complete(run_dir, result, wanted)
    test("resumed at one site with 3 ranks: the same weights", not wrong, wrong)
    result = run(job, run_dir, "--resume")
    test("resuming a completed run prints its report", result.returncode == 0 and "report:" in result.stdout, result.stderr)


def power_cut(w, wanted):
    job, run_dir = folder(w, "power", sites=two_sites(2, 1))
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 70)
    kill_all(run_dir)
    p.communicate(timeout=60)
    shutil.rmtree(run_dir / "ckpt" / "onprem")
    result = run(job, run_dir, "--resume", "sites=" + json.dumps(two_sites(1, 2)))
    wrong = complete(run_dir, result, wanted)
    resumed = [e for e in events(run_dir, "resumed")]
    test("power cut, one site's checkpoints deleted, resumed on other counts: the same weights", not wrong, wrong)
    test("it started from a checkpoint", bool(resumed) and max(e["step"] for e in resumed) > 0, resumed)


def damaged(w, wanted):
    job, run_dir = folder(w, "damage", sites=two_sites(1, 1))
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 70)
    kill_all(run_dir)
    p.communicate(timeout=60)
    newest = sorted(d for d in (run_dir / "ckpt" / "onprem").iterdir() if (d / "manifest.json").exists())[-1]
    part = next(newest.glob("part-*"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    result = run(job, run_dir, "--resume")
    wrong = complete(run_dir, result, wanted)
    named = [e for e in events(run_dir, "damaged") if part.name in e["text"]]
    test("one flipped bit in one part: the other site's copy serves, same weights", not wrong, wrong)
    test("the damaged part is named", bool(named) or part.name in result.stderr, events(run_dir, "damaged"))


def only_copy(w):
    job, run_dir = folder(w, "only", sites=one_site(1))
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 70)
    kill_all(run_dir)
    p.communicate(timeout=60)
    for part in (run_dir / "ckpt").rglob("part-*"):
        part.write_bytes(b"no more")
    result = run(job, run_dir, "--resume")
    test("the only copies lost: exit 4, the part is named", result.returncode == 4 and "part-" in result.stderr, f"{result.returncode} {result.stderr}\n{logs(run_dir)}")


def supervisor_killed(w, wanted):
    job, run_dir = folder(w, "supervisor", sites=two_sites(1, 1))
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 30)
    os.kill(p.pid, signal.SIGKILL)
    p.communicate(timeout=30)
    gone = wait_for(lambda: not processes(run_dir), 15)
    test("kill -9 of run: the others save and end by themselves", bool(gone), processes(run_dir))
    result = run(job, run_dir, "--resume")
    wrong = complete(run_dir, result, wanted)
    test("resumed after kill -9 of run: the same weights", not wrong, wrong)


def log_tail_lost(w, wanted):
    """The coordinator's host dies with the log's end unsynced: the shards still hold the records, and complete the log."""
    job, run_dir = folder(w, "tail", sites=two_sites(1, 1))
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 30)
    os.kill(p.pid, signal.SIGSTOP)                        # so that nobody starts a new coordinator yet
    for pid, _words in processes(run_dir, "coordinator"):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not [x for x in processes(run_dir, "coordinator") if not zombie(x[0])], 10)
    db = sqlite3.connect(run_dir / "log" / "decisions.db")
    steps = db.execute("SELECT COUNT(*) FROM entry WHERE kind = 3").fetchone()[0]
    last = [row[0] for row in db.execute("SELECT kind FROM entry ORDER BY position DESC LIMIT 2")]
    db.execute("DELETE FROM entry WHERE position IN (SELECT position FROM entry ORDER BY position DESC LIMIT 2)")
    db.commit()
    db.close()
    os.kill(p.pid, signal.SIGCONT)
    out, err = p.communicate(timeout=60)
    wrong = complete(run_dir, subprocess.CompletedProcess([], p.returncode, out, err), wanted)
    test("the log's last two entries lost: the shards complete it, same weights", not wrong, f"{last} {wrong}")
    again = events(run_dir, "restarted")
    test("the log was shorter than the history", bool(again) and again[-1]["step"] < steps, f"{again} {steps}")


def log_damaged(w, wanted):
    """decisions.db cannot be read any more: the newest checkpoint is enough."""
    job, run_dir = folder(w, "log", sites=two_sites(1, 1))
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 70)
    kill_all(run_dir)
    p.communicate(timeout=60)
    for name in ("decisions.db", "decisions.db-wal"):
        (run_dir / "log" / name).write_bytes(b"no more" * 2000)
    result = run(job, run_dir, "--resume")
    wrong = complete(run_dir, result, wanted)
    named = [e for e in events(run_dir, "damaged") if "decisions.db" in e["text"]]
    test("a damaged decision log: put aside and named, the checkpoint serves, same weights", not wrong and named, f"{wrong} {named}")


def zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def mpi_rank_killed(w, wanted):
    if not shutil.which("mpirun"):
        skip("a killed rank of an mpirun world: exit 75 and the line that resumes", "no mpirun (apt-get install openmpi-bin)")
        return
    job, run_dir = folder(w, "mpi", sites=one_site(2))
    command = ["mpirun", "-n", "2", PROGRAM, "run", job, "--dir", str(run_dir)]
    env = environment(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_btl_tcp_if_include="lo",
                      OMPI_MCA_oob_tcp_if_include="lo", VIADUCT_LEASE_MS="2000")
    p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT, start_new_session=True)
    wait_for(lambda: step_of(run_dir) >= 50)
    ranks = [int(x.name) for x in Path("/proc").iterdir() if x.name.isdigit() and is_rank(x, run_dir)]
    os.kill(max(ranks), signal.SIGKILL)
    out, err = p.communicate(timeout=60)
    wait_for(lambda: not processes(run_dir), 20)
    error = err + str(report(run_dir).get("error")) + logs(run_dir)
    test("a killed rank of an mpirun world: the end, and the line that resumes", p.returncode != 0 and "--resume" in error, f"{p.returncode} {error[-1500:]}")
    result = subprocess.run(command + ["--resume"], capture_output=True, text=True, timeout=120, env=env, cwd=ROOT)
    wrong = complete(run_dir, result, wanted)
    test("resumed under another mpirun: the same weights", not wrong, wrong)


def is_rank(proc, run_dir):
    try:
        ranks = [e for e in (proc / "environ").read_bytes().split(b"\0") if e.startswith(b"OMPI_COMM_WORLD_RANK=") and e[-1:].isdigit()]
        return bool(ranks) and str(run_dir).encode() in (proc / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def own_trainer(w):
    program = ROOT / "build" / "release" / "tests" / "e2e" / "own_trainer"
    hashes = []
    for name, sites in (("one", one_site(2)), ("two", two_sites(1, 1))):
        job, run_dir = folder(w, f"own-{name}", sites=sites, export=None)
        result = run(job, run_dir, "--worker", program)
        r = report(run_dir)
        wrong = complete(run_dir, result)
        test(f"a C program of one's own trains through viaduct.h ({name} site)", not wrong and r["final"]["train_loss"] < 0.7, f"{wrong} {r.get('final')}")
        hashes.append(r.get("weights_sha256"))
    test("its weights are the same over one site and two", hashes[0] and hashes[0] == hashes[1], hashes)


def bad_input(w):
    job, run_dir = folder(w, "nan", sites=two_sites(1, 1))
    result = run(job, run_dir, "train.optimizer={name: sgd, lr: 1e6, weight_decay: 1e6}")
    r = report(run_dir)
    test("a loss that is not finite: exit 3, step and lane named", result.returncode == 3 and r.get("status") == "failed" and "step" in str(r.get("error")),
         f"{result.returncode} {result.stderr[-800:]} {r.get('error')}")
    result = run(job, Path(w) / "unused", "train.lernrate=1")
    test("a wrong key: exit 2, nothing started", result.returncode == 2 and not (Path(w) / "unused").exists(), result.stderr)


def full_disk(w):
    """checkpoint parts go to a file system of 64 KiB."""
    small = Path(w) / "small-disk"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], check=False, capture_output=True).returncode != 0:
        skip("a full disk: exit 3, the file is named", "cannot mount a small tmpfs here")
        return
    try:
        job, _ = folder(w, "full", sites=two_sites(1, 1))
        result = run(job, small / "run")
        error = str(report(small / "run").get("error")) + result.stderr
        test("a full disk: exit 3, the file is named", result.returncode == 3 and "No space left" in error, f"{result.returncode} {error[-800:]}")
    finally:
        kill_all(small / "run")
        subprocess.run(["umount", "-l", str(small)], check=False)


with workspace() as w:
    job, _ = folder(w, "reference")
    wanted = reference(job)
    stop_and_resume(w, wanted)
    power_cut(w, wanted)
    damaged(w, wanted)
    only_copy(w)
    supervisor_killed(w, wanted)
    log_tail_lost(w, wanted)
    log_damaged(w, wanted)
    mpi_rank_killed(w, wanted)
    own_trainer(w)
    bad_input(w)
    full_disk(w)
finish()
