"""Stopping, power cuts, resuming elsewhere, damaged copies, one's own trainer: nothing is lost and every refusal says why."""
import ctypes
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

from harness import (PROGRAM, ROOT, complete, driver, environment, events, finish, kill_all, logs, one_site, processes, reference, report, run, skip, spec, start, step_of, test,
                     two_sites, viaduct, wait_for, workspace)

AS_ROOT = "--allow-run-as-root " if os.geteuid() == 0 else ""   # what Open MPI demands
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
    kept = {name: (run_dir / name).read_bytes() for name in ("report.json", "spec.yaml")}
    fewer = run(job, run_dir, "--resume", "train.steps=5")
    test("a resume to fewer steps than are trained is refused with both numbers", fewer.returncode == 2 and "asks for 5" in fewer.stderr, fewer.stderr[-600:])
    changed = [name for name in kept if (run_dir / name).read_bytes() != kept[name]]
    test("and leaves the report and the spec of what was trained", not changed, changed)
    other = run(job, run_dir, "--resume", "train.batch=64")
    test("a resume with another batch is refused with both values", other.returncode == 2 and "train.batch was 128 and is 64 now" in other.stderr, other.stderr)
    result = run(job, run_dir, "--resume", "sites=" + json.dumps(one_site(3)))
    wrong = complete(run_dir, result, wanted) or ("is 150 now" in result.stderr and "it says that the length has changed")
    test("resumed at one site with 3 ranks: the same weights", not wrong, wrong)
    test("and what the resume changes is said, old and new", "sites[0].ranks was 1 and is 3 now" in result.stderr and "batch was" not in result.stderr, result.stderr[:600])
    result = run(job, run_dir, "--resume")
    test("resuming a completed run prints its report", result.returncode == 0 and "report:" in result.stdout, result.stderr)


def resume_words(text):
    """The command after `go on with:`, as a shell would take it."""
    lines = [line.split("go on with: ", 1)[1] for line in text.splitlines() if "go on with: " in line]
    return shlex.split(lines[-1]) if lines else []


def resume_by_line(text, *more):
    """Runs what the terminal said, as it stands there."""
    words = resume_words(text)
    if not words:
        return subprocess.CompletedProcess([], 99, "", f"no line that resumes in: {text[-1500:]}")
    return subprocess.run([*words, *more], capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment(OMPI_ALLOW_RUN_AS_ROOT="1",
                                                                                                                  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"))


def stopped_while_finishing(w, wanted):
    """The export hangs (its process is stopped): a Ctrl-C, and `viaduct stop`, end the run all the same, with the last checkpoint kept."""
    for name in ("interrupt", "stop"):
        job, run_dir = folder(w, f"finishing-{name}", sites=two_sites(1, 1))
        p = start(job, run_dir, failpoint="export-start:stop")
        there = wait_for(lambda: processes(run_dir, "export"), 60)
        wait_for(lambda: (report(run_dir).get("checkpoint") or {}).get("step") == 150, 10)
        begin = time.time()
        if name == "interrupt":
            p.send_signal(signal.SIGINT)
        else:
            stopped = viaduct("stop", run_dir)
            test("stop of a run that exports: exit 0", stopped.returncode == 0, stopped.stderr)
        out, err = p.communicate(timeout=60)
        took = time.time() - begin
        r = report(run_dir)
        code = 130 if name == "interrupt" else 0
        test(f"{name} while the export hangs: the end within 10 s, stopped, exit {code}",
             bool(there) and took < 10 and p.returncode == code and r.get("status") == "stopped" and r["checkpoint"]["step"] == 150,
             f"{there} {took:.1f} s, code {p.returncode}, {r}\n{err[-800:]}\n{logs(run_dir)}")
        test(f"{name}: nothing lives on, and the events say how it ended", not processes(run_dir) and events(run_dir)[-1]["event"] == "stopped", events(run_dir)[-3:])
        result = resume_by_line(err)
        wrong = complete(run_dir, result, wanted)
        told = [e["event"] for e in events(run_dir)][-2:]
        test(f"{name}: the line on the terminal resumes it, and only exports: the same weights", not wrong and told == ["exported", "completed"], f"{wrong} {told}")
        steps = [e["step"] for e in events(run_dir, "resumed")]
        test(f"{name}: it resumed after the last step", steps == [150], steps)


def stop_outlives_the_coordinator(w):
    """The coordinator dies between `stop` and the end: the next one ends the run all the same."""
    job, run_dir = folder(w, "stop-again", sites=two_sites(1, 1))
    p = start(job, run_dir, "train.steps=100000", "checkpoint.every=100000 steps", failpoint="coordinator-checkpoint:kill")
    wait_for(lambda: step_of(run_dir) >= 20)
    stopped = viaduct("stop", run_dir)
    restarted = events(run_dir, "restarted")
    if stopped.returncode != 0:
        kill_all(run_dir)
    p.communicate(timeout=60)
    test("stop, and the coordinator dies before it is done: the next one stops", bool(restarted) and stopped.returncode == 0 and p.returncode == 0
         and report(run_dir).get("status") == "stopped", f"{restarted} {stopped.stderr} {p.returncode} {report(run_dir)}")
    result = run(job, run_dir, "--resume")                     # to fewer steps than were planned: with other rates, so other weights
    test("a resume to another length says both", "train.steps was 100000 and is 150 now" in result.stderr, result.stderr[:600])
    wrong = complete(run_dir, result)
    test("and a resume is not stopped again", not wrong, wrong)


def stopped_with_a_hung_agent(w, wanted):
    job, run_dir = folder(w, "hung", sites=two_sites(1, 1))
    p = start(job, run_dir, failpoint="export-start:stop")
    wait_for(lambda: processes(run_dir, "export"), 60)
    wait_for(lambda: (report(run_dir).get("checkpoint") or {}).get("step") == 150, 10)
    for pid, words in processes(run_dir, "agent"):
        if "cloud" in words:
            os.kill(pid, signal.SIGSTOP)
    begin = time.time()
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    took = time.time() - begin
    test("Ctrl-C with an agent that hangs: the end all the same, and soon", took < 14 and p.returncode == 130 and report(run_dir).get("status") == "stopped"
         and not processes(run_dir), f"{took:.1f} s, code {p.returncode}, {processes(run_dir)} {report(run_dir)}\n{err[-600:]}")
    wrong = complete(run_dir, resume_by_line(err), wanted)
    test("and it resumes", not wrong, wrong)


def interrupted_twice(w, wanted):
    job, run_dir = folder(w, "twice", sites=two_sites(1, 1))
    p = start(job, run_dir, failpoint="coordinator-checkpoint:stop:2")   # the save would never come
    wait_for(lambda: step_of(run_dir) >= 40)
    p.send_signal(signal.SIGINT)
    time.sleep(1)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=30)
    r = report(run_dir)
    saved = (r.get("checkpoint") or {}).get("step")
    test("Ctrl-C twice: exit 130, the report says stopped", p.returncode == 130 and r.get("status") == "stopped" and "error" not in r, f"{p.returncode} {r}\n{err[-800:]}")
    test("Ctrl-C twice: the terminal says from where it resumes", f"after step {saved}," in err and "ckpt/" in err.split("go on with:")[-1], f"{saved} {err[-600:]}")
    test("Ctrl-C twice: the events say so", events(run_dir)[-1]["event"] == "stopped", events(run_dir)[-2:])
    result = resume_by_line(err)
    wrong = complete(run_dir, result, wanted)
    test("Ctrl-C twice: resumed by that line: the same weights", not wrong, wrong)


def interrupted_at_once(w):
    """Before anything was saved."""
    job, run_dir = folder(w, "early", sites=two_sites(1, 1))
    p = start(job, run_dir, failpoint="coordinator-start:stop")
    wait_for(lambda: processes(run_dir, "agent"))
    p.send_signal(signal.SIGINT)
    time.sleep(0.3)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=30)
    r = report(run_dir)
    test("Ctrl-C twice before the first step: the report says stopped, without numbers", p.returncode == 130 and r.get("status") == "stopped" and r.get("checkpoint", 0) is None
         and r["wan"]["bytes_sent"] is None and r["samples_per_second"] is None, f"{p.returncode} {r}\n{err[-600:]}")
    test("and the terminal that it begins at step 1", "begins at step 1" in err, err[-600:])
    wrong = complete(run_dir, resume_by_line(err, "train.steps=20"))
    test("the line resumes it", not wrong, wrong)


def is_stopped(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    except OSError:
        return False


def published_late(w):
    """One copy is enough (replicas: 1), the other site is slow: the report of a completed run names both all the same."""
    job, run_dir = folder(w, "late", sites=two_sites(1, 1), checkpoint={"every": "150 steps", "replicas": 1})
    p = start(job, run_dir, failpoint="export-start:stop")
    wait_for(lambda: len(processes(run_dir, "agent")) == 2)
    agents = {words[words.index("--site") + 1]: pid for pid, words in processes(run_dir, "agent")}
    wait_for(lambda: step_of(run_dir) >= 120)
    os.kill(agents["cloud"], signal.SIGSTOP)              # its copy is not published; the checkpoint is durable at onprem
    exporting = wait_for(lambda: [x for x in processes(run_dir, "export") if is_stopped(x[0])], 30)
    wait_for(lambda: report(run_dir).get("checkpoint"), 10)
    early = (report(run_dir).get("checkpoint") or {}).get("verified_sites")
    os.kill(agents["cloud"], signal.SIGCONT)
    for pid, _words in exporting or []:
        os.kill(pid, signal.SIGCONT)
    out, err = p.communicate(timeout=60)
    both = report(run_dir)["checkpoint"]["verified_sites"]
    test("a site that publishes late is in the final report", early == ["onprem"] and both == ["onprem", "cloud"], f"{early} {both} {err[-500:]}\n{logs(run_dir)}")


def rates_after_restart(w):
    """A coordinator that restarts hears at once what everyone has sent so far: that is no rate."""
    job, run_dir = folder(w, "rates", sites=two_sites(1, 1))
    p = start(job, run_dir, "train.steps=100000", "checkpoint.every=100000 steps")
    wait_for(lambda: (report(run_dir).get("wan") or {}).get("bytes_sent") and report(run_dir)["wall_seconds"] > 10)
    sent = report(run_dir)["wan"]["bytes_sent"]
    for pid, _words in processes(run_dir, "coordinator"):
        os.kill(pid, signal.SIGKILL)
    begin, told = time.time(), []
    while time.time() < begin + 4:
        status = viaduct("status", run_dir, "--json")
        if status.returncode == 0 and events(run_dir, "restarted"):
            told.append(json.loads(status.stdout)["wan_bytes_per_second"] or 0)
        time.sleep(0.05)
    viaduct("stop", run_dir)
    p.communicate(timeout=60)
    test("the rate between sites does not jump when the coordinator restarts", len(told) > 3 and max(told) < sent / 2, f"{sent} bytes before, then {told}")
    r = report(run_dir)
    test("and the report counts on", r["wan"]["bytes_sent"] >= sent, f"{sent} {r['wan']}")


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
    """The coordinator's host dies with the log's end unsynced: the shards still hold the records, and complete the log. One entry is taken away: of two, the
    first may have been synced, and known to be, when the second was written; a log that lost such an entry is refused, and rightly."""
    job, run_dir = folder(w, "tail", sites=two_sites(1, 1))
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 30)
    os.kill(p.pid, signal.SIGSTOP)                        # so that nobody starts a new coordinator yet
    for pid, _words in processes(run_dir, "coordinator"):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not [x for x in processes(run_dir, "coordinator") if not zombie(x[0])], 10)
    db = sqlite3.connect(run_dir / "log" / "decisions.db")
    steps = db.execute("SELECT COUNT(*) FROM entry WHERE kind = 3").fetchone()[0]
    last = [row[0] for row in db.execute("SELECT kind FROM entry ORDER BY position DESC LIMIT 1")]
    db.execute("DELETE FROM entry WHERE position IN (SELECT position FROM entry ORDER BY position DESC LIMIT 1)")
    db.commit()
    db.close()
    os.kill(p.pid, signal.SIGCONT)
    out, err = p.communicate(timeout=60)
    wrong = complete(run_dir, subprocess.CompletedProcess([], p.returncode, out, err), wanted)
    test("the log's last entry lost: the shards complete it, same weights", not wrong, f"{last} {wrong}")
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
    supervisor = [pid for pid, words in processes(run_dir, "run") if any(x.startswith("--external-gang") for x in words)]
    adopt(True)                                           # the supervisor outlives mpirun: its exit code comes to us
    os.kill(max(ranks), signal.SIGKILL)
    out, err = p.communicate(timeout=60)
    code = os.waitstatus_to_exitcode(os.waitpid(supervisor[0], 0)[1])
    adopt(False)
    wait_for(lambda: not processes(run_dir), 20)
    r = report(run_dir)
    ends = [line for line in err.splitlines() if line.startswith("viaduct run: mpirun ends this world")]
    test("a killed rank of an mpirun world: the end, and one rank says the line that resumes", p.returncode != 0 and len(ends) == 1 and f"mpirun {AS_ROOT}-n 2 {PROGRAM} run" in ends[0],
         f"{p.returncode} {err[-1500:]}\n{logs(run_dir)}")
    test("its supervisor says how it ended, on the terminal that mpirun had, and exits 75", code == 75 and "small: failed" in err and "it begins after step" in err,
         f"{code} {err[-1500:]}")
    lost = [e["lost_steps"] for e in r.get("restarts", [])]
    test("the report counts the steps that are lost", r.get("status") == "failed" and lost == [r["steps"] - r["checkpoint"]["step"]], f"{lost} {r}")
    result = subprocess.run(command + ["--resume"], capture_output=True, text=True, timeout=120, env=env, cwd=ROOT)
    wrong = complete(run_dir, result, wanted)
    test("resumed under another mpirun: the same weights", not wrong, wrong)


def adopt(on):
    """Whether processes that lose their parent become ours (a subreaper)."""
    ctypes.CDLL(None).prctl(36, int(on), 0, 0, 0)


def is_rank(proc, run_dir):
    try:
        ranks = [e for e in (proc / "environ").read_bytes().split(b"\0") if e.startswith(b"OMPI_COMM_WORLD_RANK=") and e[-1:].isdigit()]
        return bool(ranks) and str(run_dir).encode() in (proc / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def own_trainer(w):
    program = driver("own_trainer")
    hashes = []
    for name, sites in (("one", one_site(2)), ("two", two_sites(1, 1))):
        job, run_dir = folder(w, f"own-{name}", sites=sites)
        result = run(job, run_dir, "--worker", program)
        r = report(run_dir)
        wrong = complete(run_dir, result)
        test(f"a C program of one's own trains through viaduct.h ({name} site)", not wrong and r["final"]["train_loss"] < 0.7, f"{wrong} {r.get('final')}")
        hashes.append(r.get("weights_sha256"))
    test("its weights are the same over one site and two", hashes[0] and hashes[0] == hashes[1], hashes)
    told = events(run_dir, "exported")[-1]["text"]
    files = sorted(p.name for p in (run_dir / "export" / "float").iterdir())
    test("its tensors are exported as safetensors, and the event says why not as ONNX", files == ["model.safetensors"] and "no ONNX file" in told
         and r["export"]["float"]["path"] == "export/float/model.safetensors" and r["export"]["float"]["accuracy"] is None, f"{files} {told} {r['export']}")
    test("run says that the plan is not that program's", f"the ranks run {program}" in result.stderr, result.stderr[:1500])
    plan = viaduct("plan", job, "--worker", program)
    as_json = json.loads(viaduct("plan", job, "--worker", program, "--json").stdout)
    test("so does plan --worker", f"the ranks run {program}" in plan.stdout and as_json["worker"] == str(program) and as_json["steps"] == 150, plan.stdout + plan.stderr)
    again = viaduct("export", run_dir)
    test("export RUN: its safetensors, ONNX refused with the reason", again.returncode == 0 and again.stdout.split() == [f"{run_dir}/export/float/model.safetensors"]
         and "no description of its model" in again.stderr, again.stdout + again.stderr)
    job, run_dir = folder(w, "own-ends", sites=one_site(1))
    ends = run(job, run_dir, "--worker", "/bin/true")
    test("a program that ends without a word to the run fails it", ends.returncode == 3 and "ended with code 0" in ends.stderr, ends.stderr[-600:])


def export_again(w, wanted):
    """`viaduct export RUN`: the stage after training alone; what is missing comes back, byte for byte."""
    job, run_dir = folder(w, "export", sites=two_sites(1, 1))
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 30)
    busy = viaduct("export", run_dir)
    test("export of a running run is refused", busy.returncode == 6 and "is running" in busy.stderr, busy.stderr)
    out, err = p.communicate(timeout=60)
    test("the run completes", not complete(run_dir, subprocess.CompletedProcess([], p.returncode, out, err), wanted), err[-600:])
    before = report(run_dir)
    files = {f.name: f.read_bytes() for f in (run_dir / "export" / "float").iterdir()}
    shutil.rmtree(run_dir / "export")
    spoiled = dict(before, final={"train_loss": before["final"]["train_loss"], "eval_loss": None, "eval_accuracy": None}, weights_sha256=None,
                   export={"float": None, "quantized": None, "gate": None})
    (run_dir / "report.json").write_text(json.dumps(spoiled))
    again = viaduct("export", run_dir)
    after = report(run_dir)
    for r in (before, after):
        r["export"]["float"].pop("latency_ms")
    test("export RUN evaluates and renews report.json", again.returncode == 0 and after == before, f"{again.stderr}\n{before}\n{after}")
    result = json.loads((run_dir / "export" / "result.json").read_text())
    test("and result.json and the files", result["weights_sha256"] == wanted and files == {f.name: f.read_bytes() for f in (run_dir / "export" / "float").iterdir()}
         and sorted(again.stdout.split()) == sorted([f"{run_dir}/export/float/{n}" for n in files] + [f"{run_dir}/export/card/model-card.html"]), again.stdout + again.stderr)
    elsewhere = viaduct("export", run_dir, "--out", Path(w) / "elsewhere")
    test("--out writes files only", elsewhere.returncode == 0 and sorted(p.name for p in (Path(w) / "elsewhere").iterdir()) == ["model.onnx", "model.safetensors"],
         elsewhere.stderr)
    done = run(job, run_dir, "--resume")
    fresh = out.strip().splitlines()[-1]
    test("a resume of the completed run prints the same report line", done.stdout.strip() == fresh and done.returncode == 0, f"{done.stdout} {fresh}")


def bad_input(w):
    job, run_dir = folder(w, "nan", sites=two_sites(1, 1))
    result = run(job, run_dir, "train.optimizer={name: sgd, lr: 1e6, weight_decay: 1e6}")
    r = report(run_dir)
    test("a loss that is not finite: exit 3, step and lane named", result.returncode == 3 and r.get("status") == "failed" and "step" in str(r.get("error")),
         f"{result.returncode} {result.stderr[-800:]} {r.get('error')}")
    status = viaduct("status", run_dir)
    test("no resume is offered for it, but a start in another folder, by run and by status", "go on with" not in result.stderr + status.stdout
         and "once that is mended" not in result.stderr and all(f"{run_dir}/spec.yaml --dir ANOTHER" in x for x in (result.stderr, status.stdout)),
         result.stderr[-800:] + status.stdout)
    told = json.loads(viaduct("status", run_dir, "--json").stdout)
    test("nor in JSON, which has the code", told.get("resume") is None and told.get("error_code") == r.get("error_code") == "diverged", told)
    result = run(job, Path(w) / "unused", "train.lernrate=1")
    test("a wrong key: exit 2, nothing started", result.returncode == 2 and not (Path(w) / "unused").exists(), result.stderr)


def full_disk(w):
    """checkpoint parts go to a small file system, which they fill."""
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
    stopped_while_finishing(w, wanted)
    stop_outlives_the_coordinator(w)
    stopped_with_a_hung_agent(w, wanted)
    interrupted_twice(w, wanted)
    interrupted_at_once(w)
    published_late(w)
    rates_after_restart(w)
    power_cut(w, wanted)
    damaged(w, wanted)
    only_copy(w)
    supervisor_killed(w, wanted)
    log_tail_lost(w, wanted)
    log_damaged(w, wanted)
    mpi_rank_killed(w, wanted)
    own_trainer(w)
    export_again(w, wanted)
    bad_input(w)
    full_disk(w)
finish()
