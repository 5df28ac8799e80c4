"""plainer.py: fewer or plainer nodes, and the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import zoo

from persist_callbacks.graph import plainer
from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1
PICTURE = np.random.default_rng(0).standard_normal((2, 6, 6, 4)).astype(np.float32)


def graph_of(build: Callable[[Any], Any]) -> Any:
    """A graph from one picture to ``y``."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 6, 6, 4], name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def run(graph_def: Any) -> Any:
    wanted = [TensorInfo("y", None, "float32")]
    return from_graph_def(graph_def, None, wanted)(PICTURE)


def filters(*shape: int) -> Any:
    return tf.constant(np.random.default_rng(1).standard_normal(shape), tf.float32)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (1, 1, 1, 5)])
@pytest.mark.parametrize("turned", [False, True])
def test_addition_after_a_convolution(shape: tuple[int, ...], turned: bool) -> None:
    """One number a channel is a bias, whichever side it stands on."""

    def build(x: Any) -> Any:
        y = tf.nn.conv2d(x, filters(3, 3, 4, 5), 1, "SAME")
        return filters(*shape) + y if turned else y + filters(*shape)

    before = graph_of(build)
    after = plainer.additions_to_biases(before)
    assert count_ops(after)["BiasAdd"] == 1
    assert "AddV2" not in count_ops(after)
    np.testing.assert_array_equal(run(after), run(before))


@pytest.mark.parametrize("shape", [(), (6, 6, 5), (1, 6, 1, 1)])
def test_other_additions_stay(shape: tuple[int, ...]) -> None:
    """What is not one number a channel is no bias."""
    before = graph_of(
        lambda x: tf.nn.conv2d(x, filters(3, 3, 4, 5), 1, "SAME") + filters(*shape)
    )
    assert "BiasAdd" not in count_ops(plainer.additions_to_biases(before))


MAKERS = {
    "depthwise": lambda x: tf.nn.depthwise_conv2d(
        x, filters(3, 3, 4, 2), [1, 1, 1, 1], "SAME"
    ),
    "convolution": lambda x: tf.nn.conv2d(x, filters(3, 3, 4, 8), 1, "SAME"),
    "transposed": lambda x: tf.nn.conv2d_transpose(
        x, filters(3, 3, 8, 4), tf.stack([tf.shape(x)[0], 12, 12, 8]), 2
    ),
    "dense": lambda x: tf.matmul(tf.reshape(x, [-1, 4]), filters(4, 8)),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("shape", [(8,), (1, 8), ()])
def test_scale_after_weights(maker: str, shape: tuple[int, ...]) -> None:
    """A batch norm's product is in the weights then, a single number's too."""
    before = graph_of(lambda x: MAKERS[maker](x) * filters(*shape))
    after = plainer.scales_into_weights(before)
    assert "Mul" not in count_ops(after)
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("maker", MAKERS)
def test_weights_that_others_read_too(maker: str) -> None:
    """Their result is wanted as it is."""

    def build(x: Any) -> Any:
        y = MAKERS[maker](x)
        return tf.concat([y * filters(8), y], -1)

    before = graph_of(build)
    after = plainer.scales_into_weights(before)
    assert count_ops(after)["Mul"] == 1
    np.testing.assert_array_equal(run(after), run(before))


def test_a_scale_along_the_width_of_channels_first() -> None:
    """There the last axis is no channel's, be it as long as they are many."""

    def build(x: Any) -> Any:
        y = tf.nn.conv2d(x, filters(3, 3, 6, 4), 1, "SAME", "NCHW")
        return y * filters(4)

    before = graph_of(build)
    assert plainer.scales_into_weights(before) == before


def test_weights_that_are_turned() -> None:
    """Rows and columns change places; such weights stay."""
    before = graph_of(
        lambda x: tf.matmul(x[:, 0, 0], filters(8, 4), transpose_b=True) * filters(8)
    )
    assert count_ops(plainer.scales_into_weights(before))["Mul"] == 1


@pytest.mark.parametrize(
    "constant", [1.0, -3.0, [1.0, 1.0, 2.0, 3.0], np.ones((1, 1, 1, 4)), np.ones(4)]
)
def test_a_constant_over_a_tensor(constant: Any) -> None:
    """It is a product with the reciprocal, and a reciprocal alone for a one."""
    before = graph_of(lambda x: np.asarray(constant, np.float32) / (x * x + 1.0))
    after = plainer.quotients_to_reciprocals(before)
    ops = count_ops(after)
    assert ops["Reciprocal"] == 1
    assert "RealDiv" not in ops
    # One of them is the square.
    assert ops["Mul"] == (1 if np.shape(constant) == () and constant == 1.0 else 2)
    np.testing.assert_allclose(run(after), run(before), rtol=3e-7)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: x / 3.0,
        lambda x: x / (x * x + 1.0),
        lambda x: tf.cast(
            tf.constant(2.0, tf.float16) / tf.cast(x, tf.float16), "float32"
        ),
        lambda x: tf.math.divide_no_nan(2.0, x),
    ],
)
def test_other_quotients_stay(build: Callable[[Any], Any]) -> None:
    """Tensors over constants or tensors, and what has fewer bits to lose."""
    before = graph_of(build)
    assert plainer.quotients_to_reciprocals(before) == before


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 1, 1, 4), (6, 6, 4)])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_a_product_with_a_vector_is_subtracted(
    shape: tuple[int, ...], turned: bool, both: bool
) -> None:
    """Not added, to the very same numbers; who else reads the product has it still."""

    def build(x: Any) -> Any:
        product = tf.nn.relu(x) * filters(*shape)
        other = filters(4) * x if both else x
        total = other + product if turned else product + other
        return tf.concat([total, product], -1)

    before = graph_of(build)
    after = plainer.sums_of_products_to_differences(before)
    assert count_ops(after)["Sub"] == 1
    assert "AddV2" not in count_ops(after)
    np.testing.assert_array_equal(run(after), run(before))


@pytest.mark.parametrize(
    "build",
    [
        lambda x: x + 2.0 * tf.nn.relu(x),
        lambda x: filters(4) * x + filters(4),
        lambda x: x + x * tf.nn.relu(x),
        lambda x: (
            tf.cast(tf.cast(x, tf.float16) * np.ones(4, np.float16), "float32") + x
        ),
    ],
)
def test_other_sums_stay(build: Callable[[Any], Any]) -> None:
    """A product with one number or with a tensor, and a sum with a constant."""
    before = graph_of(build)
    assert plainer.sums_of_products_to_differences(before) == before


def test_a_whole_network_has_none_of_them_left() -> None:
    """A convolutional network is convolutions, biases and what lies between."""
    ops = count_ops(zoo.traced(zoo.cnn).frozen())
    assert not {"AddV2", "Mul", "Pack", "Shape", "StridedSlice", "Identity"} & set(ops)
