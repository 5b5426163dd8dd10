"""The registry: what is registered, promoted and rolled back, by one or by many at once, killed between two steps, damaged; and a live server that follows it
without a dropped request. Prints TAP."""
import http.client
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.append(sys.path.pop(0))   # what is installed comes before a test of the same name

import manifests
from harness import PROGRAM, ROOT, complete, environment, finish, one_site, report, run, skip, spec, test, viaduct, wait_for, workspace

EXPORT = {"quantize": {"scheme": "static", "images": 64}, "gate": {"max_drop": 0.2}, "to": ["onnx", "triton"]}
CLIENTS = 3
SAMPLES = 16
CUTS = 20


def missing(*modules):
    """Which of them this Python lacks, as a reason to skip."""
    for m in modules:
        try:
            if m.startswith("bin:"):
                subprocess.run([Path(sys.executable).parent / m[4:], "--version"], capture_output=True, check=True)
            else:
                __import__(m)
        except (ImportError, OSError, subprocess.SubprocessError):
            return f"{m} could not be installed"
    return ""


class Models:
    """`viaduct models` on one registry."""

    def __init__(self, root):
        self.root = Path(root)

    def __call__(self, *args, failpoint=None):
        return viaduct("models", *args, "--registry", self.root, env=environment(failpoint))

    def json(self, *args):
        return json.loads(self(*args, "--json").stdout)

    def stands(self, alias="champion"):
        return self.json("show", "small")["aliases"].get(alias, {}).get("version")

    def served(self, folder="small"):
        """What Triton would serve, and the manifests' version."""
        try:
            config = (self.root / "triton" / folder / "config.pbtxt").read_text()
        except OSError:
            return None
        return int(re.search(r"versions: \[ ([0-9]+) \]", config).group(1))

    def manifest(self):
        return int(re.search(r'version: "([0-9]+)"', (self.root / "serving/small/deployment.yaml").read_text()).group(1))


def said(result):
    return f"exit {result.returncode}\n{result.stdout[-1000:]}\n{result.stderr[-1000:]}"


def expect(name, result, code, *words):
    return test(name, result.returncode == code and all(w in result.stdout + result.stderr for w in words), said(result))


# ---- a live server ----
class Client(threading.Thread):
    """Asks without a pause; remembers every answer."""

    def __init__(self, port, inputs):
        super().__init__(daemon=True)
        self.port, self.inputs, self.over, self.seen, self.failed = port, inputs, threading.Event(), [], []

    def ask(self, connection, i):
        body = {"inputs": [{"name": "input", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": self.inputs[i].ravel().tolist()}]}
        connection.request("POST", "/v2/models/small/infer", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise OSError(f"status {answer.status}: {text[:200]}")
        return json.loads(text)

    def run(self):
        connection, i = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120), 0
        while not self.over.is_set():
            i = (i + 1) % len(self.inputs)
            sent = time.monotonic()
            try:
                got = self.ask(connection, i)
                self.seen.append((sent, time.monotonic(), i, int(got["model_version"]), got["outputs"][0]["data"]))
            except (OSError, ValueError, http.client.HTTPException) as e:
                self.failed.append(repr(e))
                connection.close()


def answers_of(models, inputs):
    """{version: what it answers}, from the store itself."""
    import serve
    stored = {v["version"]: serve.session(models.root / f"store/small/{v['version']}/model.onnx") for v in models.json("ls", "small")}
    return {v: [s.run(None, {"input": x})[0].ravel() for x in inputs] for v, s in stored.items()}


def changes(seen):
    """Versions in the order in which they were answered with. A request that was sent before the newest one was first seen may be answered with either."""
    order, since = [], 0
    for sent, received, _, version, _ in sorted(seen, key=lambda s: s[1]):
        if not order or version != order[-1] and sent > since:
            order.append(version)
            since = received
    return order


def cut_short(models):
    """Promotes and rollbacks, each killed at some moment; when it began."""
    began = time.monotonic()
    for turn in range(CUTS):
        words = ("promote", "small", "2") if turn % 2 else ("rollback", "small")
        verb = subprocess.Popen([PROGRAM, "models", *words, "--registry", str(models.root)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        try:
            verb.wait(random.uniform(0, 0.06))
        except subprocess.TimeoutExpired:
            verb.kill()
            verb.wait()
    return began


def live(models, w):
    import numpy
    generator = numpy.random.default_rng(5)
    inputs = [generator.random((1, 1, 28, 28), numpy.float32) for _ in range(SAMPLES)]
    wanted = answers_of(models, inputs)
    apart = min(float(numpy.abs(a - b).max()) for a, b in zip(wanted[1], wanted[2]))
    test("the two versions answer differently to every input", apart > 1e-2, apart)
    with open(w / "serve.log", "w") as log:
        server = subprocess.Popen([sys.executable, ROOT / "tests/e2e/serve.py", models.root / "triton"], stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        port = int(server.stdout.readline())
        clients = [Client(port, inputs) for _ in range(CLIENTS)]
        for c in clients:
            c.start()

        def answered(version, than=20):
            """Every client has had `than` further answers, the last one by that version."""
            had = [len(c.seen) for c in clients]
            return wait_for(lambda: all(len(c.seen) > n + than and c.seen[-1][3] == version for c, n in zip(clients, had)) or server.poll() is not None, 120)

        first = answered(1)
        promoted = models("promote", "small", "2", "--reason", "better")
        second = answered(2)
        rolled = models("rollback", "small", "--expect", "2", "--reason", "worse after all")
        third = answered(1)
        killed = models("promote", "small", "2", failpoint="registry-moved:kill")
        between = models.served()
        fourth = answered(1)
        completed = models("ls", "--json")
        fifth = answered(2)
        back = models("rollback", "small")
        sixth = answered(1)
        cut = cut_short(models)
        for c in clients:
            c.over.set()
        for c in clients:
            c.join(60)
    finally:
        server.kill()
        server.wait()
    seen = [s for c in clients for s in c.seen]
    calm = [s for s in seen if s[1] < cut]
    failed = [f for c in clients for f in c.failed]
    order = changes(calm)
    wrong = [(i, v) for _, _, i, v, out in seen if numpy.abs(numpy.array(out, numpy.float32) - wanted[v][i]).max() > 1e-4]
    counts = {v: sum(s[3] == v for s in seen) for v in wanted}
    log_text = (w / "serve.log").read_text()[-800:]
    test("a server of the repository answers with the version that was promoted", bool(first) and promoted.returncode == 0 and bool(second), f"{said(promoted)}\n{log_text}")
    test("after the rollback it answers with the old one", rolled.returncode == 0 and bool(third), f"{said(rolled)}\n{log_text}")
    test("a promote killed between database and files leaves the server whole", killed.returncode == -signal.SIGKILL and between == 1 and bool(fourth), f"{said(killed)} {between}")
    test("and `models ls` completes it, to be rolled back again", completed.returncode == 0 and bool(fifth) and back.returncode == 0 and bool(sixth), said(completed) + said(back))
    result = models("verify")
    test("promotes and rollbacks cut short at any moment leave a registry that verifies and servers at its champion", result.returncode == 0 and models.served() == models.stands(), said(result))
    while models.stands() != 1:
        models("promote", "small", "1")
    test(f"of {len(seen)} requests none was dropped", not failed and len(seen) > 6 * 20 * CLIENTS, failed[:5])
    test("and none was answered wrong", not wrong and set(counts) == {1, 2} and all(counts.values()), f"{wrong[:5]} {counts}")
    test("nobody saw an older version once a newer one had answered", order == [1, 2, 1, 2, 1], order)


# ---- manifests ----
def misspelt(path, key):
    """The same file with a key that no schema knows."""
    wrong = path.parent.parent / f"misspelt-{path.name}"
    wrong.write_text(path.read_text().replace(key, key + "s"))
    return wrong


def check_schemas(name, folder, context, triton):
    """The files of a folder, whose Dockerfile is built in `context`."""
    why = missing("yaml", "kubernetes_validate")
    if why:
        skip(f"{name}: Deployment, Service, HPA and disruption budget follow Kubernetes' schemas", why)
    else:
        wrong = [x for f in ("deployment", "service", "hpa", "pdb") for x in manifests.check_kubernetes(folder / f"{f}.yaml")]
        test(f"{name}: Deployment, Service, HPA and disruption budget follow Kubernetes' schemas, and one with a wrong key does not", not wrong and
             manifests.check_kubernetes(misspelt(folder / "deployment.yaml", "maxSurge")), wrong)
    why = missing("yaml", "kubernetes") or ("" if manifests.have("kserve") else "kserve could not be installed")
    if why:
        skip(f"{name}: the InferenceService follows KServe's schema", why)
    else:
        wrong = manifests.check_kserve(folder / "inferenceservice.yaml")
        test(f"{name}: the InferenceService follows KServe's schema, and one with a wrong key does not", not wrong and
             len(manifests.check_kserve(misspelt(folder / "inferenceservice.yaml", "modelFormat"))) == 1, wrong)
    why = missing("bin:hadolint")
    if why:
        skip(f"{name}: the Dockerfile passes hadolint", why)
    else:
        result = subprocess.run([Path(sys.executable).parent / "hadolint", folder / "Dockerfile"], capture_output=True, text=True, check=False)
        test(f"{name}: the Dockerfile passes hadolint", result.returncode == 0, result.stdout + result.stderr)
    copied = [word for line in re.findall(r"^COPY (?:--\S+ )*(.*) \S+$", (folder / "Dockerfile").read_text(), re.M) for word in line.split()]
    test(f"{name}: what the Dockerfile copies is there", len(copied) == 3 and all((context / c).exists() for c in copied), copied)
    why = missing("tritonclient.grpc.model_config_pb2")
    if why:
        skip(f"{name}: config.pbtxt is one of Triton's, and names what is there", why)
    else:
        wrong = [x for t in triton for x in manifests.check_triton(t)]
        test(f"{name}: config.pbtxt is one of Triton's, and names what is there", not wrong, wrong)


# ---- the registry itself ----
def registering(models, w):
    job = spec(w, images=2000, evaluate=500, export=dict(EXPORT, registry=str(models.root)), sites=one_site(1))
    first, second, failed = w / "first", w / "second", w / "failed"
    result = run(job, first)
    versions = models.json("ls")
    r = report(first)
    test("a run registers what its gate passed", not complete(first, result) and len(versions) == 1 and r["export"]["registered"]["version"] == 1, complete(first, result) or versions)
    v = versions[0]
    test("with its lineage", v["weights_sha256"] == r["weights_sha256"] and v["spec_sha256"] == r["lineage"]["spec_sha256"] and v["data_sha256"] == r["lineage"]["data_sha256"] and
         v["accuracy"] == r["export"]["quantized"]["accuracy"] and v["sha256"] == r["export"]["quantized"]["sha256"] and v["run"] == str(first.resolve()) and v["parent"] is None, v)
    test("nothing is served before a promote", not (models.root / "triton").exists())
    expect("promote", models("promote", "small", "1", "--expect", "0"), 0, "now stands at version 1")
    result = run(job, second, "train.steps=120", failpoint="registry-stored:kill")
    versions = models.json("ls")
    test("an export killed between file and row registers once", not complete(second, result) and [x["version"] for x in versions] == [1, 2] and versions[1]["parent"] == 1,
         complete(second, result) or versions)
    result = viaduct("models", "register", second)        # the registry that its spec names
    test("and however often it is said", result.returncode == 0 and "version 2" in result.stdout and len(models.json("ls")) == 2, said(result))
    result = run(job, failed, "export.gate.max_drop=-1")
    test("a failed gate registers nothing", result.returncode == 3 and len(models.json("ls")) == 2, said(result))
    expect("nor by hand", models("register", failed), 3, "its gate failed")
    result = viaduct("models", "register", failed, "--registry", w / "none")
    test("and makes no registry", result.returncode == 3 and not (w / "none").exists(), said(result))
    (w / "file").write_text("")
    result = run(job, w / "nowhere", f"export.registry={w}/file/models")
    r = report(w / "nowhere")
    test("a registry that cannot be made fails the run, whose result stays", result.returncode == 3 and "could not be registered" in r["error"] and "could not be registered" in result.stderr and
         r["export"]["quantized"]["accuracy"] > 0 and "registered" not in r["export"], f"{said(result)} {r}")
    other = w / "other"
    result = run(spec(w, images=2000, evaluate=500, export={"to": ["onnx"]}, sites=one_site(1), data=json.loads(Path(job).read_text())["data"],
                      model={"family": "mlp", "classes": 12, "input": [1, 28, 28]}), other)
    test("(a run of another model)", not complete(other, result), complete(other, result))
    expect("another input or other classes are no version of the same model", models("register", other), 6, "has 10 classes")
    result = models("register", other, "--model", "wide", "--json")
    test("but a model of another name", result.returncode == 0 and json.loads(result.stdout)["kind"] == "float", said(result))
    return first, second


def refusals(models):
    for args, code in ((("promote", "../small", "1"), 2), (("promote", "small", "1", "--alias", "../../x"), 2), (("promote", "small", "x"), 2), (("promote", "small", "0"), 2),
                       (("register", "/nonexistent"), 4), (("promote", "none", "1"), 4), (("promote", "small", "99"), 4), (("rollback", "small", "--alias", "canary"), 4),
                       (("show", "none"), 4), (("ls", "none"), 4), (("rollback", "small"), 4), (("promote", "small", "2", "--expect", "2"), 6), (("frob",), 2)):
        result = models(*args)
        test(f"models {' '.join(args)} ends with {code}", result.returncode == code and result.stderr.startswith("viaduct models: "), said(result))
    result = models("promote", "small", "1", "--reason", "x" * 400)
    expect("a reason that is too long is refused", result, 2, "more than 399 bytes")
    result = viaduct("models", "ls", "--registry", models.root.parent / "nowhere")
    expect("a registry that is not there ends with 4", result, 4, "makes one")


def concurrent(models):
    start = [PROGRAM, "models", "promote", "small", "2", "--expect", "1", "--registry", str(models.root)]
    many = [subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(8)]
    ends = [(p.communicate(timeout=120), p.returncode) for p in many]
    codes = sorted(code for _, code in ends)
    log = [a for a in models.json("show", "small")["audit"] if a["action"] == "promote" and a["to"] == 2]
    test("of eight promotes that expect the same, one wins and seven are told", codes == [0] + [6] * 7 and len(log) == 1 and models.served() == 2 and models.manifest() == 2, f"{ends} {log}")
    expect("rollback", models("rollback", "small", "--expect", "2", "--reason", "test"), 0, "now stands at version 1, before 2")
    test("servers are told of it", models.served() == 1 and models.manifest() == 1, f"{models.served()} {models.manifest()}")
    expect("another alias has a folder of its own", models("promote", "small", "2", "--alias", "canary"), 0)
    test("which leaves the champion alone", models.served("small.canary") == 2 and models.served() == 1 and models.manifest() == 1)


def kills(models):
    for point in ("registry-render", "export-rename"):
        result = models("promote", "small", "2", failpoint=f"{point}:kill")
        between = models.served()
        listed = models("ls")
        test(f"a promote killed at {point} is completed by the next verb", result.returncode == -signal.SIGKILL and between in (1, 2) and listed.returncode == 0 and
             models.served() == 2 and models.manifest() == 2 and models("verify").returncode == 0, f"{said(result)} {between} {said(listed)}")
        models("rollback", "small")
        for token in models.root.glob("failpoint-*"):
            token.unlink()


def damage(models, second):
    stored = models.root / "store/small/2/model.onnx"
    whole = stored.read_bytes()
    stored.unlink()
    stored.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    result = models("promote", "small", "2")
    test("a damaged version is not promoted", result.returncode == 3 and "damaged" in result.stderr and models.served() == 1 and models.stands() == 1, said(result))
    expect("and `verify` names it", models("verify"), 3, "store/small/2/model.onnx is damaged")
    models("register", second)
    test("registering its run again repairs it", stored.read_bytes() == whole and models("verify").returncode == 0)
    config = models.root / "triton/small/config.pbtxt"
    config.write_text(config.read_text().replace("[ 1 ]", "[ 2 ]"))
    expect("an edited configuration is found", models("verify"), 3, "is not what was rendered")
    test("and rendered again", models("promote", "small", "1").returncode == 0 and models.served() == 1 and models("verify").returncode == 0)


def audit(models, second, w):
    shown = models.json("show", "small", "--audit")
    line = next(a for a in shown["audit"] if a["reason"] == "test")
    test("the log says who moved what, when and why", line["action"] == "rollback" and (line["from"], line["to"]) == (2, 1) and line["uid"] == os.geteuid() and line["host"] and line["at"] and
         shown["audit_head"] == shown["audit"][-1]["chain"], line)
    models("promote", "small", "2")
    for name, change in (("a changed line", "UPDATE audit SET reason = 'nothing' WHERE reason = 'test'"), ("a missing line", "DELETE FROM audit WHERE reason = 'test'"),
                         ("a missing end", "DELETE FROM audit WHERE position = (SELECT max(position) FROM audit)"), ("an alias moved past the log", "UPDATE standing SET version = 1 WHERE alias = 'champion' AND depth = (SELECT depth FROM alias WHERE name = 'champion')"),
                         ("another place to go back to", "UPDATE standing SET version = 2 WHERE alias = 'champion' AND depth = (SELECT depth - 1 FROM alias WHERE name = 'champion')"),
                         ("an alias that is gone", "DELETE FROM alias WHERE name = 'canary'"), ("a version that is gone", "DELETE FROM version WHERE version = 2 AND model = 'small'"),
                         ("a version with another file", "UPDATE version SET sha256 = (SELECT sha256 FROM version WHERE version = 2) WHERE version = 1")):
        copy = Models(w / name.replace(" ", "-"))
        shutil.copytree(models.root, copy.root)
        with sqlite3.connect(copy.root / "registry.db") as db:
            if "audit" in change.split(" WHERE")[0] or " version " in change.split(" WHERE")[0].split("SET")[0]:
                try:
                    db.execute(change)
                    test(f"{name}: refused by the database", False)
                except sqlite3.IntegrityError:
                    pass
            for trigger in ("audit_stays", "audit_kept", "version_stays", "version_kept"):
                db.execute(f"DROP TRIGGER {trigger}")
            db.execute(change)
            db.commit()
        looks = [copy("ls"), copy("show", "small", "--json")]
        test(f"{name} is found", all(look.returncode == 3 and "audit log" in look.stderr and not look.stdout for look in looks), "".join(map(said, looks)))
        if name == "a version that is gone":
            result = copy("register", second)
            test("and its number is not given again", result.returncode == 0 and "version 3" in result.stdout and copy("ls").returncode == 3, said(result))
    models("rollback", "small")


def others(models):
    """Who may only read."""
    if os.geteuid() != 0:
        return skip("who may only read, looks but does not promote", "not root")
    os.chmod(models.root.parent, 0o755)

    def nobody():
        os.setgid(65534)
        os.setuid(65534)
    program = shutil.copy(PROGRAM, models.root.parent / "viaduct")   # where it was built, only its owner may go, perhaps
    look, move = (subprocess.run([program, "models", *words, "--registry", models.root], capture_output=True, text=True, preexec_fn=nobody, check=False, cwd="/")
                  for words in (("ls",), ("promote", "small", "2")))
    return test("who may only read, looks but does not promote", look.returncode == 0 and move.returncode == 5 and models.stands() == 1, said(look) + said(move))


def main():
    with workspace() as w:
        w = Path(w)
        models = Models(w / "models")
        first, second = registering(models, w)
        refusals(models)
        concurrent(models)
        kills(models)
        damage(models, second)
        why = missing("numpy", "onnxruntime")
        if why:
            skip("a live server follows promote and rollback without a dropped request", why)
        else:
            live(models, w)
        audit(models, second, w)
        check_schemas("an export", first / "export/serving", first / "export", [first / "export/triton/small"])
        check_schemas("the registry", models.root / "serving/small", models.root, [models.root / "triton/small", models.root / "triton/small.canary"])
        others(models)
    finish()


main()
