"""broadcasts.py: one number a pixel, spread over the channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph.broadcasts import broadcasts_to_convolutions
from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1
RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.standard_normal((2, 5, 4, 6)).astype(np.float32)
NUMBERS = RANDOM.uniform(0.5, 2, 6).astype(np.float32)


def graph_of(build: Callable[[Any], Any]) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 5, 4, 6], name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def run(graph_def: Any) -> Any:
    wanted = [TensorInfo("y", None, "float32")]
    return from_graph_def(graph_def, None, wanted)(PICTURE)


def mean(x: Any) -> Any:
    return tf.reduce_mean(x, -1, keepdims=True)


def layer_norm(x: Any) -> Any:
    average = mean(x)
    variance = mean(tf.math.squared_difference(x, average))
    scale = tf.math.rsqrt(variance + 1e-6) * NUMBERS
    return x * scale + (NUMBERS - average * scale)


SPREAD = {
    "difference": (lambda x: x - mean(x), 2),
    "turned": (lambda x: mean(x) - x, 2),
    "product": (lambda x: mean(x) * x, 2),
    "share": (lambda x: x / (mean(tf.abs(x)) + 1.0), 2),
    "constant": (lambda x: NUMBERS * mean(x), 2),
    "twice": (lambda x: (x - mean(x)) * tf.nn.relu(x + mean(x)), 4),
    "layer norm": (layer_norm, 4),
}


def test_a_layer_norm_of_rows() -> None:
    """There a product of matrices does it, and takes the mean as well."""
    before = graph_of(lambda x: layer_norm(tf.reduce_max(x, [1, 2])))
    after = broadcasts_to_convolutions(before)
    assert count_ops(after)["MatMul"] == 4
    assert not {"Mean", "Rsqrt", "SquaredDifference"} & set(count_ops(after))
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", SPREAD)
def test_one_number_a_pixel(kind: str) -> None:
    """What is spread is spread once, and the numbers are the same."""
    build, convolutions = SPREAD[kind]
    before = graph_of(build)
    after = broadcasts_to_convolutions(before)
    assert count_ops(after)["Conv2D"] == convolutions
    assert not {"Mean", "Rsqrt", "SquaredDifference"} & set(count_ops(after))
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: x * tf.reduce_mean(x, [1, 2], keepdims=True),
        lambda x: x * tf.reduce_mean(x, [1, 2, 3], keepdims=True),
        lambda x: tf.reduce_mean(tf.reduce_max(x, [1, 2]), -1, keepdims=True),
        lambda x: x * NUMBERS,
        lambda x: mean(x) * 2.0,
        lambda x: mean(x) + NUMBERS,
        lambda x: x[:, 0] - mean(x[:, 0]),
        lambda x: tf.math.squared_difference(x, tf.tanh(x)),
        lambda x: tf.cast(x, tf.float64) - mean(tf.cast(x, tf.float64)),
    ],
)
def test_what_stays(build: Callable[[Any], Any]) -> None:
    """What readers spread by themselves, and what is no picture, is left alone."""
    before = graph_of(build)
    assert broadcasts_to_convolutions(before) == before
