"""The post-training stage of whole runs: int8 beside float, a gate that passes and one that fails, a killed export, the stage alone. Prints TAP."""
import hashlib
import json
import re
from pathlib import Path

from harness import ROOT, complete, events, finish, logs, one_site, report, run, spec, start, step_of, test, viaduct, wait_for, workspace

EXPORT = {"quantize": {"scheme": "static", "images": 128}, "gate": {"max_drop": 0.05}, "to": ["onnx", "safetensors", "triton"]}
FILES = ["float/model.onnx", "float/model.safetensors", "quantized/model.onnx", "quantized/model.safetensors", "triton/small/config.pbtxt",
         "triton/small/labels.txt", "triton/small/1/model.onnx", "card/model-card.json", "card/model-card.md", "card/model-card.html"]


def sha(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def missing(directory):
    return [f for f in FILES if not (directory / "export" / f).is_file()]


def check_report(directory):
    """What contract and files say of each other; empty when they agree."""
    r = report(directory)["export"]
    wrong = []
    for kind in ("float", "quantized"):
        e = r[kind]
        path = directory / e["path"]
        if path.stat().st_size != e["bytes"]:
            wrong.append(f"{kind}: {e['bytes']} bytes")
        if set(e["latency_ms"]) != {"batch", "threads", "p50", "p99"} or not 0 < e["latency_ms"]["p50"] <= e["latency_ms"]["p99"]:
            wrong.append(f"{kind}: {e['latency_ms']}")
        measured = json.loads(viaduct("eval", path, "--data", directory / "spec.yaml", "--json").stdout)
        if measured["accuracy"] != e["accuracy"]:
            wrong.append(f"{kind}: {measured} against {e}")
    drop = r["float"]["accuracy"] - r["quantized"]["accuracy"]
    if not r["gate"]["passed"] or abs(r["gate"]["drop"] - drop) > 1e-9 or not -0.05 <= r["gate"]["low95"] <= -drop + 1e-9:
        wrong.append(f"gate {r['gate']}")
    card = json.loads((directory / "export/card/model-card.json").read_text())
    if card["export"]["quantized"]["accuracy"] != r["quantized"]["accuracy"] or card["lineage"]["weights_sha256"] != report(directory)["weights_sha256"]:
        wrong.append(f"card {card}")
    commits = [card["lineage"]["commit"], report(directory)["lineage"]["commit"]]
    if commits[0] != commits[1] or ((ROOT / ".git").exists() and not re.fullmatch("[0-9a-f]{40}(-dirty)?", str(commits[0]))):
        wrong.append(f"commits {commits}")
    if len(card["labels"]) != 10 or card["input"]["name"] != "input" or card["output"]["name"] != "logits":
        wrong.append("card without labels and names")
    html = (directory / "export/card/model-card.html").read_text()
    if html.count("<svg") < 4 or any(word in html for word in ("http://", "https://", "<script", "src=")):
        wrong.append("the HTML card has no plots, or loads something")
    return "\n".join(map(str, wrong))


with workspace() as w:
    w = Path(w)
    job = spec(w, export=EXPORT)
    first = w / "first"
    result = run(job, first)
    test("a run quantizes, passes its gate and publishes everything", not complete(first, result) and not missing(first), complete(first, result) or missing(first))
    test("report, files, card and `viaduct eval` say the same", not check_report(first), check_report(first))
    test("the int8 file has at most 0.35 of the float file's bytes, for so small a model",
         report(first)["export"]["quantized"]["bytes"] <= 0.35 * report(first)["export"]["float"]["bytes"], report(first)["export"])
    test("Triton serves the quantized model", sha(first / "export/triton/small/1/model.onnx") == sha(first / "export/quantized/model.onnx"))

    other = w / "other"
    result = run(spec(w, export=EXPORT, sites=one_site(1)), other, failpoint="export-write:kill:3,export-rename:kill:2")
    test("an export killed twice still completes, on other sites and ranks", not complete(other, result) and not missing(other), complete(other, result) or missing(other))
    same = [f for f in FILES[:7] if sha(first / "export" / f) != sha(other / "export" / f)]
    test("with the same bytes in every model file", not same, same)

    failed = w / "failed"
    result = run(spec(w, export=dict(EXPORT, gate={"max_drop": -1})), failed)
    r = report(failed)
    test("a gate that cannot be passed fails the job with exit code 3 and says so", result.returncode == 3 and r.get("status") == "failed" and
         "the gate failed" in r.get("error", "") and "the gate failed" in result.stderr, f"{result.returncode} {r.get('error')}\n{result.stderr[-800:]}\n{logs(failed)}")
    test("the float model stays, nothing is published as quantized", (failed / "export/float/model.onnx").is_file() and not (failed / "export/quantized").exists() and
         r["export"]["quantized"] is None and r["export"]["float"]["bytes"] > 0, r.get("export"))
    test("every way that was tried is in the report", r["export"]["gate"]["passed"] is False and len(r["export"]["gate"]["rungs"]) >= 8, r.get("export"))

    result = viaduct("export", failed, "export.gate.max_drop=0.05", "--json")
    test("`viaduct export RUN` with another gate publishes it", result.returncode == 0 and not missing(failed) and
         any(f.endswith("quantized/model.onnx") for f in json.loads(result.stdout)["files"]), result.stderr)
    result = viaduct("export", failed, "export.gate.max_drop=-1")
    test("and with the old one ends with 3 again", result.returncode == 3 and "the gate failed" in result.stderr and not (failed / "export/quantized").exists(), result.stderr)

    blocked = w / "blocked"
    p = start(spec(w, export=EXPORT), blocked)
    wait_for(lambda: step_of(blocked) > 0)
    (blocked / "export").rename(blocked / "away")
    (blocked / "export").write_text("in the way")
    _, err = p.communicate(timeout=60)
    asked = [e for e in events(blocked) if e["event"] == "export failed"]
    test("an export that cannot write says why, and is not tried three times", p.returncode == 3 and not asked and "the export failed: " in report(blocked)["error"] and
         str(blocked / "export") in err and "the checkpoint of step 60 is safe" in err, f"{p.returncode} {asked} {err[-1500:]}\n{logs(blocked)}")

    damaged = bytearray((first / "export/quantized/model.onnx").read_bytes())
    del damaged[len(damaged) // 2:]
    (w / "cut.onnx").write_bytes(damaged)
    result = viaduct("eval", w / "cut.onnx", "--data", job)
    test("a cut file is refused", result.returncode == 3 and "does not decode" in result.stderr, f"{result.returncode} {result.stderr}")
    result = viaduct("validate", job, "data.eval=null")
    test("quantization without data.eval is no valid spec", result.returncode == 2 and "needs data.eval" in result.stderr + result.stdout, result.stderr + result.stdout)
    test("no failed export in a run without faults", not events(first, "export failed"), events(first, "export failed"))
finish()
