"""portable.py: older ops in the place of newer ones, and the same numbers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.graph.portable import (
    cast_before_products,
    erfc_to_erf,
    name_results,
    signs_by_quotients,
    spell_out_attributes,
    split_grouped_convolutions,
)
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8)])
@pytest.mark.parametrize("turned", [False, True])
def test_products_of_int8(shape: tuple[int, ...], turned: bool) -> None:
    """They are as exact, of sides that are cast before, and weights stay int8."""
    random = np.random.default_rng(0)
    weights = random.integers(-128, 128, (6, 8) if turned else (8, 6))
    weights = weights.astype(np.int8)
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.int8, [None, *shape[1:]], name="x")
        options = {"Tout": tf.int32, "adj_y": turned}
        made = tf.raw_ops.BatchMatMulV3(x=x, y=weights, **options)
        tf.identity(made, name="y")
    after = cast_before_products(graph.as_graph_def())
    counts = count_ops(after)
    assert (counts["BatchMatMulV2"], counts["Cast"]) == (1, 2)
    assert "BatchMatMulV3" not in counts
    assert {n.attr["dtype"].type for n in after.node if n.op == "Const"} == {
        tf.int8.as_datatype_enum
    }
    given = random.integers(-128, 128, shape).astype(np.int8)
    found = from_graph_def(after, None, [TensorInfo("y", None, "int32")])(given)
    expected = given.astype(np.int32) @ (weights.T if turned else weights)
    np.testing.assert_array_equal(found, expected)


BIAS = np.arange(16, dtype=np.float32)


def convolution(
    groups: int, channels: int, bias: Any = None, **options: Any
) -> tuple[Any, Any]:
    """A graph with one convolution in groups, and its filters."""
    random = np.random.default_rng(0)
    shape = (3, 3, channels // groups, 2 * channels)
    filters = random.standard_normal(shape).astype(np.float32)
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 9, 8, channels], name="x")
        options = {"strides": [1, 1, 1, 1], "padding": "SAME", **options}
        y = tf.raw_ops.Conv2D(input=x, filter=filters, **options)
        y = y if bias is None else tf.nn.bias_add(y, bias)
        tf.identity(y, name="y")
    return graph.as_graph_def(), filters


def by_hand(x: Any, filters: Any, groups: int, options: Any) -> Any:
    """Each group by itself, in eager TensorFlow."""
    options = {"strides": [1, 1, 1, 1], "padding": "SAME", **options}
    parts = [
        tf.raw_ops.Conv2D(input=one, filter=other, **options)
        for one, other in zip(
            np.split(x, groups, 3), np.split(filters, groups, 3), strict=True
        )
    ]
    return tf.concat(parts, 3)


@pytest.mark.parametrize(
    ("groups", "options", "op"),
    [
        (2, {}, "Split"),
        (4, {"strides": [1, 2, 2, 1], "padding": "VALID"}, "Split"),
        (8, {}, "DepthwiseConv2dNative"),
        (8, {"strides": [1, 2, 2, 1]}, "DepthwiseConv2dNative"),
        (8, {"strides": [1, 2, 1, 1]}, "Split"),
        (8, {"dilations": [1, 2, 2, 1]}, "Split"),
        (
            4,
            {"padding": "EXPLICIT", "explicit_paddings": [0, 0, 2, 1, 0, 1, 0, 0]},
            "Split",
        ),
    ],
)
def test_grouped_convolutions(groups: int, options: Any, op: str) -> None:
    """Depthwise where that op can do it, else a convolution for each group."""
    graph_def, filters = convolution(groups, 8, **options)
    split = split_grouped_convolutions(graph_def)
    assert op in count_ops(split)
    x = np.random.default_rng(1).standard_normal((2, 9, 8, 8)).astype(np.float32)
    found = from_graph_def(split, None, None)(x)
    expected = by_hand(x, filters, groups, options)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [2, 8])
def test_a_bias_of_groups(groups: int) -> None:
    """It is added before the groups are joined, a part to each."""
    graph_def, filters = convolution(groups, 8, BIAS)
    split = split_grouped_convolutions(graph_def)
    by_name = {node.name: node for node in split.node}
    bias = [by_name[node.input[0]].op for node in split.node if node.op == "BiasAdd"]
    assert bias == (["DepthwiseConv2dNative"] if groups == 8 else ["Conv2D"] * groups)
    x = np.random.default_rng(1).standard_normal((2, 9, 8, 8)).astype(np.float32)
    found = from_graph_def(split, None, None)(x)
    expected = by_hand(x, filters, groups, {}) + BIAS
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_bias_that_not_all_readers_want() -> None:
    """What is read without it too is joined without it."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 4, 4, 8], name="x")
        made = tf.nn.conv2d(x, np.ones((1, 1, 4, 16), np.float32), 1, "SAME")
        tf.add(tf.nn.bias_add(made, BIAS), made, name="y")
    split = split_grouped_convolutions(graph.as_graph_def())
    assert count_ops(split)["ConcatV2"] == count_ops(split)["BiasAdd"] == 1
    x = np.random.default_rng(1).standard_normal((2, 4, 4, 8)).astype(np.float32)
    sums = np.repeat(x.reshape(2, 4, 4, 2, 4).sum(-1), 8, -1)
    found = from_graph_def(split, None, None)(x)
    np.testing.assert_allclose(found, 2 * sums + BIAS, rtol=1e-5, atol=1e-5)


def test_pictures_by_channels_first_have_no_groups() -> None:
    """Their width is not their channels."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 4, 9, 8], name="x")
        tf.nn.conv2d(x, np.ones((3, 3, 4, 2), np.float32), 1, "SAME", "NCHW")
    graph_def = graph.as_graph_def()
    assert split_grouped_convolutions(graph_def) == graph_def


def test_a_plain_convolution_stays() -> None:
    """One group is what Conv2D is for."""
    graph_def, _ = convolution(1, 4)
    assert list(split_grouped_convolutions(graph_def).node) == list(graph_def.node)


SMALL = np.array([[-1.0, 2.0]], np.float32)


def named(build: Any, *outputs: str) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        build(v1.placeholder(tf.float32, [None, 2], name="x"))
    return name_results(graph.as_graph_def(), outputs)


def results(graph_def: Any, *outputs: str) -> dict[str, Any]:
    infos = [TensorInfo(name, None, "float32") for name in outputs]
    found: dict[str, Any] = from_graph_def(graph_def, None, infos)(SMALL)
    return found


def test_an_output_is_the_op_that_computes_it() -> None:
    """No Identity stands for it."""

    def build(x: Any) -> None:
        tf.identity(tf.nn.relu(x, name="inner"), name="y")

    graph_def = named(build, "y")
    assert {node.name: node.op for node in graph_def.node} == {
        "x": "Placeholder",
        "y": "Relu",
    }


def test_an_output_that_is_read_on_is_an_op_that_nothing_reads() -> None:
    """A reader that takes what nothing reads for results finds each, and so do all."""

    def build(x: Any) -> None:
        inner = tf.nn.relu(x, name="inner")
        first = tf.identity(inner, name="y")
        tf.identity(inner, name="again")
        tf.identity(first, name="third")
        with tf.control_dependencies([first]):
            tf.add(first, 1.0, name="z")
        tf.identity(tf.split(x, 2, -1)[1], name="part")

    outputs = ("y", "again", "third", "z", "part")
    graph_def = named(build, *outputs)
    types = {node.name: node.op for node in graph_def.node}
    assert [types[name] for name in outputs] == ["Mul", "Mul", "Mul", "AddV2", "Mul"]
    assert "Identity" not in types.values()
    read = {nd.split(ref)[0] for node in graph_def.node for ref in node.input}
    assert not read & set(outputs)
    found = results(graph_def, *outputs)
    for name in ("y", "again", "third"):
        np.testing.assert_array_equal(found[name], [[0.0, 2.0]])
    np.testing.assert_array_equal(found["z"], [[1.0, 3.0]])
    np.testing.assert_array_equal(found["part"], [[2.0]])


def test_biases_of_several_outputs_keep_their_names() -> None:
    """OpenCV joins each with what it is added to; a last bias alone needs no name."""

    def build(x: Any) -> None:
        weights = np.ones((2, 3), np.float32)
        for name in ("y", "z"):
            made = tf.nn.bias_add(tf.matmul(x, weights), weights[0])
            tf.identity(made, name=name)

    both = {node.name: node.op for node in named(build, "y", "z").node}
    assert (both["y"], both["z"]) == ("Mul", "Mul")
    one = {node.name: node.op for node in named(build, "y").node}
    assert one["y"] == "BiasAdd"


def test_outputs_that_are_no_op_of_their_own() -> None:
    """A constant, which is no result to some, stays; an input is one by a product.

    Integers that are read on are reshaped, where their shape is known.
    """

    def build(x: Any) -> None:
        tf.identity(x, name="echo")
        tf.identity(tf.constant(1.0), name="fixed")
        counted = tf.cast(x, tf.int32)
        tf.identity(counted, name="count")
        tf.add(counted, 1, name="more")
        places = tf.where(x > 0)
        tf.identity(tf.unstack(places, num=2, axis=1)[1], name="columns")

    outputs = ("echo", "fixed", "count", "more", "columns")
    graph_def = named(build, *outputs)
    types = {node.name: node.op for node in graph_def.node}
    assert [types[name] for name in outputs] == [
        *("Mul", "Identity", "Reshape", "AddV2", "Reshape"),
    ]
    found = results(graph_def, *outputs)
    np.testing.assert_array_equal(found["echo"], SMALL)
    np.testing.assert_array_equal(found["count"], [[-1, 2]])
    np.testing.assert_array_equal(found["columns"], [1])


@pytest.mark.parametrize(
    ("dtype", "shape", "op"),
    [
        (tf.int32, [None, 2], "Reshape"),
        (tf.bool, [None, 2], "Reshape"),
        (tf.uint8, [2], "Reshape"),
        (tf.int64, [None, 2], "Identity"),
        (tf.int32, [None, None], "Identity"),
        (tf.int32, [], "Identity"),
        (tf.string, [None, 2], "Identity"),
    ],
)
def test_an_input_of_whole_numbers_that_is_an_output(
    dtype: Any, shape: list[int | None], op: str
) -> None:
    """It is reshaped, but for what OpenVINO would cut to 32 bits then."""
    graph = tf.Graph()
    with graph.as_default():
        tf.identity(v1.placeholder(dtype, shape, name="x"), name="y")
    graph_def = name_results(graph.as_graph_def(), ["y"])
    assert {node.name: node.op for node in graph_def.node}["y"] == op
    given = np.zeros([3 if size is None else size for size in shape])
    given = given.astype("S1" if dtype == tf.string else dtype.as_numpy_dtype)
    wanted = [TensorInfo("y", None, dtype.name)]
    found = from_graph_def(graph_def, None, wanted)(given)
    np.testing.assert_array_equal(found, given)


def test_attributes_that_a_reader_asks_for() -> None:
    """Those are there with their defaults, and what they do say is kept."""
    node = v1.NodeDef(name="s", op="StridedSlice")
    node.attr["end_mask"].i = 3
    graph_def = v1.GraphDef(node=[node])
    (spelled,) = spell_out_attributes(graph_def).node
    assert {key: value.i for key, value in spelled.attr.items()} == {
        **dict.fromkeys(["begin_mask", "ellipsis_mask", "new_axis_mask"], 0),
        **{"shrink_axis_mask": 0, "end_mask": 3},
    }


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x * tf.math.erfc(-x),
        lambda x: tf.math.erfc(2 * x) * x,
        lambda x: 0.5 * x * tf.math.erfc(-x / 1.4),
        lambda x: x * (0.5 * tf.math.erfc(x * [-0.7, -0.8])),
    ],
)
def test_a_gelu_is_of_erf(compute: Any) -> None:
    """ONNX knows Erf and not Erfc; what rounds it is small beside what it is of."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        tf.identity(compute(x), name="y")
    graph_def = erfc_to_erf(graph.as_graph_def())
    assert "Erfc" not in count_ops(graph_def)
    x = np.linspace(-6, 6, 200, dtype=np.float32).reshape(-1, 2)
    found = from_graph_def(graph_def, None, None)(x)
    # What it is multiplied by, at most, its rounding is multiplied by too.
    np.testing.assert_allclose(found, compute(x), atol=2e-7 * 6)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_a_gelu_of_half_precision(dtype: tf.DType) -> None:
    """Where it is small there are no digits for it beside what it is of."""

    def compute(x: Any) -> Any:
        half = tf.cast(x, dtype)
        return tf.cast(0.5 * half * tf.math.erfc(-half * 0.7071), tf.float32)

    graph = tf.Graph()
    with graph.as_default():
        tf.identity(compute(v1.placeholder(tf.float32, [None, 2], name="x")), name="y")
    graph_def = erfc_to_erf(graph.as_graph_def())
    assert "Erfc" not in count_ops(graph_def)
    x = np.linspace(-6, 6, 200, dtype=np.float32).reshape(-1, 2)
    found = from_graph_def(graph_def, None, None)(x)
    np.testing.assert_allclose(found, compute(x), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: tf.math.log(tf.math.erfc(x)),
        lambda x: tf.math.log(tf.math.erfc(x) * 0.5),
        lambda x: tf.math.erfc(x) * x[:, :1],
        lambda x: tf.math.erfc(x) * tf.math.erfc(x + 1),
        lambda x: (e := tf.math.erfc(x)) * x + e,
        lambda x: (e := tf.math.erfc(x) * 0.5) * x + e,
    ],
)
def test_another_erfc_stays(compute: Any) -> None:
    """Its far tail has digits of its own, which one plus Erf would not have."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        tf.identity(compute(x), name="y")
    before = graph.as_graph_def()
    assert erfc_to_erf(before) == before


@pytest.mark.skipif(not hasattr(keras.ops, "signbit"), reason="needs Keras' signbit")
def test_signs_without_bits() -> None:
    """Of infinities and of a negative zero too, as Keras tells them."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        tf.identity(keras.ops.signbit(x), name="y")
    assert "Bitcast" in count_ops(graph.as_graph_def())
    graph_def = signs_by_quotients(graph.as_graph_def())
    tiny = np.finfo(np.float32).tiny
    x = np.array([[0.0, -0.0], [tiny, -tiny], [2, -2], [np.inf, -np.inf]], np.float32)
    found = from_graph_def(graph_def, None, [TensorInfo("y", None, "bool")])(x)
    np.testing.assert_array_equal(found, np.signbit(x))


def test_a_gelu_adds_nothing_to_erf() -> None:
    """OpenVINO joins a product with one more than Erf into an op that is slower."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        # As TensorFlow writes it since it does so with Erfc.
        tf.identity(0.5 * x * tf.math.erfc(-x * 0.7071067811865476), name="y")
    graph_def = erfc_to_erf(graph.as_graph_def())
    (erf,) = (node for node in graph_def.node if node.op == "Erf")
    (reader,) = (node for node in graph_def.node if erf.name in node.input)
    assert reader.op == "Mul"
    (total,) = (node for node in graph_def.node if reader.name in node.input)
    assert total.op == "AddV2"
    assert set(total.input) - {reader.name} == set(reader.input) - {erf.name}
    assert "Erfc" not in count_ops(graph_def)


@pytest.mark.parametrize(
    ("compute", "folded"),
    [
        (lambda x, ones: tf.nn.conv2d(x, ones, 1, "SAME"), True),
        (lambda x, ones: tf.nn.depthwise_conv2d(x, ones, [1] * 4, "SAME"), True),
        (
            lambda x, ones: tf.nn.bias_add(tf.nn.conv2d(x, ones, 1, "SAME"), [1, 2]),
            True,
        ),
        (lambda x, ones: x + tf.nn.conv2d(x, ones, 1, "SAME"), False),
        (
            lambda x, ones: tf.nn.max_pool2d(
                tf.nn.conv2d(x, ones, 1, "SAME"), 2, 1, "SAME"
            ),
            False,
        ),
    ],
)
def test_a_gelu_of_a_convolution_adds_one_to_erf(compute: Any, folded: bool) -> None:
    """OpenVINO makes it part of the convolution, and so goes over the picture once."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 4, 4, 2], name="x")
        y = compute(x, np.ones((2, 2, 2, 2), np.float32))
        tf.identity(0.5 * y * tf.math.erfc(-y * 0.7071067811865476), name="y")
    graph_def = erfc_to_erf(graph.as_graph_def())
    by_name = {node.name: node for node in graph_def.node}
    (erf,) = (node for node in graph_def.node if node.op == "Erf")
    (reader,) = (node for node in graph_def.node if erf.name in node.input)
    others = {by_name[name].op for name in reader.input} - {"Erf"}
    assert (reader.op, others) == (("AddV2", {"Const"}) if folded else ("Mul", {"Mul"}))
    given = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype(np.float32)
    found = from_graph_def(graph_def, None, None)(given)
    expected = from_graph_def(graph.as_graph_def(), None, None)(given)
    np.testing.assert_allclose(found, expected, atol=2e-6)
