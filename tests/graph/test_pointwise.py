"""pointwise.py: a Dense on pictures becomes a convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.graph.pointwise import dense_to_convolutions
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1
PICTURE = np.random.default_rng(0).standard_normal((2, 6, 5, 4)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)


def graph_of(build: Callable[[Any], Any]) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        tf.identity(build(v1.placeholder(tf.float32, [None, 6, 5, 4])), name="y")
    return graph.as_graph_def()


def run(graph_def: Any) -> Any:
    wanted = [TensorInfo("y", None, "float32")]
    return from_graph_def(graph_def, None, wanted)(PICTURE)


def dense(x: Any, sizes: Any, **options: Any) -> Any:
    return tf.reshape(tf.matmul(tf.reshape(x, [-1, 4]), WEIGHTS, **options), sizes)


def test_a_dense_on_pictures() -> None:
    """Three nodes are one, and the numbers are the same."""
    before = graph_of(lambda x: dense(x, [-1, 6, 5, 3]))
    after = dense_to_convolutions(before)
    assert count_ops(after)["Conv2D"] == 1
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: dense(x, [-1, 5, 6, 3]),
        lambda x: dense(x, [-1, 30, 3]),
        lambda x: dense(x[:, 0], [-1, 5, 3]),
        lambda x: dense(tf.transpose(x, [0, 2, 1, 3]), [-1, 6, 5, 3]),
        lambda x: tf.reshape(
            tf.matmul(tf.reshape(x, [-1, 3]), WEIGHTS, transpose_b=True), [-1, 4]
        ),
    ],
)
def test_other_products_stay(build: Callable[[Any], Any]) -> None:
    """Pixels that change places, and what are no pictures, are no convolution."""
    before = graph_of(build)
    assert "Conv2D" not in count_ops(dense_to_convolutions(before))


def test_a_product_that_others_read_too() -> None:
    """It is wanted flat as well."""

    def build(x: Any) -> Any:
        flat = tf.matmul(tf.reshape(x, [-1, 4]), WEIGHTS)
        return tf.reshape(flat, [-1, 6, 5, 3]) + tf.reduce_sum(flat)

    assert "Conv2D" not in count_ops(dense_to_convolutions(graph_of(build)))
