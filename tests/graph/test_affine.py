"""affine.py: a chain of sums and products is one product and one sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from persist_callbacks.graph.affine import merge_affine_chains
from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1
L = keras.layers
RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.standard_normal((3, 6, 5, 4)).astype(np.float32)


def constant(*shape: int) -> Any:
    """Numbers that are no zeros, so that one can divide by them."""
    return tf.constant(RANDOM.uniform(0.5, 2, shape), tf.float32)


def graph_of(build: Callable[[Any], Any], dtype: Any = tf.float32) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(dtype, [None, 6, 5, 4], name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def run(graph_def: Any) -> Any:
    wanted = [TensorInfo("y", None, "float32")]
    return from_graph_def(graph_def, None, wanted)(PICTURE)


def kinds(graph_def: Any) -> list[str]:
    """What is computed, in order."""
    passive = ("Const", "Placeholder", "Identity")
    return [node.op for node in graph_def.node if node.op not in passive]


def forked(made: Any) -> Any:
    return tf.nn.bias_add(made, constant(4)) + tf.nn.relu(made)


CHAINS = {
    "rescaling": (lambda x: x / 127.5 - 1.0, ["Mul", "AddV2"]),
    "normalisation": (
        lambda x: (x - constant(1, 1, 1, 4)) / constant(4),
        ["Mul", "AddV2"],
    ),
    "both": (
        lambda x: ((x * 0.5 + 1.0) - constant(4)) / constant(4) * 2.0 + 3.0,
        ["Mul", "AddV2"],
    ),
    "turned": (lambda x: tf.nn.relu(1.0 - x), ["Mul", "AddV2", "Relu"]),
    "negated": (lambda x: -(x * 2.0), ["Mul"]),
    "products": (lambda x: x * 3.0 * constant(4), ["Mul"]),
    "sums": (lambda x: tf.nn.relu(x + 3.0 - 1.0), ["AddV2", "Relu"]),
    "nothing": (lambda x: x + 1.0 - 1.0, ["AddV2"]),
    "biased": (
        lambda x: (
            tf.nn.bias_add(
                tf.nn.conv2d(x, constant(1, 1, 4, 4), 1, "SAME"), [1, 2, 3, 4.0]
            )
            * constant(4)
        ),
        ["Conv2D", "Mul", "AddV2"],
    ),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_chains(kind: str) -> None:
    """Each becomes the fewest of a Mul and an AddV2, and keeps its numbers."""
    build, expected = CHAINS[kind]
    before = graph_of(build)
    after = merge_affine_chains(before)
    assert kinds(after) == expected
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: tf.nn.bias_add(x, constant(4)),
        lambda x: tf.nn.relu(x) + constant(4),
        lambda x: constant(4) - x,
        lambda x: x * 2.0 + constant(4),
        lambda x: tf.reduce_max(x, [1, 2]) + constant(4),
        # A bias, and the same without it.
        lambda x: forked(tf.nn.conv2d(x, constant(1, 1, 4, 4), 1, "SAME")),
        lambda x: forked(tf.matmul(tf.reduce_max(x, [1, 2]), constant(4, 4))),
    ],
)
def test_a_vector_added_by_itself(build: Callable[[Any], Any]) -> None:
    """A vector is multiplied with before, as OpenCV's reader wants it."""
    before = graph_of(build)
    after = merge_affine_chains(before)
    by_name = {node.name: node for node in after.node}
    (product,) = (node for node in after.node if node.op == "Mul")
    scale = tf.make_ndarray(by_name[product.input[1]].attr["value"].tensor)
    assert scale.shape == (4,)
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: tf.nn.relu(x * 2.0),
        lambda x: x + 1.0,
        lambda x: tf.nn.conv2d(x, constant(1, 1, 4, 4), 1, "SAME") + constant(4),
        # One number a row, or more than come in: not one a channel.
        lambda x: (x + constant(5, 1)) * constant(6, 1, 1),
        lambda x: tf.reduce_mean(x, -1, keepdims=True) * constant(4),
        lambda x: 2.0 / (x + 1.0),
    ],
)
def test_what_stays(build: Callable[[Any], Any]) -> None:
    """What is one plain op, or no chain of numbers a channel, is left alone."""
    before = graph_of(build)
    assert merge_affine_chains(before) == before


def test_half_precision_stays() -> None:
    """There the order of computing shows in the result."""
    before = graph_of(lambda x: tf.cast(tf.cast(x, tf.float16) * 2 + 1, tf.float32))
    assert merge_affine_chains(before) == before


def test_a_step_that_others_read_too() -> None:
    """It is computed once, and both read it."""

    def build(x: Any) -> Any:
        inner = x * 2.0 + 1.0
        return tf.nn.relu(inner) + (inner - 3.0)

    before = graph_of(build)
    after = merge_affine_chains(before)
    assert kinds(after).count("Mul") == 1
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "ops"),
    [
        (lambda x: (x - 2000.0) / 0.5, ["AddV2", "Mul"]),
        (lambda x: (x - 1990.0 - 10.0) * 2.0 + 3.0, ["AddV2", "Mul", "AddV2"]),
        (
            lambda x: (x - [1998.0, 1999.0, 2000.0, 2001.0]) / 0.5,
            ["Mul", "AddV2", "Mul"],
        ),
    ],
    ids=["number", "three", "vector"],
)
def test_what_is_taken_off_large_numbers_is_taken_off_first(
    build: Any, ops: list[str]
) -> None:
    """A product and a sum that cancel each other would lose digits."""
    before = graph_of(build)
    after = merge_affine_chains(before)
    assert kinds(after) == ops
    years = PICTURE + 2000.0
    wanted = [TensorInfo("y", None, "float32")]
    found, expected = (
        from_graph_def(each, None, wanted)(years) for each in (after, before)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    # And again, of what it made itself.
    assert kinds(merge_affine_chains(after)) == ops


MASK = np.array([-np.inf, 0, 0, 2000], np.float32)


@pytest.mark.parametrize(
    ("build", "ops"),
    [
        (lambda x: (x + 1.0 + MASK) / 0.7, ["Mul", "AddV2", "Mul", "AddV2"]),
        (
            lambda x: tf.nn.relu(x) * 0 + (x + MASK),
            ["Relu", "Mul", "Mul", "AddV2", "Mul", "AddV2", "AddV2"],
        ),
        (lambda x: x * 2.0 * np.float32(np.inf), ["Mul", "Mul"]),
    ],
    ids=["tempered", "read by others", "product"],
)
def test_infinities(build: Any, ops: list[str]) -> None:
    """What masks a channel masks it still, and makes no NaN of any."""
    before = graph_of(build)
    after = merge_affine_chains(before)
    assert kinds(after) == ops
    np.testing.assert_allclose(run(after), run(before), rtol=1e-6)


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
