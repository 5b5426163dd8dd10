"""Machines that join: a host behind address translation becomes a site of a running job, is drained, vanishes, returns; the weights are those of a run
that never had visitors. And tokens that are wrong, used, or of another site."""
import gzip
import json
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

from harness import (PROGRAM, ROOT, complete, driver, environment, events, finish, free_ports, kill_all, processes, reference, report, skip, spec, step_of, test, viaduct, wait_for,
                     workspace)
from net import Nat, inside, reason_not

PATIENCE = {"VIADUCT_LEASE_MS": "3000", "VIADUCT_RELAUNCH_MS": "3000"}
STEPS = 2500
TRAIN = {"steps": STEPS, "batch": 32, "lanes": 4, "seed": 7, "deterministic": True, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}}


def job_over(folder, home, port, steps=STEPS):
    sites = [{"name": "home", "via": "local", "ranks": 1, "ps_shards": 1}, {"name": "edge", "via": "join", "ranks": 1, "ps_shards": 1}]
    return spec(folder, train=dict(TRAIN, steps=steps), sites=sites, export=None, checkpoint={"every": "500 steps"},
                model={"family": "cnn", "classes": 10, "input": [1, 28, 28], "channels": [4, 8], "hidden": 16},
                coordinator={"listen": f"{home}:{port}", "address": f"{home}:{port}"})


class World:
    def __init__(self, folder, nat, port, steps=STEPS):
        self.folder, self.nat, self.port = Path(folder), nat, port
        self.folder.mkdir()
        self.home = nat.HOME if nat else "127.0.0.1"
        self.job = job_over(self.folder, self.home, port, steps)
        self.run_dir, self.edge_dir = self.folder / "run", self.folder / "edge"
        self.token = self.run_dir / "state" / "tokens" / "edge.token"
        self.run = self._start("home", "run", self.job, "--dir", self.run_dir)
        wait_for(lambda: step_of(self.run_dir) > 20 or self.run.poll() is not None)

    def _command(self, where, *args):
        command = [PROGRAM, *map(str, args)]
        return inside(getattr(self.nat, where), *command) if self.nat else command

    def _start(self, where, *args):
        return subprocess.Popen(self._command(where, *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**PATIENCE), cwd=ROOT,
                                start_new_session=True)

    def join_args(self, token=None, site="edge", directory=None, extra=()):
        return ["join", f"{self.home}:{self.port}", "--site", site, "--token", token or self.token, "--dir", directory or self.edge_dir, *extra]

    def join(self):
        return self._start("edge", *self.join_args())

    def join_to_its_end(self, **how):
        return subprocess.run(self._command("edge", *self.join_args(**how)), capture_output=True, text=True, timeout=60, env=environment(**PATIENCE), cwd=ROOT)

    def count(self, kind):
        return len(events(self.run_dir, kind))

    def waits(self, kind, count, seconds=60):
        return wait_for(lambda: self.count(kind) >= count or self.run.poll() is not None, seconds) and self.count(kind) >= count

    def edge_works(self):
        """Since when the joined site has lanes: the view after the one in which it joined, by its own share of the contributions."""
        status = viaduct("status", self.run_dir, "--json", env=environment(**PATIENCE))
        return '"name":"edge","ranks":1,"up":1' in status.stdout.replace(" ", "")

    def end(self):
        try:
            _out, err = self.run.communicate(timeout=120)
        except subprocess.TimeoutExpired as hang:
            err = str(hang)
        return type("R", (), {"returncode": self.run.poll(), "stderr": err})()

    def story(self):
        return "\n".join(f"{e['time']} {e['event']} {e['who']} {e['step']} {e['text'][:120]}" for e in events(self.run_dir) if e["event"] not in ("published", "checkpoint"))

    def close(self):
        for d in (self.run_dir, self.edge_dir):
            kill_all(d)
        for pid, _words in [p for p in processes(self.edge_dir)]:
            subprocess.run(["kill", "-9", str(pid)], capture_output=True)


def listening(namespace):
    out = subprocess.run(inside(namespace, "ss", "-Hltn"), capture_output=True, text=True).stdout
    return [line for line in out.splitlines() if line.strip()]


def life_of_a_visitor(folder):
    with Nat() as nat:
        w = World(folder / "nat", nat, 7311)
        try:
            wanted = reference(w.job)
            joined = w.join()
            test("a machine behind address translation joins with a token", bool(w.waits("site joined", 1)), w.story() + joined.stderr.read()  if joined.poll() is not None else w.story())
            test("its shard copies the weights from the nearest replica, and its rank works", bool(wait_for(w.edge_works, 30)), w.story())
            test("nothing listens on that machine", listening(nat.edge) == [], listening(nat.edge))
            first = step_of(w.run_dir)
            wait_for(lambda: step_of(w.run_dir) > first + 100)
            joined.send_signal(signal.SIGINT)
            code = joined.wait(timeout=30)
            test("Ctrl-C leaves in good order: exit 0", code == 0 and w.waits("site left", 1), joined.stderr.read())
            first = step_of(w.run_dir)
            test("the run goes on without it", bool(wait_for(lambda: step_of(w.run_dir) > first + 50)))
            joined = w.join()
            test("it comes back with what it has: no second token", bool(w.waits("site joined", 2)), w.story())
            wait_for(w.edge_works, 30)
            nat.cut(True)
            test("it vanishes: the run notices and goes on", bool(w.waits("site left", 2)), w.story())
            first = step_of(w.run_dir)
            wait_for(lambda: step_of(w.run_dir) > first + 50)
            nat.cut(False)
            test("it returns by itself", bool(w.waits("site joined", 3)), w.story())
            result = w.end()
            wrong = complete(w.run_dir, result, wanted)
            test("complete, every sample once, the weights of a run without visitors", not wrong, wrong)
            test("lanes that moved restarted nobody at home", not [x for x in report(w.run_dir).get("restarts", []) if "home" in x["who"]], report(w.run_dir).get("restarts"))
            code = joined.wait(timeout=30)
            test("the visitor's command ends with the run: exit 0", code == 0, joined.stderr.read())
            r = viaduct("drain", w.run_dir, "--site", "edge")
            test("drain of a run that is over: exit 6 says so", r.returncode == 6 and "is not running (completed)" in r.stderr, f"{r.returncode} {r.stderr}")
        finally:
            nat.cut(False)
            w.close()


def other_images(job, folder):
    """The same number of images, of which one is another."""
    with gzip.open(json.loads(Path(job).read_text())["data"]["train"]["images"]) as f:
        data = bytearray(f.read())
    data[5000] ^= 1
    path = folder / "other.gz"
    with gzip.open(path, "wb", compresslevel=1) as f:
        f.write(bytes(data))
    return path


def stranger_in_its_place(w):
    """Until it has been refused: what the site dials has a certificate that is not the run's."""
    cert = w.folder / "stranger"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{cert}.key", "-out", f"{cert}.pem",
                    "-subj", "/CN=portal", "-days", "1"], capture_output=True, check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{cert}.pem", f"{cert}.key")
    with socket.create_server((w.home, w.port)) as listener:
        listener.settimeout(30)
        for _ in range(3):
            caller, _address = listener.accept()
            with caller:
                try:
                    context.wrap_socket(caller, server_side=True).recv(1)
                except ssl.SSLError as refused:
                    if "ALERT" in str(refused):
                        return True
                except OSError:
                    pass
    return False


def wrong_tokens(folder):
    w = World(folder / "tokens", None, *free_ports(1), steps=1000000)
    try:
        text = w.token.read_text()
        bad = folder / "bad.token"
        bad.write_text(text[:200])
        r = w.join_to_its_end(token=bad, directory=folder / "a")
        test("a token that is cut off: exit 2, says so", r.returncode == 2 and "cut off" in r.stderr, r.stderr)
        bad.write_text("hello\n")
        r = w.join_to_its_end(token=bad, directory=folder / "b")
        test("no token at all: exit 2, says what is one", r.returncode == 2 and "no token" in r.stderr, r.stderr)
        program = driver("impostor")
        r = subprocess.run([program, w.run_dir, "edge", f"tls:127.0.0.1:{w.port}", "ask-status"], capture_output=True, text=True, timeout=20)
        test("a token's certificate is good for enrolling, not for asking how the run goes", r.returncode == 0, r.stdout + r.stderr)
        r = w.join_to_its_end(site="elsewhere", directory=folder / "c")
        test("a token of another site: exit 2", r.returncode == 2 and "not of 'elsewhere'" in r.stderr, r.stderr)
        words = text.split("\n", 1)[0].split()
        bad.write_text(text.replace(words[-1], "00" * 32, 1))
        r = w.join_to_its_end(token=bad, directory=folder / "d")
        test("a wrong secret: exit 5", r.returncode == 5 and "newest token" in r.stderr, r.stderr)
        r = w.join_to_its_end(directory=folder / "e", extra=["train.seed=2"])
        test("a machine cannot change the job: exit 2", r.returncode == 2 and "train.seed" in r.stderr, r.stderr)
        r = w.join_to_its_end(directory=folder / "f")
        test("a token is good once: exit 5, says how to get another", r.returncode == 5 and "viaduct token" in r.stderr, r.stderr)
        bad.write_text(text)
        r = viaduct("join", "127.0.0.1:1", "--site", "edge", "--token", bad, "--dir", folder / "nobody")
        test("nobody there: exit 75, in words", r.returncode == 75 and "no coordinator answers at 127.0.0.1:1: it cannot be reached" in r.stderr, r.stderr)
        left = [x for x in "abcdf" if (folder / x).exists()] + [x.name for x in folder.glob("nobody")]
        test("a join that enrolled nothing leaves no folder of its own", not left, left)
        mine = folder / "mine"
        mine.mkdir()
        (mine / "file").write_text("keep")
        r = viaduct("join", "127.0.0.1:1", "--site", "edge", "--token", bad, "--dir", mine)
        test("in a folder that was there all stays", r.returncode == 75 and (mine / "file").read_text() == "keep", r.stderr)
        again = viaduct("token", w.run_dir, "--site", "edge")
        test("`token` makes another", again.returncode == 0 and Path(again.stdout.strip()).stat().st_mode & 0o77 == 0, again.stderr)
        r = w.join_to_its_end(directory=folder / "g", extra=["data.train.images=/nowhere"])
        test("data that this machine does not have: exit 2, names the file", r.returncode == 2 and "/nowhere" in r.stderr, r.stderr)
        r = w.join_to_its_end(directory=folder / "g", extra=["data.train.images=/elsewhere"])
        test("the same folder again, its token used: where the data lies is taken anew", r.returncode == 2 and "/elsewhere" in r.stderr, r.stderr)
        viaduct("token", w.run_dir, "--site", "edge")
        r = w.join_to_its_end(directory=folder / "i", extra=[f"data.train.images={other_images(w.job, folder)}"])
        test("other data than the run's: sent away with exit 3, and the run goes on", r.returncode == 3 and "goes on without this site" in r.stderr and w.run.poll() is None
             and any("reads other training data" in e["text"] for e in events(w.run_dir, "site left")), f"{r.returncode} {r.stderr[-600:]} {w.run.poll()} {w.story()[-1500:]}")
        r = viaduct("token", w.run_dir, "--site", "hom")
        test("no such site: exit 4 with the nearest name", r.returncode == 4 and "home" in r.stderr, r.stderr)
        r = viaduct("drain", w.run_dir, "--site", "home")
        test("a site that belongs to the run is not drained: exit 2", r.returncode == 2, r.stderr)
        viaduct("token", w.run_dir, "--site", "edge")
        joined = w.join()
        w.waits("site joined", 1)
        wait_for(w.edge_works, 30)
        before = w.count("site joined")
        kill_all(w.run_dir)
        seen = stranger_in_its_place(w)
        w.run = w._start("home", "run", w.job, "--dir", w.run_dir, "--resume")
        back = w.waits("site joined", before + 1)
        test("a stranger at the coordinator's address, with a certificate of its own, ends nothing: the site is back when the run is", seen and back and joined.poll() is None,
             f"{seen} {joined.stderr.read() if joined.poll() is not None else w.story()[-600:]}")
        r = viaduct("drain", w.run_dir, "--site", "edge")
        code = joined.wait(timeout=30)
        test("`drain` sends it away: both exit 0", r.returncode == 0 and code == 0, r.stderr)
        wait = time.time()
        r = subprocess.run([PROGRAM, "join", "127.0.0.1:1", "--site", "edge", "--token", str(w.token), "--dir", str(folder / "h")], capture_output=True, text=True, timeout=60, cwd=ROOT)
        test("nobody at that address: exit 75 within 30 s", r.returncode == 75 and time.time() - wait < 30, f"{r.returncode} {r.stderr}")
    finally:
        w.run.send_signal(signal.SIGINT)
        w.end()
        w.close()


with workspace() as directory:
    why = reason_not()
    if why:
        skip("a visitor behind address translation", why)
    else:
        life_of_a_visitor(Path(directory))
    wrong_tokens(Path(directory))
finish()
