"""next_weights.py: what scales a norm is in the weights that read it, to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from persist_callbacks.graph.freeze import freeze
from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.graph.next_weights import affine_into_next_weights
from persist_callbacks.graph.simplify import simplify
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1
L = keras.layers
_RANDOM = np.random.default_rng(1)
GAMMA, BETA = _RANDOM.normal(1.0, 0.5, (2, 4)).astype(np.float32)
PICTURES = _RANDOM.normal(0.0, 1.0, (2, 5, 6, 4)).astype(np.float32)
ROWS, TOKENS = PICTURES[0, 0], PICTURES[0]
_AFFINE = {"Mul", "Add", "AddV2", "BiasAdd"}


def weights(*shape: int) -> Any:
    return tf.constant(_RANDOM.normal(0.0, 1.0, shape).astype(np.float32))


def affine(x: Any) -> Any:
    return x * GAMMA + BETA


def graph_of(build: Callable[[Any], Any], batch: Any) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.as_dtype(batch.dtype), [None, *batch.shape[1:]], name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def run(graph_def: Any, batch: Any) -> Any:
    wanted = [TensorInfo("y", None, "float32")]
    return from_graph_def(graph_def, None, wanted)(batch)


def folded(build: Callable[[Any], Any], batch: Any) -> Any:
    """Fold, see that the numbers are the same, and count the ops; None if unchanged."""
    before = graph_of(build, batch)
    after = affine_into_next_weights(before)
    was, now = run(before, batch), run(after, batch)
    assert now.shape == was.shape
    np.testing.assert_allclose(now, was, rtol=1e-5, atol=1e-5)
    return None if after == before else count_ops(after)


def dense(x: Any) -> Any:
    return tf.nn.bias_add(affine(x) @ weights(4, 3), weights(3))


def dense_turned(x: Any) -> Any:
    return tf.linalg.matmul(affine(x), weights(3, 4), transpose_b=True) + weights(3)


def dense_of_tokens(x: Any) -> Any:
    flat = tf.reshape(affine(x), [-1, 4]) @ weights(4, 3)
    return tf.nn.bias_add(tf.reshape(flat, [-1, 6, 3]), weights(3))


def heads(x: Any) -> Any:
    """Queries and keys of two heads, as Keras writes them for an attention."""
    y = affine(x)
    made = [tf.raw_ops.BatchMatMulV2(x=y, y=weights(4, 6)) for _ in range(2)]
    parted = [tf.reshape(each, [-1, 6, 2, 3]) + weights(2, 3) for each in made]
    return parted[0] * parted[1]


def biased_heads(x: Any) -> Any:
    """Heads that share their bias, which has one number a head's channel."""
    parted = tf.reshape(affine(x) @ weights(4, 6), [-1, 2, 3])
    return tf.nn.bias_add(parted, weights(3))


def pixels(x: Any) -> Any:
    product = tf.nn.conv2d(affine(x), weights(1, 1, 4, 3), 1, "SAME")
    return product + weights(1, 1, 1, 3)


def patches(x: Any) -> Any:
    product = tf.nn.conv2d(affine(x), weights(2, 2, 4, 3), 2, "VALID")
    return tf.nn.bias_add(product, weights(3))


@pytest.mark.parametrize(
    ("build", "batch"),
    [
        *((dense, ROWS), (dense_turned, ROWS), (dense_of_tokens, TOKENS)),
        *((heads, TOKENS), (pixels, PICTURES), (patches, PICTURES)),
    ],
)
def test_folded_into_weights_and_biases(build: Any, batch: Any) -> None:
    """Neither product nor sum is left, and no op has come in their place."""
    before = count_ops(graph_of(build, batch))
    after = folded(build, batch)
    assert after is not None
    affine_before = sum(before.get(op, 0) for op in _AFFINE)
    assert sum(after.get(op, 0) for op in _AFFINE) == affine_before - 2
    same = {op: n for op, n in before.items() if op not in (*_AFFINE, "Const")}
    assert {op: n for op, n in after.items() if op in same} == same


@pytest.mark.parametrize("rank", ["rows", "tokens", "pictures"])
def test_without_a_bias_one_is_added(rank: str) -> None:
    """A product and a sum become a bias, which is one op fewer."""
    batch = {"rows": ROWS, "tokens": TOKENS, "pictures": PICTURES}[rank]

    def build(x: Any) -> Any:
        if rank == "pictures":
            return tf.nn.conv2d(affine(x), weights(2, 2, 4, 3), 1, "VALID")
        if rank == "tokens":
            return tf.raw_ops.BatchMatMulV2(x=affine(x), y=weights(4, 3))
        return affine(x) @ weights(4, 3)

    after = folded(build, batch)
    assert after is not None
    added = {op: after[op] for op in _AFFINE if op in after}
    assert added == {"AddV2" if rank == "tokens" else "BiasAdd": 1}


def test_a_bias_that_heads_share_stays() -> None:
    """The sums that a shift adds up to differ from head to head."""
    after = folded(biased_heads, ROWS)
    assert after is not None
    assert after["BiasAdd"] == 2


@pytest.mark.parametrize("axes", [(1, 1, 3), (1, 3)])
def test_an_addition_with_more_axes_keeps_them(axes: tuple[int, ...]) -> None:
    """What is added gives the result its rank, where it has more axes."""
    after = folded(lambda x: affine(x) @ weights(4, 3) + weights(*axes), ROWS)
    assert after is not None
    assert "Mul" not in after


def test_a_scale_alone_goes_into_a_padded_convolution() -> None:
    """Zeros around a picture stay zeros, whatever they are multiplied by."""

    def build(x: Any) -> Any:
        return tf.nn.conv2d(x * GAMMA, weights(3, 3, 4, 3), 1, "SAME")

    after = folded(build, PICTURES)
    assert after is not None
    assert "Mul" not in after


def padded(x: Any) -> Any:
    return tf.nn.conv2d(affine(x), weights(3, 3, 4, 3), 1, "SAME")


def explicitly_padded(x: Any) -> Any:
    pads = [[0, 0], [1, 0], [0, 1], [0, 0]]
    return tf.nn.conv2d(affine(x), weights(2, 2, 4, 3), 1, pads)


def grouped(x: Any) -> Any:
    return tf.nn.conv2d(affine(x), weights(1, 1, 2, 4), 1, "VALID")


def also_read_by_a_sum(x: Any) -> Any:
    y = affine(x)
    return tf.nn.bias_add(y @ weights(4, 4), weights(4)) + y


def as_the_second(x: Any) -> Any:
    return weights(3, 6) @ affine(x)


def weights_of_two(x: Any) -> Any:
    shared = weights(4, 3)
    return affine(x) @ shared + (x @ shared)


def large_shift(x: Any) -> Any:
    return (x * GAMMA + 1000 * BETA) @ weights(4, 3)


def many_without_a_bias(x: Any) -> Any:
    y = affine(x)
    return y @ weights(4, 3) * (y @ weights(4, 3))


def mixing_channels(x: Any) -> Any:
    return tf.reshape(affine(x), [-1, 8]) @ weights(8, 3)


def one_number_a_row(x: Any) -> Any:
    return (x * np.ones((6, 1), np.float32) * 2) @ weights(4, 3)


def widened(x: Any) -> Any:
    return affine(x[:, :1]) @ weights(4, 3)


def widened_number(x: Any) -> Any:
    return tf.reshape(affine(tf.reduce_sum(x)), [1, 4]) @ weights(4, 3)


def scale_with_more_axes(x: Any) -> Any:
    return tf.raw_ops.BatchMatMulV2(x=x * GAMMA.reshape(1, 1, 4), y=weights(4, 3))


def shift_with_more_axes(x: Any) -> Any:
    y = x * GAMMA + BETA.reshape(1, 1, 4)
    return tf.raw_ops.BatchMatMulV2(x=y, y=weights(4, 3))


def batches_of_weights(x: Any) -> Any:
    return tf.raw_ops.BatchMatMulV2(x=affine(x), y=weights(5, 4, 3))


@pytest.mark.parametrize(
    ("build", "batch"),
    [
        *((padded, PICTURES), (explicitly_padded, PICTURES), (grouped, PICTURES)),
        *((also_read_by_a_sum, ROWS), (as_the_second, ROWS), (weights_of_two, ROWS)),
        *((large_shift, ROWS), (many_without_a_bias, ROWS), (mixing_channels, ROWS)),
        *((one_number_a_row, ROWS), (batches_of_weights, TOKENS)),
        *((widened, ROWS), (widened_number, ROWS)),
        *((scale_with_more_axes, ROWS), (shift_with_more_axes, ROWS)),
    ],
)
def test_left_alone(build: Any, batch: Any) -> None:
    """Where it would be wrong, lose digits, write weights twice or save nothing."""
    assert folded(build, batch) is None


def test_half_precision_is_left_alone() -> None:
    """Weights of half the digits would lose some of them."""
    half = graph_of(
        lambda x: (x * tf.constant(GAMMA, tf.float16)) @ tf.cast(weights(4, 3), "half"),
        ROWS.astype(np.float16),
    )
    assert affine_into_next_weights(half) == half


def pre_norm_block() -> keras.Model:
    x = L.Input((6, 8), name="x")
    y = L.LayerNormalization(epsilon=1e-3)(x)
    y = x + L.MultiHeadAttention(2, 4)(y, y)
    y = y + L.Dense(8)(L.LayerNormalization(epsilon=1e-3)(y))
    return keras.Model(x, y)


def test_pre_norm_block_of_keras() -> None:
    """A norm before an attention or a Dense costs no product of its own."""
    made = zoo.traced(pre_norm_block)
    whole = made.frozen()
    without = simplify(
        freeze(made.graph, made.values),
        inputs=made.inputs,
        outputs=made.outputs,
        without=["affine_into_next_weights"],
    )
    assert count_ops(without)["Mul"] - count_ops(whole)["Mul"] == 2
    assert count_ops(without)["AddV2"] - count_ops(whole)["AddV2"] == 2
    batch = _RANDOM.normal(0.0, 1.0, (3, 6, 8)).astype(np.float32)
    wanted = [TensorInfo(made.outputs[0], None, "float32")]
    found = from_graph_def(whole, None, wanted)(batch)
    np.testing.assert_allclose(found, made.model(batch), rtol=1e-4, atol=1e-5)
