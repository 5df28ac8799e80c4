"""What a pipeline tells of itself; fails by name when a version moves it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter

from persist_callbacks.training import pipeline


def rows(number=50, width=4):
    return tf.data.Dataset.from_tensor_slices(np.zeros((number, width), "float32"))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: rows().batch(8).prefetch(2), (0, 0)),
        (lambda: rows().shuffle(20).batch(8), (20 * 16, 20)),
        (lambda: rows().shuffle(200).batch(8), (50 * 16, 50)),
        (lambda: rows().repeat().shuffle(200).batch(8), (200 * 16, 200)),
        (lambda: rows().cache().shuffle(20).map(lambda x: x * 2), (70 * 16, 70)),
        (
            lambda: tf.data.Dataset.zip((rows().shuffle(2), rows().shuffle(3))),
            (5 * 16, 5),
        ),
        (lambda: rows().batch(8).shuffle(20), (None, 7)),
        (lambda: rows().filter(lambda x: x[0] > 0).cache(), (None, None)),
        (
            lambda: tf.data.Dataset.from_tensor_slices(["a", "b"]).shuffle(2),
            (None, 2),
        ),
    ],
)
def test_buffered(make, expected):
    """Rows of four float32, in buffers that may be larger than the data."""
    assert pipeline.buffered(make()) == pipeline.Buffered(*expected)


def test_a_cache_in_a_file_holds_nothing(tmp_path):
    """It is on disk, and stays there."""
    in_file = rows().cache(str(tmp_path / "cache"))
    assert pipeline.buffered(in_file) == pipeline.Buffered(0, 0)


def test_shuffled_arrays_hold_their_order():
    """Two int64 a row: Keras shuffles indices."""
    data = ArrayDataAdapter(np.zeros((50, 4)), batch_size=8, shuffle=True)
    assert pipeline.buffered(data.get_tf_dataset()) == pipeline.Buffered(2 * 50 * 8, 2)


def test_runs_functions():
    """At any depth; what slices, shuffles and batches runs none."""
    assert not pipeline.runs_functions(rows().shuffle(5).repeat().batch(8).prefetch(2))
    assert pipeline.runs_functions(rows().map(lambda x: x * 2).shuffle(5).batch(8))


@pytest.fixture(params=[None, 3], ids=["no seed", "global seed"])
def seed(request):
    """The global seed, as a process begins with it, or as the user sets it."""
    tf.random.set_seed(request.param)
    yield request.param
    keras.utils.set_random_seed(3)


@pytest.mark.parametrize(
    ("make", "drawn"),
    [
        (lambda: rows().batch(8), []),
        (lambda: rows().shuffle(20).batch(8), ["shuffle"]),
        (lambda: rows().shuffle(20, seed=1).batch(8), []),
        (
            lambda: rows().map(lambda x: x + tf.random.uniform([4])),
            ["RandomUniform in map"],
        ),
        (
            lambda: ArrayDataAdapter(
                np.zeros((50, 4)), batch_size=8, shuffle=True
            ).get_tf_dataset(),
            ["RandomShuffle in map"],
        ),
    ],
)
def test_what_is_drawn_without_a_seed(make, drawn, seed):
    """A global seed is one for all that have none of their own."""
    assert pipeline.draws_unseeded(make()) == (drawn if seed is None else [])


def test_snapshots(tmp_path):
    """In what a function makes too; one that was written is data like others."""
    kept = rows().snapshot(str(tmp_path))
    assert pipeline.writes_snapshots(kept.batch(8).prefetch(2))
    inside = tf.data.Dataset.range(2).flat_map(
        lambda _: tf.data.Dataset.range(3).snapshot(str(tmp_path))
    )
    assert pipeline.writes_snapshots(inside)
    assert not pipeline.writes_snapshots(rows().shuffle(9).map(lambda x: x + 1))
    assert not pipeline.writes_snapshots(None)


def test_captured_variables():
    """The small ones, at any depth of the pipeline, each once."""
    generator = tf.random.Generator.from_seed(1)
    weights = tf.Variable(tf.ones((5, 4)))
    data = rows().map(lambda x: x + generator.normal((4,)))
    data = data.map(lambda x: tf.linalg.matvec(weights, x)).batch(8)
    data = data.map(lambda x: x + generator.normal((5,)))
    found = pipeline.captured_variables(data)
    assert [id(variable) for variable in found] == [id(generator.state)]


def test_the_order_of_captured_variables():
    """That of the code; of so many, memory's would be another but by a wonder."""
    generators = [tf.random.Generator.from_seed(seed) for seed in range(12)]

    def noisy(x):
        for generator in reversed(generators):
            x = x + generator.normal((4,))
        return x

    found = pipeline.captured_variables(rows().map(noisy).batch(8))
    expected = [id(generator.state) for generator in reversed(generators)]
    assert [id(variable) for variable in found] == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: rows().shuffle(20).batch(8).prefetch(2), 8),
        (lambda: rows().batch(8, num_parallel_calls=2), 8),
        (lambda: rows().batch(8).unbatch().padded_batch(3).map(lambda x: x), 3),
        (lambda: rows().ragged_batch(5), 5),
        (rows, None),
    ],
)
def test_rows_of_a_batch(make, expected):
    """What the last step that batches was asked for."""
    assert pipeline.batch_rows(make()) == expected
