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


def test_reshape_by_the_batch_size() -> None:
    """Where the batch's size alone is computed, -1 stands for it."""
    before = graph_of(lambda x: tf.reshape(x, tf.stack([tf.shape(x)[0], 6, 24])))
    after = plainer.static_reshapes(before)
    np.testing.assert_array_equal(run(after), run(before))
    reshape = next(node for node in after.node if node.op == "Reshape")
    sizes = next(node for node in after.node if node.name == reshape.input[1])
    assert tf.make_ndarray(sizes.attr["value"].tensor).tolist() == [-1, 6, 24]


@pytest.mark.parametrize(
    "sizes",
    [
        lambda x: tf.stack([tf.shape(x)[0], tf.shape(x)[1] * 6, 4]),
        lambda x: tf.stack([tf.shape(x)[0], -1, 4]),
        lambda x: tf.shape(x),
    ],
)
def test_a_reshape_that_is_not_known(sizes: Any) -> None:
    """Two sizes that are computed stay so."""
    before = graph_of(lambda x: tf.reshape(x, sizes(x)))
    assert plainer.static_reshapes(before) == before


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


def test_a_whole_network_has_none_of_them_left() -> None:
    """A convolutional network is convolutions, biases and what lies between."""
    ops = count_ops(zoo.traced(zoo.cnn).frozen())
    assert not {"AddV2", "Mul", "Pack", "Shape", "StridedSlice", "Identity"} & set(ops)
