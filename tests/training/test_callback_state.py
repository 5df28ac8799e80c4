"""What callbacks decide by is taken and put back; what nobody saves is named."""

from __future__ import annotations

import json
import os
import random
from collections import deque
from threading import Lock

import keras
import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.errors import ArgumentError
from persist_callbacks.training import callback_state
from persist_callbacks.training.callback_state import CallbackState, ForgottenState


def through_json(states):
    """The states as a checkpoint gives them back."""
    return [
        CallbackState(s.kind, s.occurrence, json.loads(json.dumps(s.state)), s.about)
        for s in states
    ]


def carry_over(before, after):
    """Take the state of some callbacks and give it to others."""
    states, arrays = callback_state.capture(before)
    return callback_state.restore(after, through_json(states), arrays)


def stopping():
    callback = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    callback.on_train_begin()
    return callback


def test_early_stopping():
    """Patience, best value and best weights, the value before the first one too."""
    fresh, other = stopping(), stopping()
    assert carry_over([fresh], [other]) == []
    assert other.best == fresh.best
    old, new = stopping(), stopping()
    old.wait, old.best, old.best_epoch, old.stopped_epoch = 1, np.float32(0.1), 3, 0
    old.best_weights = [np.arange(3.0), np.float32(2)]
    assert carry_over([old], [new]) == []
    assert (new.wait, new.best_epoch, new.stopped_epoch) == (1, 3, 0)
    assert new.best == np.float32(0.1)
    assert type(new.best) is np.float32
    np.testing.assert_array_equal(new.best_weights[0], np.arange(3.0))
    assert new.best_weights[1] == np.float32(2)


def test_reduce_learning_rate():
    """Patience and cooldown."""
    old = keras.callbacks.ReduceLROnPlateau()
    new = keras.callbacks.ReduceLROnPlateau()
    old.on_train_begin(), new.on_train_begin()
    old.wait, old.cooldown_counter, old.best = 2, 1, 0.5
    assert carry_over([old], [new]) == []
    assert (new.wait, new.cooldown_counter, new.best) == (2, 1, 0.5)


def test_model_checkpoint(tmp_path):
    """The best value so far, so that a worse model does not overwrite a better one."""
    path = tmp_path / "best.keras"
    old = keras.callbacks.ModelCheckpoint(path, save_best_only=True)
    new = keras.callbacks.ModelCheckpoint(path, save_best_only=True)
    old.best, old._batches_seen_since_last_saving, old._last_batch_seen = 0.25, 3, 7
    assert carry_over([old], [new]) == []
    assert new.best == 0.25
    assert new._batches_seen_since_last_saving == 3
    assert new._last_batch_seen == 7


def test_model_checkpoint_compares_within_its_first_epoch(tmp_path):
    """By a metric that is built after its state was put back, as in a resumed run."""
    path = tmp_path / "best.weights.h5"
    options = {"save_best_only": True, "save_weights_only": True, "save_freq": 1}
    old, new = (
        keras.callbacks.ModelCheckpoint(path, monitor="accuracy", **options)
        for _ in range(2)
    )
    old.best = 0.25
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["accuracy"])
    new.set_model(model)
    new.on_epoch_begin(3)
    assert carry_over([old], [new]) == []
    model.compute_metrics(None, np.ones((4, 1)), np.ones((4, 1)))
    new.on_train_batch_end(0, {"accuracy": 0.125})
    assert not path.exists()
    new.on_train_batch_end(1, {"accuracy": 0.5})
    assert path.exists()
    new.on_epoch_end(3, {"accuracy": 0.125})
    assert new.best == 0.5


def test_model_checkpoint_of_a_value_that_nothing_knows(tmp_path):
    """Keras' own error tells what to do, as in a run that is not resumed."""
    path = tmp_path / "best.weights.h5"
    options = {"save_best_only": True, "save_weights_only": True}
    old, new = (
        keras.callbacks.ModelCheckpoint(path, monitor="score", **options)
        for _ in range(2)
    )
    if new.monitor_op is not None:
        pytest.skip("this Keras goes by the name alone")
    old.best = 0.25
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    new.set_model(model)
    assert carry_over([old], [new]) == []
    with pytest.raises(ValueError, match="Pass `mode='max'`"):
        new.on_epoch_end(3, {"score": 0.5})


def saves_by_orbax(directory):
    """Make an OrbaxCheckpoint of this Keras', where there is one."""
    pytest.importorskip("orbax.checkpoint")
    if not hasattr(keras.callbacks, "OrbaxCheckpoint"):
        pytest.skip("this Keras has no OrbaxCheckpoint")
    return keras.callbacks.OrbaxCheckpoint(
        str(directory), monitor="loss", save_best_only=True, save_freq=7
    )


def test_orbax_checkpoint(tmp_path):
    """As ModelCheckpoint; and it can tell at once whether a value is a better one."""
    old, new = (saves_by_orbax(tmp_path / name) for name in ("old", "new"))
    old.best, old._total_batches_seen, old._last_batch_seen = 0.25, 9, 1
    old._batches_seen_since_last_saving = 2
    assert carry_over([old], [new]) == []
    assert (new.best, new._total_batches_seen, new._last_batch_seen) == (0.25, 9, 1)
    assert new._batches_seen_since_last_saving == 2
    assert not new._is_improvement(0.5, new.best)
    assert new._is_improvement(0.125, new.best)
    for each in (old, new):
        each.on_train_end()


def test_every_callback_of_keras_is_known():
    """One that is new, and keeps state, would be forgotten without a word."""
    stateless = {
        "BackupAndRestore",
        "Callback",
        "CallbackList",
        "LambdaCallback",
        "LearningRateScheduler",
        "MonitorCallback",
        "ProgbarLogger",
        "RemoteMonitor",
        "TerminateOnNaN",
    }
    known = (*callback_state._ATTRIBUTES, keras.callbacks.CSVLogger)
    unknown = {
        name
        for name, kind in vars(keras.callbacks).items()
        if isinstance(kind, type) and not issubclass(kind, known)
    }
    assert unknown <= stateless


@pytest.mark.parametrize("kind", list(callback_state._ATTRIBUTES))
def test_keras_callbacks_still_have_their_attributes(kind, tmp_path):
    """A version that renames what a callback decides by fails here, by its name."""
    if kind.__name__ == "OrbaxCheckpoint":
        pytest.importorskip("orbax.checkpoint")
    options = {
        "ModelCheckpoint": {"filepath": tmp_path / "x.keras"},
        "OrbaxCheckpoint": {"directory": str(tmp_path)},
        "TensorBoard": {"log_dir": tmp_path, "write_graph": False},
    }
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True), "mse")
    callback = kind(**options.get(kind.__name__, {}))
    callback.set_params({"epochs": 1, "steps": 1, "verbose": 0})
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    for name in callback_state._ATTRIBUTES[kind]:
        assert hasattr(callback, name), f"{kind.__name__}.{name}"


class Averages(keras.callbacks.Callback):
    """A user's callback with the protocol, which goes on writing into its array."""

    def __init__(self, start=0.0):
        super().__init__()
        self.means = np.full(3, start)

    def get_state(self):
        return {"means": self.means, "n": np.int64(4), "seen": (1, 2)}

    def set_state(self, state):
        self.means, self.n, self.seen = state["means"], state["n"], state["seen"]


def test_protocol():
    """get_state and set_state; a captured array stays, whatever happens to its own."""
    old, new = Averages(1.0), Averages()
    states, arrays = callback_state.capture([old])
    old.means[:] = 9.0
    assert list(arrays) == ["callbacks/Averages/0/means"]
    assert callback_state.restore([new], through_json(states), arrays) == []
    np.testing.assert_array_equal(new.means, np.full(3, 1.0))
    assert (new.n, new.seen) == (4, (1, 2))
    assert type(new.n) is np.int64


def test_several_of_one_class_and_another_order():
    """Each is found again by its class and which of them it is."""
    old = [Averages(1.0), stopping(), Averages(2.0)]
    old[1].wait = 1
    new = [stopping(), Averages(), Averages()]
    assert carry_over(old, new) == []
    assert [c.means[0] for c in new[1:]] == [1.0, 2.0]
    assert new[0].wait == 1


def test_what_has_no_counterpart_is_said():
    """A callback that is new or gone is a sentence in the report, not an error."""
    left_out = carry_over([stopping(), Averages()], [Averages(), Averages()])
    assert left_out == [
        "Averages was not there when the checkpoint was made",
        "EarlyStopping of val_loss is not among the callbacks any more",
    ]


def saving(path, monitor, mode="auto"):
    return keras.callbacks.ModelCheckpoint(path, monitor, mode=mode)


def test_each_gets_what_was_decided_by_its_own_value(tmp_path):
    """Though another one of its class was put in front, or its file was moved."""
    one, other = tmp_path / "one.keras", tmp_path / "other.keras"
    old = [saving(one, "val_loss"), saving(other, "val_loss"), saving(one, "acc")]
    for best, each in enumerate(old):
        each.best = best
    new = [
        saving(tmp_path / "new.keras", "val_auc"),
        saving(tmp_path / "moved.keras", "acc", "max"),
        saving(other, "val_loss"),
        saving(tmp_path / "one_moved.keras", "val_loss", "min"),
    ]
    begins = new[0].best
    assert carry_over(old, new) == [
        "ModelCheckpoint of val_auc was not there when the checkpoint was made"
    ]
    assert [each.best for each in new] == [begins, 2, 1, 0]


def test_another_value_to_decide_by_begins_anew():
    """Patience and a best value of something else would mean nothing."""
    old, new, turned = (
        keras.callbacks.EarlyStopping(monitor, mode=mode)
        for monitor, mode in (("loss", "min"), ("acc", "max"), ("loss", "max"))
    )
    old.wait, old.best = 2, 0.5
    for other, name in ((new, "acc (max)"), (turned, "loss (max)")):
        other.on_train_begin()
        assert carry_over([old], [other]) == [
            f"EarlyStopping of {name} was not there when the checkpoint was made",
            "EarlyStopping of loss (min) is not among the callbacks any more",
        ]
        assert other.wait == 0


def test_a_state_that_does_not_say_what_it_is_of_goes_by_its_place():
    """As older versions have written it."""
    old, new = [stopping(), stopping()], [stopping(), stopping()]
    old[1].wait = 1
    states, arrays = callback_state.capture(old)
    states = [CallbackState(s.kind, s.occurrence, s.state) for s in states]
    assert callback_state.restore(new, states, arrays) == []
    assert [each.wait for each in new] == [0, 1]


def test_state_that_json_cannot_hold():
    """The callback and the value are named."""

    class Holds(keras.callbacks.Callback):
        def get_state(self):
            return {"model": object()}

        def set_state(self, state):
            raise AssertionError

    with pytest.raises(ArgumentError, match=r"^callbacks/.*Holds/0/model: expected"):
        callback_state.capture([Holds()])


class Counts(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.n, self.seen = 0, []


def test_forgotten_state_is_named_once():
    """Only of those that changed, that nobody saves, and that are the user's own."""
    steady, first, second = Counts(), Counts(), Counts()
    saved = Averages()
    forgotten = ForgottenState([steady, first, second, saved, stopping()])
    assert forgotten.found() == []
    first.n = 3
    saved.n = 5
    assert forgotten.found() == ["Counts"]
    assert forgotten.found() == []
    second.seen.append(1)
    assert forgotten.found() == ["Counts"]
    assert forgotten.found() == []


class Stops(keras.callbacks.EarlyStopping):
    """One of Keras' own that keeps something more."""

    def __init__(self):
        super().__init__()
        self.seen = np.zeros(3)
        self.by_name = {"a": [1]}
        self.variable = tf.Variable(1.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda callback: callback.seen.__setitem__(1, 2.0),
        lambda callback: callback.by_name["a"].append(2),
        lambda callback: callback.variable.assign(3.0),
    ],
)
def test_what_a_subclass_of_keras_own_keeps_is_missed_too(change):
    """Arrays, containers and variables; what Keras' table saves is not."""
    callback = Stops()
    forgotten = callback_state.ForgottenState([callback])
    callback.wait, callback.best = 3, 0.5
    assert forgotten.found() == []
    change(callback)
    assert forgotten.found() == ["Stops"]
    assert forgotten.found() == []


class Inner:
    """What a user's callback keeps its numbers in."""

    def __init__(self):
        self.n = 0


class Holds(keras.callbacks.Callback):
    """A callback with state of every kind, and a model whose state is saved."""

    def __init__(self):
        super().__init__()
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
        model.train_on_batch(np.ones((2, 2)), np.ones((2, 1)))
        self.set_model(model)
        self.saved = [model.optimizer.learning_rate, model.layers[0], *model.metrics]
        self.last = deque([1.0] * 3, maxlen=3)
        self.many = deque(range(300), maxlen=300)
        self.variable = keras.Variable(1.0)
        self.mean = keras.metrics.Mean()
        self.teacher = keras.models.clone_model(model)
        self.numpy = [np.random.default_rng(1), np.random.RandomState(1)]
        self.python = random.Random(1)
        self.seeds = keras.random.SeedGenerator(1)
        self.generator = tf.random.Generator.from_seed(1)
        self.inner = Inner()
        self.names = {"a", "b"}
        self.text = tf.Variable("a")
        self.best = float("nan")
        self.shared = [np.random.rand.__self__, random.random.__self__]


@pytest.mark.parametrize(
    "change",
    [
        lambda callback: callback.last.append(2.0),
        lambda callback: callback.many.append(1),
        lambda callback: callback.variable.assign(2.0),
        lambda callback: callback.mean.update_state(1.0),
        lambda callback: callback.teacher.layers[0].bias.assign([7.0]),
        lambda callback: callback.numpy[0].random(),
        lambda callback: callback.numpy[1].random(),
        lambda callback: callback.python.random(),
        lambda callback: callback.seeds.next(),
        lambda callback: callback.generator.normal([1]),
        lambda callback: vars(callback.inner).update(n=1),
        lambda callback: callback.names.add("c"),
        lambda callback: callback.text.assign("b"),
    ],
)
def test_state_of_every_kind_is_missed(change):
    """Whatever a callback keeps it in."""
    callback = Holds()
    forgotten = ForgottenState([callback])
    change(callback)
    assert forgotten.found() == ["Holds"]


def test_what_is_saved_or_equal_is_not_missed():
    """What is saved with the model or the process, and others of equal content."""
    callback = Holds()
    forgotten = ForgottenState([callback])
    callback.model.optimizer.learning_rate.assign(0.7)
    callback.model.train_on_batch(np.ones((2, 2)), np.ones((2, 1)))
    random.random(), np.random.rand()
    callback.last, callback.inner = deque([1.0] * 3, maxlen=3), Inner()
    callback.variable, callback.names = keras.Variable(1.0), {"b", "a"}
    callback.text, callback.best = tf.Variable("a"), float("nan")
    callback.numpy[0] = np.random.default_rng(1)
    assert forgotten.found() == []


def test_what_cannot_be_read_is_left_alone():
    """A print is taken of anything."""

    class Odd(random.Random):
        def getstate(self):
            raise RuntimeError

    callback = Counts()
    callback.odd, callback.itself, callback.lock = Odd(), callback, Lock()
    forgotten = ForgottenState([callback])
    assert forgotten.found() == []
    callback.n = 1
    assert forgotten.found() == ["Counts"]


def logging(name, *, append=False):
    callback = keras.callbacks.CSVLogger(str(name), append=append)
    callback.on_train_begin()
    return callback


@pytest.mark.parametrize("append", [False, True])
def test_a_log_goes_on_behind_its_rows(append, tmp_path):
    """Those after the checkpoint are taken out, and the header stands there once."""
    old = logging(tmp_path / "log")
    old.on_epoch_end(0, {"loss": 1.0})
    states, arrays = callback_state.capture([old])
    old.on_epoch_end(1, {"loss": 9.0})
    old.on_train_end()
    new = logging(tmp_path / "log", append=append)
    assert callback_state.restore([new], through_json(states), arrays) == []
    new.on_epoch_end(1, {"loss": 2.0})
    new.on_train_end()
    assert (tmp_path / "log").read_text().split() == [
        "epoch,loss,val_loss",
        "0,1.0,NA",
        "1,2.0,NA",
    ]


@pytest.mark.parametrize("becomes", ["deleted", "rotated"])
def test_a_log_that_is_taken_away_costs_its_rows_alone(becomes, tmp_path):
    """The columns are kept, the report says so, and what is there now is left alone."""
    old = logging(tmp_path / "log")
    old.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0})
    (tmp_path / "log").rename(tmp_path / "older")
    if becomes == "rotated":
        (tmp_path / "log").write_text("another's\n")
    states, arrays = callback_state.capture([old])
    new = logging(tmp_path / "log", append=True)
    assert callback_state.restore([new], through_json(states), arrays) == [
        "the rows that CSVLogger had written could not be read"
    ]
    new.on_epoch_end(1, {"loss": 2.0})
    for each in (old, new):
        each.on_train_end()
    head = "another's" if becomes == "rotated" else "epoch,loss,val_loss"
    assert (tmp_path / "log").read_text().split() == [head, "1,2.0,NA"]


def test_a_log_into_a_pipe_has_no_rows_to_keep(tmp_path):
    """To open it for reading would wait for a writer; nor can it be cut."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    before, after = logging(tmp_path / "log"), logging(tmp_path / "pipe")
    assert carry_over([before], [after]) == []
    after.on_epoch_end(0, {"loss": 1.0})
    states, _ = callback_state.capture([after])
    assert states[0].state == {"keys": ["loss", "val_loss"], "text": None}
    for each in (before, after):
        each.on_train_end()
    assert os.read(reader, 999).split() == [b"epoch,loss,val_loss", b"0,1.0,NA"]
    os.close(reader)


class OwnBoard(keras.callbacks.TensorBoard):
    """Writes by itself, and has nothing to do with the writers of Keras' own."""

    def on_train_begin(self, logs=None):
        self._global_train_batch = 0

    def on_train_batch_begin(self, batch, logs=None):
        self._global_train_batch += 1


@pytest.mark.parametrize("kind", [OwnBoard, keras.callbacks.TensorBoard])
def test_a_tensorboard_that_has_no_writer_yet_is_put_back(kind, tmp_path):
    boards = [kind(tmp_path, update_freq=2) for _ in range(2)]
    boards[0]._global_train_batch = 7
    states, arrays = callback_state.capture(boards[:1])
    assert not callback_state.restore(boards[1:], states, arrays, step_has_begun=True)
    assert boards[1]._global_train_batch == 7


def test_variables_of_callbacks_that_keep_their_state_are_theirs():
    """In the callback itself, in what it holds, and nothing of other callbacks."""

    class Holds(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.beta = tf.Variable(0.0)
            self.rest = {"noise": keras.random.SeedGenerator(1), "mean": [mean]}

    class Keeps(Holds):
        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    mean = keras.metrics.Mean()
    keeps = Keeps()
    expected = [keeps.beta, keeps.rest["noise"].state.value]
    expected += [each.value for each in mean.variables]
    assert callback_state.ids_of_kept([Holds(), keeps]) == set(map(id, expected))
