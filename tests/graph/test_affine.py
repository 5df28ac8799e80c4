"""affine.py: scales and shifts go into the weights before them, to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from persist_callbacks.graph.affine import fold_scales_and_shifts
from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1
L = keras.layers
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


def numbers(*shape: int, seed: int = 1) -> Any:
    return tf.constant(np.random.default_rng(seed).standard_normal(shape), tf.float32)


def convolution(x: Any) -> Any:
    return tf.nn.conv2d(x, numbers(3, 3, 4, 6), 1, "SAME")


def depthwise(x: Any) -> Any:
    return tf.nn.depthwise_conv2d(x, numbers(3, 3, 4, 2), [1, 1, 1, 1], "SAME")


def product(x: Any) -> Any:
    return tf.reshape(x, [-1, 4]) @ numbers(4, 6)


@pytest.mark.parametrize("maker", [convolution, depthwise, product])
@pytest.mark.parametrize("steps", ["*", "+*", "*+", "+*+", "b*+", "+++", "*b*"])
def test_chain_of_scales_and_shifts(maker: Callable[[Any], Any], steps: str) -> None:
    """Whatever their order, one bias is left of them at most."""

    def build(x: Any) -> Any:
        y = maker(x)
        for number, step in enumerate(steps):
            each = numbers(y.shape[-1], seed=number)
            if step == "b":
                y = tf.nn.bias_add(y, each)
            else:
                y = y * each if step == "*" else each + y
        return y

    before = graph_of(build)
    after = fold_scales_and_shifts(before)
    ops = count_ops(after)
    assert not {"Mul", "AddV2"} & set(ops)
    assert ops.get("BiasAdd", 0) == (steps != "*")
    np.testing.assert_allclose(run(after), run(before), rtol=1e-4, atol=1e-4)


def wanted_as_it_is(x: Any) -> Any:
    y = depthwise(x)
    return tf.concat([y * numbers(8), y], -1)


def wanted_between(x: Any) -> Any:
    y = convolution(x) + numbers(6)
    return tf.concat([y * numbers(6), y], -1)


@pytest.mark.parametrize(
    "build",
    [
        wanted_as_it_is,
        wanted_between,
        lambda x: convolution(x) * numbers(6, 6, 6),
        lambda x: convolution(x) * numbers(1, 6, 1, 1),
        lambda x: tf.nn.bias_add(convolution(x), numbers(6)),
        lambda x: (
            tf.nn.conv2d(x, tf.reshape(x[0, :3, :3], [3, 3, 4, 1]), 1, "SAME")
            * numbers(1)
        ),
        lambda x: (
            tf.matmul(tf.reshape(x, [-1, 4]), numbers(6, 4), transpose_b=True)
            * numbers(6)
        ),
    ],
)
def test_what_does_not_fold(build: Callable[[Any], Any]) -> None:
    """What others read too, what is no channel's, and weights that are computed."""
    before = graph_of(build)
    assert fold_scales_and_shifts(before) == before


def test_a_constant_in_a_loop_of_the_old_kind_stays_there() -> None:
    """A constant of a loop's frame is taken for no weight and for no scale."""
    graph = tf.Graph()
    with graph.as_default():
        v1.disable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, [None, 6, 6, 4], name="x")
            _, y = v1.while_loop(
                lambda i, _: i < 3,
                lambda i, y: (i + 1, (y @ numbers(4, 4)) * numbers(4) + numbers(4)),
                [0, tf.reshape(x, [-1, 4])],
            )
            tf.identity(y, name="y")
        finally:
            v1.enable_control_flow_v2()
    before = graph.as_graph_def()
    assert {"Enter", "Exit"} <= set(count_ops(before))
    after = fold_scales_and_shifts(before)
    np.testing.assert_array_equal(run(after), run(before))


def test_trained_batch_norms_after_biases() -> None:
    """After biases that are not zero any more, a batch norm folds all the same."""
    x = keras.Input((8, 8, 3))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3)(x)))
    y = L.ReLU()(L.BatchNormalization()(L.DepthwiseConv2D(3)(y)))
    y = L.BatchNormalization()(L.Dense(5)(L.Flatten()(y)))
    model = keras.Model(x, y)
    random = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    made = zoo.traced(lambda: model)
    ops = count_ops(made.frozen())
    assert not {"AddV2", "Mul", "Sub", "Rsqrt"} & set(ops)
    assert ops["BiasAdd"] == 3
    picture = random.standard_normal((2, 8, 8, 3)).astype(np.float32)
    graph = from_graph_def(made.frozen(), made.graph.inputs, made.graph.outputs)
    np.testing.assert_allclose(graph(picture), model(picture), rtol=1e-4, atol=1e-4)
