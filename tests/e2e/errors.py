"""Everything bad that can be fed to the program: one clear error that names the thing, the right exit code, and earlier checkpoints untouched."""
import glob
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
from pathlib import Path

from harness import (PROGRAM, ROOT, complete, driver, environment, events, finish, kill_all, logs, one_site, processes, reference, report, run, skip, spec, start, step_of, test,
                     two_sites, viaduct, wait_for, workspace)

SHORT = {"steps": 20, "batch": 128, "lanes": 8, "seed": 7, "deterministic": True, "optimizer": {"name": "adamw", "lr": 0.01}}
LONG = dict(SHORT, steps=150)
MANY = 1000                              # steps: more than a run makes while it is attacked


def folder(w, name, **keys):
    f = Path(w) / name
    f.mkdir()
    return spec(f, **{"train": SHORT, **keys}), f / "run"


def refused(name, result, code, *words):
    """One error: that exit code, all those words, and no more lines than a person reads."""
    error = result.stderr + result.stdout
    ok = result.returncode == code and all(str(w) in error for w in words)
    return test(name, ok, f"exit code {result.returncode}, wanted {code} and {words}\n{error[-1500:]}")


def tree(directory):
    """Every file of a directory with its bytes' hash."""
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(directory).rglob("*")) if p.is_file()}


def data_of(job):
    return json.loads(Path(job).read_text())["data"]["train"]


def rewrite(source, target, change):
    """A gzipped file with other content."""
    with gzip.open(source) as f:
        content = f.read()
    with gzip.open(target, "wb", compresslevel=1) as f:
        f.write(change(content))
    return str(target)


# ---- before anything starts ----
def specs(w):
    job, run_dir = folder(w, "specs")
    f = Path(w) / "specs"
    data = data_of(job)
    few = rewrite(data["labels"], f / "few.gz", lambda b: b[:4] + struct.pack(">I", 100) + b[8:108])
    one = json.dumps(one_site(1))
    nine = json.dumps([dict(one_site(1)[0], name=f"s{i}") for i in range(9)])
    text = f / "text.gz"
    text.write_text("not an IDX file")
    pipe = f / "pipe"
    os.mkfifo(pipe)
    empty = rewrite(data["images"], f / "empty.gz", lambda b: b[:4] + bytes(4) + b[8:])
    endless = rewrite(data["images"], f / "endless.gz", lambda b: b[:4] + b"\xff" * 4 + b[8:])
    cases = [
        ("missing data", ["data.train.images=/nope/images.gz"], ["data.train.images", "/nope/images.gz"]),
        ("data that is no IDX", [f"data.train.images={text}"], [text]),
        ("data that is a pipe", [f"data.train.images={pipe}"], [pipe, "no regular file"]),
        ("no images", [f"data.train.images={empty}"], [empty, "no images"]),
        ("more images than fit", [f"data.train.images={endless}"], [endless, "GiB"]),
        ("labels of another length", [f"data.train.labels={few}"], ["data.train.labels", "100 labels", "4000"]),
        ("model.input that does not fit", ["model.input=[1, 32, 32]"], ["1 x 28 x 28", "[1, 32, 32]"]),
        ("a name that is a path", ["name=../escape"], ["name", "../escape"]),
        ("a site's name that is a path", ["sites=" + one.replace("onprem", "a/b")], ["sites[0].name", "a/b"]),
        ("nine sites", ["sites=" + nine], ["sites", "9 entries", "8"]),
        ("more ranks than lanes", ["sites=" + one.replace('"ranks": 1', '"ranks": 9')], ["train.lanes", "9 ranks", "8"]),
        ("an unknown key", ["train.lernrate=1"], ["lernrate"]),
    ]
    for name, overrides, words in cases:
        refused(f"validate: {name}", viaduct("validate", job, *overrides), 2, *words)
    refused("run: missing data, nothing is made", run(job, run_dir, *cases[0][1]), 2, "/nope/images.gz")
    refused("run: a name that is a path, nothing is made", viaduct("run", job, "name=../escape"), 2, "../escape")
    refused("run: an unknown site in --site", run(job, run_dir, "--site", "onprm"), 2, "onprm", "onprem")
    test("none of them made a directory", not run_dir.exists() and not (ROOT / "escape").exists(), list(f.iterdir()))
    broken = f / "broken.yaml"
    broken.write_text("viaduct: v1\nname: x\nmodle: {family: mlp}\n")
    refused("plan: a broken spec", viaduct("plan", broken), 2, f"{broken}:3:1", "modle", "model")
    broken.write_bytes(b"a: \x1b]0;title\x07 \xcf\xff\x00" + random.randbytes(2000))
    refused("plan: a file of random bytes", viaduct("plan", broken), 2, broken)
    refused("plan: a spec that is not there", viaduct("plan", f / "none.yaml"), 4, f / "none.yaml")
    garbage = f / "garbage.onnx"
    garbage.write_bytes(os.urandom(4000))
    refused("eval: an ONNX file of random bytes", viaduct("eval", garbage, "--data", job), 3, garbage, "ONNX")
    refused("eval: a model that is not there", viaduct("eval", f / "none.onnx", "--data", job), 4, f / "none.onnx")


def directories(w):
    job, run_dir = folder(w, "directories")
    run_dir.mkdir()
    (run_dir / "mine.txt").write_text("keep")
    refused("run: a directory with something of mine", run(job, run_dir), 6, run_dir, "--dir")
    refused("run --resume: a directory that holds no run", run(job, run_dir, "--resume"), 6, run_dir)
    test("what was there is untouched", [p.name for p in run_dir.iterdir()] == ["mine.txt"])
    refused("run --resume: no such run", run(job, Path(w) / "none", "--resume"), 4, Path(w) / "none")
    refused("status: no such run", viaduct("status", Path(w) / "none"), 4, Path(w) / "none")
    refused("status: no run in it", viaduct("status", run_dir), 4, run_dir)
    (run_dir / "file").write_text("")
    refused("run: --dir below a file", run(job, run_dir / "file" / "run"), 3, run_dir / "file")
    readonly = Path(w) / "readonly"
    readonly.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(readonly)], check=False, capture_output=True).returncode != 0:
        skip("run: --dir on a read-only file system", "cannot mount a tmpfs here")
        return
    try:
        refused("run: --dir on a read-only file system", run(job, readonly / "run"), 3, readonly / "run", "Read-only")
    finally:
        subprocess.run(["umount", "-l", str(readonly)], check=False)


# ---- met while training ----
def bad_data(w):
    job, run_dir = folder(w, "data")
    f = Path(w) / "data"
    data = data_of(job)
    cut = f / "cut-images.gz"
    cut.write_bytes(Path(data["images"]).read_bytes()[:200000])
    short = rewrite(data["images"], f / "short-images.gz", lambda b: b[:-1000])
    high = rewrite(data["labels"], f / "high-labels.gz", lambda b: b[:8 + 1234] + bytes([10]) + b[8 + 1235:])
    for name, override, words in (
            ("gzip cut inside its body", f"data.train.images={cut}", [cut, "byte"]),
            ("IDX shorter than its header says", f"data.train.images={short}", [short, "byte"])):
        result = run(job, f / "run", override)
        r = report(f / "run")
        refused(f"run: {name}", result, 3, *words)
        test(f"its report says so: {name}", r.get("status") == "failed" and all(str(x) in str(r.get("error")) for x in words), f"{r}\n{logs(f / 'run')}")
        test(f"it is not tried again: {name}", not r.get("restarts") and not events(f / "run", "dead") and events(f / "run")[-1]["event"] == "failed", events(f / "run"))
        test(f"numbers that were not produced are null: {name}", r["wan"]["bytes_sent"] is None and r["samples_per_second"] is None, r)
        kill_all(f / "run")
        shutil.rmtree(f / "run", ignore_errors=True)
    refused("run: a label that is no class, before anything starts", run(job, f / "run", f"data.train.labels={high}"), 2, high, "label 10", "model.classes")
    test("and no directory is made for it", not (f / "run").exists(), "")
    result = run(job, run_dir, "train.optimizer={name: sgd, lr: 1e6, weight_decay: 1e6}")
    refused("run: a loss that is not finite", result, 3, "step", "lane")


def one_full_folder(w, wanted):
    """The disk under one site's checkpoints is full when a run is resumed: the earlier checkpoints stay, and the next resume goes on."""
    job, run_dir = folder(w, "full", train=LONG, sites=two_sites(1, 1))
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 60)
    viaduct("stop", run_dir)
    p.communicate(timeout=60)
    before = tree(run_dir / "ckpt")
    small = run_dir / "ckpt" / "cloud"
    kept = run_dir / "cloud-before"
    small.rename(kept)
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False, capture_output=True).returncode != 0:
        skip("resume: a full disk under one site's checkpoints", "cannot mount a small tmpfs here")
    else:
        result = run(job, run_dir, "--resume")
        error = str(report(run_dir).get("error"))
        refused("resume: a full disk under one site's checkpoints", result, 3, "No space left", "ckpt/cloud/")
        test("the report names it", "No space left" in error, error)
        kill_all(run_dir)
        subprocess.run(["umount", "-l", str(small)], check=False)
    small.rmdir()
    kept.rename(small)
    after = tree(run_dir / "ckpt")
    test("earlier checkpoints are untouched", before and all(after.get(name) == h for name, h in before.items()), set(before.items()) - set(after.items()))
    wrong = complete(run_dir, run(job, run_dir, "--resume"), wanted)
    test("with room again it goes on: the same weights", not wrong, wrong)


# ---- runs that are over ----
def damaged_runs(w):
    job, run_dir = folder(w, "over", sites=two_sites(1, 1))
    result = run(job, run_dir)
    test("a small run completes", not complete(run_dir, result), complete(run_dir, result))
    before = tree(run_dir / "ckpt")
    refused("stop: a run that is over", viaduct("stop", run_dir), 6, f"{run_dir} is not running (completed)")
    sockets = Path(f"/tmp/viaduct-{os.geteuid()}") / (run_dir / "state" / "job").read_text().strip()[:12]
    told = json.loads(viaduct("status", run_dir, "--json").stdout)
    test("status --json of a run that is over: how it ended", told["status"] == "completed" and told["step"] == told["steps"] == 20 and told["error"] is None
         and told["checkpoint"]["step"] == 20 and told["checkpoint"]["verified_sites"] == ["onprem", "cloud"] and 0 < told["final"]["eval_accuracy"] < 1, told)
    plain = viaduct("status", run_dir).stdout
    test("status of a run that is over: the same for people", all(x in plain for x in ("small: completed", "step 20, verified at onprem, cloud", "eval accuracy")), plain)
    test("looking at a run that is over leaves no folder for sockets", not sockets.exists(), sockets)
    for name, override, words in (
            ("model", "model.channels=[4, 8]", ["model.channels", "8", "4"]),
            ("data", f"data.train.images={data_of(job)['images']}.none", ["data.train.images"]),
            ("seed", "train.seed=9", ["train.seed", "7", "9"])):
        refused(f"resume with another {name}", run(job, run_dir, "--resume", "train.steps=40", override), 2, *words)
    other = Path(w) / "over" / "other.gz"
    shutil.copy(data_of(job)["images"], other)
    refused("resume with data of another path", run(job, run_dir, "--resume", "train.steps=40", f"data.train.images={other}"), 2, data_of(job)["images"], other)
    checkpoints(w, run_dir, job)
    damage(w, run_dir, job)
    test("earlier checkpoints are untouched after all that", tree(run_dir / "ckpt") == before)
    result = run(job, run_dir, "--resume", "train.steps=30")
    wrong = complete(run_dir, result)
    test("and it goes on from them", not wrong, wrong)


def checkpoints(w, run_dir, job):
    newest = sorted((run_dir / "ckpt" / "onprem").glob("step-*"))[-1]
    cut = Path(w) / "over" / "cut"
    flipped = Path(w) / "over" / "flipped"
    shutil.copytree(newest, cut)
    shutil.copytree(newest, flipped)
    manifest = cut / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:700])
    part = sorted(flipped.glob("part-*"))[0]
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    for verb in ("verify", "show"):
        refused(f"ckpt {verb}: a truncated manifest", viaduct("ckpt", verb, cut), 3, manifest)
    refused("eval: a truncated manifest", viaduct("eval", cut, "--data", job), 3, manifest)
    refused("ckpt verify: a part with a flipped bit", viaduct("ckpt", "verify", flipped), 3, part)
    refused("eval: a part with a flipped bit", viaduct("eval", flipped, "--data", job), 3, part)
    part.unlink()
    refused("ckpt verify: a part that is missing", viaduct("ckpt", "verify", flipped), 3, part)
    refused("ckpt show: a run has several", viaduct("ckpt", "show", run_dir), 4, f"viaduct ckpt ls {run_dir}")
    refused("ckpt show: no checkpoint there", viaduct("ckpt", "show", Path(w) / "over" / "none"), 4, Path(w) / "over" / "none")


def damage(w, run_dir, job):
    """Files of a run directory, one after the other; each is put back."""
    for name, change, code, words in (
            ("spec.yaml", lambda b: b[:40] + b"\0\xff" + b[50:], 2, ["spec.yaml", "damaged", "copy the spec"]),
            ("state/job", lambda b: b"../../etc\n", 3, ["state/job"]),
            ("state/tls/ca.pem", lambda b: b[:200], 3, ["ca.pem", "remove the folder"])):
        file = run_dir / name
        good = file.read_bytes()
        file.write_bytes(change(good))
        refused(f"resume: {name} damaged", run(job, run_dir, "--resume", "train.steps=30"), code, *words)
        kill_all(run_dir)
        file.write_bytes(good)
    (run_dir / "ckpt").rename(run_dir / "elsewhere")
    refused("resume: every checkpoint is gone", run(job, run_dir, "--resume", "train.steps=30"), 4, "ckpt/", "--dir")
    shutil.rmtree(run_dir / "ckpt")
    (run_dir / "elsewhere").rename(run_dir / "ckpt")


def unreadable(w):
    """As another user: what is not theirs stays closed."""
    job, run_dir = folder(w, "closed")
    run_dir.mkdir(mode=0)
    who = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    for words in (["run", job, "--dir", run_dir, "--resume"], ["run", job, "--dir", run_dir], ["status", run_dir], ["ckpt", "ls", run_dir]):
        name = f"{' '.join(words[:1])}: a run directory that cannot be read"
        try:
            Path(w).chmod(0o755)
            result = subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=20, check=False, **who)
        except PermissionError:
            skip(name, "another user cannot start the program from here")
            continue
        refused(name, result, 5, run_dir, "Permission denied")
    run_dir.chmod(0o755)


def two_at_once(w):
    job, run_dir = folder(w, "race")
    both = [start(job, run_dir), start(job, run_dir)]
    errors = [p.communicate(timeout=60)[1] for p in both]
    codes = sorted(p.returncode for p in both)
    test("two runs started at once in one directory: one trains, the other is refused", codes == [0, 6], f"{codes}\n{errors[0][-400:]}\n{errors[1][-400:]}")


# ---- strangers at the doors of a run ----
def ports(directory):
    """TCP ports on which processes of a run listen."""
    inodes = set()
    for pid, _words in processes(directory):
        for fd in glob.glob(f"/proc/{pid}/fd/*"):
            try:
                target = os.readlink(fd)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return sorted({int(r[1].split(":")[1], 16) for r in rows if r[3] == "0A" and r[9] in inodes})


def half_open(port, keep):
    s = socket.create_connection(("127.0.0.1", port), timeout=5)
    s.send(random.choice([b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"VDCT" + bytes(60)]))
    keep.append(s)


def garbage(port, keep):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
        s.send(os.urandom(random.choice([1, 100, 20000])))


def tls(port, cert, after):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname = False
    c.verify_mode = ssl.CERT_NONE
    if cert:
        c.load_cert_chain(f"{cert}.pem", f"{cert}.key")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as raw, c.wrap_socket(raw) as s:
        s.send(after)
        s.recv(1)


def no_certificate(port, keep, cert=None):
    tls(port, None, b"let me in")


def strangers(directory, doors, over, keep):
    cert = str(directory / "state" / "tls" / "worker-onprem")
    deeds = [half_open, garbage, no_certificate, lambda p, _k: tls(p, cert, os.urandom(5000)), lambda p, _k: tls(p, cert, b"VDCT" + bytes(60))]
    while not over.is_set():
        for port in doors:
            try:
                random.choice(deeds)(port, keep)
            except OSError:
                pass
        over.wait(0.01)


def fake_run(w, name, of, mine, swap=None):
    """A run directory that points at the coordinator of run `of`, with other certificates."""
    fake = Path(w) / name
    shutil.copytree(mine, fake, ignore=shutil.ignore_patterns("ckpt", "export"))
    shutil.copy(of / "state" / "coordinator.addr", fake / "state" / "coordinator.addr")
    if swap:
        for suffix in (".pem", ".key"):
            shutil.copy(fake / "state" / "tls" / (swap[0] + suffix), fake / "state" / "tls" / (swap[1] + suffix))
    return fake


def by_hand(role, directory, timeout=20, **env):
    last = ["--slot", "0", "--instance", "9"] if role == "ps" else ["--rank", "0", "--incarnation", "9"]
    return viaduct(role, "--run", directory, "--site", "onprem", *last, timeout=timeout, env=environment(**env))


def impostor(directory, address, deed):
    program = driver("impostor")
    return subprocess.run([program, directory, "onprem", address, deed], capture_output=True, text=True, timeout=20, check=False)


def attacks(w, other, wanted):
    job, run_dir = folder(w, "attacked", train=dict(LONG, steps=MANY), sites=two_sites(1, 1), checkpoint={"every": "100 steps", "keep": 3})
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 5)
    doors, over, keep = ports(run_dir), threading.Event(), []
    test("coordinator and both ps listen", len(doors) == 3, doors)
    thread = threading.Thread(target=strangers, args=(run_dir, doors, over, keep))
    thread.start()
    again = run(job, run_dir)
    refused("a second run in the same directory", again, 6, run_dir)
    for role in ("ps", "worker"):
        refused(f"{role} with a certificate of another run", by_hand(role, fake_run(w, f"foreign-{role}", run_dir, other)), 5, "certificate")
    mixed = fake_run(w, "mixed", run_dir, run_dir, swap=("worker-onprem", "ps-onprem"))
    refused("a ps with the certificate of a worker", by_hand("ps", mixed), 5, "certificate", "worker")
    address = (run_dir / "state" / "coordinator.addr").read_text().splitlines()
    door = next(line for line in address if line.startswith("tls:"))
    for deed in ("join-as-ps", "stop", "view", "commit", "other-site"):
        r = impostor(run_dir, door, deed)
        test(f"coordinator: a worker's certificate does not allow {deed}", r.returncode == 0, r.stdout + r.stderr)
    r = impostor(run_dir, door, "slot-elsewhere")
    test("coordinator: a ps cannot be a slot of another site", r.returncode == 0, r.stdout + r.stderr)
    for port in doors:
        if not door.endswith(f":{port}"):
            r = impostor(run_dir, f"tls:127.0.0.1:{port}", "ack-elsewhere")
            test("ps: a ps cannot speak for a slot of another site", r.returncode == 0, r.stdout + r.stderr)
            for deed in ("view", "other-site", "warm-without-end"):
                r = impostor(run_dir, f"tls:127.0.0.1:{port}", deed)
                test(f"ps: a worker's certificate does not allow {deed}", r.returncode == 0, r.stdout + r.stderr)
    test("the run still trains meanwhile", p.poll() is None, p.returncode)
    exposed(run_dir)
    p.wait(timeout=60)
    over.set()
    thread.join()
    result = subprocess.CompletedProcess([], p.returncode, *p.communicate())
    wrong = complete(run_dir, result, wanted)
    test("the attacked run completes: the same weights", not wrong, wrong)
    test("and nothing had to start again", not report(run_dir).get("restarts"), report(run_dir).get("restarts"))
    for s in keep:
        s.close()


def death_elsewhere(w, wanted):
    """An agent says that a rank of another site has died. (It takes the real agent's place for a moment: that one joins again.)"""
    job, run_dir = folder(w, "deaths", train=LONG, sites=two_sites(1, 1))
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 5)
    door = (run_dir / "state" / "coordinator.addr").read_text().splitlines()[0]
    r = impostor(run_dir, door, "death-elsewhere")
    test("coordinator: an agent does not tell deaths of another site", r.returncode == 0, r.stdout + r.stderr)
    out, err = p.communicate(timeout=60)
    wrong = complete(run_dir, subprocess.CompletedProcess([], p.returncode, out, err), wanted)
    test("and nobody there was started again: the same weights", not wrong and not events(run_dir, "dead"), f"{wrong} {events(run_dir, 'dead')}")


def replaced_slot(w, wanted):
    """A shard process that was replaced joins once more (it was paused, or cut off): its successor keeps its place, and can still be dialled."""
    job, run_dir = folder(w, "replaced", train=dict(LONG, steps=MANY), sites=two_sites(1, 1), checkpoint={"every": "100 steps", "keep": 3})
    p = start(job, run_dir)
    wait_for(lambda: step_of(run_dir) >= 5)
    for pid, words in processes(run_dir, "ps"):
        if "onprem" in words:
            os.kill(pid, signal.SIGKILL)
    back = wait_for(lambda: [r for r in report(run_dir).get("restarts", []) if r["who"] == "ps onprem/0" and r["seconds"] is not None], 30)
    door = (run_dir / "state" / "coordinator.addr").read_text().splitlines()[0]
    r = impostor(run_dir, door, "slot-before")
    test("coordinator: a shard process that was replaced is put out", bool(back) and r.returncode == 0, f"{back} {r.stdout + r.stderr}")
    at = step_of(run_dir)
    for pid, words in processes(run_dir, "worker"):
        if "cloud" in words:
            os.kill(pid, signal.SIGKILL)             # a new view tells everybody where the shards are
    went_on = wait_for(lambda: step_of(run_dir) >= min(at + 60, MANY), 40)
    if not went_on:
        kill_all(run_dir)
    out, err = p.communicate(timeout=60)
    wrong = complete(run_dir, subprocess.CompletedProcess([], p.returncode, out, err), wanted)
    test("and its successor is found: the same weights", bool(went_on) and not wrong, f"{at} {wrong} {events(run_dir)[-8:]}")


def exposed(run_dir):
    """What others on the machine may see of a run."""
    state = run_dir / "state"
    modes = {p: oct(p.stat().st_mode & 0o777) for p in (state, state / "tls", *(state / "tls").iterdir())}
    wrong = {str(p): m for p, m in modes.items() if m != ("0o700" if p.is_dir() else "0o600")}
    test("state and tls are 0700, certificates and keys 0600", len(modes) > 10 and not wrong, wrong)
    job_id = (state / "job").read_text().strip()
    sockets = Path(f"/tmp/viaduct-{os.geteuid()}") / job_id[:12]
    modes = {str(p): oct(p.stat().st_mode & 0o777) for p in (sockets.parent, sockets, *sockets.iterdir())}
    wrong = {n: m for n, m in modes.items() if m != ("0o600" if Path(n).is_socket() else "0o700")}
    test("sockets are 0600 in folders of 0700", len(modes) > 2 and not wrong, modes)
    words = [" ".join(words) for _pid, words in processes(run_dir)]
    keys = [line for f in (state / "tls").glob("*.key") for line in f.read_text().splitlines() if not line.startswith("-----")]
    text = "\n".join(words) + "".join(f.read_text(errors="replace") for f in (run_dir / "log").iterdir())
    test("no key in argv or in a log", keys and not any(k in text for k in keys) and "PRIVATE" not in text)


def nowhere(w, other):
    """A ps and a worker whose coordinator does not answer: started first, looked at last."""
    found = []
    for role in ("ps", "worker"):
        fake = fake_run(w, f"nowhere-{role}", other, other)
        (fake / "state" / "coordinator.addr").write_text("tls:127.0.0.1:1\n")
        last = ["--slot", "0", "--instance", "1"] if role == "ps" else ["--rank", "0", "--incarnation", "1"]
        found.append((role, subprocess.Popen([PROGRAM, role, "--run", str(fake), "--site", "onprem", *last], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                             text=True, env=environment())))
    return found


def terminated(w):
    job, run_dir = folder(w, "term", train=LONG, sites=two_sites(1, 1))
    for signo in (signal.SIGTERM, signal.SIGINT):
        p = start(job, run_dir, *(["--resume"] if signo == signal.SIGINT else []))
        base = step_of(run_dir)
        wait_for(lambda: step_of(run_dir) >= base + 30)
        p.send_signal(signo)
        _, err = p.communicate(timeout=60)
        r = report(run_dir)
        saved = (r.get("checkpoint") or {}).get("step", 0)
        test(f"{signo.name} to run: saves and exits {128 + signo}", p.returncode == 128 + signo and r.get("status") == "stopped" and saved >= base + 30,
             f"{p.returncode} {saved} {r}\n{err[-600:]}")
        test(f"{signo.name}: nothing lives on", not processes(run_dir), processes(run_dir))


with workspace() as w:
    other_job, other = folder(w, "other", sites=two_sites(1, 1), export=None)
    run(other_job, other)
    lost = nowhere(w, other)
    specs(w)
    directories(w)
    long_job, _ = folder(w, "reference", train=LONG)
    longer_job, _ = folder(w, "longer", train=dict(LONG, steps=MANY))
    unreadable(w)
    two_at_once(w)
    attacks(w, other, reference(longer_job))
    damaged_runs(w)
    bad_data(w)
    one_full_folder(w, reference(long_job))
    death_elsewhere(w, reference(long_job))
    replaced_slot(w, reference(longer_job))
    terminated(w)
    for role, p in lost:
        _, err = p.communicate(timeout=70)
        test(f"{role}: no coordinator answers: exit 75", p.returncode == 75 and "127.0.0.1:1" in err, f"{p.returncode} {err}")
finish()
