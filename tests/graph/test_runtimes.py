"""PBs in other runtimes, each in a process of its own: the live model's numbers.

What the table of runtimes says beforehand is what happens. Skipped where a runtime is
not there; CONTRIBUTING.md says how to get them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kinds
import numpy as np
import pytest
import tensorflow as tf
import zoo
from elsewhere import CLIENTS, check, interpreter_of, run_pb, said_of_pb

from persist_callbacks import exporting
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.compare import generate
from persist_callbacks.graph.op_tables import known_ops, parsed
from persist_callbacks.graph.runtimes import judge

PICTURES = [
    *("cnn", "any_size", "mobilenet", "residual", "separable_cnn"),
    *("squeeze_and_excite", "mlp", "siamese", "unet", "grouped_and_dilated_cnn"),
    *("growing", "prelu_and_quotients", "outputs_on_the_way", "several_outputs"),
    "parts_of_pictures",
]
SEQUENCES = ["attention", "bidirectional", "lstm", "transformer", "vision_transformer"]
LOADS = {
    "tensorflow": [*PICTURES, *SEQUENCES, "custom_layer"],
    "opencv": PICTURES,
    "openvino": [*PICTURES, *SEQUENCES, "conv_lstm"],
    "onnxruntime": [
        *("cnn", "unet", "lstm", "transformer", "growing", "prelu_and_quotients"),
        "outputs_on_the_way",
    ],
}
STANDS_IN_THE_WAY = {
    ("opencv", "lstm"): "StatelessWhile",
    ("opencv", "transformer"): "BatchMatMulV2",
    ("opencv", "conv1d"): "ExpandDims",
}


EYE = np.eye(3, dtype=np.float32)


def forked(x: Any) -> Any:
    """A convolution with a bias and without, beside what it is of."""
    made = tf.nn.conv2d(x, EYE[None, None], 1, "SAME")
    return tf.nn.bias_add(made, EYE[0]) + tf.nn.relu(made) + x


def maps(x: Any) -> Any:
    """What is known to be pictures."""
    return tf.nn.conv2d(x, EYE[None, None], 1, "SAME")


def grown(x: Any, times: int, more: int) -> Any:
    """A transposed convolution whose size is not what its filter and strides give."""
    size = tf.shape(x)
    sides = [tf.raw_ops.Add(x=size[k] * times, y=more) for k in (1, 2)]
    whole = tf.stack([size[0], *sides, 3])
    filters = np.ones((3, 3, 3, 3), np.float32)
    strides = [1, 2, 2, 1]
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=whole, filter=filters, out_backprop=x, strides=strides,
        padding="VALID",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("runtime", "kind"),
    [(runtime, kind) for runtime, listed in LOADS.items() for kind in listed],
)
def test_a_pb_elsewhere(runtime: str, kind: str, tmp_path: Path) -> None:
    """Loaded by the runtime's own reader, it gives what the live model gives."""
    check(runtime, kinds.KINDS[kind], tmp_path)


@pytest.mark.parametrize(("runtime", "kind"), STANDS_IN_THE_WAY)
def test_what_stands_in_the_way(runtime: str, kind: str, tmp_path: Path) -> None:
    """The table names an op, and the runtime does not get beyond loading or running."""
    made = zoo.traced(kinds.KINDS[kind])
    built = exporting.build(made.graph, made.values)
    verdict = said_of_pb(runtime, built)
    ops = {obstacle.op for obstacle in verdict.obstacles}
    assert STANDS_IN_THE_WAY[runtime, kind] in ops, verdict
    sample = generate(made.graph.inputs, batch=3, open_size=16, seed=1)
    assert run_pb(runtime, built, sample, tmp_path).returncode != 0


@pytest.mark.parametrize(
    ("runtime", "file"),
    [
        ("tensorflow", "tensorflow-1.15"),
        ("openvino", "openvino"),
        ("onnxruntime", "onnxruntime"),
    ],
)
def test_the_table_of_ops(runtime: str, file: str) -> None:
    """Each op that it lists is one that the runtime takes, with what is said of it."""
    known = known_ops(file)
    asked = {
        op: len(definition.input_arg)
        for op in known
        if (definition := nd.op_definition(op)) is not None
    }
    done = subprocess.run(
        [interpreter_of(runtime), CLIENTS / "list_ops.py", runtime],
        input="".join(f"{op} {count}\n" for op, count in asked.items()),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    listed = parsed(done.stdout.splitlines())
    assert listed.keys() == asked.keys()
    # ONNX Runtime does not list the numbers that it has kernels for.
    if runtime == "tensorflow":
        assert listed == {op: known[op] for op in asked}


def test_the_table_of_opencv_names_ops_of_tensorflow() -> None:
    """A name with a letter wrong would never be found in a graph."""
    assert [op for op in known_ops("opencv") if nd.op_definition(op) is None] == []


@pytest.mark.parametrize(
    ("build", "op", "reason"),
    [
        (lambda x: tf.nn.softmax(x), "Softmax", "along their width"),
        (lambda x: x - tf.reduce_mean(x, -1, keepdims=True), "Sub", "that differ"),
        (lambda x: 1.0 - x, "Sub", "the reverse"),
        (lambda x: tf.reduce_max(x, -1, keepdims=True), "Max", "over channels"),
        (lambda x: tf.reshape(x, tf.reverse(tf.shape(x), [0])), "Reshape", "computed"),
        (lambda x: tf.matmul(x[0, 0], x[0, 0], transpose_b=True), "MatMul", "neither"),
        (lambda x: tf.cast(x, tf.int32) + 1, "AddV2", "int32"),
        (lambda x: tf.math.lgamma(x), "Lgamma", "does not have"),
        (
            lambda x: forked(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])),
            "Pad",
            "shares",
        ),
        (lambda x: tf.matmul(x[0, 0], EYE) + x[0, 0], "MatMul", "wants a bias"),
        (lambda x: forked(x), "Conv2D", "some of its readers"),
        (lambda x: 2.0 / (x + 1.0), "RealDiv", "constant divided"),
        (lambda x: x * np.ones((4, 4, 3), np.float32), "Mul", "one a channel"),
        (lambda x: x[:, 0] + np.ones(3, np.float32), "AddV2", "neither rows"),
        (lambda x: tf.nn.bias_add(x[:, 0], EYE[0]), "BiasAdd", "neither rows"),
        (lambda x: tf.reduce_mean(x, [1, 2, 3]), "Mean", "rows and columns"),
        (lambda x: tf.transpose(x, [0, 2, 1, 3]), "Transpose", "order of axes"),
        (lambda x: tf.pad(x, [[0, 0], [0, 0], [0, 0], [1, 0]]), "Pad", "channels"),
        (lambda x: tf.nn.relu(x)[:, 1:3], "StridedSlice", "a part of pictures"),
        (lambda x: x[:, 1:3, :, :], "StridedSlice", "a part of pictures"),
        (lambda x: maps(x)[:, :, 1], "StridedSlice", "a part of pictures"),
        (lambda x: maps(x)[:, ::-1, :, :], "StridedSlice", "turned round"),
        (lambda x: grown(x, 2, 2), "Shape", "does not have"),
        (lambda x: grown(x, 3, 1), "Shape", "does not have"),
        (lambda x: tf.add_n(tf.split(x, 3, -1)), "Split", "nothing has told it"),
        (lambda x: tf.concat([x, x], -1), "ConcatV2", "nothing has told it"),
        (
            lambda x: tf.nn.relu(tf.reshape(tf.reshape(x, [-1, 48]), [-1, 2, 8, 3])),
            "Reshape",
            "rows made pictures",
        ),
        (
            lambda x: tf.nn.relu(x) + EYE[0] * tf.nn.relu(x * -1.0),
            "AddV2",
            "as its bias",
        ),
    ],
)
def test_what_opencv_asks_of_ops(build: Any, op: str, reason: str) -> None:
    """An op that it has stands in the way where it is used as it cannot."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4, 4, 3], name="x")
        tf.identity(build(x), name="y")
    (verdict,) = (
        each for each in judge(graph.as_graph_def()) if "OpenCV" in each.runtime
    )
    said = {obstacle.op: obstacle.reason for obstacle in verdict.obstacles}
    assert reason in said[op]


@pytest.mark.parametrize("gaps", [False, True])
def test_a_transposed_convolution_with_gaps(gaps: bool) -> None:
    """OpenCV computes it as one without, and TensorFlow 1.15 not at all on a CPU."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [2, 4, 4, 3], name="x")
        dilations = 2 if gaps else 1
        tf.nn.conv2d_transpose(x, EYE[None, None], x.shape, 1, dilations=dilations)
    refusing = {
        verdict.runtime
        for verdict in judge(graph.as_graph_def())
        for obstacle in verdict.obstacles
        if "dilation" in obstacle.reason
    }
    assert refusing == ({"OpenCV 4 and 5", "TensorFlow 1.15"} if gaps else set())


def test_an_attribute_that_is_newer() -> None:
    """TensorFlow 1.15 does not know it, even at its default."""
    graph_def = zoo.shared("attention").frozen()
    graph_def.node[-1].attr["grad_x"].b = False
    (verdict,) = (each for each in judge(graph_def) if "1.15" in each.runtime)
    (obstacle,) = verdict.obstacles
    assert obstacle.reason == "an attribute that it does not know, grad_x"
