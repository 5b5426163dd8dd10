"""MPI worlds as gangs: one that starts a run and one that joins it from another host, whose ranks are killed, which is told to end, and comes again; a gang
that an agent launches with mpirun; and the exit codes that the shell of mpirun sees."""
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from harness import (PROGRAM, ROOT, complete, environment, events, finish, kill_all, processes, reference, report, skip, spec, step_of, test, wait_for, workspace)
from net import Nat, inside, reason_not

# A lease that nothing here waits for: whatever is noticed was seen.
PATIENCE = {"VIADUCT_LEASE_MS": "120000", "VIADUCT_RELAUNCH_MS": "30000"}
OPEN_MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_btl_tcp_if_include": "lo",
            "OMPI_MCA_oob_tcp_if_include": "lo"}
FOREVER = 1000000


def job_of(folder, steps, sites, **top):
    train = {"steps": steps, "batch": 32, "lanes": 8, "seed": 7, "deterministic": True, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}}
    keys = {"train": train, "sites": sites, "export": None, "checkpoint": {"every": "500 steps"},
            "model": {"family": "cnn", "classes": 10, "input": [1, 28, 28], "channels": [4, 8], "hidden": 16}}
    return spec(folder, **{**keys, **top})


class Worlds:
    """home, an MPI world that starts the run; edge, one that joins it."""

    def __init__(self, folder, nat, port, steps):
        self.folder, self.nat, self.home = Path(folder), nat, nat.HOME if nat else "127.0.0.1"
        self.folder.mkdir()
        self.address = f"{self.home}:{port}"
        self.job = job_of(self.folder, steps, [{"name": "home", "via": "mpirun", "ranks": 2, "ps_shards": 1}, {"name": "edge", "via": "join", "ranks": 1, "ps_shards": 1}],
                          coordinator={"listen": self.address, "address": self.address})
        self.run_dir, self.edge_dir = self.folder / "run", self.folder / "edge"
        self.token = self.run_dir / "state" / "tokens" / "edge.token"
        self.run = self.start("home", self.mpirun(2, "--dir", self.run_dir))
        wait_for(lambda: step_of(self.run_dir) > 20 or self.run.poll() is not None)

    def mpirun(self, ranks, *words, job=None):
        return ["mpirun", "-n", str(ranks), PROGRAM, "run", str(job or self.job), *map(str, words)]

    def edge_words(self, token=None, site="edge", directory=None):
        return ["--site", site, "--coordinator", self.address, "--token", token or self.token, "--dir", directory or self.edge_dir]

    def start(self, where, command):
        command = inside(getattr(self.nat, where), *command) if self.nat else command
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**PATIENCE, **OPEN_MPI), cwd=ROOT, start_new_session=True)

    def join(self, ranks):
        return self.start("edge", self.mpirun(ranks, *self.edge_words()))

    def refused(self, command):
        p = self.start("edge", command)
        _out, err = p.communicate(timeout=60)
        return p.returncode, err

    def waits(self, kind, count, seconds=60):
        return wait_for(lambda: len(events(self.run_dir, kind)) >= count or self.run.poll() is not None, seconds) and len(events(self.run_dir, kind)) >= count

    def up(self, ranks):
        """Whether the site's ranks are there; and whether lanes came to them, the next steps say."""
        r = subprocess.run([PROGRAM, "status", str(self.run_dir), "--json"], capture_output=True, text=True, timeout=60, cwd=ROOT)
        return f'"name":"edge","ranks":{ranks},"up":{ranks}' in r.stdout

    def story(self):
        return "\n".join(f"{e['time']} {e['event']} {e['who']} {e['step']} {e['text'][:120]}" for e in events(self.run_dir) if e["event"] not in ("published", "anomaly"))

    def close(self):
        for d in (self.run_dir, self.edge_dir):
            kill_all(d)


def workers(run_dir, site):
    """pids of a gang's ranks, in their order."""
    found = [(int(words[words.index("--rank") + 1]) if "--rank" in words else 0, pid) for pid, words in processes(run_dir, "worker") if site in words]
    return [pid for _rank, pid in sorted(found)]


def shared_files(pids):
    return {f for pid in pids for f in re.findall(r"/dev/shm/vader_segment\S+", Path(f"/proc/{pid}/maps").read_text())}


def kill(pid, signo=signal.SIGKILL):
    try:
        os.kill(pid, signo)
    except ProcessLookupError:
        pass


def end_of(p):
    try:
        _out, err = p.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        return None, "still there after 60 s"
    return p.returncode, err


def said_by(p):
    """What one that should be there said at its end."""
    return "" if p is None or p.poll() is None else f"\nmpirun {p.returncode}: {p.communicate()[1]}"


def mpirun_of(p):
    """nsenter becomes mpirun."""
    return p.pid


def come_again(w, said):
    """The line that a world's end told, as a shell takes it."""
    line = re.search(r"come again with: (mpirun .*)", said)
    return w.start("edge", ["sh", "-c", "exec " + line.group(1)]) if line else None


def life_of_a_second_world(folder, nat):
    w = Worlds(folder / "two", nat, 7351, 4000)
    try:
        wanted = reference(w.job)
        edge = w.join(2)
        test("an MPI world joins the run of another, with its own number of ranks", bool(w.waits("site joined", 1) and wait_for(lambda: w.up(2))), w.story() + said_by(edge))
        first = step_of(w.run_dir)
        wait_for(lambda: step_of(w.run_dir) > first + 100)
        kill(workers(w.edge_dir, "edge")[1])
        code, err = end_of(edge)
        test("a killed rank ends its world with exit 75 and the line that comes again", code == 75 and "rank 1 was killed by signal 9" in err and "come again with:" in err,
             f"{code} {err}")
        dead = [e for e in events(w.run_dir, "dead") if e["who"] == "worker edge/1" and "signal 9" in e["text"]]
        test("the run heard of it at once, and goes on without that site", bool(w.waits("site left", 1)) and len(dead) == 1, w.story())
        first = step_of(w.run_dir)
        wait_for(lambda: step_of(w.run_dir) > first + 50)

        edge = come_again(w, err)
        test("that line brings it back: no second token", edge and bool(w.waits("site joined", 2) and wait_for(lambda: w.up(2))), w.story() + said_by(edge))
        kill(mpirun_of(edge), signal.SIGTERM)
        _code, err = end_of(edge)
        test("mpirun is told to end: the site leaves in good order", bool(w.waits("site left", 2)) and len(events(w.run_dir, "dead")) == 1, w.story())

        edge = w.join(1)
        w.waits("site joined", 3)
        wait_for(lambda: w.up(1))
        kill(mpirun_of(edge), signal.SIGUSR1)
        code, err = end_of(edge)
        test("SIGUSR1 lets it leave in its own time: exit 0", code == 0 and bool(w.waits("site left", 3)), f"{code} {err} {w.story()}")

        edge = w.join(3)
        test("it comes with three ranks to stay", bool(w.waits("site joined", 4) and wait_for(lambda: w.up(3))), w.story() + said_by(edge))
        code, err = end_of(w.run)
        result = type("R", (), {"returncode": code, "stderr": err})()
        wrong = complete(w.run_dir, result, wanted)
        test("complete, every sample once, the weights of one process", not wrong, wrong)
        code, err = end_of(edge)
        test("the run's end is the second world's: exit 0", code == 0, f"{code} {err}")
        test("nobody is left", bool(wait_for(lambda: not processes(w.edge_dir) and not processes(w.run_dir), 20)), processes(w.edge_dir) + processes(w.run_dir))
    finally:
        w.close()


def refusals(folder, nat):
    w = Worlds(folder / "refused", nat, 7352, FOREVER)
    try:
        bad = folder / "bad.token"
        text = w.token.read_text()
        bad.write_text(text.replace(text.split("\n", 1)[0].split()[-1], "00" * 32, 1))
        code, err = w.refused(w.mpirun(2, *w.edge_words(token=bad, directory=folder / "a")))
        test("a wrong token: exit 5", code == 5 and "newest token" in err, f"{code} {err}")
        code, err = w.refused(w.mpirun(2, *w.edge_words(site="edgy", directory=folder / "b")))
        test("a site that the run does not have: exit 4, with the nearest name", code == 4 and "did you mean 'edge'?" in err, f"{code} {err}")
        code, err = w.refused(w.mpirun(7, *w.edge_words(directory=folder / "c")))
        test("more ranks than the job has lanes for: exit 2", code == 2 and "train.lanes is 8" in err, f"{code} {err}")
        code, err = w.refused(w.mpirun(2, *w.edge_words()[:4]))
        test("a coordinator without a token: exit 2, says what is needed", code == 2 and "--token FILE" in err, f"{code} {err}")
        code, err = w.refused(w.mpirun(2, *w.edge_words(), "train.optimizer.lr=0.5"))
        test("a spec that differs: exit 2, names the key and both values", code == 2 and "train.optimizer.lr is 0.05 in the run and 0.5 here" in err, f"{code} {err}")
        plain = w.start("edge", [PROGRAM, "run", w.job, *map(str, w.edge_words())])
        test("without mpirun the same words join as plain processes; the token is not asked for again", bool(w.waits("site joined", 1) and wait_for(lambda: w.up(1))), w.story())
        code, err = w.refused(w.mpirun(2, *w.edge_words()))
        test("a second start of the site: exit 6", code == 6 and "in use" in err, f"{code} {err}")
        kill(plain.pid, signal.SIGINT)
        code, err = end_of(plain)
        test("Ctrl-C leaves in good order: exit 0", code == 0 and "come again with" in err, f"{code} {err}")
        kill(workers(w.run_dir, "home")[1])
        code, err = end_of(w.run)
        test("a killed rank of the first world: its shell sees 75, and the line that resumes", code == 75 and "rank 1 was killed by signal 9" in err and "--resume" in err,
             f"{code} {err}")
        test("nobody is left", bool(wait_for(lambda: not processes(w.run_dir), 20)), processes(w.run_dir))
        test("the report tells the death", report(w.run_dir).get("status") == "failed" and report(w.run_dir)["restarts"][-1]["who"] == "worker home/1", report(w.run_dir))
    finally:
        w.close()


def exit_codes(folder):
    where = folder / "codes"
    where.mkdir()
    job = job_of(where, 200, [{"name": "home", "via": "mpirun", "ranks": 2, "ps_shards": 0}])
    (where / "full").mkdir()
    (where / "full" / "something").write_text("")
    for code, what, words, said in ((2, "a wrong spec", ["train.batch=0"], "train.batch"), (2, "more ranks than lanes", ["train.lanes=1"], "train.lanes"),
                                    (3, "a loss that is not finite", ["train.optimizer.lr=1e6"], "not finite"),
                                    (4, "no such site", ["--site", "hom"], "did you mean 'home'?"), (6, "a folder that is not empty", ["--dir", str(where / "full")], "not empty")):
        words = words if "--dir" in words else [*words, "--dir", str(where / f"run-{what.replace(' ', '-')}")]
        r = subprocess.run(["mpirun", "-n", "2", PROGRAM, "run", job, *words], capture_output=True, text=True, timeout=120, env=environment(**OPEN_MPI), cwd=ROOT)
        test(f"mpirun's exit code: {what} is {code}", r.returncode == code and said in r.stderr, f"{r.returncode} {r.stderr}")


def launched_by_an_agent(folder):
    where = folder / "agent"
    where.mkdir()
    job = job_of(where, 2000, [{"name": "home", "via": "mpirun", "ranks": 2, "ps_shards": 1}, {"name": "cloud", "via": "local", "ranks": 1, "ps_shards": 1}])
    run_dir = where / "run"
    wanted = reference(job)
    p = subprocess.Popen([PROGRAM, "run", job, "--dir", str(run_dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**PATIENCE), cwd=ROOT,
                         start_new_session=True)

    def gang():
        """pids of the ranks, and of mpirun."""
        found = [pid for pid, words in processes(run_dir, "worker") if "home" in words]
        return found, int(Path(f"/proc/{found[0]}/stat").read_text().rsplit(")", 1)[1].split()[1]) if found else 0

    def works(at):
        return wait_for(lambda: (step_of(run_dir) >= at and len(gang()[0]) == 2) or p.poll() is not None)

    try:
        works(100)
        before = gang()[0]
        kill(before[1])
        relaunched = wait_for(lambda: len(events(run_dir, "dead")) == 1 and len(gang()[0]) == 2 and not set(gang()[0]) & set(before))
        test("an agent launches its gang with mpirun, and again when a rank was killed", bool(relaunched), events(run_dir, "dead"))
        works(step_of(run_dir) + 200)
        before, mpirun = gang()
        left = shared_files(before)
        kill(mpirun)
        gone = wait_for(lambda: all(not Path(f"/proc/{x}").exists() for x in before))
        for f in left:                                    # Open MPI's, whose mpirun would have removed them
            Path(f).unlink(missing_ok=True)
        again = wait_for(lambda: len(events(run_dir, "dead")) == 2 and len(gang()[0]) == 2)
        test("mpirun killed: its ranks die with it, and another world comes", bool(gone and again), events(run_dir, "dead"))
        works(step_of(run_dir) + 200)
        before, mpirun = gang()
        kill([pid for pid, words in processes(run_dir, "agent") if "home" in words][0])
        wait_for(lambda: events(run_dir, "back"))
        first = step_of(run_dir)
        wait_for(lambda: step_of(run_dir) > first + 50)
        test("the agent killed: the next one adopts the world, nobody is started again", gang() == (before, mpirun) and len(events(run_dir, "dead")) == 2, events(run_dir, "dead"))
        code, err = end_of(p)
        wrong = complete(run_dir, type("R", (), {"returncode": code, "stderr": err})(), wanted)
        test("complete, the weights of one process", not wrong, wrong)
        test("nobody is left", bool(wait_for(lambda: not processes(run_dir) and not Path(f"/proc/{mpirun}").exists(), 20)), f"{processes(run_dir)} mpirun {mpirun}")
    finally:
        kill_all(run_dir)


with workspace() as directory:
    directory = Path(directory)
    if not shutil.which("mpirun"):
        skip("MPI worlds", "no mpirun (apt-get install openmpi-bin)")
    elif not any(ROOT.glob("build/*/plugins/viaduct-mpi.so")):
        skip("MPI worlds", "no MPI plugin was built: apt-get install libopenmpi-dev, then make")
    else:
        exit_codes(directory)
        launched_by_an_agent(directory)
        why = reason_not()
        if why:
            skip("the second world in a network of its own", why)
            life_of_a_second_world(directory, None)
            refusals(directory, None)
        else:
            with Nat() as nat:
                life_of_a_second_world(directory, nat)
                refusals(directory, nat)
finish()
