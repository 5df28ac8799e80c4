"""preview.py: real rows, and training that does not notice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.training import pipeline, preview

X, Y = np.arange(60, dtype=np.float32).reshape(20, 3), np.arange(20)


def dataset() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y))


def doubled(x: Any, y: Any) -> Any:
    return 2.0 * x, y


def test_rows_of_arrays() -> None:
    """The first rows of each input, whatever holds them; targets are left out."""
    found = preview.rows_of_arrays(([X, tf.constant(Y)], Y))
    np.testing.assert_array_equal(found[0], X[:8])
    np.testing.assert_array_equal(found[1], Y[:8])


def test_rows_of_a_batch() -> None:
    """Copies of the first rows; what is no dense array is left alone."""
    batch = ({"a": X, "b": tf.constant(Y)}, Y)
    found = preview.rows_of_batch(batch)
    np.testing.assert_array_equal(found["a"], X[:8])
    np.testing.assert_array_equal(found["b"], Y[:8])
    assert not np.shares_memory(found["a"], X)
    sparse = tf.sparse.from_dense(X)
    assert preview.rows_of_batch(({"a": X, "b": sparse}, Y)) is None
    assert preview.rows_of_batch((3.0,)) is None


def test_no_more_rows_than_a_batch_has() -> None:
    """Memory may not do for more: of arrays, and of a part that is not batched yet."""
    assert preview.rows_of_arrays((X, Y), 1).shape == (1, 3)
    assert preview.rows_of_dataset(dataset().shuffle(9).batch(2), 2).shape == (2, 3)


@pytest.mark.parametrize(
    ("made", "rows"),
    [
        (lambda: dataset().batch(5), X[:5]),
        (lambda: dataset().map(doubled).batch(16).prefetch(2), 2 * X[:8]),
        (lambda: dataset().shuffle(20).batch(4), X[:8]),
        (lambda: dataset().map(doubled).shuffle(20).repeat().batch(4), 2 * X[:8]),
        (lambda: dataset().batch(4).cache().shuffle(5), X[:4]),
        (lambda: tf.data.Dataset.from_tensor_slices(X).batch(3), X[:3]),
        (
            lambda: (
                tf.data.Dataset.zip(
                    tf.data.Dataset.from_tensor_slices(X), tf.data.Dataset.range(20)
                )
                .shuffle(9)
                .batch(2)
            ),
            X[:8],
        ),
    ],
)
def test_rows_of_a_data_set(made: Any, rows: Any) -> None:
    """From the last part that is not random: a batch of its, or rows made one."""
    np.testing.assert_array_equal(preview.rows_of_dataset(made()), rows)


def noisy(x: Any, y: Any) -> Any:
    return x + tf.random.normal([3]), y


def in_python(x: Any, y: Any) -> Any:
    (x,) = tf.numpy_function(lambda v: v, [x], [tf.float32])
    return tf.ensure_shape(x, [3]), y


@pytest.mark.parametrize(
    "made",
    [
        lambda: dataset().shuffle(20).map(lambda x, y: (x[:2], y)).batch(4),
        lambda: tf.data.Dataset.random(1).map(lambda n: (tf.cast(n, tf.float32), n)),
        lambda: tf.data.Dataset.from_generator(
            lambda: iter([(X[0], 1)]), output_signature=dataset().element_spec
        ).batch(2),
    ],
)
def test_no_rows_where_none_are_like_the_batches(made: Any) -> None:
    """What a map makes of shuffled rows, or Python, is not asked for."""
    assert preview.rows_of_dataset(made()) is None


@pytest.mark.parametrize("step", [noisy, in_python])
def test_a_map_that_draws_or_runs_python_is_passed_by(step: Any) -> None:
    """The rows before it serve, if they have the same shape."""
    np.testing.assert_array_equal(
        preview.rows_of_dataset(dataset().map(step).batch(4)), X[:8]
    )


def test_a_shuffle_does_not_notice() -> None:
    """Two epochs of reshuffled data come in the order they come in without us."""

    def epochs(look: bool) -> list[list[int]]:
        tf.random.set_seed(3)
        data = dataset().shuffle(20, seed=5).batch(4)
        if look:
            assert preview.rows_of_dataset(data) is not None
        return [[int(n) for _, y in data for n in y] for _ in range(2)]

    first = epochs(look=False)
    assert first[0] != first[1]
    assert epochs(look=True) == first


def test_repeatable_parts_stop_at_the_first_shuffle() -> None:
    """All that follows a shuffle is another order each time."""
    parts = pipeline.repeatable_parts(dataset().batch(2).shuffle(3).map(doubled))
    assert [type(part).__name__.strip("_") for part in parts] == [
        "BatchDataset",
        "TensorSliceDataset",
    ]
