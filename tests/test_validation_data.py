"""Validation data go on where they were, as those that are trained on do."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from loops import CLASSES, FEATURES, Crash, data, train, train_with_crashes
from persist_callbacks.storage.store import Store

pytestmark = pytest.mark.usefixtures("deterministic", "synchronous")


def linear():
    """The least that trains."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


class Rows(keras.utils.PyDataset):
    """Three batches, with a random generator of its own."""

    def __init__(self):
        super().__init__(workers=1)
        self.x, self.y = data()
        self.random = np.random.RandomState(2)
        self.order = np.arange(50)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        chosen = self.order[index * 8 : (index + 1) * 8]
        return self.x[chosen], self.y[chosen]


class Shuffles(Rows):
    """Draws at each epoch's end."""

    def on_epoch_end(self):
        self.random.shuffle(self.order)


class Draws(Rows):
    """Draws for each batch."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + self.random.normal(size=x.shape).astype("float32"), y


def noisy_dataset():
    random = tf.random.Generator.from_seed(5)
    rows = tf.data.Dataset.from_tensor_slices(data()).take(20)
    return rows.map(lambda x, y: (x + random.normal((FEATURES,)), y)).batch(8)


def reshuffled():
    return tf.data.Dataset.from_tensor_slices(data()).shuffle(50).take(24).batch(8)


def repeated():
    return tf.data.Dataset.from_tensor_slices(data()).shuffle(50).repeat().batch(8)


def known_length():
    return tf.data.Dataset.from_tensor_slices(data()).batch(8)


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (Shuffles, {}),
        (Draws, {}),
        (noisy_dataset, {}),
        (reshuffled, {}),
        (repeated, {"validation_steps": 2}),
        (known_length, {"validation_steps": 2}),
    ],
    ids=[
        *("PyDataset shuffles", "PyDataset draws", "generator in map"),
        *("reshuffled", "repeated", "known length, some steps"),
    ],
)
def test_crashes_leave_no_trace(make, options, tmp_path):
    """In the second epoch, after its validation, and in the third."""

    def fit(model, callbacks):
        x, y = data()
        return model.fit(
            x,
            y,
            batch_size=8,
            epochs=5,
            verbose=0,
            callbacks=callbacks,
            validation_data=make(),
            **options,
        )

    expected = train(linear, fit, None)
    found = train_with_crashes(linear, fit, tmp_path / "run", [10, 6, 4], every_steps=3)
    assert found == expected


def parts_of_one(ways):
    """The usual split; each iterator over either part takes seeds of the whole."""
    whole = tf.data.Dataset.from_tensor_slices(data()).shuffle(50)
    return {
        "split": (whole.take(24).batch(8), whole.skip(24).batch(8)),
        "the same": (whole.batch(8).prefetch(2), whole.batch(8)),
        "one cache": (
            (cached := whole.cache()).skip(24).shuffle(9).batch(8),
            cached.take(24).batch(8),
        ),
        "shuffled again": (whole.take(24).shuffle(9).batch(8), whole.skip(24).batch(8)),
    }[ways]


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("way", ["iterator", "replay"])
@pytest.mark.parametrize("parts", ["split", "the same", "one cache", "shuffled again"])
def test_parts_of_one_shuffled_data_set(parts, way, tmp_path):
    """After a first validation, after two, and within the first epoch."""

    def fit(model, callbacks):
        rows, validation_data = parts_of_one(parts)
        return model.fit(
            rows,
            epochs=5,
            verbose=0,
            callbacks=callbacks,
            validation_data=validation_data,
        )

    expected = train(linear, fit, None)
    found = train_with_crashes(
        linear, fit, tmp_path / "run", [2, 9, 5], every_steps=2, data_state=way
    )
    assert found == expected


class CrashInValidation(keras.callbacks.Callback):
    """Raises at the second batch of the first validation that it sees."""

    def on_test_batch_end(self, batch, logs=None):
        if batch:
            raise Crash


@pytest.mark.parametrize("make", [reshuffled, noisy_dataset, Draws])
def test_stopped_in_the_first_validation_after_a_resume(make, tmp_path):
    """No iterator over its data is made here yet: those made before count already."""

    def fit(model, callbacks):
        rows = tf.data.Dataset.from_tensor_slices(data()).shuffle(50).batch(8)
        return model.fit(
            rows, epochs=4, verbose=0, callbacks=callbacks, validation_data=make()
        )

    run, options = tmp_path / "run", {"every_steps": 3}
    expected = train(linear, fit, None)
    with pytest.raises(Crash):
        train(linear, fit, run, crash_after=10, **options)
    with pytest.raises(Crash):
        train(linear, fit, run, callbacks=[CrashInValidation()], **options)
    newest = Store.open_for_reading(run).newest_sound().committed
    assert newest.record.position.step == 14
    assert train(linear, fit, run, **options) == expected
