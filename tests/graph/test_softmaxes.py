"""softmaxes.py: over the channels of pictures, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph.broadcasts import broadcasts_to_convolutions
from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.graph.softmaxes import spell_out_softmaxes
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1
RANDOM = np.random.default_rng(0)


def graph_of(build: Callable[[Any], Any], channels: int = 6) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 5, 4, channels], name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def convolved(x: Any) -> Any:
    channels = x.shape[-1]
    filters = np.eye(channels, dtype=np.float32)[None, None]
    return tf.nn.bias_add(tf.nn.conv2d(x, filters, 1, "SAME"), np.ones(channels, "f4"))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 21])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_a_softmax_of_pictures(channels: int, size: float) -> None:
    """It is computed from its parts, of large numbers too."""
    before = graph_of(lambda x: tf.nn.softmax(convolved(x)), channels)
    after = broadcasts_to_convolutions(spell_out_softmaxes(before))
    assert not {"Softmax", "Max", "Sum"} & set(count_ops(after))
    wanted = [TensorInfo("y", None, "float32")]
    x = (size * RANDOM.standard_normal((2, 5, 4, channels))).astype(np.float32)
    found, expected = (from_graph_def(g, None, wanted)(x) for g in (after, before))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hidden", [-np.inf, np.finfo(np.float32).min, -1e30, -1e9])
@pytest.mark.parametrize("classes", [[0], [0, 3], [4], [0, 1, 2], range(1, 6)])
def test_a_class_that_is_masked(hidden: float, classes: list[int]) -> None:
    """It is nowhere, and what is not masked sums up to one: large numbers too."""
    mask = np.zeros(6, np.float32)
    mask[classes] = hidden
    before = graph_of(lambda x: tf.nn.softmax(convolved(x) + mask))
    after = broadcasts_to_convolutions(spell_out_softmaxes(before))
    assert "Softmax" not in count_ops(after)
    wanted = [TensorInfo("y", None, "float32")]
    x = (200 * RANDOM.standard_normal((2, 5, 4, 6))).astype(np.float32)
    found, expected = (from_graph_def(g, None, wanted)(x) for g in (after, before))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_pixels_that_are_masked() -> None:
    """Where no class is left each is as likely; what is no number stays none."""
    before = graph_of(lambda x: tf.nn.softmax(convolved(x)))
    after = broadcasts_to_convolutions(spell_out_softmaxes(before))
    wanted = [TensorInfo("y", None, "float32")]
    x = np.full((1, 5, 4, 6), np.finfo(np.float32).min)
    x[0, 0, 0, 2] = np.nan
    found, expected = (from_graph_def(g, None, wanted)(x) for g in (after, before))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: tf.nn.softmax(convolved(x)[:, 0, 0]),
        # Scores of attention: heads, queries and keys.
        lambda x: tf.nn.softmax(tf.matmul(x, x, transpose_b=True) * 0.5),
        lambda x: tf.nn.softmax(tf.cast(convolved(x), tf.float64)),
    ],
)
def test_what_stays(build: Callable[[Any], Any]) -> None:
    """Of rows, of what comes out of products of matrices, and of other precisions."""
    before = graph_of(build)
    assert spell_out_softmaxes(before) == before
