"""A position in the data is found again, at every batch, in another process' data."""

from __future__ import annotations

import dataclasses
import re
import time

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


def rounds(extend):
    """A pipeline of several rounds in one iterator: they are five batches each."""

    def make():
        dataset = extend(tf.data.Dataset.range(ROWS + 2).shuffle(5).batch(3))
        return source_of(dataset, steps_per_epoch=BATCHES)

    return make


def epochs(extend, count=ROWS):
    """A pipeline with an iterator for each epoch."""
    return lambda: source_of(extend(tf.data.Dataset.range(count).shuffle(5)))


def files_of_rows(shuffled):
    def rows_of(start):
        return tf.data.Dataset.range(4).map(lambda row: 10 * start + row)

    return shuffled.take(3).interleave(rows_of, cycle_length=2)


def concatenated(shuffled):
    more = tf.data.Dataset.range(20, 26).shuffle(6)
    return shuffled.take(6).concatenate(more).batch(3)


def zipped(shuffled):
    seeds = tf.data.Dataset.random(seed=3, rerandomize_each_iteration=True)
    both = tf.data.Dataset.zip((shuffled, seeds)).map(lambda row, seed: row * 7 + seed)
    return both.shuffle(4).batch(3)


ROUNDS = {
    "rounds of batches": rounds(lambda data: data.repeat()),
    "rounds read ahead": rounds(
        lambda data: (
            data.map(lambda row: row + 1, num_parallel_calls=2).repeat().prefetch(2)
        )
    ),
    "rounds read ahead within": rounds(lambda data: data.prefetch(2).repeat()),
    "rounds of two shuffles": rounds(lambda data: data.shuffle(3).prefetch(1).repeat()),
    "rounds of a cache": rounds(lambda data: data.cache().repeat()),
    "rounds shuffled on": rounds(lambda data: data.repeat().shuffle(3)),
}
EPOCHS = {
    "two shuffles": epochs(lambda data: data.batch(3).shuffle(3)),
    "two shuffles, read ahead": epochs(
        lambda data: data.map(lambda row: row * 2).shuffle(3).batch(3).prefetch(2)
    ),
    "three shuffles": epochs(lambda data: data.shuffle(4).batch(3).shuffle(2)),
    "shuffled files": epochs(lambda data: files_of_rows(data).shuffle(3).batch(3)),
    "one after the other": epochs(concatenated),
    "two rounds": epochs(lambda data: data.take(6).batch(3).repeat(2)),
    "two rounds of two": epochs(
        lambda data: data.take(6).batch(3).shuffle(2).prefetch(1).repeat(2)
    ),
    "cached": epochs(lambda data: data.cache().batch(3)),
    "cached, then shuffled": epochs(lambda data: data.cache().shuffle(4).batch(3)),
    "random seeds": epochs(zipped),
    "two rounds at once": epochs(lambda data: data.repeat(2).batch(7)),
    "rounds of rounds": epochs(lambda data: data.take(3).repeat(2).batch(3).repeat(2)),
}
# So little data that no state has all parts of it: they are replayed.
NEVER_WHOLE = ("one after the other", "two rounds of two", "rounds of two shuffles")


def open_data(make, made_before=0, beginning=None, drawn_before=0):
    keras.utils.set_random_seed(7)
    source = make()
    data = FitData(source)
    data.count_iterators(made_before, beginning, drawn_before=drawn_before)
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


def draw(iterator, data, count):
    drawn = []
    for _ in range(count):
        data.note_drawn(iterator)
        drawn.append(np.asarray(next(iterator)).ravel().tolist())
    return drawn


def end_epoch(source, one_iterator):
    """Make the iterator that fit makes at an epoch's end."""
    if not one_iterator:
        # What reads ahead gets to the end while the last step is under way.
        time.sleep(0.005)
        iter(source._distributed_dataset)


def go_through(source, data, epochs, *, one_iterator, iterator=None):
    """Draw epochs as fit does; known data have an iterator made at each one's end."""
    batches = []
    for _ in range(epochs):
        if iterator is None or not one_iterator:
            iterator = iter(source._distributed_dataset)
        batches += draw(iterator, data, BATCHES)
        end_epoch(source, one_iterator)
    return batches, iterator


@pytest.mark.parametrize("way", ["iterator", "replay"])
@pytest.mark.parametrize("name", [*ROUNDS, *EPOCHS])
def test_seeds_that_are_taken_on_the_way(name, way):
    """At every batch of two epochs, that one goes on and so does another."""
    one_iterator = name in ROUNDS
    make = {**ROUNDS, **EPOCHS}[name]
    source, data = open_data(make)
    whole, _ = go_through(source, data, 3, one_iterator=one_iterator)
    source, data = open_data(make)
    locator, iterator, ways = Locator(way), None, set()
    places = []
    for epoch in range(2):
        if iterator is None or not one_iterator:
            iterator, drawn = iter(source._distributed_dataset), 0
        for at in range(BATCHES):
            passed = Passed(data.iterators_made, drawn=data.iterators_drawn)
            position, tensors = locator.take(
                iterator, drawn, passed, data, largest=1_000_000
            )
            places.append((epoch * BATCHES + at, position, tensors, data.beginning))
            ways.add(position.way)
            draw(iterator, data, 1)
            drawn += 1
        end_epoch(source, one_iterator)
    assert way in ways or name in NEVER_WHOLE
    for done, position, tensors, beginning in places:
        if position.way == "iterator":
            beginning = dataclasses.replace(beginning, has_caches=True)
        source, data = open_data(
            make, position.passed.iterators - 1, beginning, position.drawn_before
        )
        iterator = iter(source._distributed_dataset)
        rewinder = Rewinder(position, iterator, data.seeds.late())
        # As a step does that makes variables, before anything is put back.
        rehearsed = int(position.drawn > 0)
        for _ in range(rehearsed):
            next(iterator)
        rewinder.restore(tensors, already_drawn=rehearsed, spare=data.spare_iterator)
        if position.drawn:
            data.note_drawn(iterator)
        rest = draw(iterator, data, BATCHES - done % BATCHES)
        end_epoch(source, one_iterator)
        more, _ = go_through(
            source, data, 1, one_iterator=one_iterator, iterator=iterator
        )
        found = rest + more
        assert found == whole[done : done + len(found)], (done, position)


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


@pytest.mark.parametrize("computed", [False, True], ids=["as they are", "mapped"])
def test_many_elements(computed):
    """Time goes by their number: more are worth it where functions make them."""

    def rows():
        numbers = tf.data.Dataset.range(4000).shuffle(4000).batch(10)
        return source_of(numbers.map(lambda x: x + 1) if computed else numbers)

    source, data = open_data(rows)
    iterator = iter(source._distributed_dataset)
    next(iterator)
    position, _ = take(iterator, 1, Passed(1), data, largest=1_000_000)
    if computed:
        assert (position.way, position.reason) == ("iterator", "")
    else:
        assert position.way == "replay"
        assert position.reason == (
            "its buffers hold 4,000 elements, over the 2,500 that "
            'data_state="auto" saves'
        )


def test_a_buffer_of_unknown_size_is_measured():
    """Batches of whatever number of rows are in it."""

    def batches():
        noise = np.random.default_rng(1).normal(size=(500, 200))
        rows = tf.data.Dataset.from_tensor_slices(noise.astype("float32"))
        return source_of(rows.batch(10).shuffle(30))

    source, data = open_data(batches)
    assert data.buffered().size is None
    iterator = iter(source._distributed_dataset)
    next(iterator)
    assert take(iterator, 1, Passed(1), data, largest=1_000_000)[0].way == "iterator"
    position, _ = take(iterator, 1, Passed(1), data, largest=100_000)
    assert (position.way, "its buffers hold" in position.reason) == ("replay", True)


@pytest.mark.parametrize("drawn", [0, 1, BATCHES - 1])
def test_a_generator_before_a_buffer_of_all_data(drawn):
    """TensorFlow gives a state late in an epoch, without the generator's."""
    generator = tf.random.Generator.from_seed(4)
    noisy = tf.data.Dataset.range(ROWS).map(lambda x: generator.uniform(()))
    source = source_of(noisy.shuffle(2 * ROWS).batch(3))
    data = FitData(source)
    iterator = iter(source._distributed_dataset)
    for _ in range(drawn):
        next(iterator)
    position, _ = take(iterator, drawn, Passed(), data)
    assert position.way == "replay"
    assert "generator" in position.reason
    assert position.drawn == drawn
