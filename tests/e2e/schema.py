"""1,000 single-edit mutations of good specs: the program and its exported JSON Schema must agree on each. Prints TAP."""
import copy
import json
import random
import subprocess
import sys
import tempfile

import jsonschema

program, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
print(f"# seed {seed}", file=sys.stderr)
schema = json.loads(subprocess.check_output([program, "schema"]))
jsonschema.Draft7Validator.check_schema(schema)
judge = jsonschema.Draft7Validator(schema)
where = "/usr/share/datasets/fashion-mnist/"
files = {"images": where + "train-images-idx3-ubyte.gz", "labels": where + "train-labels-idx1-ubyte.gz"}
full = {
    "viaduct": "v1", "name": "job", "model": {"family": "cnn", "classes": 10, "input": [1, 28, 28], "channels": [8, 8], "hidden": [16], "norm": "batch"},
    "data": {"train": dict(files, format="idx"), "eval": dict(files), "augment": "none"},
    "train": {"epochs": 1.5, "batch": 256, "lanes": 8, "loss": "cross_entropy", "precision": "fp32", "seed": 1, "deterministic": True,
              "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "schedule": "cosine", "final": 0.01,
                            "factor": 0.5, "every": 10, "warmup": 5, "clip": 1}},
    "coordinator": {"listen": "127.0.0.1:0", "log": "sqlite"},
    "sites": [{"name": "a", "via": "local", "ranks": 1, "threads": 1, "ps_shards": 1, "door": "127.0.0.1:0"}, {"name": "b", "via": "local", "ranks": 1, "threads": 1, "ps_shards": 1}],
    "parallel": "auto", "sync": {"inside": "allreduce", "between": {"mode": "sync", "codec": "none"}},
    "checkpoint": {"every": "200 steps", "keep": 3, "replicas": 2, "ram_every": 1}, 
    "export": {"quantize": {"scheme": "static", "images": 64, "calibration": "mse"}, "gate": {"max_drop": 0.01}, "to": ["onnx", "triton"], "registry": "models", "model": "served"}}
slurm = dict(full, coordinator=None, sites=[
    {"name": "a", "via": "slurm", "ranks": 1, "time": "12h", "partition": "gpu", "account": "x",
     "slurm": {"drain": "3m", "mem": "16G", "nice": 5, "exclusive": True, "qos": "high", "retries": {"time_limit": 3, "node_failure": 2}}},
    {"name": "b", "via": "slurm", "time": "1-00:00:00", "slurm": {"gres": "gpu:2"}}])
behind = dict(full, coordinator={"door": "a"})
short = {"viaduct": "v1", "name": "job", "model": {"family": "cnn", "classes": 10, "input": [1, 28, 28]}, "data": {"train": files}}
other_types = ["word", "", "yes", 3.5, True, None, [], {}, [1], {"a": 1}, -1, 1e18]


def places(node, path=()):
    for key in (node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()):
        yield path + (key,)
        yield from places(node[key], path + (key,))


def parent(spec, path):
    for key in path[:-1]:
        spec = spec[key]
    return spec


def mutate(spec):
    spec = copy.deepcopy(spec)
    path = random.choice(list(places(spec)))
    at, key = parent(spec, path), path[-1]
    kind = random.choice(["type", "type", "typo", "unknown", "missing", "range", "null"])
    if kind == "type":
        at[key] = random.choice(other_types)
    elif kind == "typo" and isinstance(at[key], str) and len(at[key]) > 1 and "/" not in at[key] and ":" not in at[key] and path[-1] != "name":
        i = random.randrange(len(at[key]))
        at[key] = at[key][:i] + "q" + at[key][i:]
    elif kind == "unknown" and isinstance(at, dict):
        at[str(key) + "x"] = 1
    elif kind == "missing" and isinstance(at, dict):
        del at[key]
    elif kind == "range" and isinstance(at[key], (int, float)) and not isinstance(at[key], bool):
        at[key] = random.choice([-1, -0.5, 1e17, 10 ** 16])
    elif kind == "null":
        at[key] = None
    return spec, kind, path


# Rules over several keys are no matter of a schema; these words of the program's own texts mark them.
cross = ("need at least", "needs at least", "need a batch", "need as many", "belongs to", "may not read", "halve", "not both", "cannot open",
         "is no IDX", "holds images", "the least is 2 minutes", "of limits: 1 to 4", "channels; 1 to 4", "at the only site", "is the name of", "nesterov needs", "there is no site", "names no host", "is no door", "has no door")
disagree = []
with tempfile.TemporaryDirectory() as folder:
    for turn in range(count):
        spec, kind, path = mutate(random.choice([full, behind, short, slurm]))
        name = f"{folder}/spec.yaml"
        json.dump(spec, open(name, "w"))
        found = subprocess.run([program, "validate", name, "--json"], capture_output=True, text=True)
        if found.returncode not in (0, 2):
            disagree.append((kind, path, "exit code", found.returncode, found.stderr[-200:]))
            continue
        problems = json.loads(found.stdout)
        single = [p for p in problems if not any(word in p["message"] for word in cross)]
        by_schema = [e.message for e in judge.iter_errors(spec)]
        if bool(single) != bool(by_schema):
            disagree.append((kind, path, spec_value := json.dumps(parent(spec, path).get(path[-1]) if isinstance(parent(spec, path), dict) else None)[:60],
                             [p["message"] for p in single][:2], by_schema[:1]))
for d in disagree[:15]:
    print("#", d)
print("ok" if not disagree else "not ok", f"1 - loader and schema agree on {count} mutations ({len(disagree)} disagreements)")
print("1..1")
