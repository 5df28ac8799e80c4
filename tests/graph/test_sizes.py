"""sizes.py: shapes that are computed, known before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph.frozen import from_graph_def
from persist_callbacks.graph.sizes import static_reshapes
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1
PICTURE = np.random.default_rng(0).standard_normal((2, 6, 6, 4)).astype(np.float32)


def graph_of(sizes: Callable[[Any], Any], height: int | None = 6) -> Any:
    """A graph that reshapes one picture by what it computes of it."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, height, 6, 4], name="x")
        tf.reshape(x, sizes(x), name="y")
    return graph.as_graph_def()


def shape_of(graph_def: Any) -> list[int] | None:
    """The constant that the Reshape takes; None if it takes a computed one."""
    by_name = {node.name: node for node in graph_def.node}
    source = by_name[by_name["y"].input[1]]
    if source.op != "Const":
        return None
    return list(tf.make_ndarray(source.attr["value"].tensor))


def product(x: Any, *axes: int) -> Any:
    return tf.reduce_prod(tf.gather(tf.shape(x), list(axes)))


KNOWN = {
    "batch": (lambda x: tf.stack([tf.shape(x)[0], 6, 24]), [-1, 6, 24]),
    "all": (lambda x: tf.shape(x), [-1, 6, 6, 4]),
    "arithmetic": (
        lambda x: tf.stack([tf.shape(x)[0], tf.shape(x)[1] * 6, 4]),
        [-1, 36, 4],
    ),
    "division": (
        lambda x: tf.stack([tf.shape(x)[0], tf.shape(x)[2] // 2 + 1, 36]),
        [-1, 4, 36],
    ),
    "matrix": (lambda x: tf.stack([product(x, 0, 1, 2), product(x, 3)]), [-1, 4]),
    "joined": (lambda x: tf.concat([tf.shape(x)[:1], [12, 12]], 0), [-1, 12, 12]),
    "from the end": (
        lambda x: tf.concat([[-1], tf.shape(x)[-2:]], 0),
        [-1, 6, 4],
    ),
    "cast": (lambda x: tf.cast(tf.stack([tf.shape(x)[0], 144]), tf.int64), [-1, 144]),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_shapes_that_are_known(kind: str) -> None:
    """One size of the batch's is left, and -1 stands for it."""
    sizes, expected = KNOWN[kind]
    after = static_reshapes(graph_of(sizes))
    assert shape_of(after) == expected
    wanted = [TensorInfo("y", None, "float32")]
    found = from_graph_def(after, None, wanted)(PICTURE)
    np.testing.assert_array_equal(found, PICTURE.reshape(expected))


@pytest.mark.parametrize(
    "sizes",
    [
        lambda x: tf.stack([tf.shape(x)[0], tf.shape(x)[1] * 6, 4]),
        lambda x: tf.stack([tf.shape(x)[0], -1, 4]),
        lambda x: tf.shape(x),
        lambda x: tf.concat([tf.shape(x)[:2], tf.shape(x)[2:]], 0),
        lambda x: tf.reverse(tf.shape(x), [0]),
    ],
)
def test_shapes_that_are_not(sizes: Callable[[Any], Any]) -> None:
    """Two sizes that are computed stay so, and what is no plain arithmetic."""
    before = graph_of(sizes, height=None)
    assert static_reshapes(before) == before


PARTS = [1, 2, 2, 1]


@pytest.mark.parametrize(
    "sizes",
    [
        lambda x: tf.reshape(tf.stack([tf.shape(x) // PARTS, PARTS], axis=1), [-1]),
        lambda x: tf.reduce_prod(tf.stack([tf.shape(x)[:2], tf.shape(x)[2:]]), 0),
        lambda x: tf.stack([tf.shape(x), PARTS])[0],
        lambda x: tf.gather(tf.stack([tf.shape(x), PARTS]), 0),
    ],
)
def test_shapes_that_are_made_of_matrices(sizes: Callable[[Any], Any]) -> None:
    """How the numbers of one follow each other is not known, and they stay computed."""
    before = graph_of(sizes)
    assert static_reshapes(before) == before


def test_a_shape_that_another_one_tells() -> None:
    """What is computed of a Reshape's result is known once that one is."""

    def twice(x: Any) -> Any:
        inner = tf.reshape(x, tf.stack([tf.shape(x)[0], tf.shape(x)[1] * 6, 4]))
        shape = tf.shape(tf.nn.relu(inner))
        return tf.concat([shape[:2], [shape[2] // 2, 2]], 0)

    assert shape_of(static_reshapes(graph_of(twice))) == [-1, 36, 2, 2]
