"""batch_norms.py: which graphs normalize by the batch, and which ones only seem to."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from persist_callbacks.graph.batch_norms import norms_by_batch

v1 = tf.compat.v1


def normed(x: Any, axes: list[int], *, keepdims: bool = False) -> Any:
    mean, variance = v1.nn.moments(x, axes, keep_dims=keepdims)
    return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3)


def found_in(build: Any, *shape: int | None) -> list[str]:
    """The nodes that are told of, in the graph that a function of x makes."""
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default() as graph:
            build(v1.placeholder(tf.float32, shape, name="x"))
    finally:
        v1.enable_control_flow_v2()
    return norms_by_batch(graph.as_graph_def().node)


def in_half_precision(x: Any) -> Any:
    return normed(tf.cast(x, tf.float16), [0])


def by_a_formula(x: Any) -> Any:
    mean = tf.reduce_mean(x, 0)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), 0)
    return (x - mean) * tf.math.rsqrt(tf.maximum(variance, 1e-3))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda x: normed(x, [0]), (None, 4)),
        (lambda x: normed(x, [0, 1, 2]), (None, 8, 8, 3)),
        (lambda x: normed(x, [0, 2], keepdims=True), (None, 8, 3)),
        (in_half_precision, (None, 4)),
        (by_a_formula, (None, 4)),
    ],
)
def test_moments_of_the_batch_are_found(build: Any, shape: Any) -> None:
    """Of rank 2, of pictures, whatever stands between the variance and its root."""
    assert len(found_in(build, *shape)) == 1


def by_a_flag(x: Any) -> Any:
    training = v1.placeholder(tf.bool, [], name="training")
    mean, variance = v1.nn.moments(x, [0])
    mean = v1.cond(training, lambda: mean, lambda: tf.zeros(4))
    variance = v1.cond(training, lambda: variance, lambda: tf.ones(4))
    return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3)


def in_a_branch(x: Any) -> Any:
    training = v1.placeholder(tf.bool, [], name="training")
    return v1.cond(training, lambda: normed(x, [0]), lambda: x)


def of_weights(x: Any) -> Any:
    return x @ normed(v1.get_variable("w", [4, 4]), [0])


def only_reported(x: Any) -> Any:
    return v1.nn.moments(x, [0])


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (by_a_flag, (None, 4)),
        (in_a_branch, (None, 4)),
        (of_weights, (None, 4)),
        (only_reported, (None, 4)),
        (lambda x: normed(x, [1], keepdims=True), (None, 4)),
        (lambda x: normed(x, [1, 2], keepdims=True), (None, 8, 8, 3)),
        (lambda x: tf.math.l2_normalize(x, 0), (None, 4)),
    ],
)
def test_what_only_seems_to_is_not(build: Any, shape: Any) -> None:
    """Norms of layers and instances, of weights, and what a flag decides."""
    assert found_in(build, *shape) == []
