"""Load a PB in one runtime, run it, and write down what it gives.

    python run_pb.py RUNTIME PB ARRAYS RESULTS OUTPUT[,...]

RUNTIME is ``tensorflow`` (1.15 or 2, whichever this Python has), ``opencv``,
``openvino`` or ``onnxruntime``. ARRAYS is an ``.npz`` by input name, pictures as NHWC;
RESULTS, made here, one by output name, in the layout that the runtime gives: OpenCV's
pictures are NCHW. Knows nothing of persist_callbacks; a process of its own, since a
reader may crash.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np

# Bytes of a PB whose conversion to ONNX takes many times as much memory.
LARGE = 2**28


def by_tensorflow(path, arrays, outputs):
    import tensorflow as tf

    v1 = tf.compat.v1
    graph_def = v1.GraphDef()
    with open(path, "rb") as file:
        graph_def.ParseFromString(file.read())
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        tf.import_graph_def(graph_def, name="")
        feed = {name + ":0": array for name, array in arrays.items()}
        return session.run({name: name + ":0" for name in outputs}, feed)


def by_opencv(path, arrays, outputs):
    import cv2

    net = cv2.dnn.readNetFromTensorflow(path)
    # Twice, as in a program that lives on: not every net that runs once runs again.
    for _ in range(2):
        for name, array in arrays.items():
            pictures = array.ndim == 4
            blob = array.transpose(0, 3, 1, 2) if pictures else array
            net.setInput(np.ascontiguousarray(blob), name)
        # A bias is made one layer with what it is added to, and the output's name is
        # gone; what is left comes in the layers' order.
        last = list(net.getUnconnectedOutLayersNames())
        renamed = len(last) == len(outputs) and set(last) != set(outputs)
        found = net.forward(last if renamed else list(outputs))
    return {name: found[index] for index, name in enumerate(outputs)}


def by_openvino(path, arrays, outputs):
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    model.reshape({name + ":0": shape for name, shape in shapes.items()})
    # Other precisions than the graph's own are a processor's choice to be fast.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", settings)
    found = compiled({name + ":0": array for name, array in arrays.items()})
    return {name: found[name + ":0"] for name in outputs}


def by_onnxruntime(path, arrays, outputs):
    if os.path.getsize(path) > LARGE:
        # What the converter drops of a graph, protobuf's own memory would keep.
        os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    graph_def = tf.compat.v1.GraphDef()
    with open(path, "rb") as file:
        graph_def.ParseFromString(file.read())
    names = [name + ":0" for name in outputs]
    made, _ = tf2onnx.convert.from_graph_def(
        graph_def,
        input_names=[name + ":0" for name in arrays],
        output_names=names,
        opset=17,
    )
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feed = {name + ":0": array for name, array in arrays.items()}
    found = session.run(names, feed)
    return {name: found[index] for index, name in enumerate(outputs)}


RUNTIMES = {
    "tensorflow": by_tensorflow,
    "opencv": by_opencv,
    "openvino": by_openvino,
    "onnxruntime": by_onnxruntime,
}


def main(runtime, path, arrays, results, names):
    with np.load(arrays) as loaded:
        fed = {name: loaded[name] for name in loaded.files}
    found = RUNTIMES[runtime](path, fed, names.split(","))
    np.savez(results, **{name: np.asarray(array) for name, array in found.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
