"""Faults that are not a clean death: a paused process, a broken link, lanes that move and come back, both copies lost, an embedded gang that restarts
from its RAM segments. Every run completes with the weights of a run without faults."""
import ctypes
import errno
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import harness
from harness import complete, events, finish, kill_all, logs, one_site, processes, reference, report, skip, spec, start, step_of, test, two_sites, wait_for, workspace

PATIENCE = {"VIADUCT_LEASE_MS": "4000", "VIADUCT_RELAUNCH_MS": "2000"}
TRAIN = {"steps": 300, "batch": 128, "lanes": 8, "seed": 7, "deterministic": True,
         "optimizer": {"name": "adamw", "lr": 0.01, "schedule": "cosine", "final": 0.01, "warmup": 10}}
PIDFD_GETFD = 438


class Run:
    """A run under way at step 100 or later, and how it must end."""

    def __init__(self, w, name, **keys):
        folder = Path(w) / name
        folder.mkdir()
        keys.setdefault("checkpoint", {"every": "40 steps", "keep": 3})
        job = spec(folder, train=TRAIN, export=None, **keys)
        self.directory = folder / "run"
        self.process = start(job, self.directory, **PATIENCE)
        wait_for(lambda: step_of(self.directory) >= 100 or self.process.poll() is not None)

    def pids(self, role, site=None):
        return [pid for pid, words in processes(self.directory, role) if site is None or site in words]

    def send(self, pids, signo):
        for pid in pids:
            try:
                os.kill(pid, signo)
            except ProcessLookupError:
                pass                      # replaced meanwhile

    def event(self, kind, seconds=20):
        return wait_for(lambda: events(self.directory, kind), seconds)

    def end(self, wanted, what):
        try:
            _out, err = self.process.communicate(timeout=60)
        except Exception as hang:         # so that one hang does not hide the other tests
            err = str(hang)
        result = type("R", (), {"returncode": self.process.poll(), "stderr": err})()
        wrong = complete(self.directory, result, wanted)
        kill_all(self.directory)
        return test(f"{what}: complete, same weights", not wrong, wrong)

    def lost_steps(self):
        return [x["lost_steps"] for x in report(self.directory).get("restarts") or []]


def paused(w, wanted, role):
    r = Run(w, f"paused-{role}", sites=two_sites(2, 1))
    victim = r.pids(role, "cloud")[:1]
    r.send(victim, signal.SIGSTOP)
    dead = r.event("dead")
    r.send(victim, signal.SIGCONT)
    test(f"a paused {role} is replaced after its lease", bool(dead), logs(r.directory))
    gone = wait_for(lambda: victim[0] not in r.pids(role), 10)
    test(f"a {role} that wakes finds its place taken and ends", bool(gone), logs(r.directory))
    r.end(wanted, f"a {role} paused for longer than its lease")
    views = [e["text"] for e in events(r.directory, "view")]
    test(f"after a paused {role} both shards have two copies again", all(f"shard {s}: " in views[-1] for s in (0, 1)) and views[-1].count("*") == 2 and
         len(views[-1].split("copies:")[1].replace("shard 0:", "").replace("shard 1:", "").split()) == 4, views)


def paused_coordinator(w, wanted):
    r = Run(w, "paused-coordinator", sites=two_sites(1, 1))
    victim = r.pids("coordinator")
    r.send(victim, signal.SIGSTOP)
    time.sleep(6)
    r.send(victim, signal.SIGCONT)
    r.end(wanted, "a coordinator paused for longer than everybody's lease")
    dead = events(r.directory, "dead")
    test("nobody is declared dead for what the coordinator did not hear in its sleep", not dead, dead)


def lanes_move(w, wanted):
    """The agent of a site is paused and its gang killed: nobody launches it again, the other site takes its lanes; then the agent wakes."""
    r = Run(w, "lanes", sites=two_sites(1, 1))
    agent = r.pids("agent", "cloud")
    r.send(agent, signal.SIGSTOP)
    r.send(r.pids("worker", "cloud"), signal.SIGKILL)
    moved = r.event("lanes moved")
    before = step_of(r.directory)
    went_on = wait_for(lambda: step_of(r.directory) > before + 20, 20)
    r.send(agent, signal.SIGCONT)
    back = wait_for(lambda: step_of(r.directory) >= TRAIN["steps"] or len(r.pids("worker", "cloud")) == 1, 20)
    test("a gang that does not come back: the other site takes its lanes and goes on", bool(moved and went_on), f"{moved} {before}\n{logs(r.directory)}")
    test("its site comes back", bool(back), logs(r.directory))
    r.end(wanted, "lanes that move to the other site and back")


def both_copies(w, wanted):
    r = Run(w, "both", sites=two_sites(1, 1))
    r.send(r.pids("ps"), signal.SIGKILL)
    r.end(wanted, "both copies of every shard killed at once")
    back = events(r.directory, "rollback")
    test("it rolled back to a checkpoint, not to the start", bool(back) and back[0]["step"] >= 80 and back[0]["step"] % 40 == 0, back)


def embedded(w, wanted, every):
    r = Run(w, f"embedded-{every}", sites=one_site(2), checkpoint={"every": "80 steps", "keep": 3, "ram_every": every})
    wait_for(lambda: step_of(r.directory) % 80 > 40)      # far above the newest checkpoint
    r.send(r.pids("worker"), signal.SIGKILL)
    r.end(wanted, f"an embedded gang killed, ram_every {every}")
    back = events(r.directory, "rollback")
    lost = r.lost_steps()
    near = bool(back) and back[0]["step"] % 80 != 0 and back[0]["step"] % every == 0
    test(f"it started again from its RAM segments, at most {every} steps lost", near and max(lost) <= every, f"{back} {lost}")


def shut_links(pid):
    """Breaks every TCP and Unix connection of a process from outside; their number, or None where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    at = os.pidfd_open(pid)
    count = 0
    for fd in sorted(int(x) for x in os.listdir(f"/proc/{pid}/fd")):
        try:
            if not os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"):
                continue
        except OSError:
            continue
        copy = libc.syscall(PIDFD_GETFD, at, fd, 0)
        if copy < 0 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):
            return None
        if copy < 0:
            continue                      # closed meanwhile
        with socket.socket(fileno=copy) as s:
            try:
                s.getpeername()           # connected: not a listener
                s.shutdown(socket.SHUT_RDWR)
                count += 1
            except OSError:
                pass
    os.close(at)
    return count


def broken_links(w, wanted):
    r = Run(w, "links", sites=two_sites(2, 1))
    count = 0
    for _ in range(5):
        for pid in r.pids("worker") + r.pids("ps"):
            cut = shut_links(pid)
            if cut is None:
                skip("links broken in the middle of rounds", "this system does not let one process take another's sockets")
                kill_all(r.directory)
                return
            count += cut
        time.sleep(0.15)
    r.end(wanted, f"{count} links broken in the middle of rounds")
    dead = events(r.directory, "dead")
    test("a broken link is no death", not dead, dead)


def program_replaced(w, wanted):
    """Built anew, or upgraded, under a run: what has to start again is the program that the run began with."""
    theirs, own = harness.PROGRAM, Path(w) / "viaduct"
    shutil.copy2(theirs, own)
    harness.PROGRAM = str(own)
    r = Run(w, "replaced", sites=two_sites(1, 1))
    harness.PROGRAM = theirs
    own.unlink()
    r.send(r.pids("ps", "cloud") + r.pids("worker", "onprem") + r.pids("coordinator") + r.pids("agent", "cloud"), signal.SIGKILL)
    r.end(wanted, "the program removed under a run, then a death of each kind")


with workspace() as w:
    (Path(w) / "reference").mkdir()
    wanted = reference(spec(Path(w) / "reference", train=TRAIN))
    program_replaced(w, wanted)
    broken_links(w, wanted)
    both_copies(w, wanted)
    embedded(w, wanted, 1)
    embedded(w, wanted, 7)
    lanes_move(w, wanted)
    paused(w, wanted, "worker")
    paused(w, wanted, "ps")
    paused_coordinator(w, wanted)
finish()
