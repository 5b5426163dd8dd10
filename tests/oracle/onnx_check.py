"""Exported files against ONNX's checker, ONNX Runtime and the safetensors package. Prints TAP."""
import json
import os
import sys

import numpy as np
import onnx
import onnxruntime
import safetensors
from onnx import numpy_helper
from safetensors.numpy import load_file

count = 0


def ok(good, text):
    global count
    count += 1
    print(f"{'ok' if good else 'not ok'} {count} - {text}")


def tensors_of(folder):
    out = {}
    for line in open(f"{folder}/tensors.txt"):
        name, *dims = line.split()
        out[name] = np.fromfile(f"{folder}/tensor.{name}", "<f4").reshape([int(d) for d in dims])
    return out


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def check(name, folder):
    path = f"{folder}/model.onnx"
    model = onnx.load(path)
    want = tensors_of(folder)
    onnx.checker.check_model(path, full_check=True)
    onnx.checker.check_model(model, full_check=True)
    ok(True, f"{name}: onnx.checker passes with full_check")
    ok(model.ir_version == 8 and [(o.domain, o.version) for o in model.opset_import] == [("", 17)], f"{name}: IR version 8, opset 17")
    ok(model.graph.node[0].op_type == "Sub" and model.graph.node[0].input[0] == "input", f"{name}: the first node is the normalization")
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    mean, deviation = held.pop("input.mean"), held.pop("input.deviation")
    ok(held.keys() == want.keys() and all(same(held[k], want[k]) for k in want), f"{name}: {len(want)} initializers, named and valued as the layout")
    meta = {p.key: p.value for p in model.metadata_props}
    config = json.loads(meta["viaduct.model"])
    classes = config["classes"]
    ok(json.loads(meta["viaduct.labels"]) == [str(i) for i in range(classes)] and (meta["viaduct.input"], meta["viaduct.output"]) == ("input", "logits"),
       f"{name}: labels and names in the metadata")
    ok(mean.shape == deviation.shape == (config["input"][0], 1, 1), f"{name}: normalization has one value a channel")
    ok(model.SerializeToString(deterministic=True) == open(path, "rb").read(), f"{name}: protobuf's own library writes the same bytes")

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ends = session.get_inputs()[0], session.get_outputs()[0]
    ok([(e.name, e.shape, e.type) for e in ends] == [("input", ["N"] + config["input"], "tensor(float)"), ("logits", ["N", classes], "tensor(float)")],
       f"{name}: input and output as promised")
    pixels = np.fromfile(f"{folder}/pixels", "<f4").reshape([-1] + config["input"])
    ours = np.fromfile(f"{folder}/logits", "<f4").reshape(-1, classes)
    theirs = session.run(None, {"input": pixels})[0]
    worst = np.abs(ours - theirs).max() / np.abs(theirs).max()
    ok(np.isfinite(theirs).all() and theirs.std() > 1e-3 and worst < 1e-4, f"{name}: ONNX Runtime agrees, {worst:.1e} of the largest logit")
    one = np.concatenate([session.run(None, {"input": pixels[i:i + 1]})[0] for i in range(3)])
    ok(np.abs(one - theirs[:3]).max() < 1e-4 * np.abs(theirs).max(), f"{name}: any batch size")

    loaded = load_file(f"{folder}/model.safetensors")
    ok(loaded.keys() == want.keys() and all(same(loaded[k], want[k]) for k in want), f"{name}: safetensors reads the same tensors")
    with safetensors.safe_open(f"{folder}/model.safetensors", "numpy") as f:
        ok(f.metadata()["format"] == "viaduct" and json.loads(f.metadata()["viaduct.model"]) == config, f"{name}: safetensors' metadata")


root = sys.argv[1]
for folder in sorted(os.listdir(root)):
    check(folder, os.path.join(root, folder))
print(f"1..{count}")
