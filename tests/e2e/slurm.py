"""Runs under a real Slurm (munged, slurmctld, slurmd): submit, time limit, scancel, preemption, lost nodes, second starts, two sites. Prints TAP."""
import calendar
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import slurm_cluster
from harness import (PROGRAM, complete, environment, events, finish, logs, processes, reference, report, skip, spec, step_of, test, viaduct, wait_for)

STEPS = 4000
TRAIN = {"steps": STEPS, "batch": 64, "lanes": 4, "seed": 7, "deterministic": True,
         "optimizer": {"name": "adamw", "lr": 0.01, "schedule": "cosine", "final": 0.01, "warmup": 10}}
MODEL = {"family": "mlp", "classes": 10, "input": [1, 28, 28], "hidden": [16]}
WHOLE_S = 170                       # for a scenario, on a machine that does other things too


def site(name, partition, **more):
    return dict({"name": name, "via": "slurm", "ranks": 1, "ps_shards": 0, "partition": partition, "time": "30m"}, **more)


class Scenario(threading.Thread):
    """One job of its own; what it finds out is printed when all are over."""

    def __init__(self, cluster, work, name, sites, wanted, play, **top):
        super().__init__(name=name, daemon=True)
        self.cluster, self.dir, self.play, self.wanted = cluster, Path(work) / name, play, wanted
        self.results = []
        self.dir.mkdir()
        self.run_dir = self.dir / "run"
        self.spec = spec(self.dir, name=name, sites=sites, model=MODEL, train=TRAIN, checkpoint={"every": "100000 steps"}, export=None, **top)
        self.brake = slurm_cluster.Brake([self.run_dir], 0.01)
        self.slow = self.brake.on

    def check(self, name, ok, why=""):
        self.results.append((f"{self.name}: {name}", ok, "" if ok else f"{why}\n{self.explain()}"))
        return ok

    def explain(self):
        out = [f"{f}: {line}" for f in sorted((self.run_dir / "slurm").glob("*.out")) for line in f.read_text(errors="replace").splitlines()[-10:]]
        book = self.run_dir / "state/slurm"
        return "\n".join([f"report: {json.dumps({k: report(self.run_dir).get(k) for k in ('status', 'error', 'steps', 'restarts')})}",
                          f"book: {book.read_text() if book.exists() else 'none'}", self.cluster.state(), *out, logs(self.run_dir)])

    def run(self):
        self.brake.start()
        try:
            self.play(self)
        except Exception as e:                                  # noqa: BLE001: a scenario that stumbles is a failed test, whatever the reason
            self.check("went through", False, repr(e))
        self.brake.end()

    # ---- steps of a scenario ----
    def submit(self):
        r = viaduct("submit", self.spec, "--dir", self.run_dir, "--json", env=environment(SLURM_CONF=str(self.cluster.conf)))
        if r.returncode != 0:
            raise RuntimeError(f"submit: {r.stderr}")
        return json.loads(r.stdout)["jobs"][0]["id"]

    def trained(self, step=20):
        return wait_for(lambda: step_of(self.run_dir) >= step, WHOLE_S / 2, 0.1)

    def status(self, status, seconds=WHOLE_S):
        return wait_for(lambda: report(self.run_dir).get("status") == status, seconds, 0.1)

    def completed(self):
        self.slow.clear()
        self.status("completed")
        why = complete(self.run_dir, subprocess.CompletedProcess([], 0), self.wanted)
        return self.check("completed, with the weights of an uninterrupted run", not why, why)

    def causes(self):
        return [r["cause"] for r in report(self.run_dir).get("restarts", [])]

    def restart_of(self, text):
        return next((r for r in report(self.run_dir).get("restarts", []) if r["cause"].startswith(text)), None)


def utc(stamp):
    return calendar.timegm(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))


def local(stamp):
    return time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S"))


# ---- scenarios ----
def time_limit(s):
    s.slow.set()
    job = s.submit()
    s.trained(1)
    end = local(s.cluster.job(job)["EndTime"])                  # when Slurm would have killed it
    # A second start of the same job, as a Slurm that lost track might make it.
    begin = time.time()
    second = viaduct("run", s.run_dir / "slurm/job.yaml", "--dir", s.run_dir, "--resume",
                     env=environment(SLURM_CONF=str(s.cluster.conf), SLURM_JOB_ID=str(job), SLURM_RESTART_COUNT="0", SLURMD_NODENAME="elsewhere"))
    s.check(f"a second start of the same job is refused: exit 6, in {time.time() - begin:.1f} s, and names the first",
            second.returncode == 6 and f"Slurm job {job} (start 0)" in second.stderr, f"{second.returncode}: {second.stderr}")
    again = viaduct("submit", s.spec, "--dir", s.run_dir, env=environment(SLURM_CONF=str(s.cluster.conf)))
    s.check("a second submission is refused: exit 6, and names the job", again.returncode == 6 and f"Slurm job {job}, which is RUNNING" in again.stderr, again.stderr)
    # Another host of the cluster sees the run directory, and not the node's sockets.
    login = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", 'hostname login; mount -t tmpfs -o mode=700 tmpfs "/tmp/viaduct-$(id -u)"; "$@"', "sh", PROGRAM]
    seen = subprocess.run(login + ["status", s.run_dir], capture_output=True, text=True)
    s.check("status on another host: running, by which job, and where", seen.returncode == 0 and f"running: Slurm job {job} (start 0) on node a" in seen.stdout,
            seen.stdout + seen.stderr)
    seen = subprocess.run(login + ["stop", s.run_dir], capture_output=True, text=True)
    s.check("stop on another host says what stops it", seen.returncode == 75 and f"scancel {job} saves it" in seen.stderr, seen.stdout + seen.stderr)
    s.check("Slurm's signal: saved and requeued", wait_for(lambda: s.cluster.job(job).get("Restarts") == "1", 130, 0.2))
    s.slow.clear()
    durable = [e for e in events(s.run_dir, "checkpoint")]
    margin = end - utc(durable[0]["time"]) if durable else -1
    s.completed()
    r = s.restart_of("time limit") or {}
    lost = r.get("lost_steps", 99)
    s.check(f"checkpoint committed {margin:.0f} s before Slurm's kill (10 at least), {lost} steps redone (1 at most), back after {r.get('seconds') or -1:.1f} s",
            margin >= 10 and lost <= 1 and r.get("seconds") is not None, r)
    s.check("report.json says why: time limit", len(s.causes()) == 1 and s.causes()[0] == f"time limit (Slurm job {job}, start 0)", s.causes())


def cancelled(s):
    s.slow.set()
    job = s.submit()
    s.trained()
    s.cluster.command("scancel", job)
    s.slow.clear()
    s.check("scancel: saved and stopped", s.status("stopped", 60) and report(s.run_dir)["checkpoint"], report(s.run_dir))
    wait_for(lambda: s.cluster.job(job).get("JobState") == "CANCELLED", 30, 0.2)
    s.check("... and not started again", s.cluster.job(job).get("JobState") == "CANCELLED", s.cluster.job(job))
    seen = viaduct("status", s.run_dir)
    s.check("status says the line that goes on: a submission", f"viaduct submit {s.run_dir}/spec.yaml --dir {s.run_dir}\n" in seen.stdout, seen.stdout)
    (s.run_dir.parent / "waits/slurm").mkdir(parents=True)
    (s.run_dir.parent / "waits/slurm/id").write_text("4711")
    seen = viaduct("status", s.run_dir.parent / "waits")
    s.check("... of a run whose job waits: exit 75, and what shows why", seen.returncode == 75 and "squeue -j 4711" in seen.stderr, seen.stderr)
    again = s.submit()
    s.completed()
    s.check("report.json says why: cancelled", again != job and s.causes() == [f"cancelled (Slurm job {job}, start 0)"], s.causes())


def node_lost(s):
    """slurmd dies, the job's processes live on unseen: Slurm starts the job on another node, and two starts of one run must not meet."""
    s.slow.set()
    job = s.submit()
    s.trained()
    node = s.cluster.job(job)["NodeList"]
    old = [pid for pid, _ in processes(s.run_dir)]
    s.cluster.kill_node(node)
    s.check("a lost node: started again on another", wait_for(lambda: s.cluster.job(job).get("Restarts") == "1" and s.cluster.job(job)["NodeList"] not in (node, "(null)"), 120, 0.3))
    s.slow.clear()
    s.completed()
    left = [pid for pid, _ in processes(s.run_dir) if pid in old]
    s.check("nothing of the start on the lost node is left", bool(old) and not left, left)
    s.check("report.json says why: node failure", s.causes() and s.causes()[0] == f"node failure (Slurm job {job}, start 0)", s.causes())


def preempted(s):
    s.slow.set()
    job = s.submit()
    s.trained()
    node = s.cluster.job(job)["NodeList"]
    urgent = s.cluster.command("sbatch", "--parsable", "--partition=urgent", f"--nodelist={node}", "--cpus-per-task=4", "--output=/dev/null",
                               "--wrap=sleep 3").stdout.strip()
    s.check("preempted: saved", s.status("stopped", 60), s.cluster.job(job))
    s.slow.clear()
    s.completed()
    s.check("... for a job that ran meanwhile", s.cluster.job(urgent).get("JobState") == "COMPLETED", s.cluster.job(urgent))
    r = s.restart_of("preemption")
    s.check("report.json says why: preemption", len(s.causes()) == 1 and r and r["lost_steps"] <= 1, s.causes())


def not_requeued(s):
    """Slurm's signal by hand, to a job that may not be requeued: it is submitted again."""
    s.slow.set()
    job = s.submit()
    s.trained()
    s.cluster.command("scontrol", "update", f"JobId={job}", "Requeue=0")
    s.cluster.command("scancel", "--batch", "--signal=USR1", job)
    s.check("a job that may not be requeued: saved", s.status("stopped", 60))
    s.slow.clear()
    s.completed()
    book = (s.run_dir / "state/slurm").read_text().split("\n")
    s.check("... and submitted again, as another job", len(book) > 3 and book[2] == "resubmitted" and book[3].startswith("start ") and
            int(book[3].split()[1]) > int(job) and (s.run_dir / f"slurm/{book[3].split()[1]}.out").exists(), book)


def failing(s):
    job = s.submit()

    def ends():
        book = s.run_dir / "state/slurm"
        return [line.split()[1] for line in book.read_text().splitlines() if line.startswith("end")] if book.exists() else []

    s.check("a failing run starts again as often as its budget says", wait_for(lambda: len(ends()) == 2, 90, 0.3), ends())
    s.check("... and not once more", wait_for(lambda: s.cluster.job(job).get("JobState") == "FAILED", 60, 0.3) and ends() == ["job_failure"] * 2, s.cluster.job(job))
    s.check("report.json says why: job failure", s.causes() == [f"job failure (Slurm job {job}, start 0)"] and "not finite" in report(s.run_dir).get("error", ""), s.causes())


def two_sites(s):
    """One heterogeneous job; the agents of its second site, which live on another node, are killed with all that they started."""
    s.slow.set()
    job = s.submit()
    s.trained()
    shown = s.cluster.command("squeue", "-h", "-j", job, "-o", "%i %N").stdout.split("\n")
    s.check("two sites are one heterogeneous job on two nodes", len([x for x in shown if x]) == 2 and f"{job}+1" in "".join(shown), shown)
    agents = [pid for pid, words in processes(s.run_dir, "agent") if words[words.index("--site") + 1] == "cloud"]
    for pid in agents:
        os.kill(pid, signal.SIGKILL)
    s.slow.clear()
    s.completed()
    who = [r["who"] for r in report(s.run_dir)["restarts"]]
    s.check("a killed agent is started again by a new step, in the same job", len(agents) == 1 and "agent cloud/0" in who and s.cluster.job(job).get("Restarts") == "0", who)


def node_of(pid):
    """The node that a process was started on; empty when it is gone."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((w.split(b"=")[1].decode() for w in words if w.startswith(b"SLURMD_NODENAME=")), "")


def on_node(s, node):
    return [pid for pid, words in processes(s.run_dir) if node_of(pid) == node and words[0] != "run"]


def kill_all_on(s, node):
    for pid in on_node(s, node):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def two_nodes(s):
    """One site on two nodes: its second step is killed with all that it started, then the whole node dies, slurmd first."""
    s.slow.set()
    job = s.submit()
    s.trained()
    ranks = {words[words.index("--rank") + 1]: node_of(pid) for pid, words in processes(s.run_dir, "worker")}
    s.check("a site on two nodes: half of its ranks on each", len(set(ranks.values())) == 2 and ranks["0"] == ranks["1"] and ranks["2"] == ranks["3"], ranks)
    s.check("... which sum over links", any(b"ranks sum over tcp" in f.read_bytes() for f in (s.run_dir / "log").glob("worker-*.jsonl")))
    kill_all_on(s, ranks["3"])
    s.check("a killed step takes the gang on both nodes with it, and is started again in the same job",
            wait_for(lambda: {"agent onprem/1"} <= {r["who"] for r in report(s.run_dir).get("restarts", []) if r["seconds"] is not None}, 60, 0.2) and
            s.cluster.job(job).get("Restarts") == "0", report(s.run_dir).get("restarts"))
    step = step_of(s.run_dir)
    s.check("... and the run goes on", wait_for(lambda: step_of(s.run_dir) > step + 5, 60, 0.2), step)
    lost = ranks["3"]
    s.cluster.kill_node(lost)
    kill_all_on(s, lost)
    s.check("a lost node: the job is started again on others", wait_for(lambda: s.cluster.job(job).get("Restarts") == "1" and s.cluster.job(job)["NodeList"] != "(null)", 120, 0.3) and
            lost not in s.cluster.command("scontrol", "show", "hostnames", s.cluster.job(job)["NodeList"]).stdout.split(), s.cluster.job(job))
    s.slow.clear()
    s.completed()
    s.check("report.json says why: node failure", f"node failure (Slurm job {job}, start 0)" in s.causes(), s.causes())


# ---- without a cluster, or with one that is not asked to run anything ----
def render(cluster, work):
    env = environment(SLURM_CONF=str(cluster.conf)) if cluster else environment()
    folder = Path(work) / "it's $(touch pwned)"
    folder.mkdir()
    job = spec(folder, sites=[site("onprem", "sitea", ps_shards=1, slurm={"mem": "100M", "comment": "a:b", "retries": {"preemption": 5}}),
                              site("cloud", "siteb", ps_shards=1, account="root")])
    script = folder / "job.sh"
    r = viaduct("slurm", "render", job, "--dir", folder / "run", "--site", "onprem", "train.seed=3", "data.train.labels=${LABELS:-$x}", env=env)
    script.write_text(r.stdout)
    checked = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    test("render: a script that shellcheck passes", r.returncode == 0 and checked.returncode == 0, r.stderr + checked.stdout)
    parsed = subprocess.run(["bash", "-c", f"cd {work} && viaduct=x && exec() {{ printf '%s\\n' \"$@\"; }} && . \"$0\"", script], capture_output=True, text=True)
    test("... and that quotes what it was given", parsed.stdout.split("\n")[:5] == [PROGRAM, "run", job, "--dir", str(folder / "run")] and
         not (Path(work) / "pwned").exists(), parsed.stdout + parsed.stderr)
    if cluster:
        r = cluster.command("sbatch", "--test-only", script)
        test("... and sbatch --test-only passes", r.returncode == 0, r.stderr)
        r = viaduct("slurm", "render", "jobs/examples/slurm.yaml", "sites.0.slurm.mem=1G", "sites.1.slurm.mem=1G", env=env)
        (folder / "example.sh").write_text(r.stdout)
        r = cluster.command("sbatch", "--test-only", folder / "example.sh")
        test("so does the example of two Slurm sites", r.returncode == 0, r.stderr)
    for bad, says in (({"comment": "x\n#SBATCH --uid=0"}, "a word of letters"), ({"qos": "a' b"}, "a word of letters"), ({"output": "/etc/x"}, "not allowed here: what the script"),
                      ({"qoss": "x"}, "did you mean 'qos'?"), ({"signal": "KILL"}, "set slurm.drain"), ({"drain": "29m30s"}, "a duration"), ({"drain": "1790s"}, "a limit of at least")):
        job = spec(folder, sites=[site("onprem", "sitea", slurm=bad)])
        r = viaduct("slurm", "render", job, env=env)
        test(f"refused: slurm: {json.dumps(bad)}", r.returncode == 2 and not r.stdout and says in r.stderr, r.stderr)
    job = spec(folder, sites=[site("onprem", "sitea")])
    r = viaduct("run", job, "--dir", folder / "outside", env={k: v for k, v in env.items() if not k.startswith("SLURM_JOB")})
    test("run outside a Slurm job says how to start it", r.returncode == 2 and "viaduct submit" in r.stderr and not (folder / "outside").exists(), r.stderr)
    r = viaduct("submit", spec(folder), "--dir", folder / "none", env=env)
    test("submit of a spec without a Slurm site says so", r.returncode == 2 and "no site that is `via: slurm`" in r.stderr, r.stderr)


def scenarios(cluster, work):
    drain = {"time": "2m", "slurm": {"drain": "60s"}}
    nan = dict(TRAIN, steps=200, optimizer={"name": "sgd", "lr": 1e6, "weight_decay": 1e6})
    job = spec(work, sites=None, model=MODEL, train=TRAIN, export=None, checkpoint=None)
    wanted = reference(job)
    two = [site("onprem", "sitea", ps_shards=1), site("cloud", "siteb", ps_shards=1)]
    make = lambda name, sites, play: Scenario(cluster, work, name, sites, wanted, play)   # noqa: E731
    all_of_them = [make("time-limit", [site("onprem", "sitea", **drain)], time_limit), make("scancel", [site("onprem", "sitea")], cancelled),
                   make("node-lost", [site("onprem", "sitec")], node_lost), make("preemption", [site("onprem", "low")], preempted), make("two-sites", two, two_sites),
                   make("no-requeue", [site("onprem", "sitea")], not_requeued),
                   Scenario(cluster, work, "two-nodes", [site("onprem", "wide", ranks=4, nodes=2)], wanted, two_nodes, coordinator=None)]
    failed = make("failure", [site("onprem", "sitea", slurm={"retries": {"job_failure": 1}})], failing)
    failed.spec = spec(failed.dir, name="failure", model=MODEL, train=nan, sites=[site("onprem", "sitea", slurm={"retries": {"job_failure": 1}})], export=None)
    all_of_them.append(failed)
    all_of_them = [s for s in all_of_them if len(sys.argv) == 1 or s.name in sys.argv[1:]]
    for s in all_of_them:
        s.start()
    for s in all_of_them:
        s.join(WHOLE_S + 60)
        for name, ok, why in s.results + ([(f"{s.name}: ended", False, s.explain())] if s.is_alive() else []):
            test(name, ok, why)


reason = slurm_cluster.why_not()
with tempfile.TemporaryDirectory(prefix="viaduct-slurm-", ignore_cleanup_errors=True) as folder:
    if reason:
        skip("runs under Slurm", reason)
        render(None, folder)
        finish()
    # lost: on sitec, whose other node takes over; low: on a node that urgent jobs may take
    running = slurm_cluster.Cluster(Path(folder) / "slurm", ["a1", "a2", "b1", "c1", "c2", "d1", "e1", "e2", "e3"],
                                    {"sitea": (["a1", "a2"], "Default=YES"), "siteb": (["b1"], ""), "sitec": (["c1", "c2"], ""), "wide": (["e1", "e2", "e3"], ""),
                                     "low": (["d1"], "PriorityTier=1 GraceTime=20"), "urgent": (["d1"], "PriorityTier=9 PreemptMode=OFF")})
    try:
        if test("munged, slurmctld and nine slurmd are up", wait_for(lambda: running.idle_nodes() >= 9, 60, 0.3), running.logs()):
            render(running, folder)
            scenarios(running, folder)
    finally:
        running.stop()
finish()
