"""The exported int8 file in ONNX Runtime against the one that ONNX Runtime's own static quantizer makes of our float file with the same calibration images:
speed in turn, accuracy over data.eval. peer_int8.py RUN OF-RUN (of int8_driver). Prints JSON."""
import json
import os
import statistics
import sys
import tempfile
import time

import numpy as np
import onnxruntime

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "tests", "oracle"))
from int8_peer import infer, quantize, session  # noqa: E402

run, of_run = sys.argv[1:]
export = f"{run}/export"
report = json.load(open(f"{export}/result.json"))["export"]
shape = json.load(open(f"{export}/card/model-card.json"))["input"]["shape"][1:]
pixels = np.fromfile(f"{of_run}/pixels", "<f4").reshape([-1] + shape)
labels = np.fromfile(f"{of_run}/labels", np.uint8)
cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")


def compare(a, b, batch, groups=41):
    """Call by call in turn; both run in this thread, so its CPU time counts: what else the machine does takes part in none of the two. Medians over groups
    of the fastest quarter of calls."""
    x, calls, rows = pixels[:batch], max(8, 400 // batch), []
    for s in (a, b) * 5:
        s.run(None, {"input": x})
    for _ in range(groups):
        spent = ([], [])
        for i in range(calls):
            for k in ((0, 1) if i % 2 else (1, 0)):
                begin = time.thread_time()
                (a, b)[k].run(None, {"input": x})
                spent[k].append(time.thread_time() - begin)
        rows.append([statistics.mean(sorted(t)[:calls // 4]) for t in spent])
    ratios = sorted(u / t for t, u in rows)
    return {"batch": batch, "ours_ms": round(1e3 * statistics.median(t for t, _ in rows), 4), "peer_ms": round(1e3 * statistics.median(u for _, u in rows), 4),
            "ratio": round(statistics.median(ratios), 3), "ratio_quartiles": [round(ratios[groups // 4], 3), round(ratios[3 * groups // 4], 3)]}


with tempfile.TemporaryDirectory() as scratch:
    images = np.fromfile(f"{of_run}/calibration", "<f4").reshape([-1] + shape)
    peer_path = quantize(f"{export}/float/model.onnx", images, f"{scratch}/peer.onnx", scratch)
    ours, peer, floats = session(f"{export}/quantized/model.onnx"), session(peer_path), session(f"{export}/float/model.onnx")
    right = {name: float((infer(s, pixels).argmax(1) == labels).mean()) for name, s in (("int8", ours), ("peer_int8", peer), ("float", floats))}
    print(json.dumps({
        "bench": "int8", "cpu": cpu, "peer": "ONNX Runtime " + onnxruntime.__version__ + " quantize_static", "threads": 1, "accuracy": right,
        "bytes": {"float": report["float"]["bytes"], "int8": report["quantized"]["bytes"], "peer_int8": os.path.getsize(peer_path)},
        "against_peer": [compare(ours, peer, b) for b in (1, 8, 32)],
        "against_float": [compare(ours, floats, b) for b in (1, 32)],
        "own_engine_ms": {"float": report["float"]["latency_ms"], "int8": report["quantized"]["latency_ms"]}}, indent=1))
