"""A Slurm cluster of this machine's own for a test: munged, slurmctld and several slurmd in a temporary folder, each slurmd with a host name and /dev/shm of its own."""
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from harness import free_ports, processes

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "unshare")
CONF = """ClusterName={name}
SlurmctldHost={host}({address})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={dir}/munge/sock
CredType=cred/munge
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool/%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd-%n.pid
SlurmctldLogFile={dir}/log/slurmctld.log
SlurmdLogFile={dir}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
KillWait=15
MessageTimeout=30
SlurmdTimeout=10
SlurmdParameters=config_overrides
TmpFS={dir}/nodetmp
MpiDefault=none
{nodes}
{partitions}
"""


class Brake(threading.Thread):
    """Ranks run a small part of the time while it is on: a job that lasts, and leaves the machine to others."""

    def __init__(self, directories, run_s):
        super().__init__(daemon=True)
        self.directories, self.run_s = directories, run_s
        self.on, self.over = threading.Event(), threading.Event()

    def run(self):
        while not self.over.is_set():
            if not self.on.wait(0.5):
                continue
            found = [pid for d in self.directories for pid, _ in processes(d, "worker")]
            for signo, pause in ((signal.SIGSTOP, 0.5), (signal.SIGCONT, self.run_s)):
                for pid in found:
                    try:
                        os.kill(pid, signo)
                    except ProcessLookupError:
                        pass
                time.sleep(pause)

    def end(self):
        self.over.set()
        self.join()


def why_not():
    """The reason why no cluster can be started here; empty when one can."""
    if os.geteuid() != 0:
        return "Slurm's daemons for several nodes on one machine need root"
    missing = [c for c in COMMANDS if not shutil.which(c)]
    if missing:
        return f"not installed: {' '.join(missing)} (tests/deps.sh test installs them)"
    if subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True).returncode != 0:
        return "namespaces are not allowed here (unshare --mount --uts)"
    return ""


class Cluster:
    """partitions: {name: (nodes, more options)}; places: {node: (network namespace, address)} for nodes that are hosts of their own, of which the first has the
    controller; none: all are on the loopback of this machine."""

    def __init__(self, directory, nodes, partitions, places=None, name="viaduct"):
        self.dir = Path(directory)
        self.places = places or {}
        self.conf = self.dir / "slurm.conf"
        self.env = dict(os.environ, SLURM_CONF=str(self.conf))
        for name in ("munge", "state", "spool", "log", "nodetmp"):
            (self.dir / name).mkdir(parents=True)
        os.chmod(self.dir / "munge", 0o700)
        (self.dir / "munge/key").write_bytes(os.urandom(1024))
        os.chmod(self.dir / "munge/key", 0o400)
        ports = free_ports(1 + len(nodes))
        self.conf.write_text(CONF.format(
            dir=self.dir, host=socket.gethostname(), port=ports[0], name=name, address=self._address(nodes[0]),
            nodes="\n".join(f"NodeName={n} NodeHostname={n} NodeAddr={self._address(n)} Port={p} CPUs=4 RealMemory=2000 State=UNKNOWN" for n, p in zip(nodes, ports[1:])),
            partitions="\n".join(f"PartitionName={p} Nodes={','.join(on)} MaxTime=60 State=UP {more}" for p, (on, more) in partitions.items())))
        m = self.dir / "munge"
        subprocess.check_call(["munged", "--force", f"--key-file={m}/key", f"--socket={m}/sock", f"--pid-file={m}/pid", f"--log-file={m}/log",
                               f"--seed-file={m}/seed"], stderr=subprocess.DEVNULL)
        self.head = nodes[0]
        subprocess.check_call(self._on(self.head, "slurmctld", "-c"), env=self.env)
        for node in nodes:
            self.start_node(node)
        self._stop = threading.Event()
        self._hurry = threading.Thread(target=self._hurry_up, daemon=True)
        self._hurry.start()

    def _address(self, node):
        return self.places.get(node, ("", "127.0.0.1"))[1]

    def _on(self, node, *command):
        """A command in a node's network."""
        return [*(["nsenter", f"--net=/run/netns/{self.places[node][0]}"] if node in self.places else []), *map(str, command)]

    def start_node(self, node):
        # A host of its own has its own sockets too.
        own = 'mkdir -p -m 700 /tmp/viaduct-0; mount -t tmpfs -o mode=700 tmpfs /tmp/viaduct-0; ' if node in self.places else ""
        subprocess.check_call(self._on(node, "unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c",
                                       f"hostname {node}; mount -t tmpfs tmpfs /dev/shm; {own}exec slurmd -N {node}"), env=self.env)

    def kill_node(self, node):
        """slurmd alone dies: what runs on the node goes on, and Slurm knows nothing of it."""
        os.kill(int((self.dir / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)

    def command(self, *words, timeout=60, **more):
        return subprocess.run(self._on(self.head, *words), capture_output=True, text=True, env=dict(self.env, **more), timeout=timeout)

    def idle_nodes(self):
        return len(self.command("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").stdout.split())

    def job(self, number):
        """What scontrol shows of a job, by key."""
        words = self.command("scontrol", "-o", "show", "job", number).stdout.split()
        return dict(w.split("=", 1) for w in words if "=" in w)

    def state(self):
        """What Slurm thinks: its jobs, and why nodes are out."""
        return "".join(self.command(*words).stdout for words in (("squeue", "-o", "%A %T %r %S %N"), ("sinfo", "-N", "-o", "%N %T %E")))

    def _hurry_up(self):
        """A requeued job waits two minutes before it may start: not here. But slurmd refuses ("already killed") a start in the second in which it killed the one before."""
        turns = {}
        while not self._stop.wait(1):
            try:
                waiting = set(self.command("squeue", "-h", "-t", "PD", "-o", "%A").stdout.split())
                turns = {number: turns.get(number, 0) + 1 for number in waiting}
                for number in [n for n in waiting if turns[n] >= 3]:
                    if self.job(number).get("Restarts", "0") != "0":
                        self.command("scontrol", "update", f"JobId={number}", "StartTime=now")
            except subprocess.TimeoutExpired:                       # a busy controller: at the next turn
                pass

    def _ours(self):
        """Every process that was started with this cluster's configuration: daemons, step daemons, and what runs in the jobs."""
        needle = f"SLURM_CONF={self.conf}".encode()
        for p in Path("/proc").iterdir():
            try:
                if p.name.isdigit() and int(p.name) != os.getpid() and needle in (p / "environ").read_bytes().split(b"\0"):
                    yield int(p.name)
            except OSError:
                pass

    def stop(self):
        self._stop.set()
        self._hurry.join()
        self.command("scancel", "--user=root")
        for _ in range(20):
            if not self.command("squeue", "-h").stdout.strip():
                break
            time.sleep(0.2)
        for _ in range(3):
            for pid in list(self._ours()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.1)
        try:
            os.kill(int((self.dir / "munge/pid").read_text()), signal.SIGTERM)
        except (OSError, ValueError):
            pass

    def logs(self):
        return "\n".join(f"{f.name}: {line}" for f in sorted((self.dir / "log").glob("*")) for line in f.read_text(errors="replace").splitlines()[-8:])
