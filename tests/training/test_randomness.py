"""Generators go on with the numbers that they would have given."""

from __future__ import annotations

import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.training import randomness


@pytest.fixture(autouse=True)
def _seeded():
    """Let other tests' seeds be as they were."""
    record = randomness.capture()
    keras.utils.set_random_seed(5)
    yield
    randomness.restore(record)


def captured():
    """A record that has been on disk."""
    return json.loads(json.dumps(randomness.capture()))


GENERATORS = {
    "Python": lambda: [random.random() for _ in range(3)],
    "Python's gauss": lambda: [random.gauss(0, 1) for _ in range(3)],
    "NumPy": lambda: np.random.random(3).tolist(),
    "NumPy's normal": lambda: [np.random.normal() for _ in range(3)],
    "TensorFlow": lambda: tf.random.normal([3]).numpy().tolist(),
    "shuffled data": lambda: [
        int(x) for x in tf.data.Dataset.range(20).shuffle(20).as_numpy_iterator()
    ],
    "a new layer": lambda: keras.layers.Dense(2).kernel_initializer.seed,
}


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("before", [0, 1, 700])
def test_goes_on(name, before):
    """From any place in the stream; after others have drawn and seeds were reset."""
    draw = GENERATORS[name]
    for _ in range(before):
        random.random(), np.random.random()
    draw()
    record = captured()
    expected = [draw(), draw()]
    keras.utils.set_random_seed(6)
    draw()
    assert randomness.restore(record) == []
    assert [draw(), draw()] == expected


def test_capture_draws_nothing():
    """Looking at the generators does not move them."""
    keras.utils.set_random_seed(5)
    expected = [draw() for draw in GENERATORS.values()]
    keras.utils.set_random_seed(5)
    randomness.capture()
    assert [draw() for draw in GENERATORS.values()] == expected


def test_what_was_taken_may_be_written_down_later():
    """Whatever is drawn in the meantime, and seeds that are set anew."""
    record, taken = captured(), randomness.take()
    for draw in GENERATORS.values():
        draw()
    np.random.random(700)
    keras.utils.set_random_seed(6)
    assert json.loads(json.dumps(taken.record())) == record


def test_pythons_own_are_left_where_that_is_wanted():
    """A replay in Python has moved them to their place already."""
    record = captured()
    random.random(), np.random.random()
    state = random.getstate(), np.random.get_state()[2]
    expected = float(tf.random.uniform([]))
    # An eager op that is made again with the same seeds would go on with its own state.
    tf.random.set_seed(6)
    assert randomness.restore(record, but=randomness.OF_PYTHON) == []
    assert (random.getstate(), np.random.get_state()[2]) == state
    assert float(tf.random.uniform([])) == expected


def test_a_script_that_sets_no_seed(monkeypatch):
    """TensorFlow has no stream of seeds then; nothing is made up, nothing fails."""
    from tensorflow.python.eager import context

    unseeded = context.Context()
    monkeypatch.setattr(context, "context", lambda: unseeded)
    assert not hasattr(unseeded, "_rng")
    assert randomness.eager_seed_stream() is None
    record = captured()
    assert record["tensorflow"] is None
    assert randomness.restore(record) == []


def test_another_generator_behind_numpy():
    """Its state is of another kind: left alone, and said so."""
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(3))
        record = captured()
    finally:
        np.random.set_bit_generator(before)
    assert record["numpy"] is None
    assert randomness.restore(record) == [
        "NumPy's global generator is not an MT19937: not restored"
    ]


def test_global_generators_are_variables_of_the_checkpoint():
    """Keras' and TensorFlow's global generators go on once their state is put back."""
    keras.random.normal([1])
    tf.random.set_global_generator(tf.random.Generator.from_seed(3))
    found = dict(randomness.seed_variables())
    assert set(found) == {"random/keras_global", "random/tensorflow_global"}

    def draw():
        generator = tf.random.get_global_generator()
        return np.asarray(keras.random.normal([2])).tolist(), generator.normal([2])

    saved = {name: tf.identity(variable) for name, variable in found.items()}
    one = draw()
    assert draw()[0] != one[0]
    for name, variable in found.items():
        variable.assign(saved[name])
    other = draw()
    assert one[0] == other[0]
    np.testing.assert_array_equal(one[1], other[1])
