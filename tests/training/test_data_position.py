"""A position in the data is found again, at every batch, in another process' data."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TFEpochIterator

from persist_callbacks.training.data_position import Locator, Rewinder
from persist_callbacks.training.fit_data import FitData, Passed

ROWS, BATCHES = 12, 4


def source_of(x, **options):
    """The data inside a fit that begins."""
    return TFEpochIterator(
        x=x, distribute_strategy=tf.distribute.get_strategy(), **options
    )


def shuffled():
    return source_of(tf.data.Dataset.range(ROWS).shuffle(5).batch(3))


def repeated():
    dataset = tf.data.Dataset.range(ROWS).shuffle(5).repeat().batch(3)
    return source_of(dataset, steps_per_epoch=BATCHES)


def prefetched():
    dataset = tf.data.Dataset.range(ROWS).shuffle(ROWS).map(lambda x: x * 2)
    return source_of(dataset.batch(3).prefetch(2))


def arrays():
    return source_of(np.arange(ROWS), batch_size=3, shuffle=True)


def generated():
    def generate():
        yield from range(ROWS)

    spec = tf.TensorSpec((), tf.int64)
    return source_of(
        tf.data.Dataset.from_generator(generate, output_signature=spec).batch(3)
    )


def open_data(make, made_before=0):
    keras.utils.set_random_seed(7)
    source = make()
    data = FitData(source)
    data.count_iterators(made_before)
    return source, data


MAKERS = [shuffled, repeated, prefetched, arrays, generated]


PLACES = [
    (make, epoch, at)
    for make in MAKERS
    for epoch in (0, 1)
    # Only where one iterator serves several epochs, one that ends is gone on with.
    for at in range(1, BATCHES + (make is repeated))
]


def take(iterator, drawn, passed, data, *, way="auto", largest=1_000_000):
    return Locator(way).take(iterator, drawn, passed, data, largest=largest)


@pytest.mark.parametrize("way", ["iterator", "replay"])
@pytest.mark.parametrize(("make", "epoch", "at"), PLACES)
def test_every_batch(make, epoch, at, way):
    """The rest of that epoch and two more, the last batches of an epoch included."""
    source, data = open_data(make)
    iterator, drawn = None, 0
    for number in range(epoch + 1):
        if iterator is None or make is not repeated:
            iterator, drawn = iter(source._distributed_dataset), 0
        for _ in range(at if number == epoch else BATCHES):
            next(iterator)
            drawn += 1
    passed = Passed(data.iterators_made, 0, 0)
    position, tensors = take(iterator, drawn, passed, data, way=way)
    tensors = {key: tf.identity(value) for key, value in tensors.items()}
    if make is not generated:
        # Which has a state once it is exhausted.
        assert position.way == way
    assert position.drawn == drawn
    expected = [
        np.asarray(next(iterator)).ravel().tolist() for _ in range(BATCHES - at)
    ]
    for _ in range(2):
        if make is not repeated:
            iterator = iter(source._distributed_dataset)
        expected += [
            np.asarray(next(iterator)).ravel().tolist() for _ in range(BATCHES)
        ]

    source, data = open_data(make, made_before=position.passed.iterators - 1)
    iterator = iter(source._distributed_dataset)
    rewinder = Rewinder(position, iterator)
    rewinder.restore(tensors, already_drawn=0, spare=data.spare_iterator)
    found = [np.asarray(next(iterator)).ravel().tolist() for _ in range(BATCHES - at)]
    for _ in range(2):
        if make is not repeated:
            iterator = iter(source._distributed_dataset)
        found += [np.asarray(next(iterator)).ravel().tolist() for _ in range(BATCHES)]
    assert found == expected


def test_replay_draws_and_drops():
    """Only what is not drawn yet, and it tells how far it is."""
    source, data = open_data(generated)
    iterator = iter(source._distributed_dataset)
    position, tensors = take(iterator, 3, Passed(1), data)
    assert position.way == "replay"
    assert position.reason
    assert tensors == {}
    told = []
    rewinder = Rewinder(position, iterator)
    assert rewinder.replays
    next(iterator)
    rewinder.restore(
        tensors,
        already_drawn=1,
        spare=data.spare_iterator,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3)]
    assert next(iterator).numpy().tolist() == [9, 10, 11]


def test_replay_of_an_epoch_that_is_shorter_now():
    """The data's end is the epoch's end, not an error."""
    source, data = open_data(generated)
    iterator = iter(source._distributed_dataset)
    position, tensors = take(iterator, 99, Passed(1), data)
    Rewinder(position, iterator).restore(
        tensors, already_drawn=0, spare=data.spare_iterator
    )
    assert next(iterator, None) is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: tf.data.Dataset.range(9).map(lambda x: noise() + x), "stateful"),
        (
            lambda: tf.data.Dataset.range(9).map(
                lambda x: tf.py_function(lambda: 1, [], tf.int64) + x
            ),
            "stateful|PyFunc",
        ),
    ],
)
def test_pipelines_whose_state_cannot_be_saved(make, reason):
    """They are replayed, and the reason is said in one line."""
    source, data = open_data(lambda: source_of(make().batch(3)))
    iterator = iter(source._distributed_dataset)
    position, _ = take(iterator, 2, Passed(1), data)
    assert position.way == "replay"
    assert "\n" not in position.reason
    assert not position.reason.endswith(".")
    assert re.search(reason, position.reason)


def noise():
    return tf.random.uniform([], maxval=9, dtype=tf.int64)


def test_a_loop_of_the_users_own():
    """Its data are nobody's but the caller's."""
    position, tensors = take(None, 4, Passed(), None)
    assert (position.way, position.drawn, tensors) == ("replay", 4, {})
    assert position.reason == "the loop is the caller's own"


def big_buffer():
    rows = tf.data.Dataset.from_tensor_slices(np.zeros((500, 200), "float32"))
    return source_of(rows.shuffle(300).batch(10))


@pytest.mark.parametrize(
    ("way", "largest", "expected"),
    [
        ("auto", 1_000_000, "iterator"),
        ("auto", 100_000, "replay"),
        ("iterator", 100_000, "iterator"),
        ("replay", 1_000_000, "replay"),
    ],
)
def test_a_large_buffer(way, largest, expected):
    """Its state holds 300 rows of 800 bytes, which the user may want or not."""
    source, data = open_data(big_buffer)
    iterator = iter(source._distributed_dataset)
    next(iterator)
    position, tensors = take(iterator, 1, Passed(1), data, way=way, largest=largest)
    assert position.way == expected
    assert bool(tensors) == (expected == "iterator")
    if way == "auto" and expected == "replay":
        assert position.reason == (
            'its buffers hold 0.24 MB, over the 0.1 MB that data_state="auto" saves'
        )


def test_a_buffer_of_unknown_size_is_measured():
    """Batches of whatever number of rows are in it."""

    def batches():
        noise = np.random.default_rng(1).normal(size=(500, 200))
        rows = tf.data.Dataset.from_tensor_slices(noise.astype("float32"))
        return source_of(rows.batch(10).shuffle(30))

    source, data = open_data(batches)
    assert data.buffered_bytes() is None
    iterator = iter(source._distributed_dataset)
    next(iterator)
    assert take(iterator, 1, Passed(1), data, largest=1_000_000)[0].way == "iterator"
    position, _ = take(iterator, 1, Passed(1), data, largest=100_000)
    assert (position.way, "its buffers hold" in position.reason) == ("replay", True)
