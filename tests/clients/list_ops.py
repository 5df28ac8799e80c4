"""List the op types that one runtime takes, a line each, as ``known_ops`` has them.

    python list_ops.py RUNTIME < CANDIDATES

RUNTIME is ``tensorflow`` (1.15, beside each op its attributes and what dtypes these may
name), ``openvino`` or ``onnxruntime``; a line of CANDIDATES is a type and its number of
inputs. OpenVINO does not tell what it knows, so it is offered a graph of one node for
each.
"""

import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def of_tensorflow(candidates):
    import tensorflow as tf
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python import pywrap_tensorflow as c_api

    def described(attr):
        dtypes = [tf.as_dtype(enum).name for enum in attr.allowed_values.list.type]
        return attr.name + ("=" + ",".join(sorted(dtypes)) if dtypes else "")

    listed = op_def_pb2.OpList()
    listed.ParseFromString(c_api.TF_GetBuffer(c_api.TF_GetAllOpList()))
    attributes = {op.name: sorted(map(described, op.attr)) for op in listed.op}
    for name, _ in candidates:
        if name in attributes:
            yield " ".join([name, *attributes[name]])


def of_onnxruntime(candidates):
    import tf2onnx.tfonnx  # noqa: F401 - registers what it knows
    from tf2onnx.handler import tf_op

    listed = [ops for opsets in tf_op.get_opsets().values() for ops in opsets]
    known = {name for ops in listed for name in ops}
    for name, _ in candidates:
        if name in known:
            yield name


def of_openvino(candidates):
    import openvino

    core = openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        for name, inputs in candidates:
            try:
                core.read_model(graph_of(name, inputs, folder))
            except RuntimeError as error:
                if "No conversion rule found" in str(error):
                    continue
            yield name


def graph_of(name, inputs, folder):
    """Write a graph of one node, in protobuf's wire format: not all have TensorFlow."""

    def varint(value):
        out = b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return out + bytes([value])

    def field(number, data):
        return bytes([number << 3 | 2]) + varint(len(data)) + data

    def node(op, called, reads, attributes=b""):
        made = field(1, called.encode()) + field(2, op.encode())
        made += b"".join(field(3, each.encode()) for each in reads)
        return field(1, made + attributes)

    float32 = field(5, field(1, b"dtype") + field(2, bytes([6 << 3, 1])))
    fed = ["x" + str(index) for index in range(inputs)]
    nodes = [node("Placeholder", each, [], float32) for each in fed]
    path = os.path.join(folder, "one.pb")
    with open(path, "wb") as file:
        file.write(b"".join([*nodes, node(name, "y", fed)]))
    return path


RUNTIMES = {
    "tensorflow": of_tensorflow,
    "openvino": of_openvino,
    "onnxruntime": of_onnxruntime,
}


def main(runtime):
    candidates = [line.split() for line in sys.stdin if line.strip()]
    for line in RUNTIMES[runtime]([(name, int(count)) for name, count in candidates]):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
