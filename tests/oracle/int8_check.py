"""Quantized files against ONNX's checker, ONNX Runtime, its own quantizer, safetensors and Triton's schema. Prints TAP.
int8_check.py MODELS RUN OF-RUN: folders of int8_driver, and the run's directory."""
import json
import os
import sys
import tempfile

import numpy as np
import onnx
from safetensors.numpy import load_file

from int8_peer import AROUND, INTEGER, infer, optimized_ops, quantize, session

count = 0


def ok(good, text):
    global count
    count += 1
    print(f"{'ok' if good else 'not ok'} {count} - {text}", flush=True)


def predicted(layers):
    """The integer operations that the file should become."""
    return [{"conv": "QLinearConv", "fc": "QGemm"}[name.rstrip("0123456789")] for name, kind in layers if kind == "int8"]


def check_graph(name, path, layers, scratch):
    model = onnx.load(path)
    onnx.checker.check_model(path, full_check=True)
    good = model.ir_version == 8 and [(o.domain, o.version) for o in model.opset_import] == [("", 17)] and model.graph.node[0].op_type == "Sub"
    ops = optimized_ops(path, scratch)
    integers = [o for o in ops if o in INTEGER]
    floats = [o for o in ops if o not in INTEGER | AROUND]
    want = predicted(layers)
    left = sum(kind == "float" for _, kind in layers)
    good = good and integers == want and sum(o in ("Conv", "FusedConv", "Gemm", "FusedGemm", "NhwcFusedConv") for o in floats) == left
    if not left:
        good = good and not floats and ops.count("QuantizeLinear") == 1 and ops.count("DequantizeLinear") == 0
    ok(good, f"{name}: checker passes; ONNX Runtime runs {' '.join(integers)}{', in float ' + ' '.join(floats) if floats else ''}")
    return model


def check_example(name, folder, scratch):
    path = f"{folder}/model.onnx"
    layers = [line.split() for line in open(f"{folder}/layers.txt")]
    model = check_graph(name, path, layers, scratch)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    pixels = np.fromfile(f"{folder}/pixels", "<f4").reshape([-1] + shape)
    ours = np.fromfile(f"{folder}/logits", "<f4").reshape(len(pixels), -1)
    theirs = infer(session(path), pixels)
    off = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if all(kind == "int8" for _, kind in layers):
        ok(np.array_equal(ours, theirs), f"{name}: our integer engine gives the same bits as ONNX Runtime")
    else:   # float sums round differently, and a value on the edge then quantizes to its neighbour
        ok(off < 0.03, f"{name}: our engine agrees, {off:.1e} of the largest logit")
    return model


def check_run(folder, run, scratch):
    export = f"{run}/export"
    report = json.load(open(f"{export}/result.json"))["export"]
    card = json.load(open(f"{export}/card/model-card.json"))
    shape = card["input"]["shape"][1:]
    pixels = np.fromfile(f"{folder}/pixels", "<f4").reshape([-1] + shape)
    labels = np.fromfile(f"{folder}/labels", np.uint8)
    ours = np.fromfile(f"{folder}/logits", "<f4").reshape(len(pixels), -1)
    path = f"{export}/quantized/model.onnx"
    layers = [(n, "float" if n in card["quantization"]["float_layers"] else "int8") for n in ("conv1", "conv2", "fc1", "fc2")]
    model = check_graph("run", path, layers, scratch)
    theirs = infer(session(path), pixels)
    same = (ours.argmax(1) == theirs.argmax(1)).mean()
    accuracy = (theirs.argmax(1) == labels).mean()
    ok(same >= 0.999, f"run: {same:.2%} of the classes are ONNX Runtime's ({(ours == theirs).all(1).mean():.2%} of the samples bit for bit)")
    ok(abs(accuracy - report["quantized"]["accuracy"]) <= 0.001, f"run: accuracy {report['quantized']['accuracy']:.4f}, in ONNX Runtime {accuracy:.4f}")
    floats = (infer(session(f"{export}/float/model.onnx"), pixels).argmax(1) == labels).mean()
    ok(abs(floats - report["float"]["accuracy"]) <= 0.001 and accuracy >= floats - 0.003, f"run: int8 {accuracy:.4f} against {floats:.4f} in float")
    if report["float"]["accuracy"] > 0.92:   # a full training, not a quick one
        ok(accuracy >= 0.915, f"run: int8 accuracy {accuracy:.4f} is at least 0.915")
    ratio = report["quantized"]["bytes"] / report["float"]["bytes"]
    ok(ratio <= 0.30 and os.path.getsize(path) == report["quantized"]["bytes"], f"run: {ratio:.3f} of the float file's bytes")
    peer = quantize(f"{export}/float/model.onnx", np.fromfile(f"{folder}/calibration", "<f4").reshape([-1] + shape), f"{scratch}/peer.onnx", scratch)
    other = (infer(session(peer), pixels).argmax(1) == labels).mean()
    ok(accuracy >= other - 0.001, f"run: {accuracy:.4f} against {other:.4f} of ONNX Runtime's own quantizer with the same images")
    meta = {p.key: p.value for p in model.metadata_props}
    ok(json.loads(meta["viaduct.labels"]) == card["labels"] and (meta["viaduct.input"], meta["viaduct.output"]) == (card["input"]["name"], card["output"]["name"]),
       "run: labels and names in metadata and card")
    tensors = load_file(f"{export}/quantized/model.safetensors")
    held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    ok(tensors["conv1.weight_quantized"].dtype == np.int8 and all(np.array_equal(v, held[k]) for k, v in tensors.items() if k != "fc1.weight_quantized"),
       "run: safetensors holds the same integers and scales")


def check_triton(run):
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError as e:
        global count
        count += 1
        print(f"ok {count} - triton # SKIP tritonclient is not installed ({e})")
        return
    root = f"{run}/export/triton"
    name, = os.listdir(root)
    config = text_format.Parse(open(f"{root}/{name}/config.pbtxt").read(), model_config_pb2.ModelConfig())
    served = session(f"{root}/{name}/1/model.onnx")
    ends = served.get_inputs()[0], served.get_outputs()[0]
    ok(config.name == name and config.backend == "onnxruntime" and [config.input[0].name, config.output[0].name] == [e.name for e in ends] and
       list(config.input[0].dims) == ends[0].shape[1:] and list(config.output[0].dims) == ends[1].shape[1:], "triton: the configuration parses and fits the model")
    ok(len(open(f"{root}/{name}/{config.output[0].label_filename}").read().split()) == ends[1].shape[1], "triton: one label a class")


models, run, of_run = sys.argv[1:]
with tempfile.TemporaryDirectory() as scratch:
    for each in sorted(os.listdir(models)):
        check_example(each, os.path.join(models, each), scratch)
    check_run(of_run, run, scratch)
check_triton(run)
print(f"1..{count}")
