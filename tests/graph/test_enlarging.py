"""enlarging.py: larger pictures by ops that readers know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.enlarging import (
    repeats_to_resizes,
    transposed_convolution_sizes,
)
from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.graph.simplify import fold_constants, simplify
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1
RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.standard_normal((2, 7, 5, 3)).astype(np.float32)


def graph_of(build: Callable[[Any], Any], batch: int | None = None) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [batch, 7, 5, 3], name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def run(graph_def: Any) -> Any:
    wanted = [TensorInfo("y", None, "float32")]
    return from_graph_def(graph_def, None, wanted)(PICTURE)


def repeat(x: Any, factor: int, axis: int) -> Any:
    """As Keras repeats where sizes are known."""
    height, width, channels = x.shape[1:]
    multiples = [1, 1, 1, 1, 1]
    multiples[axis + 1] = factor
    sizes = [-1, height, width, channels]
    sizes[axis] *= factor
    return tf.reshape(tf.tile(tf.expand_dims(x, axis + 1), multiples), sizes)


@pytest.mark.parametrize("factor", [2, 3, 5, 7])
@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2), (2, 1)])
def test_repeats(factor: int, axes: tuple[int, ...]) -> None:
    """One resize in place of three nodes a direction, with the very same numbers."""

    def build(x: Any) -> Any:
        for axis in axes:
            x = repeat(x, factor, axis)
        return x

    before = graph_of(build)
    after = simplify(repeats_to_resizes(before), inputs=["x"], outputs=["y"])
    assert count_ops(after)["ResizeNearestNeighbor"] == 1
    assert "Tile" not in count_ops(after)
    np.testing.assert_array_equal(run(after), run(before))


@pytest.mark.parametrize("size", range(1, 60))
@pytest.mark.parametrize("factor", [2, 3, 41, 55])
def test_a_resize_is_taken_only_where_it_is_exact(size: int, factor: int) -> None:
    """Where rounding would take another pixel than a repeat, the repeat stays."""

    def build(x: Any) -> Any:
        return repeat(tf.reshape(x, [-1, size, 1, 3]), factor, 1)

    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, size, 3], name="x")
        tf.identity(build(x), name="y")
    after = repeats_to_resizes(graph.as_graph_def())
    column = RANDOM.standard_normal((1, size, 3)).astype(np.float32)
    found = from_graph_def(after, None, [TensorInfo("y", None, "float32")])(column)
    np.testing.assert_array_equal(found[:, :, 0], np.repeat(column, factor, 1))


@pytest.mark.parametrize("factors", [(5, 11), (11, 5), (2, 3, 2)])
def test_repeats_of_one_axis(factors: tuple[int, ...]) -> None:
    """They are one resize only where that one is exact as a whole, as 55 is not."""

    def build(x: Any) -> Any:
        for factor in factors:
            x = repeat(x, factor, 1)
        return x

    before = graph_of(build)
    after = simplify(repeats_to_resizes(before), inputs=["x"], outputs=["y"])
    assert "Tile" not in count_ops(after)
    exact = 55 not in np.cumprod(factors)
    assert count_ops(after)["ResizeNearestNeighbor"] == (1 if exact else 2)
    np.testing.assert_array_equal(run(after), run(before))


@pytest.mark.parametrize(
    "dtype", [tf.bfloat16, tf.bool, tf.float64, tf.int64, tf.uint16, tf.uint32]
)
def test_repeats_of_other_numbers_stay(dtype: tf.DType) -> None:
    """OpenCV has none of them, and others no resize of all that they can lay out."""
    before = graph_of(lambda x: repeat(tf.cast(x, dtype), 2, 1))
    assert repeats_to_resizes(before) == before


@pytest.mark.parametrize(
    "build",
    [
        lambda x: repeat(x, 2, 3),
        lambda x: tf.tile(x, [1, 2, 1, 1]),
        lambda x: tf.reshape(
            tf.tile(tf.expand_dims(x, 1), [1, 2, 1, 1, 1]), [-1, 14, 5, 3]
        ),
        lambda x: tf.reshape(
            tf.tile(tf.expand_dims(x, 2), [1, 1, 2, 1, 1]), [-1, 7, 10, 3]
        ),
        lambda x: tf.reshape(
            tf.tile(tf.expand_dims(x, 2), [1, 1, 2, 1, 2]), [-1, 14, 5, 6]
        ),
    ],
)
def test_other_copies_stay(build: Callable[[Any], Any]) -> None:
    """What is copied, but not pixel by pixel, is no resize."""
    before = graph_of(build)
    assert repeats_to_resizes(before) == before


def transposed(
    x: Any, kernel: Any, stride: int, size: Any, padding: str = "SAME"
) -> Any:
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    filters = np.random.default_rng(1).standard_normal((*kernel, 4, 3))
    filters = filters.astype(np.float32)
    return tf.nn.conv2d_transpose(x, filters, size, stride, padding)


def by_batch(x: Any, *sizes: int) -> Any:
    return tf.stack([tf.shape(x)[0], *sizes])


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, 1), (5, 3)])
def test_transposed_convolutions(kernel: int, stride: int) -> None:
    """The size is written as OpenCV reads it; TensorFlow folds all but the batch."""

    def build(x: Any) -> Any:
        size = by_batch(x, 7 * stride, 5 * stride, 4)
        return transposed(tf.nn.relu(x), kernel, stride, size)

    before = graph_of(build)
    after = transposed_convolution_sizes(before)
    assert count_ops(after)["Mul"] == 2
    by_name = {node.name: node for node in after.node}
    (made,) = (node for node in after.node if node.op == "Conv2DBackpropInput")
    batch = by_name[by_name[made.input[0]].input[0]]
    shape = by_name[batch.input[0]]
    assert (shape.op, shape.input[0]) == ("Shape", made.input[2])
    folded = fold_constants(after, inputs=["x"], outputs=["y"])
    assert "Mul" not in count_ops(folded)
    assert count_ops(folded)["StridedSlice"] == 1
    np.testing.assert_array_equal(run(after), run(before))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        *[((2, 2), 2, "SAME"), ((1, 1), 2, "SAME"), ((3, 3), 2, "VALID")],
        *[((3, 3), 1, "VALID"), ((5, 5), 3, "VALID"), ((3, 1), 2, "VALID")],
        *[((1, 2), 2, "SAME"), ((2, 3), 2, "VALID")],
    ],
)
def test_transposed_convolutions_without_a_border(
    kernel: tuple[int, int], stride: int, padding: str
) -> None:
    """What a filter sticks out is added; where it does not, either padding is right."""
    more = [max(size - stride, 0) for size in kernel]

    def build(x: Any) -> Any:
        size = by_batch(x, 7 * stride + more[0], 5 * stride + more[1], 4)
        return transposed(tf.nn.relu(x), kernel, stride, size, "VALID")

    before = graph_of(build)
    after = transposed_convolution_sizes(before)
    (made,) = (node for node in after.node if node.op == "Conv2DBackpropInput")
    assert made.attr["padding"].s.decode() == padding
    assert count_ops(after).get("Add", 0) == (2 if padding == "VALID" else 0)
    np.testing.assert_allclose(run(after), run(before), atol=1e-6)


def test_channels_first_stay() -> None:
    """There other axes are height and width."""

    def build(x: Any) -> Any:
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.stack([tf.shape(x)[0], 4, 10, 6]),
            filter=np.ones((1, 1, 4, 7), np.float32),
            out_backprop=x,
            strides=[1, 1, 2, 2],
            padding="SAME",
            data_format="NCHW",
        )

    before = graph_of(build)
    assert transposed_convolution_sizes(before) == before


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("kernel", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 4), (2, 3)])
def test_filters_that_are_smaller_than_the_strides(
    kernel: tuple[int, int], padding: str, batch: int | None
) -> None:
    """They are filled up with zeros."""

    def build(x: Any) -> Any:
        more = [max(size - 3, 0) if padding == "VALID" else 0 for size in kernel]
        size = by_batch(x, 21 + more[0], 15 + more[1], 4)
        return transposed(tf.nn.relu(x), kernel, 3, size, padding)

    before = graph_of(build, batch)
    after = transposed_convolution_sizes(before)
    by_name = {node.name: node for node in after.node}
    (made,) = (node for node in after.node if node.op == "Conv2DBackpropInput")
    filters = nd.constant_value(by_name[made.input[1]])
    assert filters.shape == (*np.maximum(kernel, 3), 4, 3)
    np.testing.assert_allclose(run(after), run(before), atol=1e-6)


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "rest"), [(3, 2, 1), (4, 3, 2), (2, 2, 1), (2, 3, 2)]
)
def test_rows_after_the_last_filter(
    kernel: int, stride: int, rest: int, batch: int | None
) -> None:
    """A filter is filled up to reach them, and the size is that of its own then."""

    def build(x: Any) -> Any:
        sizes = [(size - 1) * stride + kernel for size in (7, 5)]
        size = by_batch(x, sizes[0] + rest, sizes[1], 4)
        return transposed(tf.nn.relu(x), kernel, stride, size, "VALID")

    before = graph_of(build, batch)
    after = transposed_convolution_sizes(before)
    by_name = {node.name: node for node in after.node}
    (made,) = (node for node in after.node if node.op == "Conv2DBackpropInput")
    filters = nd.constant_value(by_name[made.input[1]])
    assert filters.shape == (kernel + rest, kernel, 4, 3)
    assert by_name[made.input[0]].op == ("Const" if batch else "Pack")
    np.testing.assert_allclose(run(after), run(before), atol=1e-6)


@pytest.mark.parametrize("kernel", [(1, 1), (2, 1), (2, 3)])
def test_filters_that_do_not_reach_a_size_cut_off(kernel: tuple[int, int]) -> None:
    """They are filled up to where the output ends."""

    def build(x: Any) -> Any:
        size = by_batch(x, 7 * 4 - 1, 5 * 4, 4)
        return transposed(tf.nn.relu(x), kernel, 4, size)

    before = graph_of(build)
    after = transposed_convolution_sizes(before)
    by_name = {node.name: node for node in after.node}
    (made,) = (node for node in after.node if node.op == "Conv2DBackpropInput")
    assert nd.constant_value(by_name[made.input[1]]).shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(run(after), run(before))


def test_a_size_that_is_known() -> None:
    """It is a constant, whatever the padding."""

    def build(x: Any) -> Any:
        return transposed(x, 2, 2, by_batch(x, 14, 10, 4), "VALID")

    after = transposed_convolution_sizes(graph_of(build, batch=2))
    by_name = {node.name: node for node in after.node}
    (made,) = (node for node in after.node if node.op == "Conv2DBackpropInput")
    assert by_name[made.input[0]].op == "Const"


@pytest.mark.parametrize(
    ("build", "batch"),
    [
        (lambda x: transposed(x, 3, 2, by_batch(x, 13, 9, 4)), None),
        (lambda x: transposed(x, 2, 2, [2, 14, 10, 4]), 2),
        (lambda x: transposed(x, 2, 3, by_batch(x, 20, 14, 4)), None),
    ],
)
def test_sizes_that_stay(build: Callable[[Any], Any], batch: int | None) -> None:
    """Constant sizes, and those that are not the input's times the strides."""
    before = graph_of(build, batch)
    assert transposed_convolution_sizes(before) == before
