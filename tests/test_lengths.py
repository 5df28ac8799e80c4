"""Where an epoch ends, of data whose length fit does not know or was told wrongly."""

from __future__ import annotations

import functools

import keras
import pytest
import tensorflow as tf

from loops import CLASSES, FEATURES, Crash, data, train, train_with_crashes
from persist_callbacks.storage.store import Store

pytestmark = [
    pytest.mark.usefixtures("deterministic", "synchronous", "processes_apart"),
    pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning"),
]
BATCHES = 7


def linear():
    """The least that trains."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def slices(rows=50):
    return tf.data.Dataset.from_tensor_slices(data(rows)).shuffle(50)


def unknown(rows=50):
    return slices(rows).filter(lambda row, label: row[0] > -9.0).batch(8)


def feeding(make, *, epochs=2, **more):
    """Return a script's fit on the data that are made for it."""

    def fit(model, callbacks):
        more.setdefault("verbose", 0)
        return model.fit(make(), epochs=epochs, callbacks=callbacks, **more)

    return fit


def steps_of(run):
    return Store.open_for_reading(run).find("latest").record.position.step


class Stops(keras.callbacks.Callback):
    """Tells fit to stop, as one does that has reached its goal or its time."""

    def __init__(self, *, epoch, batch=None):
        super().__init__()
        self._at, self._epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == self._at:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, None) == self._at:
            self.model.stop_training = True

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


@pytest.mark.parametrize(
    ("make", "more"),
    [
        (unknown, {}),
        (lambda: slices().batch(8), {"steps_per_epoch": 9}),
        (unknown, {"steps_per_epoch": 9}),
    ],
    ids=["unknown", "fewer than asked for", "fewer and unknown"],
)
def test_stopped_at_an_epochs_end_a_run_is_finished(make, more, tmp_path):
    """Though it ends before as many batches as fit has thought that there are."""
    fit = feeding(make, epochs=9, **more)
    stops = [Stops(epoch=2)]
    found = train(linear, fit, tmp_path, callbacks=stops, every_steps=5)
    newest = Store.open_for_reading(tmp_path).find("latest").record
    assert (newest.position.step, newest.finished) == (3 * BATCHES, True)
    assert train(linear, fit, tmp_path, callbacks=stops, every_steps=5) == found


@pytest.mark.parametrize("epoch", [0, 1])
def test_stopped_within_an_epoch_a_run_goes_on_with_it(epoch, tmp_path):
    """In the first one too, when nobody knows yet how long it would have been."""
    fit = feeding(unknown)
    stops = [Stops(epoch=epoch, batch=3)]
    train(linear, fit, tmp_path, callbacks=stops, every_steps=2)
    found = train(linear, fit, tmp_path, every_steps=2)
    assert found == _uninterrupted()


class Batches(keras.utils.PyDataset):
    """Are shuffled by Keras."""

    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        return tuple(part[rows] for part in data())


class CrashesInValidation(keras.callbacks.Callback):
    def on_test_end(self, logs=None):
        if int(self.model.optimizer.iterations) >= BATCHES:
            raise Crash


@pytest.mark.parametrize("make", [unknown, Batches])
def test_killed_in_the_validation_after_the_data_ran_out(make, tmp_path):
    """The epochs that follow are as long as they would have been, and in that order."""
    validation = tf.data.Dataset.from_tensor_slices(data(16)).batch(8)
    more = {"steps_per_epoch": 5, "validation_data": validation}
    fit = feeding(make, epochs=4, **more)
    expected = train(linear, fit, None)
    crashes = [CrashesInValidation()]
    with pytest.raises(Crash):
        train(linear, fit, tmp_path, callbacks=crashes, every_epochs=1)
    assert steps_of(tmp_path) == BATCHES
    assert train(linear, fit, tmp_path, every_epochs=1) == expected


@pytest.mark.parametrize("make", [lambda: slices().batch(8), Batches])
def test_a_finished_run_whose_epochs_are_whole_rounds(make, tmp_path):
    """Its next epoch begins with the next iterator, and not with the one used up."""
    more = {"steps_per_epoch": BATCHES}
    expected = train(linear, feeding(make, epochs=4, **more), None)
    train(linear, feeding(make, epochs=2, **more), tmp_path)
    assert train(linear, feeding(make, epochs=4, **more), tmp_path) == expected


@functools.cache
def _uninterrupted():
    return train(linear, feeding(unknown), None)


def test_a_length_that_is_told_later(tmp_path):
    """It is not held against what fit had found, one more than there are."""
    options = {"every_steps": 3, "data_state": "replay"}
    with pytest.raises(Crash):
        train(linear, feeding(unknown), tmp_path, crash_after=10, **options)
    told = tf.data.experimental.assert_cardinality(BATCHES)
    fit = feeding(lambda: unknown().apply(told))
    found = train(linear, fit, tmp_path, **options)
    # fit counts a step more where it looks for an end: the optimizer differs.
    assert found.history == _uninterrupted().history


def test_a_finished_run_goes_on_with_all_data_that_there_are_by_now(tmp_path):
    """Neither as many as there were, nor as many as it was told to take."""
    train(linear, feeding(lambda: unknown(40), epochs=1), tmp_path / "grown")
    train(linear, feeding(lambda: unknown(80)), tmp_path / "grown")
    assert steps_of(tmp_path / "grown") == 5 + 10

    few = feeding(lambda: unknown(80), epochs=1, steps_per_epoch=3)
    train(linear, few, tmp_path / "tried")
    train(linear, feeding(lambda: unknown(80), epochs=3), tmp_path / "tried")
    # The iterator that was in use comes to its end first.
    assert steps_of(tmp_path / "tried") == 3 + 7 + 10


@pytest.mark.parametrize("epochs", [2, 3], ids=["nothing left", "goes on"])
def test_a_finished_run_whose_pipeline_is_another_by_now(epochs, tmp_path, capsys):
    """It has no use for the state of the old one's shuffling, and says so."""
    train(linear, feeding(lambda: slices().batch(8)), tmp_path)

    def augmented():
        return slices().batch(8).map(lambda row, label: (1.1 * row, label)).prefetch(2)

    other = feeding(augmented, epochs=epochs)
    train(linear, other, tmp_path, verbose=1)
    assert steps_of(tmp_path) == BATCHES * epochs
    said = "not restored: the state of the data's shuffling, which is another"
    assert (said in capsys.readouterr().out) == (epochs == 3)


def test_data_that_have_grown_in_the_midst_of_a_run_are_told_of(tmp_path, capsys):
    """As fit ends each epoch where its first one has, and a resumed one does so too."""
    options = {"every_epochs": 1, "data_state": "replay", "verbose": 1}
    with pytest.raises(Crash):
        fit = feeding(lambda: unknown(40))
        train(linear, fit, tmp_path, crash_after=7, **options)
    fit = feeding(lambda: unknown(80), epochs=3)
    train(linear, fit, tmp_path, **options)
    assert steps_of(tmp_path) == 5 + 6 + 6
    told = "Resumed: an epoch ends after 6 batches, as fit has learnt"
    assert capsys.readouterr().out.count(told) == 1


def lengths():
    """Make data that are of another length each epoch."""
    rows = slices().batch(4)
    return rows.filter(lambda row, label: tf.reduce_sum(row[:, 0]) > 0.0)


@pytest.mark.parametrize("crashes", [[7], [12], [18]])
def test_epochs_of_another_length_each(crashes, tmp_path):
    """They end where they would have, which the first one decides."""
    fit = feeding(lengths, epochs=4)
    expected = train(linear, fit, None)
    found = train_with_crashes(linear, fit, tmp_path, crashes, every_epochs=1)
    assert found == expected
