"""Ops that a runtime has, with numbers or in uses that it has them not for.

Each is a graph of a few nodes, which the runtime refuses, or computes otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import elsewhere
import numpy as np
import pytest
import tensorflow as tf
from elsewhere import interpreter_of

raw = tf.raw_ops
WINDOW = np.ones((3, 3, 3, 3))
PICTURES, ROWS = (2, 8, 8, 3), (2, 4)


class Case(NamedTuple):
    """A graph for a runtime, and how it is fed."""

    runtime: str
    build: Callable[[Any], Any]
    op: str
    reason: str
    shape: tuple[int, ...] = ROWS
    dtype: tf.DType = tf.float32


def in_bfloat16(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: tf.cast(build(tf.cast(x, tf.bfloat16)), tf.float32)


def product_of_int8(x: Any) -> Any:
    whole = tf.cast(x * 12.0, tf.int8)
    other = np.full((4, 4), 100, np.int8)
    made = raw.BatchMatMulV3(x=whole[None], y=other[None], Tout=tf.int32)
    return tf.cast(made, tf.float32)


def cropped(x: Any, *edges: float) -> Any:
    return tf.image.crop_and_resize(x, [edges], [0], (4, 4))


def patches(x: Any) -> Any:
    return raw.ExtractImagePatches(
        images=x,
        ksizes=[1, 3, 3, 1],
        strides=[1, 2, 2, 1],
        rates=[1, 1, 1, 1],
        padding="VALID",
    )


def gathered(x: Any, axis: int) -> Any:
    indices = tf.cast(x > 0.5, tf.int32)
    return raw.GatherV2(params=x, indices=indices, axis=axis, batch_dims=1)


def summed(x: Any, ids: Any) -> Any:
    ids = tf.cast(ids * 3, tf.int32)
    return raw.UnsortedSegmentSum(data=x, segment_ids=ids, num_segments=4)


def looped(x: Any) -> Any:
    """An LSTM's loop, as tf2onnx knows it, in float64."""
    ran = tf.while_loop(
        lambda i, _: i < 3, lambda i, h: (i + 1, tf.sigmoid(h)), (0, x), name="loop"
    )
    return ran[1]


def sigmoid_in_a_loop(x: Any) -> Any:
    return in_bfloat16(lambda y: looped(y))(x)


REFUSED = {
    "choice_with_logarithms": Case(
        "onnxruntime",
        lambda x: tf.where(x > 0.5, tf.math.log(x - 0.5), 0.0),
        "SelectV2",
        "may be no number",
    ),
    "choice_of_infinities": Case(
        "onnxruntime",
        lambda x: (
            lambda y: tf.where(tf.logical_and(tf.math.is_inf(y), y > 0), 9.0, y)
        )(1.0 / tf.floor(x * 3)),
        "SelectV2",
        "may be no number",
    ),
    "product_in_more_bits": Case(
        "openvino", product_of_int8, "BatchMatMulV3", "more bits"
    ),
    "bfloat16_in_openvino": Case(
        "openvino",
        in_bfloat16(lambda x: x * tf.constant(1.5, tf.bfloat16)),
        "Const",
        "bfloat16",
    ),
    "output_of_bfloat16": Case(
        "openvino", lambda x: tf.cast(x, tf.bfloat16), "Cast", "an output of bfloat16"
    ),
    "tail_in_openvino": Case(
        "openvino", lambda x: tf.math.log(tf.math.erfc(x * 9)), "Erfc", "tail"
    ),
    "complex_in_openvino": Case(
        "openvino", tf.signal.rfft, "RFFT", "an output of complex64"
    ),
    "complex_constant": Case(
        "openvino",
        lambda x: tf.math.real(tf.signal.rfft(x) * np.array([1, 2j, 3], np.complex64)),
        "Const",
        "complex",
    ),
    "complex_in_onnx": Case("onnxruntime", tf.signal.rfft, "RFFT", "complex"),
    "bfloat16_in_onnx": Case(
        "onnxruntime",
        in_bfloat16(lambda x: tf.matmul(x, tf.constant(np.eye(4), tf.bfloat16))),
        "MatMul",
        "bfloat16",
    ),
    "convolution_of_float64": Case(
        "onnxruntime",
        lambda x: tf.nn.conv2d(x, WINDOW, 1, "SAME"),
        "Conv2D",
        "float64",
        PICTURES,
        tf.float64,
    ),
    "transposed_volume_of_float64": Case(
        "onnxruntime",
        lambda x: tf.nn.conv3d_transpose(x, WINDOW[None], (2, 4, 5, 6, 3), 1),
        "Conv3DBackpropInputV2",
        "float64",
        (2, 4, 5, 6, 3),
        tf.float64,
    ),
    "pool_of_float64": Case(
        "onnxruntime",
        lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME"),
        "AvgPool",
        "float64",
        PICTURES,
        tf.float64,
    ),
    "mean_of_float64": Case(
        "onnxruntime",
        lambda x: tf.reduce_mean(x, -1, keepdims=True),
        "Mean",
        "float64",
        (2, 5, 3),
        tf.float64,
    ),
    "erf_of_float64": Case(
        "onnxruntime", tf.math.erf, "Erf", "float64", ROWS, tf.float64
    ),
    "arctangent_of_float64": Case(
        "onnxruntime", tf.math.atan, "Atan", "float64", ROWS, tf.float64
    ),
    "resize_of_float16": Case(
        "onnxruntime",
        lambda x: raw.ResizeBilinear(images=x, size=[16, 16]),
        "ResizeBilinear",
        "float16",
        PICTURES,
        tf.float16,
    ),
    "larger_of_uint8": Case(
        "tensorflow",
        lambda x: tf.maximum(x, np.uint8(3)),
        "Maximum",
        "uint8",
        ROWS,
        tf.uint8,
    ),
    "less_of_uint16": Case(
        "tensorflow",
        lambda x: tf.less(x, np.uint16(3)),
        "Less",
        "uint16",
        ROWS,
        tf.uint16,
    ),
    "one_hot_of_bool": Case(
        "onnxruntime",
        lambda x: tf.one_hot(x, 5, on_value=True, off_value=False),
        "OneHot",
        "bool",
        ROWS,
        tf.int32,
    ),
    "hashes": Case(
        "onnxruntime",
        lambda x: tf.strings.to_hash_bucket_fast(tf.as_string(x), 5),
        "StringToHashBucketFast",
        "extensions",
    ),
    "inverse": Case(
        "onnxruntime",
        lambda x: tf.linalg.inv(x + 9 * np.eye(3, dtype=np.float32)),
        "MatrixInverse",
        "extensions",
        (2, 3, 3),
    ),
    "saturation": Case(
        "onnxruntime",
        lambda x: tf.image.adjust_saturation(x, 1.3),
        "AdjustSaturation",
        "otherwise",
        PICTURES,
    ),
    "patches_of_any_number": Case(
        "onnxruntime", patches, "ExtractImagePatches", "any number", PICTURES
    ),
    "patches_of_any_height": Case(
        "onnxruntime",
        lambda x: patches(tf.reshape(x, [2, -1, 8, 3])),
        "ExtractImagePatches",
        "any size",
        PICTURES,
    ),
    "patches_of_float16": Case(
        "onnxruntime",
        lambda x: patches(tf.reshape(x, PICTURES)),
        "ExtractImagePatches",
        "float16",
        PICTURES,
        tf.float16,
    ),
    "gather_from_the_last": Case(
        "onnxruntime", lambda x: gathered(x, -1), "GatherV2", "from the last"
    ),
    "part_of_a_spectrum": Case(
        "onnxruntime",
        lambda x: tf.abs(tf.signal.rfft(x)[:, :2]),
        "RFFT",
        "more than the size",
    ),
    "spectrum_of_any_length": Case(
        "onnxruntime",
        lambda x: tf.abs(tf.signal.rfft(tf.reshape(x, [2, -1]), [8])),
        "RFFT",
        "any number of steps",
        (2, 8),
    ),
    "spectra_of_any_number": Case(
        "onnxruntime",
        lambda x: tf.abs(tf.signal.rfft(x)),
        "RFFT",
        "two dimensions",
        (2, 3, 8),
    ),
    "sums_of_several_a_row": Case(
        "onnxruntime", lambda x: summed(x, x), "UnsortedSegmentSum", "one a row"
    ),
    "largest_of_no_rows": Case(
        "onnxruntime",
        lambda x: raw.UnsortedSegmentMax(
            data=x, segment_ids=tf.cast(x[:, 0] * 3, tf.int32), num_segments=9
        ),
        "UnsortedSegmentMax",
        "no rows",
    ),
    "parts_of_several_a_row": Case(
        "onnxruntime",
        lambda x: tf.dynamic_partition(x, tf.cast(x > 0.5, tf.int32), 2)[1],
        "DynamicPartition",
        "one a row",
    ),
    "bits": Case(
        "onnxruntime",
        lambda x: tf.bitwise.bitwise_xor(x, 6),
        "BitwiseXor",
        "opset 18",
        ROWS,
        tf.int32,
    ),
    "diagonals_of_four_dimensions": Case(
        "onnxruntime",
        lambda x: raw.MatrixDiagPart(input=x),
        "MatrixDiagPart",
        "three dimensions",
        (2, 5, 3, 4),
    ),
    "text": Case(
        "onnxruntime", tf.strings.as_string, "AsString", "output", ROWS, tf.int32
    ),
    "stitched_twice": Case(
        "onnxruntime",
        lambda x: tf.dynamic_stitch([[0, 1], [1, 2]], [x, x + 1]),
        "DynamicStitch",
        "for one row",
    ),
    "product_of_ints_turned_once": Case(
        "onnxruntime",
        lambda x: raw.BatchMatMul(x=x, y=x, adj_y=True),
        "BatchMatMul",
        "turned",
        (2, 3, 3),
        tf.int32,
    ),
    "product_of_ints_turned": Case(
        "onnxruntime",
        lambda x: raw.BatchMatMulV2(x=x, y=x, adj_y=True),
        "BatchMatMulV2",
        "turned",
        (2, 3, 3),
        tf.int32,
    ),
    "one_hot_of_float16": Case(
        "onnxruntime",
        lambda x: tf.one_hot(x, 5, dtype=tf.float16),
        "OneHot",
        "float16",
        ROWS,
        tf.int32,
    ),
    "box_to_the_edge": Case(
        "onnxruntime",
        lambda x: cropped(x, 0.1, 0.2, 0.9, 1.0),
        "CropAndResize",
        "edge",
        PICTURES,
    ),
    "einsum_of_float16": Case(
        "tensorflow",
        lambda x: raw.Einsum(inputs=[x, x], equation="ab,cb->ac"),
        "Einsum",
        "float16",
        ROWS,
        tf.float16,
    ),
    "sigmoid_of_bfloat16_in_a_loop": Case(
        "tensorflow", sigmoid_in_a_loop, "Sigmoid", "in a function"
    ),
    "one_of_each_row": Case(
        "tensorflow",
        lambda x: raw.GatherV2(
            params=x, indices=tf.argmax(x, 1), axis=np.int32(1), batch_dims=1
        ),
        "GatherV2",
        "one of each row",
    ),
}
READ = {
    "choice_of_what_is_no_number": Case(
        "onnxruntime",
        lambda x: tf.where(tf.math.is_nan(tf.math.log(x - 0.5)), 0.0, x),
        "",
        "",
    ),
    "choice_of_numbers": Case(
        "onnxruntime", lambda x: tf.where(x > 0.5, tf.exp(x), -x), "", ""
    ),
    "patches_of_two": Case(
        "onnxruntime",
        lambda x: patches(tf.reshape(x, PICTURES)),
        "",
        "",
        PICTURES,
    ),
    "gather_from_the_first": Case(
        "onnxruntime", lambda x: gathered(x, 1), "", "", ROWS
    ),
    "spectrum": Case(
        "onnxruntime", lambda x: tf.abs(tf.signal.rfft(x)), "", "", (2, 8)
    ),
    "sums_of_rows": Case("onnxruntime", lambda x: summed(x, x[:, 0]), "", ""),
    "one_hot_of_a_row": Case(
        "onnxruntime",
        lambda x: tf.one_hot(tf.reshape(x, [-1]), 5, 2, 1),
        "",
        "",
        ROWS,
        tf.int32,
    ),
    "box_within": Case(
        "onnxruntime", lambda x: cropped(x, 0.1, 0.2, 0.7, 0.8), "", "", PICTURES
    ),
    "cosine_of_float64": Case("onnxruntime", tf.math.cos, "", "", ROWS, tf.float64),
    "largest_of_float64": Case(
        "onnxruntime",
        lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"),
        "",
        "",
        PICTURES,
        tf.float64,
    ),
    "mean_of_pictures_of_float64": Case(
        "onnxruntime",
        lambda x: tf.reduce_mean(x, [1, 2], keepdims=True),
        "",
        "",
        PICTURES,
        tf.float64,
    ),
    "several_of_bfloat16": Case(
        "openvino",
        in_bfloat16(lambda x: tf.matmul(x, tf.constant(np.eye(4), tf.bfloat16))),
        "",
        "",
    ),
    "sigmoid_of_bfloat16": Case("tensorflow", in_bfloat16(tf.sigmoid), "", ""),
    "several_of_each_row": Case(
        "tensorflow",
        lambda x: tf.gather(x, tf.cast(x > 0.5, tf.int32), batch_dims=1, axis=1),
        "",
        "",
    ),
    "gelu_in_openvino": Case("openvino", lambda x: x * tf.math.erfc(-x), "", ""),
    "float64_in_openvino": Case(
        "openvino",
        lambda x: tf.nn.conv2d(x, WINDOW, 1, "SAME"),
        "",
        "",
        PICTURES,
        tf.float64,
    ),
}


def graph_of(case: Case) -> Any:
    """The graph of a case."""
    graph = tf.Graph()
    with graph.as_default():
        shape = [None, *case.shape[1:]]
        x = tf.compat.v1.placeholder(case.dtype, shape, name="x")
        made = case.build(x)
        made.op._set_attr("_y", tf.compat.v1.AttrValue(b=True))
    graph_def = graph.as_graph_def()
    (output,) = (node for node in graph_def.node if "_y" in node.attr)
    output.name = "y"
    newer = {"grad_x", "grad_y", "explicit_paddings", "bad_indices_policy"}
    for node in [*graph_def.node, *_of_functions(graph_def)]:
        for key in [key for key in node.attr if key in newer or key.startswith("_")]:
            del node.attr[key]
    return graph_def


def _of_functions(graph_def: Any) -> list[Any]:
    return [node for each in graph_def.library.function for node in each.node_def]


def said_of(case: Case) -> dict[str, str]:
    """Why a runtime does not read a graph, by op."""
    verdict = elsewhere.said_of(case.runtime, graph_of(case))
    return {each.op: each.reason for each in verdict.obstacles}


def is_given(case: Case, folder: Path) -> bool:
    """Whether the runtime gives TensorFlow's numbers."""
    interpreter_of(case.runtime)
    graph_def = graph_of(case)
    data = graph_def.SerializeToString()
    numbers = np.random.default_rng(0).uniform(0, 1, case.shape)
    fed = (numbers * (1 if case.dtype.is_floating else 5)).astype(
        case.dtype.as_numpy_dtype
    )
    return elsewhere.is_given(case.runtime, graph_def, data, fed, folder, 1e-2)


@pytest.mark.parametrize("name", REFUSED)
def test_what_stands_in_the_way(name: str) -> None:
    """Its op is named, with the reason."""
    case = REFUSED[name]
    said = said_of(case)
    assert case.reason in said.get(case.op, ""), said


@pytest.mark.parametrize("name", READ)
def test_what_loads(name: str) -> None:
    """Nothing stands in the way of what differs little from what is refused."""
    assert said_of(READ[name]) == {}


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (tf.strings.as_string, ""),
        (lambda x: tf.strings.as_string(x, width=5), "width"),
        (lambda x: tf.strings.as_string(x, fill="+"), "width"),
        (lambda x: tf.strings.as_string(x > 0), "other words"),
    ],
)
def test_text(build: Callable[[Any], Any], reason: str) -> None:
    """ONNX's text of a number is its digits alone, and of a bool another word."""

    def compute(x: Any) -> Any:
        return tf.reshape(build(x), [-1])

    said = said_of(Case("onnxruntime", compute, "", "", ROWS, tf.int32))
    assert reason in said.get("AsString", "")
    assert bool(said) == bool(reason)


@pytest.mark.parametrize("name", [*REFUSED, *READ])
def test_what_it_gives(name: str, tmp_path: Path) -> None:
    """The runtime gives the numbers where it is said to, and nowhere else."""
    assert is_given((REFUSED | READ)[name], tmp_path) == (name in READ)
