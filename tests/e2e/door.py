"""Front doors: between sites only one listening TCP port a site, the same weights as without; an agent that dies cuts no stream, and the next one lets new
connections in at the same address; strangers at the door keep nobody out."""
import contextlib
import glob
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from harness import (PROGRAM, ROOT, complete, driver, events, finish, kill_all, logs, processes, reference, report, run, spec, start, step_of, test, two_sites, wait_for,
                     workspace)

TRAIN = {"steps": 300, "batch": 128, "lanes": 8, "seed": 7, "deterministic": True,
         "optimizer": {"name": "adamw", "lr": 0.01, "schedule": "cosine", "final": 0.01, "warmup": 10}}
SHORT = dict(TRAIN, steps=40)
LISTENS, OPEN = "0A", "01"


def with_doors(address="127.0.0.1:0"):
    return [dict(site, door=address) for site in two_sites(2, 1)]


class Run:
    def __init__(self, w, name, **keys):
        folder = Path(w) / name
        folder.mkdir()
        keys.setdefault("sites", with_doors())
        keys.setdefault("checkpoint", {"every": "100 steps", "keep": 3})
        job = spec(folder, train=TRAIN, export=None, **keys)
        self.directory = folder / "run"
        self.process = start(job, self.directory, VIADUCT_LEASE_MS="120000")
        wait_for(lambda: step_of(self.directory) >= 40 or self.process.poll() is not None)

    def pids(self, role, site=None):
        return [pid for pid, words in processes(self.directory, role) if site is None or site in words]

    @contextlib.contextmanager
    def held(self):
        """No round can end meanwhile: so that the run outlasts what is looked at, however fast the machine."""
        rank = self.pids("worker", "cloud")[0]
        os.kill(rank, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(rank, signal.SIGCONT)

    def doors(self):
        """Port of each site's front door, as the run directory says."""
        return {site: int((self.directory / "state" / f"door-{site}").read_text().strip().rsplit(":", 1)[1]) for site in ("onprem", "cloud")}

    def coordinator(self):
        return (self.directory / "state" / "coordinator.addr").read_text().splitlines()[0]

    def name_of_ps(self, site):
        """Slots are numbered in the order of the sites."""
        return f"ps-{['onprem', 'cloud'].index(site)}.{site}.{(self.directory / 'state' / 'job').read_text().strip()}"

    def visit(self, address):
        """Somebody with a certificate of this run who lies about its site: whom it met before it was put out."""
        program = driver("impostor")
        return subprocess.run([program, self.directory, "onprem", address, "other-site"], capture_output=True, text=True, timeout=20, check=False).stdout

    def visit_ps(self, site):
        return self.visit(f"tls:127.0.0.1:{self.doors()[site]}/{self.name_of_ps(site)}")

    def closed_links(self):
        """Log lines of ranks and shards about links that ended."""
        lines = []
        for f in [*glob.glob(f"{self.directory}/log/ps-*.jsonl"), *glob.glob(f"{self.directory}/log/worker-*.jsonl")]:
            lines += [line for line in Path(f).read_text(errors="replace").splitlines() if "link to" in line and "closed" in line]
        return lines

    def end(self, wanted, what):
        try:
            _out, err = self.process.communicate(timeout=90)
        except subprocess.TimeoutExpired as hang:
            err = str(hang)
        result = type("R", (), {"returncode": self.process.poll(), "stderr": err})()
        wrong = complete(self.directory, result, wanted)
        kill_all(self.directory)
        return test(f"{what}: complete, the same weights", not wrong, wrong)


def tcp(pid, state):
    """TCP sockets of a process: {inode: (local port, remote port)}."""
    inodes = set()
    for fd in glob.glob(f"/proc/{pid}/fd/*"):
        try:
            target = os.readlink(fd)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = lambda end: int(end.split(":")[1], 16)
    return {r[9]: (port(r[1]), port(r[2])) for r in rows if r[3] == state and r[9] in inodes}


def listening(pids):
    return sorted({local for pid in pids for local, _remote in tcp(pid, LISTENS).values()})


def one_port_a_site(r):
    doors, coordinator = r.doors(), int(r.coordinator().rsplit(":", 1)[1])
    everybody = [pid for pid, _words in processes(r.directory)]
    found = listening(everybody)
    test("the run listens at one TCP port a site, and the coordinator's", found == sorted([*doors.values(), coordinator]), f"{found} {doors} {coordinator}")
    test("and the agents do so, no shard does", all(listening(r.pids("agent", site)) == [port] for site, port in doors.items()) and not listening(r.pids("ps")),
         [listening(r.pids("agent")), listening(r.pids("ps"))])
    if shutil.which("ss"):
        told = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=False).stdout.splitlines()
        ours = [line for line in told if any(f"pid={pid}," in line for pid in everybody)]
        test("ss says so too", len(ours) == 3, "\n".join(ours))
    ports = {*doors.values(), coordinator}
    streams = [ends for pid in r.pids("ps") + r.pids("worker") for ends in tcp(pid, OPEN).values()]
    test("every TCP stream of ranks and shards goes over one of these ports", streams and all(ports & set(ends) for ends in streams), streams)
    test("some go through the doors", any(set(doors.values()) & set(ends) for ends in streams), streams)


def agents_killed(r):
    doors, before = r.doors(), {pid: set(tcp(pid, OPEN)) for pid in r.pids("ps") + r.pids("worker")}
    old = {site: r.pids("agent", site)[0] for site in doors}
    at = step_of(r.directory)
    for pid in old.values():
        os.kill(pid, signal.SIGKILL)
    test("training goes on without agents or with new ones", bool(wait_for(lambda: step_of(r.directory) > at + 20, 30)), logs(r.directory))
    with r.held():
        for site in doors:
            met = wait_for(lambda: r.pids("agent", site) not in ([], [old[site]]) and " to ps " in r.visit_ps(site), 30, 0.1)
            test(f"the next agent of {site} lets new connections in", bool(met), r.visit_ps(site) + logs(r.directory))
            test(f"at the same address ({site})", r.doors() == doors and listening(r.pids("agent", site)) == [doors[site]], f"{doors} {r.doors()}")
        after = {pid: set(tcp(pid, OPEN)) for pid in r.pids("ps") + r.pids("worker")}
    test("the same processes, with every stream that they had", all(before[pid] <= after.get(pid, set()) for pid in before), f"{before} {after}")
    test("no link of a rank or shard ended", not r.closed_links(), "\n".join(r.closed_links()))
    test("nobody died", not events(r.directory, "dead"), events(r.directory, "dead"))


def shard_killed(r):
    old = r.pids("ps", "cloud")
    os.kill(old[0], signal.SIGKILL)
    with r.held():
        met = wait_for(lambda: r.pids("ps", "cloud") not in ([], old) and " to ps " in r.visit_ps("cloud"), 30, 0.1)
    test("a shard that was killed is reached again behind the same door", bool(met), logs(r.directory))


def doors_and_deaths(w, wanted):
    r = Run(w, "doors")
    with r.held():
        one_port_a_site(r)
    agents_killed(r)
    shard_killed(r)
    r.end(wanted, "two sites behind front doors, both agents and a shard killed")
    who = sorted(x["who"] for x in report(r.directory).get("restarts") or [])
    test("of all ranks and shards only the killed one was started again", [x for x in who if not x.startswith("agent")] == ["ps cloud/1"], who)


# ---- strangers ----
def raw(port, data=b""):
    s = socket.create_connection(("127.0.0.1", port), timeout=5)
    s.send(data)
    return s


def is_shut(s, seconds):
    s.settimeout(seconds)
    try:
        return s.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def half_a_hello():
    return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(random.choice([0, 7, 200]))


def pester(ports, over):
    deeds = [lambda: os.urandom(random.choice([1, 100, 20000])), lambda: b"GET / HTTP/1.1\r\n\r\n", half_a_hello, lambda: b"\x16\x03\x01\x40\x01"]
    while not over.wait(0.01):
        try:
            raw(random.choice(ports), random.choice(deeds)()).close()
        except OSError:
            pass                          # put out while it spoke


def attacked(r, doors):
    silent = [raw(doors["cloud"], half_a_hello() if i % 2 else b"") for i in range(200)]
    begun = time.time()
    met = r.visit_ps("cloud")
    test("200 connections that say nothing or half a hello: a real one gets in", " to ps " in met, met)
    print(f"# through the door in {time.time() - begun:.2f} s, start of the process and end of the link included", flush=True)
    shut = [is_shut(s, 20) for s in silent]
    test("they are shut out when their time is over", all(shut), shut.count(False))

    test("rubbish is shut out at once", is_shut(raw(doors["cloud"], b"GET / HTTP/1.1\r\n\r\n"), 3))
    half = raw(doors["cloud"], half_a_hello())
    half.shutdown(socket.SHUT_WR)
    test("half a hello and no more, too", is_shut(half, 3))
    for name in ("ps-9.cloud.job", r.name_of_ps("onprem")):
        met = r.visit(f"tls:127.0.0.1:{doors['cloud']}/{name}")
        test(f"a name that nobody there has ({name.split('.')[1]}) reaches nobody", " to a peer " in met, met)
    met = r.visit(f"tls:127.0.0.1:{doors['cloud']}/../../state/tls/ca.key")
    test("a name that is a path is not even sent", met == "", met)


def strangers(w, wanted):
    r = Run(w, "strangers", coordinator={"door": "onprem"})
    doors = r.doors()
    found = listening([pid for pid, _words in processes(r.directory)])
    test("with the coordinator behind a door the run listens at two TCP ports", found == sorted(doors.values()), f"{found} {doors}")
    job = (r.directory / "state" / "job").read_text().strip()
    test("its address names the door of its site", r.coordinator() == f"tls:127.0.0.1:{doors['onprem']}/coordinator.{job}", r.coordinator())

    with r.held():
        attacked(r, doors)
    over = threading.Event()
    pests = [threading.Thread(target=pester, args=(list(doors.values()), over)) for _ in range(3)]
    for t in pests:
        t.start()
    for role, site in (("coordinator", None), ("ps", "onprem"), ("agent", "onprem")):
        old = r.pids(role, site)
        os.kill(old[0], signal.SIGKILL)
        wait_for(lambda: r.pids(role, site) not in ([], old), 20)
    with r.held():
        met = wait_for(lambda: " to ps " in r.visit_ps("onprem"), 30, 0.1)
    test("under attack, with coordinator, shard and agent killed, the door leads where it should", bool(met), logs(r.directory))
    r.end(wanted, "strangers at the doors and deaths behind them")
    over.set()
    for t in pests:
        t.join()
    lines = sum(len(Path(f).read_text().splitlines()) for f in glob.glob(f"{r.directory}/log/agent-*.jsonl"))
    test("the agents' logs did not grow with the attacks", lines < 300, lines)


# ---- through one port into a running job ----
def joins(w):
    """A visiting site that sees of the others one TCP port, behind which coordinator and shard stand."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    train = dict(TRAIN, steps=1500, batch=32, lanes=4)
    sites = [{"name": "home", "via": "local", "ranks": 1, "ps_shards": 1, "door": f"127.0.0.1:{port}"}, {"name": "edge", "via": "join", "ranks": 1, "ps_shards": 1}]
    folder = Path(w) / "joins"
    folder.mkdir()
    job = spec(folder, train=train, sites=sites, export=None, coordinator={"door": "home", "address": f"127.0.0.1:{port}"},
               model={"family": "cnn", "classes": 10, "input": [1, 28, 28], "channels": [4, 8], "hidden": 16})
    wanted = reference(job)
    p = start(job, folder / "run")
    wait_for(lambda: step_of(folder / "run") > 20 or p.poll() is not None)
    where = f"127.0.0.1:{port}/coordinator.{(folder / 'run/state/job').read_text().strip()}"
    visitor = subprocess.Popen([PROGRAM, "join", where, "--site", "edge", "--token", folder / "run/state/tokens/edge.token", "--dir", folder / "edge"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    came = wait_for(lambda: [pid for pid, words in processes(folder / "edge", "worker")] or p.poll() is not None, 40)
    found = listening([pid for pid, _words in processes(folder / "run") + processes(folder / "edge")])
    test("a visiting site joins through the one port that there is", came and found == [port], f"{found} {port}")
    out, err = p.communicate(timeout=120)
    wrong = complete(folder / "run", subprocess.CompletedProcess([], p.returncode, out, err), wanted)
    test("and the run completes: the same weights", not wrong, wrong)
    test("its line says the whole address", f"viaduct join {where} --site edge" in err, err[:600])
    visitor.communicate(timeout=60)
    kill_all(folder / "run")
    kill_all(folder / "edge")


# ---- where a door stands ----
def settings(w, short):
    folder = Path(w) / "environment"
    folder.mkdir()
    job = spec(folder, train=SHORT, export=None, sites=two_sites(1, 1))
    result = run(job, folder / "run", VIADUCT_DOOR="127.0.0.1:0")
    wrong = complete(folder / "run", result, short)
    test("VIADUCT_DOOR gives every site a door", not wrong and (folder / "run/state/door-cloud").exists(), wrong)
    result = run(job, folder / "run", "--resume", "train.steps=60")
    test("and a resume without it has none", result.returncode == 0 and not (folder / "run/state/door-cloud").exists(), result.stderr[-500:])

    folder = Path(w) / "taken"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as holder:
        sites = with_doors()
        sites[1]["door"] = f"127.0.0.1:{holder.getsockname()[1]}"
        for name, coordinator in (("own port", {"listen": "127.0.0.1:0"}), ("behind it", {"door": "cloud"})):
            job = spec(folder, train=SHORT, export=None, sites=sites, coordinator=coordinator)
            result = run(job, folder / name)
            said = "front door of site 'cloud'" in result.stderr and "choose another port" in result.stderr
            test(f"a door's port that another process has (coordinator: {name}): one clear error", result.returncode == 6 and said,
                 f"{result.returncode} {result.stderr[-800:]}")
            kill_all(folder / name)
        result = run(job, folder / "run", VIADUCT_DOOR="127.0.0.1:0")
    wrong = complete(folder / "run", result, short)
    test("VIADUCT_DOOR goes before the spec", not wrong, wrong)


def forward(outside, inside):
    """A router's forwarded port: each connection to `outside` goes on to `inside`. Counts them in a list."""
    callers = []

    def pump(a, b):
        try:
            while data := a.recv(1 << 16):
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def serve():
        while True:
            try:
                caller, _ = outside.accept()
            except OSError:
                return
            callers.append(caller)
            try:
                beyond = socket.create_connection(("127.0.0.1", inside))
            except OSError:
                caller.close()
                continue
            for a, b in ((caller, beyond), (beyond, caller)):
                threading.Thread(target=pump, args=(a, b), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return callers


def another_address(w, wanted):
    """A door that others reach at an address which its host cannot bind: here, a port that is forwarded."""
    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = outside.getsockname()[1]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            inside = free.getsockname()[1]
        callers = forward(outside, inside)
        sites = two_sites(2, 1)
        sites[0].update(door=f"0.0.0.0:{inside}", door_address=f"localhost:{port}")
        r = Run(w, "forwarded", sites=sites, coordinator={"door": "onprem"})
        told = (r.directory / "state/door-onprem").read_text().split()
        test("a forwarded door: others are told its address, the run's own side where it stands", told == [f"tls:localhost:{port}", f"tls:0.0.0.0:{inside}"] and
             f":{inside}/coordinator." in r.coordinator(), f"{told} {r.coordinator()}")
        test("... and the other site comes through it", len(callers) > 0, logs(r.directory))
        r.end(wanted, "a forwarded door")


with workspace() as w:
    for name in ("reference", "reference-short"):
        (Path(w) / name).mkdir()
    settings(w, reference(spec(Path(w) / "reference-short", train=SHORT)))
    wanted = reference(spec(Path(w) / "reference", train=TRAIN))
    Run(w, "plain", sites=two_sites(2, 1)).end(wanted, "two sites without doors")
    doors_and_deaths(w, wanted)
    strangers(w, wanted)
    another_address(w, wanted)
    joins(w)
finish()
