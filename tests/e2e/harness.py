"""What the end-to-end tests share: small data, runs of the real program, TAP."""
import contextlib
import functools
import gzip
import hashlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("VIADUCT_PROGRAM", str(ROOT / "viaduct"))   # a sanitizer build, for instance
SOURCE = Path("/usr/share/datasets/fashion-mnist")
DATA = ROOT / "build" / "tests" / "data"
TIMEOUT_S = 60

_tests = 0
_failed = 0


def test(name, ok, why=""):
    """One TAP line; returns ok."""
    global _tests, _failed
    _tests += 1
    print(f"{'ok' if ok else 'not ok'} {_tests} - {name}", flush=True)
    if not ok:
        _failed += 1
        for line in str(why).splitlines()[-40:]:
            print(f"# {line}", flush=True)
    return ok


def skip(name, why):
    global _tests
    _tests += 1
    print(f"ok {_tests} - {name} # SKIP {why}", flush=True)


def finish():
    print(f"1..{_tests}")
    sys.exit(1 if _failed else 0)


def _cut(kind, count, magic_dims):
    """The first `count` entries of an IDX file, as gzip."""
    out = DATA / f"{kind}-{count}.gz"
    if out.exists():
        return str(out)
    with gzip.open(SOURCE / f"{kind}-ubyte.gz") as f:
        head = f.read(4 + 4 * magic_dims)
        size = 1
        for d in struct.unpack(f">{magic_dims - 1}I", head[8:]):
            size *= d
        body = f.read(count * size)
    DATA.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(f".{os.getpid()}")
    with gzip.open(part, "wb", compresslevel=1) as f:
        f.write(head[:4] + struct.pack(">I", count) + head[8:] + body)
    part.rename(out)
    return str(out)


def spec(directory, images=4000, evaluate=1000, **top):
    """A small job over Fashion-MNIST; `top` replaces whole top-level keys."""
    keys = {
        "viaduct": "v1",
        "name": "small",
        "model": {"family": "cnn", "classes": 10, "input": [1, 28, 28], "channels": [8, 16], "hidden": [32]},
        "data": {
            "train": {"format": "idx", "images": _cut("train-images-idx3", images, 3), "labels": _cut("train-labels-idx1", images, 1)},
            "eval": {"format": "idx", "images": _cut("t10k-images-idx3", evaluate, 3), "labels": _cut("t10k-labels-idx1", evaluate, 1)},
        },
        "train": {"steps": 60, "batch": 128, "lanes": 8, "seed": 7, "deterministic": True,
                  "optimizer": {"name": "adamw", "lr": 0.01, "schedule": "cosine", "final": 0.01, "warmup": 10}},
        "coordinator": {"listen": "127.0.0.1:0"},
        "sites": two_sites(1, 1),
        "checkpoint": {"every": "20 steps", "keep": 3},
        "export": {"to": ["onnx", "safetensors"]},
    }
    keys.update(top)
    path = Path(directory) / "job.yaml"
    path.write_text(json.dumps({k: v for k, v in keys.items() if v is not None}, indent=1))
    return str(path)


def two_sites(a, b, threads=1):
    return [{"name": "onprem", "via": "local", "ranks": a, "threads": threads, "ps_shards": 1},
            {"name": "cloud", "via": "local", "ranks": b, "threads": threads, "ps_shards": 1}]


def one_site(ranks, threads=1):
    return [{"name": "onprem", "via": "local", "ranks": ranks, "threads": threads, "ps_shards": 0}]


def environment(failpoint=None, **more):
    env = dict(os.environ, **more)
    env.pop("VIADUCT_FAILPOINT", None)
    if failpoint:
        env["VIADUCT_FAILPOINT"] = failpoint
    return env


@functools.cache
def driver(name):
    """A program of tests/e2e, built when it is not there or older than its source: asked of make once, as a run that is attacked does not wait for it."""
    path = f"build/release/tests/e2e/{name}"
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}   # of the make that runs this
    subprocess.run(["make", "-s", path], cwd=ROOT, check=True, env=env)
    return ROOT / path


def free_ports(count):
    """Below those that the system gives to whoever asks for any: tests run side by side, and these are bound later."""
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = []
    while len(ports) < count:
        port = random.randrange(max(1024, end - 20000), end)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            ports += [port] if port not in ports else []
    return ports


def viaduct(*args, timeout=TIMEOUT_S, env=None):
    """Runs the program to its end."""
    return subprocess.run([PROGRAM, *map(str, args)], capture_output=True, text=True, errors="backslashreplace", timeout=timeout, env=env or environment(), cwd=ROOT)


def run(job, directory, *args, failpoint=None, timeout=TIMEOUT_S, **env):
    return viaduct("run", job, "--dir", directory, *args, timeout=timeout, env=environment(failpoint, **env))


def start(job, directory, *args, failpoint=None, **env):
    """The same in the background."""
    return subprocess.Popen([PROGRAM, "run", str(job), "--dir", str(directory), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=environment(failpoint, **env), cwd=ROOT, start_new_session=True)


def report(directory):
    try:
        return json.loads((Path(directory) / "report.json").read_text())
    except (OSError, ValueError):
        return {}


def events(directory, kind=None):
    try:
        lines = (Path(directory) / "events.jsonl").read_text().splitlines()
    except OSError:
        return []
    found = [json.loads(line) for line in lines]
    return [e for e in found if kind is None or e["event"] == kind]


def processes(directory, role=None):
    """pid of every process of a run: {(role, index...): pid}, by command line."""
    found = []
    for p in Path("/proc").iterdir():
        if not p.name.isdigit():
            continue
        try:
            words = (p / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if len(words) > 3 and str(directory).encode() in words and words[1].decode() in ("coordinator", "agent", "worker", "ps", "export", "run"):
            if role is None or words[1].decode() == role:
                found.append((int(p.name), [w.decode() for w in words[1:] if w]))
    return found


def wait_for(condition, seconds=60, every=0.02):
    until = time.time() + seconds
    while time.time() < until:
        value = condition()
        if value:
            return value
        time.sleep(every)
    return None


def step_of(directory):
    try:
        with open(Path(directory) / "metrics.jsonl", "rb") as f:
            lines = f.read().splitlines()
        return json.loads(lines[-1])["step"] if lines else 0
    except (OSError, ValueError):
        return 0


def logs(directory):
    """The tail of every log of a run, for a failure's explanation."""
    text = []
    for f in sorted((Path(directory) / "log").glob("*")):
        if f.suffix in (".out", ".jsonl"):
            tail = f.read_text(errors="replace").splitlines()[-6:]
            text += [f"{f.name}: {line[:300]}" for line in tail]
    return "\n".join(text)


def complete(directory, result, wanted=None):
    """Why a run is not as it should be; empty when it is."""
    r = report(directory)
    wrong = []
    if result.returncode != 0:
        wrong.append(f"exit code {result.returncode}: {result.stderr[-1500:]}")
    if r.get("status") != "completed":
        wrong.append(f"status {r.get('status')} {r.get('error', '')}")
    ledger = r.get("ledger") or {}
    if ledger.get("missing") != 0 or ledger.get("duplicated") != 0:
        wrong.append(f"ledger {ledger}")
    if wanted and r.get("weights_sha256") != wanted:
        wrong.append(f"weights {r.get('weights_sha256')} instead of {wanted}")
    if wrong:
        wrong.append(logs(directory))
    return "\n".join(wrong)


def exported(directory):
    """SHA-256 of the exported weights, which do not depend on how blocks lay on shards; empty when there are none."""
    try:
        return hashlib.sha256((Path(directory) / "export/float/model.safetensors").read_bytes()).hexdigest()
    except OSError:
        return ""


def pruned(directory, result, wanted, weights, share):
    """Why a run that pruned is not as it should be: wanted is what training ended with, weights what pruning did."""
    wrong = complete(directory, result, wanted)
    sparsity = ((report(directory).get("export") or {}).get("float") or {}).get("sparsity") or 0
    if not share <= sparsity <= share + 0.01:
        wrong += f"sparsity {sparsity} instead of {share}"
    if weights and exported(directory) != weights:
        wrong += f"exported weights {exported(directory)} instead of {weights}"
    return wrong


def reference(job, *args, timeout=TIMEOUT_S):
    """weights_sha256 of the same spec trained by one process alone."""
    r = viaduct("bench", "train", job, "--full", "--threads", "2", "--json", *args, timeout=timeout)
    return json.loads(r.stdout)["weights_sha256"]


def kill_all(directory):
    """A power cut: every process of the run at once."""
    for _ in range(3):
        for pid, _words in processes(directory):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)


@contextlib.contextmanager
def workspace():
    """A folder for a test's runs, which end with it, however it ends."""
    with tempfile.TemporaryDirectory(prefix="viaduct-test-") as w:
        try:
            yield w
        finally:
            while alive := below(w):
                for pid in alive:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)


def below(directory):
    """pid of every process with a run in this folder."""
    found = []
    for p in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if any(word.startswith(f"{directory}/".encode()) for word in (p / "cmdline").read_bytes().split(b"\0")[1:]):
                found.append(int(p.name))
    return found


def told_to_end(_signo, _frame):
    sys.exit(143)             # an exit like any other: what was begun is ended


signal.signal(signal.SIGTERM, told_to_end)
