"""PeriodicCheckpoint in a real fit: when it saves, what stays, what it says."""

from __future__ import annotations

import gc
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from loops import CLASSES, FEATURES, Crash, CrashAt, data
from persist_callbacks import PeriodicCheckpoint, resume, saving
from persist_callbacks.checkpointed_run import CheckpointedRun
from persist_callbacks.errors import (
    ArgumentError,
    ModelNotBuilt,
    ModelNotCompiled,
    NothingToResume,
    PersistWarning,
    RunLocked,
    SaveFailed,
    UnexpectedRun,
)
from persist_callbacks.recovery import Recovery
from persist_callbacks.storage.store import Store
from persist_callbacks.storage.writer import THREAD_NAME
from persist_callbacks.training import model_building
from persist_callbacks.watchers import Ec2Spot


def linear(**more):
    """The least that trains: two variables."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, **more)
    return model


def fit(model, *callbacks, epochs=2, **more):
    """Two epochs of seven steps."""
    x, y = data()
    return model.fit(
        x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks, **more
    )


def ours(path, **options):
    options.setdefault("verbose", 0)
    return PeriodicCheckpoint(path, **options)


def journal(run, event=None):
    events = Store.open_for_reading(run).journal()
    return [each for each in events if event in (None, each["event"])]


def saved_steps(run):
    return [int(each["checkpoint"][5:]) for each in journal(run, "saved")]


def kept_steps(run):
    return [
        each.record.position.step for each in Store.open_for_reading(run).checkpoints()
    ]


class Scripted(keras.callbacks.Callback):
    """Puts given values into the logs of the epochs, before ours reads them."""

    def __init__(self, *values, name="score"):
        super().__init__()
        self._values, self._name = values, name

    def on_epoch_end(self, epoch, logs=None):
        logs[self._name] = self._values[epoch]


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("every_steps", 0, "a whole number of 1 or more, or None"),
        ("every_steps", 2.5, "a whole number of 1 or more, or None"),
        ("every_steps", True, "a whole number of 1 or more, or None"),
        ("every_epochs", -1, "a whole number of 1 or more, or None"),
        ("every_seconds", 0, "a number above 0, or None"),
        ("every_seconds", float("nan"), "a number above 0, or None"),
        ("every_seconds", "60", "a number above 0, or None"),
        ("max_overhead", 1.0, "a number above 0 and below 1, or None"),
        ("max_overhead", 0, "a number above 0 and below 1, or None"),
        ("keep_last", 0, "a whole number of 1 or more"),
        ("keep_last", None, "a whole number of 1 or more"),
        ("keep_best", -1, "a whole number of 0 or more"),
        ("keep_every_seconds", 0, "a number of seconds, 0.001 or more, or None"),
        ("keep_every_seconds", 1e-320, "a number of seconds, 0.001 or more, or None"),
        ("mode", "lower", "one of 'auto', 'min', 'max'"),
        ("resume", True, "one of 'auto', 'must', 'never'"),
        ("on_error", "ignore", "one of 'warn', 'raise'"),
        ("data_state", "count", "one of 'auto', 'iterator', 'replay'"),
        ("verbose", 3, "one of 0, 1, 2"),
        ("save_on_signal", "SIGTERM", "one of True, False"),
        ("mode", [1, 2], "one of 'auto', 'min', 'max'"),
        ("monitor", 5, "the name of a value in Keras' logs, or None"),
        ("monitor", ["loss"], "the name of a value in Keras' logs, or None"),
        ("watchers", None, "a list of objects with seconds and notice()"),
        ("watchers", "ec2", "a list of objects with seconds and notice()"),
        ("watchers", [5], "a list of objects with seconds and notice()"),
        ("watchers", Ec2Spot(), "a list of objects with seconds and notice()"),
    ],
)
def test_arguments_are_refused_by_name(argument, value, expected, tmp_path):
    """A value that an argument cannot have is an error at construction."""
    with pytest.raises(ArgumentError) as raised:
        PeriodicCheckpoint(tmp_path / "run", **{argument: value})
    assert str(raised.value).startswith(
        f"{argument}: expected {expected}, found {value!r}. "
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [np.int64(5), np.float32(0.5), np.float64(0.5)])
def test_numbers_of_numpy_are_numbers(number, tmp_path):
    """For every argument that takes one."""
    options = dict.fromkeys(
        ("every_seconds", "keep_every_seconds", "grace_seconds"), number
    )
    PeriodicCheckpoint(tmp_path, rollback_learning_rate=number, **options)
    for argument in ("keep_every_seconds", "grace_seconds", "rollback_learning_rate"):
        for wrong in (np.float32("nan"), np.int64(0), np.bool_(True)):
            with pytest.raises(ArgumentError, match=f"^{argument}: expected a number"):
                PeriodicCheckpoint(tmp_path, **{argument: wrong})


def test_a_directory_that_no_system_takes_is_refused():
    """Before fit, where the system would refuse it without saying what it was for."""
    with pytest.raises(ArgumentError, match=r"^directory: .* null"):
        PeriodicCheckpoint("runs\0digits")


@pytest.mark.usefixtures("synchronous")
def test_numpy_integers_are_whole_numbers(tmp_path):
    """As whoever computes an argument may give them."""
    given = ours(tmp_path / "run", every_steps=np.int64(5), keep_last=np.int64(2))
    fit(linear(), given)
    assert kept_steps(tmp_path / "run") == [10, 14]


@pytest.mark.parametrize(
    ("options", "fit_options", "compile_options", "expected"),
    [
        ({"every_steps": 3}, {}, {}, [3, 6, 9, 12, 14]),
        ({"every_steps": 7}, {}, {}, [7, 14]),
        ({"every_steps": 100}, {}, {}, [14]),
        ({"every_epochs": 1}, {"epochs": 3}, {}, [7, 14, 21]),
        ({"every_epochs": 2}, {"epochs": 5}, {}, [14, 28, 35]),
        ({"every_steps": 5, "every_epochs": 1}, {}, {}, [5, 7, 12, 14]),
        ({"every_seconds": 1e-9}, {"epochs": 1}, {}, [1, 2, 3, 4, 5, 6, 7]),
        ({"every_seconds": 1e6}, {}, {}, [14]),
        # Executions end at 3, 6, 7 (the last one is short), 10, 13, 14.
        ({"every_steps": 2}, {}, {"steps_per_execution": 3}, [3, 6, 10, 13, 14]),
        ({"every_steps": 4}, {}, {"steps_per_execution": 3}, [6, 10, 14]),
        ({"every_epochs": 1}, {}, {"steps_per_execution": 3}, [7, 14]),
        # One save costs more than one in a million of so short a run.
        ({"every_steps": 1, "max_overhead": 1e-6}, {}, {}, [14]),
    ],
)
@pytest.mark.usefixtures("synchronous")
def test_triggers_are_kept_exactly(
    options, fit_options, compile_options, expected, tmp_path
):
    """Which steps were saved, the last one included, by the run's own journal."""
    run = tmp_path / "run"
    fit(linear(**compile_options), ours(run, **options), **fit_options)
    steps = saved_steps(run)
    assert steps == expected
    assert [each["reason"] for each in journal(run, "saved")][-1] == "finished"
    newest = Store.open_for_reading(run).find("latest").record
    assert newest.finished
    assert newest.position.batch == 0
    assert newest.position.step == expected[-1]


@pytest.mark.usefixtures("synchronous")
def test_optimizer_counts_the_steps_that_the_position_names(tmp_path):
    """With several steps an execution too, step is what the optimizer has done."""
    run = tmp_path / "run"
    model = linear(steps_per_execution=3)
    fit(model, ours(run, every_steps=1, keep_last=100))
    for each in Store.open_for_reading(run).checkpoints():
        reader = tf.train.load_checkpoint(each.prefix)
        assert reader.get_tensor("sgd/iteration") == each.record.position.step


@pytest.mark.usefixtures("synchronous")
def test_keep_last(tmp_path):
    """Older checkpoints go as newer ones come, and the journal says which."""
    run = tmp_path / "run"
    fit(linear(), ours(run, every_steps=2, keep_last=2))
    assert kept_steps(run) == [12, 14]
    pruned = [name for each in journal(run, "saved") for name in each["pruned"]]
    assert [int(name[5:]) for name in pruned] == [2, 4, 6, 8, 10]


@pytest.mark.usefixtures("synchronous")
def test_best_survives_and_a_worse_one_does_not_replace_it(tmp_path):
    """Over a restart too, where most savers forget what the best one was."""
    run = tmp_path / "run"

    def go(*values, epochs):
        options = {"every_epochs": 1, "keep_last": 1, "monitor": "score", "mode": "min"}
        fit(linear(), ours(run, **options), Scripted(*values), epochs=epochs)
        best = Store.open_for_reading(run).find("best").record
        return kept_steps(run), best.position.step, best.score.value

    assert go(0.5, 0.25, 0.75, epochs=3) == ([14, 21], 14, 0.25)
    # Worse than the best of the first process, better than the last.
    values = [None] * 3
    assert go(*values, 0.3, 0.6, epochs=5) == ([14, 35], 14, 0.25)
    values = [None] * 5
    assert go(*values, 0.125, 0.9, epochs=7) == ([42, 49], 42, 0.125)


@pytest.mark.usefixtures("synchronous")
def test_an_improvement_is_saved_whatever_the_triggers(tmp_path):
    """A best epoch is not lost because no trigger fell on it; mode goes by the name."""
    run = tmp_path / "run"
    callback = ours(run, every_steps=1000, monitor="score", keep_last=1)
    fit(linear(), callback, Scripted(0.5, 0.75, 0.6, 0.75, 0.1), epochs=5)
    saved = [(int(e["checkpoint"][5:]), e["reason"]) for e in journal(run, "saved")]
    # "score" is better when it is higher; an equal value is no improvement.
    assert saved == [(7, "best"), (14, "best"), (35, "finished")]
    assert kept_steps(run) == [14, 35]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every_epochs": 1}, {7, 14, 21, 28}),
        ({"monitor": "score", "mode": "min"}, {7, 14, 28}),
    ],
)
def test_a_busy_writer_swallows_no_epoch(options, expected, tmp_path, monkeypatch):
    """Nor the best one, though steps that can wait ask for the same boundary."""
    write, begin = saving.write, threading.Event()

    def held_up(*arguments):
        # From each boundary in an epoch to the epoch's end, which waits for it.
        begin.wait(60)
        return write(*arguments)

    wait = saving.Saver.wait

    def release_and_wait(saver):
        begin.set()
        wait(saver)
        begin.clear()

    monkeypatch.setattr(saving, "write", held_up)
    monkeypatch.setattr(saving.Saver, "wait", release_and_wait)
    callback = ours(tmp_path, every_steps=1, keep_last=99, **options)
    fit(linear(), callback, Scripted(3.0, 1.0, 2.0, 2.0), epochs=4)
    assert expected <= set(kept_steps(tmp_path))


def test_monitor_that_is_not_in_the_logs(tmp_path):
    """A misspelt monitor is said once, with what there is."""
    with pytest.warns(
        PersistWarning,
        match=r"monitor='val_los' is not a number in the logs.*: loss\. No",
    ) as caught:
        fit(linear(), ours(tmp_path / "run", monitor="val_los"), epochs=3)
    assert len([w for w in caught if w.category is PersistWarning]) == 1


def test_an_epoch_without_validation_lacks_no_monitor(tmp_path):
    """Where fit validates in every second one; a misspelt one is said after that."""
    validates = {"validation_data": data(), "validation_freq": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error", PersistWarning)
        fit(linear(), ours(tmp_path / "run", monitor="val_loss"), **validates)
    with pytest.warns(PersistWarning, match="which has: loss, val_loss"):
        fit(linear(), ours(tmp_path / "other", monitor="val_los"), **validates)


@pytest.mark.usefixtures("synchronous")
def test_a_metric_of_keras_knows_which_value_is_better(tmp_path):
    """The best one by mode="auto" is what Keras' own callbacks take for it."""
    metric = keras.metrics.MeanMetricWrapper(lambda y, scores: y, name="hits")
    metric._direction = "up"
    callback = ours(tmp_path, every_epochs=1, keep_last=1, monitor="hits")
    scripted = Scripted(0.2, 0.9, 0.5, name="hits")
    fit(linear(metrics=[metric]), callback, scripted, epochs=3)
    assert Store.open_for_reading(tmp_path).find("best").record.position.step == 14


def test_resume_must_and_never(tmp_path):
    """Neither mistake costs a run: both are errors before the first step."""
    run = tmp_path / "run"
    with pytest.raises(
        NothingToResume, match=f'{run}: expected .* resume="must", found'
    ):
        fit(linear(), ours(run, resume="must"))
    assert not run.exists()
    first = ours(run, resume="never")
    fit(linear(), first)
    assert first.resume_point is None
    before = journal(run)
    with pytest.raises(UnexpectedRun, match='resume="never", found ckpt-000000014'):
        fit(linear(), ours(run, resume="never"))
    assert journal(run) == before
    again = ours(run, resume="must")
    fit(linear(), again, epochs=3)
    assert again.resume_point.step == 14
    assert again.resume_point.epoch == 2
    assert saved_steps(run) == [14, 21]


class InTheWay(keras.callbacks.Callback):
    """Puts a file in the run directory's place, and takes it away again."""

    def __init__(self, run, *, at, until=None):
        super().__init__()
        self._run, self._at, self._until = run, at, until
        self._step = 0

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_train_batch_begin(self, batch, logs=None):
        aside = self._run.with_name("aside")
        if self._step == self._at:
            self._run.rename(aside)
            self._run.write_text("in the way")
        if self._step == self._until:
            self._run.unlink()
            aside.rename(self._run)
        self._step += 1


class Unwritable(keras.callbacks.Callback):
    """Its state is nothing that JSON can hold, until so many steps are done."""

    def __init__(self, steps):
        super().__init__()
        self._steps, self._done = steps, 0

    def on_train_batch_end(self, batch, logs=None):
        self._done += 1

    def get_state(self):
        return {"seen": {1, 2} if self._done < self._steps else [1, 2]}

    def set_state(self, state):
        pass


@pytest.mark.parametrize(("until", "kept"), [(9, [10, 14]), (99, [])])
@pytest.mark.usefixtures("synchronous")
def test_a_state_that_cannot_be_taken_ends_nothing(until, kept, tmp_path):
    """Be it at a step, before a validation, or at the end of the last epoch."""
    run, (x, y) = tmp_path / "run", data()
    model = linear()
    with pytest.warns(PersistWarning, match="Unwritable.0.seen"):
        model.fit(
            *(x, y),
            epochs=2,
            batch_size=8,
            verbose=0,
            validation_data=(x, y),
            callbacks=[Unwritable(until), ours(run, every_steps=5, keep_last=9)],
        )
    assert kept_steps(run) == kept
    assert int(model.optimizer.iterations.numpy()) == 14


def test_a_run_goes_on_without_its_journal(tmp_path):
    """Something else has its name: warned of, and no reason not to resume."""
    fit(linear(), ours(tmp_path), epochs=1)
    (tmp_path / "journal.jsonl").unlink()
    (tmp_path / "journal.jsonl").mkdir()
    again = ours(tmp_path)
    with pytest.warns(PersistWarning, match="journal") as warned:
        fit(linear(), again, epochs=2)
    assert any("goes on without its journal" in str(each.message) for each in warned)
    assert again.resume_point.step == 7
    assert kept_steps(tmp_path) == [7, 14]


def test_two_of_them_in_one_fit_are_refused(tmp_path):
    """Each would answer for steps that the other has passed."""
    both = [ours(tmp_path / "one"), ours(tmp_path / "other")]
    with pytest.raises(ArgumentError, match="one PeriodicCheckpoint in a fit") as found:
        fit(linear(), *both)
    assert str(tmp_path / "other") in str(found.value)
    assert not (tmp_path / "one").exists()


@pytest.mark.usefixtures("synchronous")
def test_a_failed_save_is_warned_of_and_tried_again(tmp_path):
    """The run directory away for a while costs those checkpoints, and not the run."""
    run = tmp_path / "run"
    callback = ours(run, every_steps=2, keep_last=100)
    model = linear()
    with pytest.warns(PersistWarning) as caught:
        fit(model, InTheWay(run, at=3, until=7), callback)
    messages = [str(w.message) for w in caught if w.category is PersistWarning]
    assert len(messages) == 2
    for message in messages:
        assert message.startswith(f"{run}: expected to write a checkpoint, found ")
        assert "newest safe checkpoint of this session is ckpt-000000002" in message
        assert message.endswith("The next trigger tries again.")
    assert kept_steps(run) == [2, 8, 10, 12, 14]
    assert int(model.optimizer.iterations.numpy()) == 14


@pytest.mark.usefixtures("synchronous")
def test_a_failed_save_stops_training_where_that_is_wanted(tmp_path):
    """on_error="raise" ends fit at the next step, and says what the cause was."""
    run = tmp_path / "run"
    model = linear()
    with pytest.raises(SaveFailed) as raised:
        fit(model, InTheWay(run, at=3), ours(run, every_steps=2, on_error="raise"))
    message = str(raised.value)
    assert message.startswith(f"{run}: expected to write a checkpoint, found {run}/")
    assert "Not a directory" in message
    assert message.endswith(
        "session is ckpt-000000002. Run the script again when the cause is gone."
    )
    assert int(model.optimizer.iterations.numpy()) == 5
    # What was saved before is still there, and training goes on from it.
    run.unlink()
    (tmp_path / "aside").rename(run)
    again = ours(run, every_steps=2, on_error="raise")
    fit(model, again)
    assert again.resume_point.step == 2
    assert int(model.optimizer.iterations.numpy()) == 14


@pytest.mark.usefixtures("synchronous")
def test_the_cause_is_chained(tmp_path):
    """In a loop of the user's own, where Keras does not cut causes off."""
    run = tmp_path / "run"
    callback = ours(run, every_steps=2, on_error="raise")
    with pytest.raises(SaveFailed) as raised:
        own_loop(linear(), callback, InTheWay(run, at=3))
    assert isinstance(raised.value.__cause__, SaveFailed)
    assert isinstance(raised.value.__cause__.__cause__, OSError)


class Deleted(keras.callbacks.Callback):
    """Deletes the run directory before a batch of the first epoch."""

    def __init__(self, run):
        super().__init__()
        self._run = run

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 3 and self._run.exists():
            shutil.rmtree(self._run)
            self._run = Path(os.devnull)


@pytest.mark.usefixtures("synchronous")
def test_the_next_save_makes_a_deleted_run_directory_again(tmp_path):
    """Whoever deletes the run's folder loses what was in it, and no more."""
    run = tmp_path / "run"
    with pytest.warns(PersistWarning, match="made again"), pytest.raises(Crash):
        fit(linear(), Deleted(run), ours(run, every_steps=2), CrashAt(9))
    assert kept_steps(run) == [4, 6, 8]
    again = ours(run, every_steps=2)
    fit(linear(), again)
    assert again.resume_point.step == 8


def test_a_link_to_the_latest_run_is_followed_once(tmp_path):
    """Pointed at the next run, it takes nothing there of the one that trains yet."""
    latest = tmp_path / "latest"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    latest.symlink_to("one", target_is_directory=True)

    def point_away(epoch, logs):
        latest.unlink()
        latest.symlink_to("two", target_is_directory=True)

    callback = ours(latest, every_epochs=1)
    away = keras.callbacks.LambdaCallback(on_epoch_end=point_away)
    fit(linear(), away, callback)
    assert callback.run_directory == tmp_path / "one"
    assert kept_steps(tmp_path / "one") == [7, 14]
    assert not list((tmp_path / "two").iterdir())


@pytest.mark.usefixtures("synchronous")
def test_a_failure_of_the_last_save_is_not_lost(tmp_path):
    """At train end no later trigger comes, so the failure is told then."""
    run = tmp_path / "run"
    callback = ours(run, every_steps=100, on_error="raise")
    with pytest.raises(SaveFailed, match=r"newest safe checkpoint .* is none yet"):
        fit(linear(), InTheWay(run, at=3), callback)


@pytest.mark.usefixtures("synchronous")
def test_journal(tmp_path):
    """One line an event, with what a reader needs to follow the run."""
    run = tmp_path / "run"
    with pytest.raises(Crash):
        fit(linear(), ours(run, every_steps=3), CrashAt(8))
    again = ours(run, every_steps=3)
    fit(linear(), again)
    events = journal(run)
    assert [each["event"] for each in events] == [
        *["saved"] * 2,
        "resumed",
        *["saved"] * 3,
    ]
    assert {each["run_id"] for each in events} == {
        json.loads((run / "run.json").read_text())["run_id"]
    }
    saved, resumed = events[0], events[2]
    assert set(saved) == {
        *("time", "event", "run_id", "checkpoint"),
        *("reason", "size", "written", "seconds", "pruned"),
    }
    assert saved["reason"] == "steps"
    position = [resumed[key] for key in ("checkpoint", "epoch", "batch", "step")]
    assert position == ["ckpt-000000006", 0, 6, 6]
    assert resumed["restored"][0].startswith("2 model + 2 optimizer")
    assert resumed["not_restored"] == []
    assert again.resume_point.as_event().items() <= resumed.items()


class Forgetful(keras.callbacks.Callback):
    """Counts batches, and tells nobody."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self.name = "steady"

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1


def test_callbacks_that_hold_state_nobody_saves_are_named_once(tmp_path):
    """The user learns which class it is, and the two methods that would help."""
    steady = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)
    with pytest.warns(PersistWarning) as caught:
        fit(
            linear(),
            ours(tmp_path / "run", every_steps=2),
            Forgetful(),
            Forgetful(),
            steady,
        )
    messages = [str(w.message) for w in caught if w.category is PersistWarning]
    assert messages == [
        "The state of these callbacks is not saved: Forgetful. Give them get_state() "
        "and set_state(state), with values that JSON can hold."
    ]


class Growing(keras.utils.PyDataset):
    """Rows in the order that they are told, the harder the later."""

    def __init__(self):
        super().__init__()
        self.x, self.y = data()
        self.difficulty, self.order, self.seen = 1, np.arange(len(self.x)), 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.seen += 1
        rows = self.order[index::4]
        return self.x[rows] * self.difficulty, self.y[rows]

    def on_epoch_end(self):
        np.random.shuffle(self.order)


class Counted(Growing):
    """One that keeps its state itself."""

    def get_state(self):
        return {"difficulty": self.difficulty}

    def set_state(self, state):
        self.difficulty = state["difficulty"]


class Hardens(keras.callbacks.Callback):
    """Makes data harder at an epoch's end."""

    def __init__(self, *given):
        super().__init__()
        self.given = given

    def on_epoch_end(self, epoch, logs=None):
        for each in self.given:
            each.difficulty += 1


@pytest.mark.usefixtures("synchronous")
def test_what_a_callback_changes_in_data_is_named_once(tmp_path):
    """In training and validation data without the two methods, by its name."""

    class Held(Growing):
        pass

    messages = []
    for kind in (Growing, Counted):
        given, held = kind(), Held()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            linear().fit(
                given,
                epochs=4,
                verbose=0,
                validation_data=held,
                callbacks=[
                    ours(tmp_path / kind.__name__, every_steps=2),
                    Hardens(given, held),
                ],
            )
        messages.append(
            [str(w.message) for w in caught if w.category is PersistWarning]
        )
    text = (
        "The state of these attributes of the data is not saved: {}. Give the data "
        "get_state() and set_state(state), with values that JSON can hold."
    )
    held_name = f"{Held.__qualname__}.difficulty"
    assert messages == [
        [text.format(f"Growing.difficulty, {held_name}")],
        [text.format(held_name)],
    ]


class Resizing(Growing):
    """One that changes itself, at the end of its fourth epoch for the first time."""

    ended = 0

    def on_epoch_end(self):
        self.ended += 1
        self.difficulty = 1 + self.ended // 4


@pytest.mark.usefixtures("synchronous")
def test_data_that_are_validated_on_too_change_themselves(tmp_path):
    """They do so in a validation, and no callback has a part in it."""
    both = Resizing()
    with warnings.catch_warnings():
        warnings.simplefilter("error", PersistWarning)
        linear().fit(
            both,
            epochs=4,
            verbose=0,
            validation_data=both,
            callbacks=[ours(tmp_path / "run", every_steps=2)],
        )


def own_loop(model, callback, *others, epochs=3, crash=None, optimizer=None):
    """A loop as users write it, with a GradientTape and Keras' CallbackList."""
    x, y = data()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    listed = keras.callbacks.CallbackList(
        [*others, callback], model=model, epochs=epochs, steps=7, add_history=True
    )
    done, optimizer = [], optimizer or model.optimizer
    listed.on_train_begin()
    point = callback.resume_point
    first = 0 if point is None else point.epoch
    for epoch in range(first, epochs):
        listed.on_epoch_begin(epoch)
        skip = point.batch if point is not None and epoch == point.epoch else 0
        for batch in range(skip, 7):
            if len(done) == crash:
                raise Crash
            listed.on_train_batch_begin(batch)
            rows = slice(8 * batch, 8 * batch + 8)
            with tf.GradientTape() as tape:
                value = loss(y[rows], model(x[rows], training=True))
            gradients = tape.gradient(value, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            listed.on_train_batch_end(batch, {"loss": float(value)})
            done.append((epoch, batch))
        listed.on_epoch_end(epoch, {"loss": float(value)})
    listed.on_train_end()
    return done


@pytest.mark.usefixtures("synchronous")
def test_a_loop_of_ones_own(tmp_path):
    """A GradientTape loop is saved, goes on within an epoch, and ends with its bits."""

    def fresh():
        keras.utils.set_random_seed(3)
        return linear()

    expected = fresh()
    assert len(own_loop(expected, ours(tmp_path / "other"))) == 21

    run = tmp_path / "run"
    with pytest.raises(Crash):
        own_loop(fresh(), ours(run, every_steps=4), crash=11)
    callback, model = ours(run, every_steps=4), fresh()
    done = own_loop(model, callback)
    assert (callback.resume_point.epoch, callback.resume_point.batch) == (1, 1)
    assert done[0] == (1, 1)
    assert len(done) == 13
    assert saved_steps(run) == [4, 8, 12, 16, 20, 21]
    for one, other in zip(expected.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(model.optimizer.iterations.numpy()) == 21


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("compiled", [False, True], ids=["", "another's"])
def test_a_loop_whose_optimizer_is_an_attribute(compiled, tmp_path):
    """Without compile, or with one that has another optimizer do nothing."""

    def fresh():
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)]
        )
        if compiled:
            model.compile()
        model.own = keras.optimizers.Adam(0.01)
        return model

    run, expected = tmp_path / "run", fresh()
    own_loop(expected, ours(tmp_path / "other"), optimizer=expected.own)
    started = fresh()
    with pytest.raises(Crash):
        own_loop(started, ours(run, every_steps=4), crash=11, optimizer=started.own)
    model = fresh()
    for refused in (
        lambda: resume(model, run),
        lambda: own_loop(model, ours(run), optimizer=model.own),
    ):
        with pytest.raises(ModelNotBuilt, match=r"without: Adam .*build\(variables\)"):
            refused()
    model.own.build(model.trainable_variables)
    assert len(own_loop(model, ours(run), optimizer=model.own)) == 13
    both = [(each.variables, each.own.variables) for each in (expected, model)]
    for one, other in zip(*(keras.tree.flatten(each) for each in both), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_loop_whose_optimizer_nobody_could_save_is_refused(tmp_path):
    """At its first run, not when what it has trained is to be resumed."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    with pytest.raises(ModelNotCompiled, match=r"model\.compile.* is not saved"):
        own_loop(model, ours(tmp_path / "run"), optimizer=keras.optimizers.Adam())
    assert not (tmp_path / "run").exists()


class Cycles(keras.callbacks.Callback):
    """Counts where a batch begins, by the protocol, and sets the rate by it."""

    def __init__(self):
        super().__init__()
        self.begun = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.begun += 1
        self.model.optimizer.learning_rate.assign(0.01 + 0.01 * (self.begun % 5))

    def get_state(self):
        return {"begun": self.begun}

    def set_state(self, state):
        self.begun = state["begun"]


class Jumps(keras.callbacks.Callback):
    """Draws the rate where a batch begins."""

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate.assign(0.1 * np.random.rand())


def decays():
    return keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.7)


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("make", [decays, Cycles, Jumps])
@pytest.mark.parametrize("every", [4, 7])
def test_begin_hooks_count_once_in_a_loop_of_ones_own(make, every, tmp_path):
    """A step in an epoch's middle, or its first, is captured after all of them."""

    def fresh():
        keras.utils.set_random_seed(3)
        return linear()

    expected = fresh()
    own_loop(expected, ours(tmp_path / "other"), make())

    run = tmp_path / "run"
    with pytest.raises(Crash):
        own_loop(fresh(), ours(run, every_steps=every), make(), crash=11)
    callback, model = ours(run, every_steps=every), fresh()
    # As the loop of the sample does.
    resume(model, run)
    own_loop(model, callback, make())
    assert callback.resume_point.report.not_restored == ()
    both = [(each.variables, each.optimizer.variables) for each in (expected, model)]
    for one, other in zip(*(keras.tree.flatten(each) for each in both), strict=True):
        np.testing.assert_array_equal(one, other)


def test_hooks_called_by_hand_are_refused(tmp_path):
    """Without a CallbackList nobody would tell us of the steps; say so at once."""
    callback = ours(tmp_path / "run")
    callback.set_model(linear())
    with pytest.raises(ArgumentError, match=r"a call by hand.*CallbackList\(\["):
        callback.on_train_begin()
    assert not (tmp_path / "run").exists()


HOLDER = """
import sys
from persist_callbacks.storage.store import Store
with Store.open_for_writing(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_fits_on_one_directory(tmp_path):
    """The second process is told at once who holds it, and changes nothing."""
    run = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        before = sorted(path.name for path in run.iterdir())
        model = linear()
        with pytest.raises(
            RunLocked, match=f"{run}: expected no other process.*{holder.pid}"
        ):
            fit(model, ours(run))
        assert sorted(path.name for path in run.iterdir()) == before
        assert int(model.optimizer.iterations.numpy()) == 0
    finally:
        holder.communicate()
    # The model is not spoilt, nor the directory once the other process is gone.
    fit(model, ours(run))
    assert kept_steps(run) == [14]


@pytest.mark.usefixtures("synchronous", "processes_apart")
def test_a_finished_run_needs_no_trace_of_its_model(tmp_path, monkeypatch):
    """Of a large one it takes seconds, and an optimizer is made without."""

    def adam():
        model = linear()
        model.compile("adam", model.loss)
        return model

    run, traced = tmp_path / "run", []
    fit(adam(), ours(run), epochs=1)
    monkeypatch.setattr(model_building, "build_all", lambda *_: traced.append(1))
    for epochs in (1, 2):
        model = adam()
        fit(model, ours(run), epochs=epochs)
        assert len(model.optimizer.variables) == 2 + 2 * 2
        assert int(model.optimizer.iterations) == 7 * epochs
    assert not traced


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("keep", [3, 1])
def test_who_held_the_directory_saves_before_letting_go(keep, tmp_path, monkeypatch):
    """The run goes on from that one, and not from what it had found before."""
    run, opened = tmp_path / "run", Store.open_for_writing
    fit(linear(), ours(run, keep_last=keep), epochs=1)

    def open_late(*given, **options):
        monkeypatch.setattr(Store, "open_for_writing", opened)
        fit(linear(), ours(run, keep_last=keep), epochs=3)
        return opened(*given, **options)

    monkeypatch.setattr(Store, "open_for_writing", open_late)
    callback = ours(run, keep_last=keep)
    fit(linear(), callback, epochs=4)
    assert callback.resume_point.step == 21
    assert kept_steps(run)[-1] == 28


def test_draws_that_no_checkpoint_can_hold_are_told_of(tmp_path, capsys):
    """Once in each process, as soon as the train function is there."""

    class Noisy(keras.layers.Layer):
        def call(self, x, training=False):
            return x + tf.random.normal([1]) if training else x

    def train(metrics, *callbacks):
        model = keras.Sequential(
            [keras.Input((FEATURES,)), Noisy(), keras.layers.Dense(1)]
        )
        model.compile("sgd", "mse", metrics=metrics)
        fit(model, *callbacks)

    # Where a step is rehearsed for what it makes, the report has it.
    for metrics, told in ([], "Resumed"), (["mae"], "  in doubt"):
        for when in ("If this run is resumed", told):
            callback = ours(tmp_path / f"run {told.strip()}", every_steps=3, verbose=1)
            with pytest.raises(Crash):
                train(metrics, callback, CrashAt(7))
            said = capsys.readouterr().out
            assert f"{when}: a train step draws random numbers by ops" in said
            assert said.count("a train step draws random numbers by ops") == 1
            assert "(RandomStandardNormal)" in said
        doubts = [each for each in callback.resume_point.report.doubts if "ops" in each]
        assert len(doubts) == bool(metrics)
    fit(linear(), ours(tmp_path / "other", verbose=1))
    assert "a train step draws" not in capsys.readouterr().out


def test_a_table_that_a_step_changes_is_warned_of(tmp_path):
    """Its content is not in a checkpoint."""
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 1.0)
    key = np.zeros(1, "int64")

    class Counting(keras.layers.Layer):
        def call(self, x, training=False):
            if not training:
                return x
            table.insert(key, table.lookup(key) + 1.0)
            return x * tf.ensure_shape(table.lookup(key), [1])

    model = keras.Sequential(
        [keras.Input((FEATURES,)), Counting(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    with pytest.warns(PersistWarning, match="changes a lookup table") as warned:
        fit(model, ours(tmp_path / "run"))
    assert len(warned) == 1


class InItsSteps(keras.Model):
    """Draws of the model's own, in its steps and in those of an evaluation."""

    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(1)
        random = tf.data.Dataset.random(seed=1).map(lambda n: tf.cast(n % 2, "float32"))
        self.more = iter(random)

    def call(self, x):
        return self.inner(x)

    def train_step(self, data):
        x, y = data
        return super().train_step((x * next(self.more), y))

    def test_step(self, data):
        x, y = data
        return super().test_step((x + tf.random.normal(tf.shape(x)), y))


def test_what_the_models_own_steps_draw_is_told_of(tmp_path, capsys):
    """From an iterator of its own, and at random in a validation."""
    x, y = data()
    model = InItsSteps()
    model.compile("sgd", "mse")
    with pytest.warns(PersistWarning, match="an iterator of its own") as warned:
        model.fit(
            *(x, y[:, None]),
            batch_size=8,
            epochs=3,
            verbose=0,
            validation_data=(x, y[:, None]),
            callbacks=[ours(tmp_path / "run", verbose=1)],
        )
    assert len(warned) == 1
    said = capsys.readouterr().out
    assert said.count("If this run is resumed: a test step draws random numbers") == 1
    assert "a train step draws random" not in said


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("crash", [6, 9])
def test_tensorboard_writes_of_the_step_that_it_counts(crash, tmp_path):
    """The first step of a resumed run is chosen by the count that was put back.

    Keras 3.7 does not choose by it, and writes of each.
    """
    pytest.importorskip("tensorboard")

    def board(where):
        return keras.callbacks.TensorBoard(
            tmp_path / where, update_freq=2, write_graph=False
        )

    fit(linear(), board("whole"))
    with pytest.raises(Crash):
        fit(
            linear(),
            *(board("board"), CrashAt(crash), ours(tmp_path / "run", every_steps=3)),
        )
    before = set((tmp_path / "board").rglob("*tfevents*"))
    again = ours(tmp_path / "run", every_steps=3)
    fit(linear(), board("board"), again)
    first = again.resume_point.step + 1
    after = set((tmp_path / "board").rglob("*tfevents*")) - before
    whole = steps_of_batches((tmp_path / "whole").rglob("*tfevents*"))
    assert whole
    assert steps_of_batches(after) == [step for step in whole if step >= first]


def steps_of_batches(files):
    """List the steps that TensorBoard has written of."""
    records = tf.data.TFRecordDataset([str(path) for path in files])
    events = map(tf.compat.v1.Event.FromString, records.as_numpy_iterator())
    return sorted(
        event.step
        for event in events
        if any(value.tag == "batch_loss" for value in event.summary.value)
    )


class Pool(keras.callbacks.Callback):
    """Evaluates on data of its own."""

    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def on_epoch_end(self, epoch, logs=None):
        self.model.evaluate(self.pool, verbose=0)


@pytest.mark.parametrize("anew", [True, False])
def test_data_of_callbacks_that_reshuffle_are_told_of(anew, tmp_path, capsys):
    """Their orders begin again in a new process."""
    keras.utils.set_random_seed(3)
    x, y = data()
    pool = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    pool = pool.shuffle(9, seed=1, reshuffle_each_iteration=anew).take(3)
    told = "callbacks hold data that reshuffle (Pool.pool)"
    fit(linear(), Pool(pool), ours(tmp_path / "run", verbose=1), epochs=1)
    assert capsys.readouterr().out.count(f"If this run is resumed: {told}") == anew
    again = ours(tmp_path / "run", verbose=1)
    fit(linear(), Pool(pool), again, epochs=2)
    assert capsys.readouterr().out.count(f"in doubt: {told}") == anew
    assert len(again.resume_point.report.doubts) == anew


class Draws(keras.callbacks.Callback):
    """Draws from what it holds, and may keep its place itself."""

    def __init__(self, source):
        super().__init__()
        self.source = source
        self.log = io.StringIO()

    def on_train_batch_end(self, batch, logs=None):
        next(self.source)


class KeepsItsPlace(Draws):
    def get_state(self):
        return {}

    def set_state(self, state):
        pass


@pytest.mark.parametrize("endless", [itertools.count, lambda: iter(numbers())])
def test_iterators_of_callbacks_are_told_of(endless, tmp_path, capsys):
    """Where they stand cannot be put back, nor be seen to have changed."""
    told = "callbacks hold iterators (Draws.source), which begin again on resume"
    fit(linear(), Draws(endless()), ours(tmp_path / "run", verbose=1), epochs=1)
    assert capsys.readouterr().out.count(f"If this run is resumed: {told}") == 1
    again = ours(tmp_path / "run", verbose=1)
    fit(linear(), Draws(endless()), again, epochs=2)
    assert capsys.readouterr().out.count(f"in doubt: {told}") == 1
    fit(linear(), KeepsItsPlace(endless()), ours(tmp_path / "other", verbose=1))
    assert "hold iterators" not in capsys.readouterr().out


def numbers():
    return tf.data.Dataset.counter()


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("changes", ["by the step", "by a callback", "not at all"])
def test_variables_of_a_step_that_nothing_holds_are_warned_of(changes, tmp_path):
    """Once; not of those that stay as they are, which the script makes anew."""
    factor = tf.Variable(1.0, name="factor")
    noise = keras.random.SeedGenerator(3, name="noise")

    class Closes(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(CLASSES)

        def call(self, x, training=False):
            if training and changes == "by the step":
                x += keras.random.normal(tf.shape(x), seed=noise)
            return self.inner(x) * factor

    def grow(batch, logs):
        if changes == "by a callback":
            factor.assign_add(0.1)

    model = Closes()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    grows = keras.callbacks.LambdaCallback(on_train_batch_end=grow)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, grows, ours(tmp_path, every_steps=1), epochs=2)
    told = [
        str(each.message)
        for each in caught
        if "nothing of the model holds them" in str(each.message)
    ]
    found = {
        "by the step": "noise/seed_generator_state int64[2].",
        "by a callback": "factor float32[].",
    }
    assert len(told) == (changes in found)
    if changes in found:
        assert f"holds them: {found[changes]}" in told[0]


class Weighted(keras.Model):
    """Its train step reaches a variable through a closure alone."""

    def __init__(self, weight):
        super().__init__()
        self.inner = keras.layers.Dense(CLASSES)
        self.weight = lambda: weight()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.compile("adam", loss)

    def call(self, x, training=False):
        return self.inner(x) * (self.weight() if training else 1.0)


class Anneals(keras.callbacks.Callback):
    """Moves a variable of its own with each batch, and keeps it."""

    def __init__(self):
        super().__init__()
        self.beta = tf.Variable(1.0, name="beta")

    def on_train_batch_begin(self, batch, logs=None):
        self.beta.assign_add(0.1)

    def get_state(self):
        return {"beta": float(self.beta)}

    def set_state(self, state):
        self.beta.assign(state["beta"])


@pytest.mark.usefixtures("synchronous")
def test_a_variable_that_a_callback_keeps_is_not_warned_of(tmp_path):
    anneals = Anneals()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = Weighted(lambda: anneals.beta)
        fit(model, anneals, ours(tmp_path, every_steps=1), epochs=2)
    assert not [each for each in caught if "nothing of the model" in str(each.message)]


def test_a_variable_that_is_gone_since_it_was_traced_does_no_harm(tmp_path):
    """The train function keeps what an earlier fit was traced with, for other data."""
    held = [tf.Variable(1.0)]
    model = Weighted(lambda: held[0])
    x, y = data()
    sets = [
        tf.data.Dataset.from_tensor_slices((x, y.astype(each))).batch(8)
        for each in ("int64", "int32")
    ]
    model.fit(sets[0], verbose=0)
    held[0] = tf.Variable(1.0)
    gc.collect()
    callback = ours(tmp_path, every_steps=2)
    model.fit(sets[1], verbose=0, callbacks=[callback])
    assert callback.resume_point is None


@pytest.mark.usefixtures("synchronous")
def test_a_loop_that_begins_no_step_holds_no_tensors(tmp_path, monkeypatch):
    """They are put back once more as the first step begins, which may never come."""
    with pytest.raises(Crash):
        own_loop(linear(), ours(tmp_path, every_steps=4), crash=11)
    forgotten = []
    monkeypatch.setattr(Recovery, "forget_tensors", lambda each: forgotten.append(each))
    listed = keras.callbacks.CallbackList(
        [ours(tmp_path, every_steps=4)], model=linear(), epochs=3
    )
    listed.on_train_begin()
    assert not forgotten
    for hook in (listed.on_epoch_begin, listed.on_epoch_end):
        hook(1)
    assert forgotten
    listed.on_train_end()


def test_a_callback_that_is_kept_holds_no_data(tmp_path):
    """An iterator may have large buffers."""
    seen, kept = [], ours(tmp_path / "run")
    look = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(kept._run._iterator)
    )
    fit(linear(), kept, look)
    iterators = [weakref.ref(iterator) for iterator in seen if iterator is not None]
    seen.clear()
    gc.collect()
    assert iterators
    assert [iterator() for iterator in iterators] == [None] * len(iterators)


def test_a_ceiling_that_holds_back_is_told_once(tmp_path, capsys):
    """Who asks for every step and a share of the time hears what that comes to."""
    asked = ours(tmp_path / "run", every_steps=1, max_overhead=0.05, verbose=1)
    # Steps that take a while: what a checkpoint costs is known before they are over.
    slow = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: time.sleep(0.002)
    )
    fit(linear(), slow, asked, epochs=100)
    told = [line for line in capsys.readouterr().out.splitlines() if "allows" in line]
    assert len(told) == 1
    assert re.fullmatch(
        r"A checkpoint costs [\d.e-]+ s, so that max_overhead=0\.05 allows one in "
        r"[\d.e-]+ s, about every \d+ steps: less often than was asked for\.",
        told[0],
    )


def test_a_run_too_short_for_its_ceiling_is_told_so(tmp_path, capsys):
    """What a checkpoint costs is not known before there is one."""
    fit(linear(), ours(tmp_path, every_steps=2, max_overhead=0.001, verbose=1))
    said = capsys.readouterr().out
    assert saved_steps(tmp_path) == [14]
    assert said.count("max_overhead=0.001 held back what was asked for") == 1


@pytest.mark.usefixtures("synchronous")
def test_what_cannot_be_taken_is_tried_again_at_the_next_trigger(tmp_path, monkeypatch):
    """And not at each of the steps in between, with a warning for each."""
    take, tried = CheckpointedRun._take, []

    def refuse_some(run, position, *arguments, in_case=False, **options):
        if not in_case:
            tried.append(position.step)
            if position.step < 9:
                raise ValueError("not now")
        return take(run, position, *arguments, in_case=in_case, **options)

    monkeypatch.setattr(CheckpointedRun, "_take", refuse_some)
    with pytest.warns(PersistWarning, match="not now"):
        fit(linear(), ours(tmp_path, every_steps=3, keep_last=9))
    assert tried == [3, 6, 9, 12, 14]
    assert saved_steps(tmp_path) == [9, 12, 14]


def test_a_save_that_gets_no_thread_is_warned_of_and_tried_again(tmp_path, monkeypatch):
    """A system's limit is no reason to end training."""
    start, refused = threading.Thread.start, []

    def refuse_once(thread):
        if thread.name == THREAD_NAME and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    with pytest.warns(PersistWarning, match="can't start new thread"):
        fit(linear(), ours(tmp_path, every_steps=3))
    assert refused
    assert saved_steps(tmp_path)[-1] == 14


@pytest.mark.usefixtures("processes_apart")
def test_odd_variables_of_a_model(tmp_path):
    """Strings, and a shape that may change, are kept at the end of training too."""

    def model():
        made = linear()
        made.words = tf.Variable(["a", "bcd"])
        made.open = tf.Variable(np.zeros(3, "float32"), shape=[None])
        return made

    fit(model(), ours(tmp_path, every_steps=3))
    assert saved_steps(tmp_path)[-1] == 14
    rerun = model()
    rerun.words.assign(["x", "y"])
    fit(rerun, ours(tmp_path))
    assert rerun.words.numpy().tolist() == [b"a", b"bcd"]


@pytest.mark.usefixtures("synchronous", "processes_apart")
def test_what_is_printed(tmp_path, capsys):
    """0 prints nothing, 1 where a run goes on and how it ended, 2 each checkpoint."""
    keras.utils.set_random_seed(3)
    run = tmp_path / "run"
    fit(linear(), ours(run, every_epochs=1, verbose=0))
    fit(linear(), ours(run, every_epochs=1, verbose=0), epochs=3)
    assert capsys.readouterr() == ("", "")
    fit(linear(), ours(run, every_epochs=1, verbose=1), epochs=4)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"Resuming from ckpt-000000021 in {run}, saved ")
    assert out[0].endswith(": epoch 4, batch 0, step 21")
    said, cost = out[-1].split("; ")
    assert said == f"1 checkpoints written to {run}, the last one is ckpt-000000028"
    assert re.fullmatch(r"they took at most [\d.e-]+ s, \d+\.\d% of the time\.", cost)
    fit(linear(), ours(run, every_epochs=1, verbose=1), epochs=4)
    assert capsys.readouterr().out == (
        f"Nothing left to train: the run in {run} is at the end of epoch 4, step 28, "
        "and its weights are restored from ckpt-000000028.\n"
    )
    fit(linear(), ours(run, every_epochs=1, verbose=2), epochs=6)
    assert "Checkpoint of step 35 (epochs)\n" in capsys.readouterr().out


@pytest.mark.usefixtures("synchronous")
def test_the_report_tells_how_much_work_was_lost(tmp_path):
    """The steps after the newest checkpoint, saved or not."""
    run = tmp_path / "run"
    with pytest.raises(Crash):
        fit(linear(), ours(run, every_steps=3), CrashAt(5))
    callback = ours(run, every_steps=3)
    with pytest.raises(Crash):
        fit(linear(), callback, CrashAt(3))
    report = callback.resume_point.report
    assert (callback.resume_point.step, report.lost) == (3, 2)
    assert re.search(r"^  lost: 2 steps, \d+ s of training$", str(report), re.MULTILINE)
    # It crashed right after step 6, which was saved when step 7 would have begun.
    callback = ours(run)
    fit(linear(), callback)
    assert (callback.resume_point.step, callback.resume_point.report.lost) == (3, 3)
    # A run that has ended by itself lost nothing.
    callback = ours(run)
    fit(linear(), callback, epochs=3)
    assert "  lost: nothing" in str(callback.resume_point).splitlines()
    assert [event["lost"] for event in journal(run, "resumed")] == [2, 3, 0]


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 0.25}, "learning_rate was 0.5 and is 0.25 now; what was"),
        ({"weight_decay": 0.5}, "weight_decay was 0.01 and is 0.5 now"),
        ({"learning_rate_power": -0.4}, "learning_rate_power was -0.5 and is -0.4 now"),
    ],
)
def test_another_optimizer_setting_is_told_of_as_what_it_is(change, said, tmp_path):
    """Of them all, a learning rate alone is a variable that was saved."""

    def script(*callbacks, **settings):
        model = linear()
        model.compile(keras.optimizers.Ftrl(**settings), model.loss)
        fit(model, *callbacks)
        return float(model.optimizer.learning_rate)

    before = {"learning_rate": 0.5, "weight_decay": 0.01, "learning_rate_power": -0.5}
    with pytest.raises(Crash):
        script(ours(tmp_path, every_steps=3), CrashAt(5), **before)
    again = ours(tmp_path)
    assert script(again, **{**before, **change}) == 0.5
    (told,) = again.resume_point.report.not_restored
    assert told.startswith(f"the optimizer's {said}")
    assert ("what was saved" in told) == ("learning_rate" in change)


def test_what_cannot_be_certain_is_said_before_training_and_in_the_report(
    tmp_path, capsys
):
    """No seed, and a generator that is drawn from anew."""
    keras.utils.set_random_seed(3)
    fit(linear(), ours(tmp_path / "seeded", verbose=1), epochs=1)
    assert "If this run" not in capsys.readouterr().out

    tf.random.set_seed(None)
    run = tmp_path / "run"
    fit(linear(), ours(run, verbose=1), epochs=1)
    said = "no seed is set for what the data draw at random (shuffle=True)"
    assert capsys.readouterr().out.startswith(f"If this run is resumed: {said}")
    callback = ours(run)
    fit(linear(), callback, epochs=2)
    assert len(callback.resume_point.report.doubts) == 1
    assert f"  in doubt: {said}" in str(callback.resume_point)
    # It restores what the run had, seed or none.
    keras.utils.set_random_seed(3)

    def generate():
        x, y = data()
        while True:
            yield x[:8], y[:8]

    options = {"steps_per_epoch": 3, "epochs": 1, "verbose": 0}
    callback = ours(tmp_path / "generated", verbose=1)
    linear().fit(generate(), callbacks=[callback], **options)
    assert capsys.readouterr().out.startswith(
        "If this run is resumed: a Python generator is drawn from anew"
    )


class Tensor(np.ndarray):
    """Of the shape of torch's, which need not be there; so is the loader."""

    def cpu(self):
        return np.asarray(self)


class DataLoader:
    __module__ = "torch.utils.data.dataloader"
    batch_size = 10

    def __init__(self):
        self.dataset = [(*data(),)]

    def __len__(self):
        return 5

    def __iter__(self):
        for rows in np.random.default_rng().permutation(50).reshape(5, 10):
            yield [part[rows].view(Tensor) for part in self.dataset[0]]


def test_a_loader_of_another_library_is_told_of(tmp_path, capsys, monkeypatch):
    """Python makes its batches, by generators that nobody saves."""
    has_it = SimpleNamespace(data=SimpleNamespace(DataLoader=DataLoader))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(utils=has_it))
    callback = ours(tmp_path / "run", verbose=1)
    linear().fit(DataLoader(), shuffle=False, verbose=0, callbacks=[callback])
    assert capsys.readouterr().out.startswith(
        "If this run is resumed: a DataLoader is gone through anew"
    )


@pytest.mark.usefixtures("synchronous")
def test_fit_without_the_callback_after_one_that_died(tmp_path):
    """What a crash left on the model does not save or count another fit's steps."""
    run = tmp_path / "run"
    model = linear()
    callback = ours(run, every_steps=2)
    with pytest.raises(Crash):
        fit(model, callback, CrashAt(5))
    assert saved_steps(run) == [2, 4]
    fit(model, epochs=3)
    assert int(model.optimizer.iterations.numpy()) == 26
    assert saved_steps(run) == [2, 4]
    with Store.open_for_writing(run):
        pass


def test_the_directory_is_free_after_fit(tmp_path):
    """Nothing of a fit that has ended keeps the run directory from another writer."""
    run = tmp_path / "run"
    model = linear()
    fit(model, ours(run))
    with Store.open_for_writing(run) as store:
        assert len(store.checkpoints()) == 1
    # Neither does the model keep a wrapper or an epoch to begin with.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(model, epochs=1)
    assert history.epoch == [0]
