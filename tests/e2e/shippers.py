"""The log shippers' configurations against the lines of a run. Filebeat and Logstash are not in Debian: what Filebeat would make of a line is worked out here, for
the parsers and processors that filebeat.yml uses and no others; of logstash.conf the fields that it names are looked for."""
import hashlib
import json
import re
from datetime import datetime
from fnmatch import fnmatch

from harness import ROOT, skip, test

MONITORING = ROOT / "report" / "monitoring"


def lookup(doc, path):
    for part in path.split("."):
        doc = doc.get(part) if isinstance(doc, dict) else None
    return doc


def put(doc, path, value):
    *parents, last = path.split(".")
    for part in parents:
        doc = doc.setdefault(part, {})
    doc[last] = value


def remove(doc, path):
    *parents, last = path.split(".")
    for part in parents:
        doc = doc[part]
    return doc.pop(last)


def ndjson(doc, line, target="", expand_keys=False, overwrite_keys=False, add_error_key=False):
    assert add_error_key and (target or (overwrite_keys and expand_keys))
    for key, value in json.loads(line).items():
        put(doc, f"{target}.{key}" if target else key, value)


def rename(doc, fields, ignore_missing=False):
    for f in fields:
        assert lookup(doc, f["from"]) is not None, f"no {f['from']}"   # of our own lines nothing is missing, whatever is ignored
        assert ignore_missing and lookup(doc, f["to"]) is None, f"{f['to']} is there already"
        put(doc, f["to"], remove(doc, f["from"]))


def timestamp(doc, field, layouts, test):      # pylint: disable=redefined-outer-name
    assert layouts == ["2006-01-02T15:04:05.000Z"]
    for text in (*test, lookup(doc, field)):
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")
    doc["@timestamp"] = lookup(doc, field)


def dissect(doc, tokenizer, field, target_prefix, ignore_failure, when=None):
    for where, part in (when or {}).get("contains", {}).items():
        if part not in (lookup(doc, where) or ""):
            return
    keys = re.findall(r"%\{(\w+)\}", tokenizer)
    m = re.fullmatch(re.sub(r"%\\\{\w+\\\}", "(.+?)", re.escape(tokenizer)), lookup(doc, field) or "")
    assert m and ignore_failure, f"{lookup(doc, field)} does not match"
    for k, v in zip(keys, m.groups()):
        put(doc, f"{target_prefix}.{k}", v)


def add_fields(doc, target, fields):
    for k, v in fields.items():
        put(doc, f"{target}.{k}", v)


def fingerprint(doc, fields, target_field):
    put(doc, target_field, hashlib.sha256("|".join(str(lookup(doc, f)) for f in fields).encode()).hexdigest())


def drop_fields(doc, fields, ignore_missing):
    assert ignore_missing
    for f in fields:
        remove(doc, f)


PROCESSORS = {"rename": rename, "timestamp": timestamp, "dissect": dissect, "add_fields": add_fields, "fingerprint": fingerprint, "drop_fields": drop_fields,
              "add_host_metadata": lambda doc: put(doc, "host.name", "h")}


def process(doc, processors):
    for p in processors:
        (name, words), = p.items()
        PROCESSORS[name](doc, **(words or {}))


def documents(config, run_dir):
    for source in config["filebeat.inputs"]:
        pattern = source["paths"][0].replace("${VIADUCT_RUN}/", "")
        for file in sorted(f for f in run_dir.rglob("*.jsonl") if fnmatch(str(f.relative_to(run_dir)), pattern)):
            for line in file.read_text().splitlines():
                doc = {"log": {"file": {"path": str(file)}}}
                ndjson(doc, line, **source["parsers"][0]["ndjson"])
                process(doc, source["processors"] + config["processors"])
                yield doc


def check_filebeat(run_dir):
    try:
        import yaml                            # pylint: disable=import-outside-toplevel
    except ImportError:
        skip("filebeat.yml", "PyYAML is not installed (Debian: python3-yaml)")
        return
    config = yaml.safe_load((MONITORING / "filebeat.yml").read_text())
    found, wrong, sites, ids = {}, [], set(), []
    try:
        for doc in documents(config, run_dir):
            kind = lookup(doc, "event.dataset")
            found[kind] = found.get(kind, 0) + 1
            needed = ["service.name", "event.kind", "host.name", "ecs.version"]
            needed += ["@timestamp", "message", "service.node.name"] if kind != "viaduct.metrics" else ["@metadata._id", "viaduct.loss", "viaduct.step"]
            needed += ["log.level", "labels.job_id"] if kind == "viaduct.log" else ["event.action"] if kind == "viaduct.events" else []
            wrong += [(n, doc) for n in needed if lookup(doc, n) is None]
            sites.add(lookup(doc, "labels.site"))
            ids += filter(None, [lookup(doc, "@metadata._id")])
    except (AssertionError, ValueError, KeyError) as e:
        wrong.append(repr(e))
    count = {k: sum(len(f.read_text().splitlines()) for f in run_dir.glob(p)) for k, p in
             (("viaduct.log", "log/*.jsonl"), ("viaduct.events", "events.jsonl"), ("viaduct.metrics", "metrics.jsonl"))}
    test(f"filebeat.yml makes ECS documents of every line ({found})", not wrong and found == count and min(count.values()) > 5, (wrong[:3], found, count))
    test("with role and site of the process, one id a step", sites == {"onprem", "cloud", None} and len(set(ids)) == len(ids) == count["viaduct.metrics"], sites)


def check_logstash(run_dir):
    text = re.sub(r"(?m)^\s*#.*", "", (MONITORING / "logstash.conf").read_text())
    bare = re.sub(r'"[^"]*"', '""', text)
    test("logstash.conf: every brace is closed", bare.count("{") == bare.count("}") and bare.count("[") == bare.count("]") and text.count('"') % 2 == 0)
    keys = {kind: set(json.loads((run_dir / file).read_text().splitlines()[-1])) for kind, file in
            (("log", "log/coordinator.jsonl"), ("events", "events.jsonl"), ("metrics", "metrics.jsonl"))}
    parts = re.split(r'event\]\[dataset\] == "viaduct\.(?:log|events)"|\} else \{', text)[1:4]
    wrong = [(kind, f) for kind, part in zip(("log", "events", "metrics"), parts) for f in re.findall(r"\[viaduct\]\[([^\]]+)\]", part) if f not in keys[kind]]
    named = [len(re.findall(r"\[viaduct\]\[", part)) for part in parts]
    test("logstash.conf names fields that the lines have", not wrong and named == [6, 5, 1], (wrong, named))


def check_shippers(run_dir):
    check_filebeat(run_dir)
    check_logstash(run_dir)
