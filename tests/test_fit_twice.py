"""A script that calls ``fit`` twice is resumed in the one that was under way."""

from __future__ import annotations

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from loops import Crash, CrashAt, data, outcome_of, sequential
from persist_callbacks import PeriodicCheckpoint
from persist_callbacks.errors import PersistWarning

pytestmark = pytest.mark.usefixtures("deterministic", "synchronous")

FIRST, SECOND = 2 * 7, 3 * 7


def as_arrays():
    x, y = data()
    return {"x": x, "y": y, "batch_size": 8}


def as_dataset():
    dataset = tf.data.Dataset.from_tensor_slices(data()).shuffle(50).batch(8)
    return {"x": dataset}


def as_repeated():
    dataset = tf.data.Dataset.from_tensor_slices(data()).shuffle(50).repeat().batch(8)
    return {"x": dataset, "steps_per_epoch": 7}


class Shuffled(keras.utils.PyDataset):
    """Shuffles its rows at each epoch's end."""

    def __init__(self):
        super().__init__(workers=1)
        self.x, self.y = data()
        self.order = np.arange(len(self.x))
        self.random = np.random.default_rng(2)

    def __len__(self):
        return 7

    def __getitem__(self, index):
        chosen = self.order[index * 8 : (index + 1) * 8]
        return self.x[chosen], self.y[chosen]

    def on_epoch_end(self):
        self.random.shuffle(self.order)


def as_py_dataset():
    return {"x": Shuffled(), "shuffle": False}


def script(directory, source, *, fine_tune, crash_after=None):
    """Train, then train the same model on the same data in another way.

    Args:
        directory: holds a run directory for each fit; None for no callbacks of ours.
        source: makes the data, which both fits go through.
        fine_tune: whether layers are frozen and the model compiled anew in between.
        crash_after: steps of this process before it is broken off.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    model, fed = sequential(), source()
    crash = CrashAt(crash_after)
    outcomes = []
    for name, epochs in (("first", 2), ("second", 3)):
        ours = []
        if directory is not None:
            ours = [PeriodicCheckpoint(directory / name, every_steps=3, verbose=0)]
        try:
            history = model.fit(
                **fed, epochs=epochs, verbose=0, callbacks=[*ours, crash]
            )
        finally:
            for callback in ours:
                callback.close()
        outcomes.append(outcome_of(model, history))
        if fine_tune and name == "first":
            model.layers[0].trainable = False
            model.compile(
                keras.optimizers.SGD(0.01, momentum=0.9),
                "sparse_categorical_crossentropy",
                metrics=["accuracy"],
            )
    return outcomes


@pytest.mark.parametrize(
    ("source", "fine_tune", "step"),
    [
        (as_arrays, True, FIRST + 1),
        (as_dataset, False, FIRST - 2),
        (as_dataset, True, FIRST + 1),
        (as_dataset, False, FIRST + 9),
        (as_repeated, True, FIRST - 2),
        (as_repeated, False, FIRST + 1),
        (as_repeated, True, FIRST + 9),
        (as_py_dataset, False, FIRST + 1),
    ],
)
@pytest.mark.usefixtures("processes_apart")
def test_a_run_directory_for_each_fit(source, fine_tune, step, tmp_path):
    """Crashed in the first or in the second; the finished one trains nothing more."""
    expected = script(None, source, fine_tune=fine_tune)
    with pytest.raises(Crash):
        script(tmp_path, source, fine_tune=fine_tune, crash_after=step)
    found = script(tmp_path, source, fine_tune=fine_tune)
    assert found[0].history == expected[0].history
    assert found[1] == expected[1]


def test_one_run_directory_for_two_fits(tmp_path, capsys):
    """The epochs of a directory are counted once: the second fit goes on with them."""
    keras.utils.set_random_seed(3)
    run, model, fed = tmp_path / "run", sequential(), as_arrays()

    def fit(epochs):
        ours = PeriodicCheckpoint(run, verbose=1)
        return model.fit(**fed, epochs=epochs, verbose=0, callbacks=[ours])

    assert fit(2).epoch == [0, 1]
    capsys.readouterr()
    assert fit(2).epoch == [0, 1]
    assert "Nothing left to train" in capsys.readouterr().out
    assert int(model.optimizer.iterations.numpy()) == FIRST
    assert fit(3).epoch == [0, 1, 2]
    assert int(model.optimizer.iterations.numpy()) == SECOND


def test_fewer_epochs_than_there_are(tmp_path, capsys):
    """As in a loop of fits, run again: it says where the run stands, and trains on."""
    keras.utils.set_random_seed(3)
    run, model, fed = tmp_path / "run", sequential(), as_arrays()

    def fit(epochs, *callbacks):
        ours = PeriodicCheckpoint(run, every_steps=1, verbose=1)
        model.fit(**fed, epochs=epochs, verbose=0, callbacks=[ours, *callbacks])

    with pytest.raises(Crash):
        fit(2, CrashAt(11))
    capsys.readouterr()
    fit(1)
    place = "at epoch 2, batch 3, step 10, and its weights are restored"
    assert f"Nothing left to train: the run in {run} is {place}" in (
        capsys.readouterr().out
    )


def test_another_model_that_a_finished_run_leaves_untrained_is_warned_of(tmp_path):
    """As in a cross validation, whose folds would all get the weights of the first."""
    fed = as_arrays()

    def fit(model, epochs, run="run"):
        ours = PeriodicCheckpoint(tmp_path / run, verbose=0)
        model.fit(**fed, epochs=epochs, verbose=0, callbacks=[ours])
        return model

    first = fit(sequential(), 2)
    fit(sequential(), 2, "another")
    with pytest.warns(PersistWarning, match="run: the run there was finished by anot"):
        second = fit(sequential(), 2)
    np.testing.assert_equal(second.get_weights(), first.get_weights())
    fit(second, 2)
    # With more epochs it is asked for.
    fit(sequential(), 3)
    gc.collect()
    with pytest.warns(
        PersistWarning, match="at the end of epoch 3, step 21. This model gets"
    ):
        fit(sequential(), 3)


@pytest.mark.parametrize("epochs", [2, 3], ids=["nothing left", "goes on"])
def test_weights_that_a_further_fit_replaces_are_warned_of(epochs, tmp_path):
    """Nothing else would tell that training in between was in vain."""
    keras.utils.set_random_seed(3)
    run, model, fed = tmp_path / "run", sequential(), as_arrays()

    def fit(epochs):
        ours = PeriodicCheckpoint(run, verbose=0)
        best = keras.callbacks.EarlyStopping(
            "loss", patience=9, restore_best_weights=True
        )
        # What they put into the model at train end is this run's doing.
        model.fit(**fed, epochs=epochs, verbose=0, callbacks=[ours, best])

    fit(1)
    fit(2)
    left = model.get_weights()
    model.set_weights([np.zeros_like(weight) for weight in left])
    with pytest.warns(PersistWarning, match="changed since this process wrote ckpt-"):
        fit(epochs)
    assert any(weight.any() for weight in model.get_weights())
    fit(4)
