"""compare.py: when two results agree, and made-up inputs."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph.compare import compare, generate, tolerances
from persist_callbacks.records import TensorInfo

NAN, INF = float("nan"), float("inf")
WORDS = np.array([b"a", b"b"], object)


@pytest.mark.parametrize(
    ("expected", "found", "agrees"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.0], [1.0, 2.05], True),  # 0.05 <= 0.01 + 0.02 * 2
        ([1.0, 2.0], [1.0, 2.06], False),
        ([0.0], [0.01], True),
        ([0.0], [0.011], False),
        ([NAN, 1.0], [NAN, 1.0], True),
        ([NAN, 1.0], [1.0, NAN], False),
        ([1.0], [NAN], False),
        ([INF, -INF], [INF, -INF], True),
        ([INF], [-INF], False),
        ([INF], [1e30], False),
        ([1.0], [INF], False),
        ([], [], True),
        ([[1.0]], [1.0], False),
    ],
)
def test_floats(expected: Any, found: Any, agrees: bool) -> None:
    """Tolerance is absolute plus relative to what was expected; NaN equals NaN."""
    one, other = np.array(expected), np.array(found)
    comparison = compare({"y": one}, {"y": other}, atol=0.01, rtol=0.02)
    assert comparison.agrees is agrees


@pytest.mark.parametrize(
    ("expected", "found", "agrees"),
    [
        (np.array([2**60]), np.array([2**60]), True),
        (np.array([2**60]), np.array([2**60 + 1]), False),
        (np.array([True]), np.array([False]), False),
        (WORDS, WORDS.copy(), True),
        (WORDS, WORDS[::-1], False),
        (np.float32([1]), np.float64([1]), False),
        (np.int32([1]), np.float32([1]), False),
    ],
)
def test_what_must_be_exact(expected: Any, found: Any, agrees: bool) -> None:
    """Integers, truth values, strings and dtypes have no tolerance."""
    comparison = compare({"y": expected}, {"y": found}, atol=9.0, rtol=9.0)
    assert comparison.agrees is agrees


def test_half_precision() -> None:
    """bfloat16, which is not NumPy's own, is compared as numbers."""
    one = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    other = np.array([1.0, 2.03125], ml_dtypes.bfloat16)
    assert compare({"y": one}, {"y": other}, atol=0.0, rtol=0.02).agrees
    assert not compare({"y": one}, {"y": other}, atol=0.0, rtol=0.01).agrees


def test_a_share_of_the_largest() -> None:
    """What is near zero beside large numbers has no more digits than they have."""
    one, other = np.array([1e4, 0.01]), np.array([1e4, 0.015])
    for share, agrees in ((0.0, False), (1e-7, False), (1e-6, True)):
        allowed = {"atol": 1e-5, "rtol": 1e-4, "of_largest": share}
        assert compare({"y": one}, {"y": other}, **allowed).agrees is agrees
    one, other = np.array([INF, 1.0]), np.array([INF, 1.1])
    again = compare({"y": one}, {"y": other}, atol=0, rtol=0, of_largest=0.01)
    assert not again.agrees
    assert "+ 0.01 of the largest" in str(again)


@pytest.mark.parametrize(
    ("dtype", "epsilon"),
    [(tf.float32, None), (tf.float16, 2.0**-10), (tf.bfloat16, 2.0**-7)],
)
def test_what_is_allowed_by_default(dtype: tf.DType, epsilon: float | None) -> None:
    """Half precision's epsilon, where anything is computed in it; else float32's."""
    graph = tf.Graph()
    with graph.as_default():
        half = tf.compat.v1.placeholder(dtype, [2])
        kept = graph.as_graph_def()
        tf.cast(tf.square(half), tf.float32)
    defaults = {"atol": 1e-5, "rtol": 1e-4, "of_largest": 1e-6}
    assert tolerances(kept, None, None) == defaults
    found = tolerances(graph.as_graph_def(), None, None)
    if epsilon is None:
        assert found == defaults
    else:
        assert found == {"atol": 1e-5, "rtol": epsilon, "of_largest": 2 * epsilon}
    given = {"atol": 0.5, "rtol": 0.25, "of_largest": 0.0}
    assert tolerances(graph.as_graph_def(), 0.5, 0.25) == given


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_small_shares_are_told_apart(dtype: tf.DType) -> None:
    """Each of a thousand classes is as likely as an epsilon is large, or less."""
    graph = tf.Graph()
    with graph.as_default():
        tf.square(tf.compat.v1.placeholder(dtype, [2]))
    allowed = tolerances(graph.as_graph_def(), None, None)
    shares = np.random.default_rng(0).uniform(0.0005, 0.0015, 1000)
    for other in (0 * shares, shares[::-1], 1e-3 + 0 * shares):
        assert not compare({"y": shares}, {"y": other}, **allowed).agrees
    rounded = shares.astype(dtype.as_numpy_dtype).astype(float)
    assert compare({"y": shares}, {"y": rounded}, **allowed).agrees


def test_largest_differences() -> None:
    """The figures are the largest over each output and over all."""
    comparison = compare(
        {"a": np.array([1.0, 100.0]), "b": np.array([2.0])},
        {"a": np.array([1.5, 101.0]), "b": np.array([2.0])},
        atol=0.1,
        rtol=0.0,
    )
    a, b = comparison.outputs
    assert (a.absolute, a.relative, a.agrees) == (1.0, 0.5, False)
    assert (b.absolute, b.relative, b.agrees) == (0.0, 0.0, True)
    assert (comparison.absolute, comparison.relative) == (1.0, 0.5)


def test_missing_and_extra_outputs_disagree() -> None:
    """An output on one side only is a disagreement that says which side."""
    comparison = compare({"a": np.zeros(1)}, {"b": np.zeros(1)}, atol=1, rtol=1)
    assert not comparison.agrees
    text = str(comparison)
    assert "a: expected, not found" in text
    assert "b: found, not expected" in text


def test_it_prints_what_a_person_needs() -> None:
    """Name, verdict and both figures, one output a line."""
    comparison = compare(
        {"score": np.array([2.0])}, {"score": np.array([3.0])}, atol=1e-5, rtol=1e-4
    )
    assert str(comparison) == (
        "tolerance 1e-05 absolute + 0.0001 relative\n"
        "  score: differs, largest difference 1 absolute, 0.5 relative"
    )


def test_generated_inputs() -> None:
    """Shapes are filled in, dtypes are the inputs', integers fit any embedding."""
    infos = [
        TensorInfo("image", (None, None, 3), "float32"),
        TensorInfo("ids", (None, 4), "int64"),
        TensorInfo("half", (2, 2), "bfloat16"),
        TensorInfo("words", (None, 1), "string"),
        TensorInfo("flag", (), "bool"),
        TensorInfo("any", None, "uint8"),
    ]
    made = generate(infos, batch=5, open_size=6)
    assert {name: (array.shape, str(array.dtype)) for name, array in made.items()} == {
        "image": ((5, 6, 3), "float32"),
        "ids": ((5, 4), "int64"),
        "half": ((2, 2), "bfloat16"),
        "words": ((5, 1), "object"),
        "flag": ((), "bool"),
        "any": ((5,), "uint8"),
    }
    assert set(np.unique(made["ids"])) <= {0, 1}
    again, other = generate(infos, batch=5, open_size=6), generate(infos, seed=1)
    np.testing.assert_array_equal(made["image"], again["image"])
    assert not np.array_equal(made["ids"], other["ids"])
