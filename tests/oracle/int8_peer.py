"""What the test and the benchmark of quantized files share: ONNX Runtime sessions, its fused graph, its own static quantizer."""
import os
import warnings

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

# Operations that fused integer graphs are made of, and what may stay in float around them.
INTEGER = {"QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
AROUND = {"Sub", "Div", "QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "MaxPool", "NhwcMaxPool"}


def session(path, optimized=None, threads=1):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if optimized:
        options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def optimized_ops(path, scratch):
    """The operations that ONNX Runtime runs for this file, in order."""
    out = os.path.join(scratch, "optimized.onnx")
    session(path, out)
    return [n.op_type for n in onnx.load(out).graph.node]


def infer(s, pixels, batch=250):
    return np.concatenate([s.run(None, {"input": pixels[i:i + batch]})[0] for i in range(0, len(pixels), batch)])


class _Images(CalibrationDataReader):
    def __init__(self, images):
        self.batches = iter([{"input": images[i:i + 64]} for i in range(0, len(images), 64)])

    def get_next(self):
        return next(self.batches, None)


def quantize(float_path, images, out, scratch):
    """ONNX Runtime's static quantizer at its best for a CPU: preprocessed (batch norms folded), per channel, u8 values and s8 weights."""
    prepared = os.path.join(scratch, "prepared.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quant_pre_process(float_path, prepared)
        quantize_static(prepared, out, _Images(images), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax)
    return out
