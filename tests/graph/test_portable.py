"""portable.py: older ops in the place of newer ones, and the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.graph.portable import split_grouped_convolutions

v1 = tf.compat.v1


def convolution(groups: int, channels: int, **options: Any) -> tuple[Any, Any]:
    """A graph with one convolution in groups, and its filters."""
    random = np.random.default_rng(0)
    shape = (3, 3, channels // groups, 2 * channels)
    filters = random.standard_normal(shape).astype(np.float32)
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 9, 8, channels], name="x")
        options = {"strides": [1, 1, 1, 1], "padding": "SAME", **options}
        y = tf.raw_ops.Conv2D(input=x, filter=filters, **options)
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


def test_a_plain_convolution_stays() -> None:
    """One group is what Conv2D is for."""
    graph_def, _ = convolution(1, 4)
    assert list(split_grouped_convolutions(graph_def).node) == list(graph_def.node)
