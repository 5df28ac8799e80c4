"""weights.py: what no folding could touch is out of sight, and comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.weights import hide_all, hide_unfoldable, put_back

v1 = tf.compat.v1
SIZE = 160


def weights(*shape: int) -> Any:
    values = np.random.default_rng(0).standard_normal(shape or (SIZE, SIZE))
    return tf.constant(values.astype(np.float32), name="weights")


def graph_of(build: Callable[[Any], Any]) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, SIZE], name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def ids(x: Any) -> Any:
    return tf.cast(x, tf.int32)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (lambda x: x @ weights(), {"weights"}),
        (lambda x: x @ tf.identity(tf.identity(weights())), {"weights"}),
        (lambda x: tf.gather(weights(), ids(x)), {"weights"}),
        (lambda x: tf.einsum("ab,bcd->acd", x, weights(SIZE, 12, 9)), {"weights"}),
        (
            lambda x: tf.cast(
                tf.cast(x, tf.float16) @ tf.cast(weights(), tf.float16, name="half"),
                tf.float32,
            ),
            {"weights", "half"},
        ),
        (
            lambda x: (
                x @ tf.reshape(weights(SIZE // 2, SIZE * 2), [SIZE, -1], name="flat")
            ),
            {"weights", "flat"},
        ),
        (lambda x: x @ tf.reshape(weights(), tf.stack([SIZE, tf.shape(x)[1]])), set()),
        # Read by others than layers, or by what is constant itself: to be folded.
        (lambda x: x + weights(1, SIZE * SIZE)[:, :SIZE], set()),
        (lambda x: x @ tf.transpose(weights()), set()),
        (lambda x: x + (weights(1, SIZE * SIZE) @ tf.ones([SIZE * SIZE, 1])), set()),
        (lambda x: tf.gather(weights(), [0, 1]) + x, set()),
        (lambda x: tf.gather(tf.range(SIZE) * 2, ids(x)), set()),
    ],
)
def test_what_is_hidden(build: Callable[[Any], Any], names: set[str]) -> None:
    """Weights of what depends on an input, and nothing else."""
    graph_def = graph_of(build)
    small, hidden = hide_unfoldable(graph_def)
    assert set(hidden) == names
    for node in small.node:
        if node.name in names:
            assert node.op == "Placeholder"
    assert small.ByteSize() < 2**16 or not names


def test_put_back_is_what_was_hidden() -> None:
    """The same graph again, its constants where they were."""
    before = graph_of(lambda x: tf.gather(weights(), ids(x @ weights() + weights(1))))
    for hide in (hide_all, hide_unfoldable):
        small, hidden = hide(before)
        assert hidden
        assert list(put_back(small, hidden).node) == list(before.node)


def test_types_and_shapes_stay_known() -> None:
    """TensorFlow infers the same shapes without the numbers."""
    small, _ = hide_all(graph_of(lambda x: tf.gather(weights(), ids(x))))
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(small, name="")
    tensor = graph.get_tensor_by_name("y:0")
    assert (tensor.dtype, tensor.shape.as_list()) == (tf.float32, [None, SIZE, SIZE])


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64, tf.int32])
def test_cast_is_tensorflows_own(dtype: tf.DType) -> None:
    """A hidden cast holds what TensorFlow's Cast gives, bit for bit."""
    values = np.random.default_rng(0).standard_normal((SIZE, SIZE)) * 1e3
    values = values.astype(np.float32)
    values[0, :3] = 1e9, np.inf, 1e-9
    if dtype.is_integer:
        values = values.clip(-1e6, 1e6)

    def build(x: Any) -> Any:
        constant = tf.constant(values, name="weights")
        return tf.gather(tf.cast(constant, dtype, name="cast"), ids(x))

    _, hidden = hide_unfoldable(graph_of(build))
    found = nd.constant_value(hidden["cast"])
    wanted = tf.cast(tf.constant(values), dtype).numpy()
    assert found.tobytes() == wanted.tobytes()
