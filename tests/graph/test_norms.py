"""norms.py: a norm's difference is taken once and scaled, to the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.graph.norms import differences_from_means
from persist_callbacks.graph.simplify import simplify
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1
L = keras.layers
ROWS = np.random.default_rng(0).normal(3.0, 2.0, (2, 5, 4)).astype(np.float32)


def graph_of(build: Callable[[Any], Any], dtype: Any = tf.float32) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(dtype, [None, 5, 4], name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def run(graph_def: Any, rows: Any = ROWS) -> Any:
    wanted = [TensorInfo("y", None, "float32")]
    return from_graph_def(graph_def, None, wanted)(rows)


GAMMA, BETA = np.random.default_rng(1).random((2, 4), dtype=np.float32)


def parts(x: Any) -> tuple[Any, Any]:
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    return mean, tf.math.rsqrt(variance + 1e-3)


def normalized(form: str) -> Callable[[Any], Any]:
    """One of the ways in which the same norm is written."""

    def build(x: Any) -> Any:
        mean, root = parts(x)
        scale = GAMMA * root if "gamma" in form else root
        if "batch" in form:
            return x * scale + (BETA - mean * scale)
        if "negated" in form:
            return x * scale + -(mean * scale)
        rest = scale * -mean
        rest = BETA + rest if "beta" in form else rest
        return rest + scale * x if "turned" in form else x * scale + rest

    return build


@pytest.mark.parametrize(
    "form",
    [
        *("plain", "gamma", "beta", "gamma beta", "gamma beta turned", "batch gamma"),
        *("batch", "negated", "negated gamma"),
    ],
)
def test_forms_of_a_norm(form: str) -> None:
    """One difference, of which the variance is too, and no product but of it."""
    before = graph_of(normalized(form))
    after = simplify(before, inputs=["x"], outputs=["y"])
    ops = count_ops(after)
    assert ops["Sub"] == ops["Square"] == 1
    assert not {"SquaredDifference", "Neg"} & set(ops)
    assert ops["Mul"] == 1 + ("gamma" in form)
    assert ops["AddV2"] == 1 + ("beta" in form or "batch" in form)
    np.testing.assert_allclose(run(after), run(before), rtol=2e-5, atol=2e-5)


def test_a_mean_that_is_far_from_zero() -> None:
    """The difference loses none of the digits that the two products did."""
    rows = ROWS + np.float32(30000)
    before = graph_of(normalized("gamma beta"))
    after = differences_from_means(before)
    exact = rows.astype(np.float64)
    exact = exact - exact.mean(-1, keepdims=True)
    exact = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-3)
    exact = exact * GAMMA + BETA
    errors = [np.abs(run(each, rows) - exact).max() for each in (before, after)]
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    "build",
    [
        lambda x: x * parts(x)[1] + parts(x)[0] * parts(x)[1],
        lambda x: x * GAMMA + BETA,
        lambda x: x * x - x * x,
        lambda x: (lambda m, s: x * s + (p := -m * s) + tf.tanh(p))(*parts(x)),
    ],
)
def test_what_is_no_norm_stays(build: Callable[[Any], Any]) -> None:
    """Another sign, constants alone, and what is read besides."""
    before = graph_of(build)
    assert differences_from_means(before) == before


def test_half_precision_stays() -> None:
    """It has no digits to lose by another order."""
    cast = lambda x: tf.cast(x, tf.float16)  # noqa: E731
    before = graph_of(
        lambda x: tf.cast(
            cast(x) * cast(x[..., :1]) + -(cast(x[..., 1:2]) * cast(x[..., :1])),
            tf.float32,
        )
    )
    assert differences_from_means(before) == before


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.LayerNormalization(),
        lambda: L.LayerNormalization(axis=[1, 2]),
        lambda: L.LayerNormalization(scale=False),
        lambda: L.LayerNormalization(center=False),
        lambda: L.GroupNormalization(2),
    ],
)
def test_keras_layers(layer: Callable[[], Any]) -> None:
    """They are written in one of these forms, in this Keras."""
    made = zoo.traced(
        lambda: keras.Sequential([keras.Input((5, 4), name="x"), layer()])
    )
    ops = count_ops(made.frozen())
    assert ops["Sub"] == ops["Square"] == 1
    assert "SquaredDifference" not in ops
