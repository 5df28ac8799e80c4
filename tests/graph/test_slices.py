"""slices.py: the same parts, said so that each reader takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.graph.slices import keep_dimensions, spell_out_slices
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x[:, 1:3],
        lambda x: x[:, :-1, 2:],
        lambda x: x[..., 1:],
        lambda x: x[:, 1:, ..., :2],
        lambda x: x[1:, ...],
        lambda x: x[:, ::2, -3:99],
        lambda x: x[:, 1:2, :, ..., 3:1:-1],
    ],
)
def test_parts_of_pictures(part: Any) -> None:
    """All four bounds are said, to the very same part."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, 6, 5, 4], name="x")
        tf.identity(part(x), name="y")
    before = graph.as_graph_def()
    after = spell_out_slices(before)
    by_name = {node.name: node for node in after.node}
    (made,) = (node for node in after.node if node.op == "StridedSlice")
    for reference in made.input[1:]:
        assert nd.constant_value(by_name[reference]).shape == (4,)
    assert not made.attr["ellipsis_mask"].i
    fed = np.random.default_rng(0).random((2, 6, 5, 4), dtype=np.float32)
    wanted = [TensorInfo("y", None, "float32")]
    found = from_graph_def(after, None, wanted)(fed)
    np.testing.assert_array_equal(found, part(fed))


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x[:, 1:3, :, 2:],
        lambda x: x[:, 1],
        lambda x: x[:, -1],
        lambda x: x[-1],
        lambda x: x[:, None, 1:],
        lambda x: x[:, tf.shape(x)[0] :],
        lambda x: tf.reshape(x, [-1, 30, 4])[:, 1:],
    ],
)
def test_parts_that_stay(part: Any) -> None:
    """Those that say all, drop or add a dimension, are computed, or of no pictures."""
    graph = tf.Graph()
    with graph.as_default():
        tf.identity(part(v1.placeholder(tf.float32, [None, 6, 5, 4])), name="y")
    before = graph.as_graph_def()
    assert spell_out_slices(before) == before


def sliced(part: Any, batch: int | None = None) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [batch, 6, 5, 4], name="x")
        tf.identity(part(x), name="y")
    return graph.as_graph_def()


def numbers_of(graph_def: Any, fed: Any) -> Any:
    return from_graph_def(graph_def, None, [TensorInfo("y", None, "float32")])(fed)


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x[:, 1],
        lambda x: x[..., 3],
        lambda x: x[:, -1, 1:3, -1],
        lambda x: x[..., -1],
        lambda x: x[:, ::2, -1],
        lambda x: x[:, ::-2, 2],
        lambda x: x[1, 2:],
        lambda x: x[1:, 0, 0, 0],
    ],
)
def test_dimensions_that_are_kept(part: Any) -> None:
    """A Reshape leaves them out then, and the numbers are the same."""
    after = keep_dimensions(sliced(part))
    (made,) = (node for node in after.node if node.op == "StridedSlice")
    assert not made.attr["shrink_axis_mask"].i
    assert count_ops(after)["Reshape"] == 1
    fed = np.random.default_rng(0).random((2, 6, 5, 4), dtype=np.float32)
    np.testing.assert_array_equal(numbers_of(after, fed), part(fed))


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x[:, 1:],
        lambda x: x[:, 1, None],
        lambda x: x[:, -2],
        lambda x: x[:, tf.shape(x)[0]],
        lambda x: x[1, 2, 3, 0],
        lambda x: tf.cast(x, tf.int32)[:, 1],
        lambda x: tf.reshape(x, tf.reverse(tf.shape(x), [0]))[1],
    ],
)
def test_dimensions_that_go(part: Any) -> None:
    """None is left out, or it is not known which, or of no shape that is."""
    before = sliced(part)
    assert keep_dimensions(before) == before
