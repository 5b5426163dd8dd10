"""Two Slurm clusters, whose nodes are hosts with a network of their own, as two sites of one job: the first site lies on two nodes, the second joins out of a batch job
of the other cluster, leaves at its time limit, is requeued and joins again. The weights are those of one process. Prints TAP."""
import json
import subprocess
import tempfile
from pathlib import Path

import slurm_cluster
from harness import PROGRAM, complete, events, finish, logs, processes, reference, report, skip, spec, step_of, test, wait_for
from net import Switch, reason_not

TRAIN = {"steps": 3000, "batch": 32, "lanes": 4, "seed": 7, "deterministic": True, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}}
MODEL = {"family": "mlp", "classes": 10, "input": [1, 28, 28], "hidden": [16]}


def sockets_of(pid):
    """Local addresses of the TCP connections in a process's network that it holds itself."""
    out = subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ss", "-Htnp", "state", "established"], capture_output=True, text=True).stdout
    return [line.split()[2].rsplit(":", 1)[0] + ">" + line.split()[3].rsplit(":", 1)[0] for line in out.splitlines() if f"pid={pid}," in line]


def clusters(folder, hosts):
    (h1, a1), (h2, a2), (h3, a3) = hosts
    first = slurm_cluster.Cluster(Path(folder) / "a", ["a1", "a2"], {"sitea": (["a1", "a2"], "Default=YES")}, {"a1": (h1, a1), "a2": (h2, a2)}, "onprem")
    second = slurm_cluster.Cluster(Path(folder) / "b", ["b1"], {"siteb": (["b1"], "Default=YES")}, {"b1": (h3, a3)}, "cloud")
    try:
        up = wait_for(lambda: first.idle_nodes() == 2 and second.idle_nodes() == 1, 60, 0.3)
        if test("two Slurm clusters, of two hosts and of one, are up", up, first.logs() + second.logs()):
            two_clusters(folder, first, second, a1)
    finally:
        first.stop()
        second.stop()


def two_clusters(folder, first, second, address):
    run_dir, join_dir = Path(folder) / "run", Path(folder) / "cloud"
    sites = [{"name": "onprem", "via": "slurm", "nodes": 2, "ranks": 2, "ps_shards": 1, "partition": "sitea", "time": "30m"},
             {"name": "cloud", "via": "join", "ranks": 1, "ps_shards": 1, "partition": "siteb", "time": "30m", "slurm": {"drain": "60s"}}]
    job = spec(folder, sites=sites, model=MODEL, train=TRAIN, export=None, checkpoint={"every": "1000 steps"},
               coordinator={"listen": "0.0.0.0:7311", "address": f"{address}:7311"})
    wanted = reference(job)
    brake = slurm_cluster.Brake([run_dir, join_dir], 0.025)      # the run must not end before everybody has come and gone
    brake.on.set()
    brake.start()

    def story():
        out = [f.read_text(errors="replace")[-1500:] for f in (*(run_dir / "slurm").glob("*.out"), Path(folder) / "b.out") if f.exists()]
        told = [f"{e['time']} {e['event']} {e['who']} {e['step']} {e['text'][:120]}" for e in events(run_dir) if e["event"] not in ("published", "checkpoint")]
        return "\n".join([*told[-25:], *out, logs(run_dir), logs(join_dir)])

    r = first.command(PROGRAM, "submit", job, "--dir", run_dir, "--json")
    submitted = json.loads(r.stdout)["jobs"][0]["id"] if r.returncode == 0 else 0
    token = run_dir / "state/tokens/cloud.token"
    test("the first cluster's job trains on both of its hosts", r.returncode == 0 and wait_for(lambda: step_of(run_dir) >= 10, 90, 0.2), r.stderr + story())
    ranks = {words[words.index("--rank") + 1]: pid for pid, words in processes(run_dir, "worker")}
    ends = sockets_of(ranks.get("1", 0))
    test("... the rank on the second reaches the first one's ranks, shards and coordinator over their network", any(e.startswith("10.78.0.2>10.78.0.1") for e in ends) and
         not [e for e in ends if "127.0.0.1" in e], ends)

    script = Path(folder) / "cloud.sh"
    r = second.command(PROGRAM, "slurm", "render", job, "--site", "cloud", "--token", token, "--dir", join_dir)
    script.write_text(r.stdout)
    if slurm_cluster.shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", script], capture_output=True, text=True)
        test("slurm render --site: a script that shellcheck passes", r.returncode == 0 and checked.returncode == 0, r.stderr + checked.stdout)
    number = second.command("sbatch", "--parsable", f"--output={folder}/b.out", script).stdout.strip()
    test("the second cluster's job joins as a site", wait_for(lambda: len(events(run_dir, "site joined")) >= 1 and processes(join_dir, "worker"), 90, 0.2), story())
    step = step_of(run_dir)
    wait_for(lambda: step_of(run_dir) >= step + 30, 90, 0.2)
    second.command("scontrol", "update", f"JobId={number}", "TimeLimit=1")
    test("near its time limit it leaves in good order", wait_for(lambda: any("drained" in e["text"] for e in events(run_dir, "site left")), 90, 0.2), story())
    second.command("scontrol", "update", f"JobId={number}", "TimeLimit=30")   # else each start would be near it
    test("... its job is requeued, and joins again", wait_for(lambda: second.job(number).get("Restarts") == "1" and len(events(run_dir, "site joined")) >= 2, 90, 0.2),
         str(second.job(number)) + story())
    step = step_of(run_dir)
    wait_for(lambda: step_of(run_dir) >= step + 30, 90, 0.2)
    test("nobody at the first site was restarted for it", not report(run_dir).get("restarts"), report(run_dir).get("restarts"))
    first.command("scancel", "--batch", "--signal=USR1", submitted)       # as Slurm does before the time limit of the first cluster's job
    test("the first cluster's job is requeued: the second's waits, and joins again", wait_for(lambda: first.job(submitted).get("Restarts") == "1" and
         len(events(run_dir, "site joined")) >= 3, 120, 0.2) and second.job(number).get("Restarts") == "1", str(second.job(number)) + story())
    step = step_of(run_dir)
    wait_for(lambda: step_of(run_dir) >= step + 30, 90, 0.2)
    brake.end()
    wait_for(lambda: report(run_dir).get("status") == "completed", 120, 0.2)
    wrong = complete(run_dir, subprocess.CompletedProcess([], 0), wanted)
    test("completed, with the weights of one process", not wrong, wrong + "\n" + story())
    test("the second cluster's job ends with the run", wait_for(lambda: second.job(number).get("JobState") == "COMPLETED", 60, 0.2), str(second.job(number)) + story())


why = slurm_cluster.why_not() or reason_not()
if why:
    skip("two Slurm clusters as two sites", why)
else:
    with tempfile.TemporaryDirectory(prefix="viaduct-nodes-", ignore_cleanup_errors=True) as work, Switch(3) as switch:
        clusters(work, switch.hosts)
finish()
