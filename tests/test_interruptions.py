"""Asked to stop, or to save, a run does so at its next boundary and is exact after."""

from __future__ import annotations

import itertools
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from loops import CLASSES, FEATURES, data, outcome_of, sequential
from persist_callbacks import (
    FrozenGraphExport,
    PeriodicCheckpoint,
    answering,
    grace,
    periodic_checkpoint,
    saving,
)
from persist_callbacks.capturing import Capturer
from persist_callbacks.errors import ArgumentError, PersistWarning, PoisonedWeights
from persist_callbacks.records import Position
from persist_callbacks.storage.schedule import Triggers
from persist_callbacks.storage.store import Store
from persist_callbacks.storage.writer import Writer
from persist_callbacks.training import pipeline

SCRIPT = Path(__file__).parent / "interrupted_script.py"
BATCHES = 7


@pytest.fixture(autouse=True)
def handlers():
    """Whatever a test does, the handlers are those that were there before.

    None is ignored at first: nohup ignores SIGHUP, and a shell that puts the tests in
    the background SIGINT, which would be heeded.
    """
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGXCPU")
    outside = {name: signal.getsignal(getattr(signal, name)) for name in names}
    for name in names:
        usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
        signal.signal(getattr(signal, name), usual)
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    yield before
    found = {name: signal.getsignal(getattr(signal, name)) for name in names}
    for name, handler in outside.items():
        signal.signal(getattr(signal, name), handler)
    assert found == before
    assert signal.set_wakeup_fd(-1) == -1


class At(keras.callbacks.Callback):
    """Does something at one place of a run, once."""

    def __init__(self, hook, number, what):
        super().__init__()
        self._count = 0

        def called(*args, **options):
            self._count += 1
            if self._count == number:
                what()

        setattr(self, hook, called)


def raising(name):
    number = getattr(signal, name)
    return lambda: signal.raise_signal(number)


def ours(run, **options):
    options.setdefault("verbose", 0)
    if not any(name.startswith("every_") for name in options):
        # On a slow machine, one by the clock would be due.
        options["every_epochs"] = 9
    return PeriodicCheckpoint(run, **options)


def fit(*callbacks, epochs=3, source=None, every=1, **more):
    """Three epochs of seven steps with validation, as a script from its first line."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    model = sequential()
    rows = tf.data.Dataset.from_tensor_slices(data())
    history = model.fit(
        rows.shuffle(50).batch(8) if source is None else source(rows),
        epochs=epochs,
        validation_data=rows.shuffle(50).take(24).batch(8) if every else None,
        validation_freq=every or 1,
        callbacks=list(callbacks),
        verbose=0,
        **more,
    )
    return outcome_of(model, history)


def unknown_length(rows):
    return rows.shuffle(50).filter(lambda x, y: x[0] > -9.0).batch(8)


def endless(rows):
    return rows.shuffle(50).batch(8).repeat()


def twice_inside(rows):
    return rows.shuffle(50).take(25).repeat(2).batch(8)


def by_workers(rows):
    class Rows(keras.utils.PyDataset):
        def __len__(self):
            return BATCHES

        def __getitem__(self, index):
            return tuple(part[8 * index : 8 * index + 8] for part in data())

    return Rows(workers=2)


def journal(run, event):
    events = Store.open_for_reading(run).journal()
    return [each for each in events if each["event"] == event]


@pytest.mark.usefixtures("deterministic")
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize(
    ("hook", "number", "step", "source"),
    [
        ("on_train_batch_begin", 1, 0, None),
        ("on_train_batch_end", 3, 3, None),
        ("on_train_batch_end", 2 * BATCHES, 2 * BATCHES, None),
        ("on_test_begin", 1, BATCHES, None),
        ("on_test_batch_end", 5, 2 * BATCHES, None),
        ("on_test_end", 2, 2 * BATCHES, None),
        ("on_epoch_end", 1, BATCHES, None),
        ("on_train_end", 1, 3 * BATCHES, None),
        ("on_test_begin", 1, BATCHES, unknown_length),
        ("on_test_batch_end", 5, 2 * BATCHES, unknown_length),
        ("on_test_batch_end", 5, 2 * BATCHES, twice_inside),
        ("on_test_end", 2, 2 * BATCHES, twice_inside),
    ],
)
@pytest.mark.usefixtures("processes_apart")
def test_stopped_anywhere_and_exact_after(hook, number, step, source, tmp_path):
    """Nothing is lost: what was trained is saved, in a validation too."""
    run = tmp_path / "run"
    expected = fit(source=source)
    with pytest.raises(SystemExit) as ended:
        fit(
            At(hook, number, raising("SIGTERM")),
            ours(run, every_epochs=9),
            source=source,
        )
    assert ended.value.code == 128 + signal.SIGTERM
    saved = [each.record for each in Store.open_for_reading(run).checkpoints()]
    assert [record.position.step for record in saved] == [step] * bool(step)
    assert [event["safe"] for event in journal(run, "stopped")] == [True]
    again = ours(run, every_epochs=9)
    assert fit(again, source=source) == expected
    if step:
        assert again.resume_point.step == step
        assert again.resume_point.report.lost == 0


@pytest.mark.usefixtures("deterministic")
def test_the_first_step_of_an_unbuilt_model_is_rehearsed_in_validation_too(tmp_path):
    """Its variables are made in the epoch whose steps are all done."""

    def run_script(*callbacks):
        keras.backend.clear_session()
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.layers.Dense(8), keras.layers.Dropout(0.2), keras.layers.Dense(3)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        x, y = data()
        history = model.fit(
            x, y, epochs=2, validation_split=0.3, verbose=0, callbacks=list(callbacks)
        )
        return outcome_of(model, history)

    expected = run_script()
    stop = At("on_test_batch_end", 1, raising("SIGTERM"))
    with pytest.raises(SystemExit):
        run_script(stop, ours(tmp_path / "run"))
    assert run_script(ours(tmp_path / "run")) == expected


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    ("on_epoch", "inputs"), [(True, [keras.Input((FEATURES,))]), (False, [])]
)
def test_averages_that_are_swapped_in_for_a_validation(on_epoch, inputs, tmp_path):
    """A rerun swaps them in before it knows that they are; not once more, after all."""

    def run_script(*callbacks):
        keras.backend.clear_session()
        keras.utils.set_random_seed(3)
        model = keras.Sequential([*inputs, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8), "mse")
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=on_epoch)
        x, y = data()
        history = model.fit(
            *(x, y),
            batch_size=8,
            epochs=3,
            validation_split=0.3,
            verbose=0,
            callbacks=[swap, *callbacks],
        )
        return outcome_of(model, history)

    expected = run_script()
    stop = At("on_test_batch_end", 3, raising("SIGTERM"))
    with pytest.raises(SystemExit):
        run_script(stop, ours(tmp_path / "run"))
    again = ours(tmp_path / "run")
    assert run_script(again) == expected
    assert again.resume_point.report.data.endswith("before its end")


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [
        ("SIGTERM", SystemExit, 143),
        ("SIGHUP", SystemExit, 129),
        ("SIGXCPU", SystemExit, 152),
        ("SIGINT", KeyboardInterrupt, None),
    ],
)
def test_each_signal_ends_as_it_would_have(name, error, code, tmp_path, capsys):
    """By the exit code that a shell reports for it, or as Ctrl-C does."""
    run = tmp_path / "run"
    with pytest.raises(error) as ended:
        fit(At("on_train_batch_end", 2, raising(name)), ours(run, verbose=1))
    assert getattr(ended.value, "code", None) == code
    assert (
        f"Stopped by {name} before step 3, safe in ckpt-000000002"
        in capsys.readouterr().out
    )


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    """In the middle of the step's hooks, with nothing saved."""

    def twice():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise KeyboardInterrupt

    run = tmp_path / "run"
    callback = ours(run, every_epochs=9)
    with pytest.raises(KeyboardInterrupt):
        fit(At("on_train_batch_end", 2, twice), callback)
    callback.close()
    assert journal(run, "saved") == []


def test_handlers_of_the_users_own_are_called_at_once_and_put_back(tmp_path, handlers):
    """Before anything is saved; by SIGUSR1 too."""
    run, seen = tmp_path / "run", []
    for name in ("SIGTERM", "SIGUSR1"):
        signal.signal(
            getattr(signal, name),
            lambda number, frame: seen.append((number, journal(run, "saved"))),
        )
    own = signal.getsignal(signal.SIGTERM)
    save = At("on_train_batch_end", 2, raising("SIGUSR1"))
    stop = At("on_train_batch_end", 5, raising("SIGTERM"))
    with pytest.raises(SystemExit):
        fit(save, stop, ours(run, every_epochs=9))
    assert seen[0] == (signal.SIGUSR1, [])
    assert seen[1][0] == signal.SIGTERM
    assert [event["reason"] for event in journal(run, "saved")] == [
        "SIGUSR1",
        "SIGTERM",
    ]
    assert signal.getsignal(signal.SIGTERM) is own
    for name in ("SIGTERM", "SIGUSR1"):
        signal.signal(getattr(signal, name), handlers[name])


def exporting(what):
    """Make an export that does something before it begins."""

    class Export(FrozenGraphExport):
        def export(self):
            what()
            return super().export()

    return Export


@pytest.mark.parametrize("own", [True, False], ids=["with a handler", "without one"])
def test_asked_to_save_while_the_model_is_exported(own, tmp_path, handlers):
    """Nothing is left to save, and the signal is no reason to end."""
    run, pb, seen = tmp_path / "run", tmp_path / "model.pb", []
    if own:
        signal.signal(signal.SIGUSR1, lambda *_: seen.append("own"))
    before = signal.getsignal(signal.SIGUSR1)

    def look():
        seen.append(signal.getsignal(signal.SIGTERM))
        # Of the default action, as its handler would be called, the tests would die.
        assert signal.getsignal(signal.SIGUSR1) != before
        signal.raise_signal(signal.SIGUSR1)

    fit(exporting(look)(pb), ours(run))
    assert pb.exists()
    assert seen == [handlers["SIGTERM"], *["own"] * own]
    assert signal.getsignal(signal.SIGUSR1) == before
    assert [event["reason"] for event in journal(run, "saved")] == ["finished"]
    signal.signal(signal.SIGUSR1, handlers["SIGUSR1"])


def test_an_export_that_fails_keeps_no_signals(tmp_path):
    """They go to whom they would have gone without us, and are let go when closed."""
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append("own"))

    def fail():
        raise ValueError("no export")

    for signals in (1, 0):
        callback = ours(tmp_path / f"run{signals}")
        with pytest.raises(ValueError, match="no export"):
            fit(exporting(fail)(tmp_path / "model.pb"), callback)
        for _ in range(signals):
            signal.raise_signal(signal.SIGUSR1)
        callback.close()
    assert seen == ["own"]
    signal.signal(signal.SIGUSR1, before)


def test_what_is_ignored_stays_ignored(tmp_path, handlers):
    """As nohup wants it of SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run = tmp_path / "run"
    fit(At("on_train_batch_end", 2, raising("SIGHUP")), ours(run, every_epochs=9))
    assert journal(run, "stopped") == []
    signal.signal(signal.SIGHUP, handlers["SIGHUP"])


def test_a_signal_after_a_fit_that_died_is_not_swallowed(tmp_path):
    """It goes to whom it would have gone without us."""
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))

    def fail():
        raise ValueError("a callback's own")

    callback = ours(tmp_path / "run")
    with pytest.raises(ValueError, match="own"):
        fit(At("on_train_batch_end", 2, fail), callback)
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]
    callback.close()
    signal.signal(signal.SIGTERM, before)


def test_two_runs_that_end_in_the_order_in_which_they_began(tmp_path):
    """What comes in between is the later one's, and nothing of either is left."""
    both = [
        keras.callbacks.CallbackList([ours(tmp_path / name)], model=sequential())
        for name in ("one", "other")
    ]
    for each in both:
        each.on_train_begin()
    both[0].on_train_end()
    raising("SIGINT")()
    with pytest.raises(KeyboardInterrupt):
        both[1].on_train_end()
    with pytest.raises(KeyboardInterrupt):
        raising("SIGINT")()


def test_a_run_that_is_over_passes_signals_on(tmp_path):
    """Whether somebody calls its handler or has put it back, as it was there before."""
    seen, kept = [], []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("before"))

    def take_over():
        kept.append(signal.signal(signal.SIGTERM, lambda *given: kept[0](*given)))

    fit(ours(tmp_path / "run"), At("on_train_begin", 1, take_over))
    raising("SIGTERM")()
    assert seen == ["before"]
    signal.signal(signal.SIGTERM, kept[0])
    raising("SIGTERM")()
    assert seen == ["before"] * 2
    signal.signal(signal.SIGTERM, before)


def test_save_on_signal_false_leaves_signals_alone(tmp_path, handlers):
    """They do what they did."""
    seen = []

    def look():
        seen.append(signal.getsignal(signal.SIGTERM))

    fit(
        At("on_train_batch_end", 2, look),
        ours(tmp_path / "run", save_on_signal=False),
    )
    assert seen == [handlers["SIGTERM"]]


def test_outside_the_main_thread(tmp_path, handlers):
    """No signals there, and no error; the SAVE file works."""
    run, errors, seen = tmp_path / "run", [], []

    def train():
        try:
            look = At(
                "on_train_batch_end",
                1,
                lambda: seen.append(signal.getsignal(signal.SIGTERM)),
            )
            touch = At("on_train_batch_end", 2, (run / "SAVE").touch)
            wait = At("on_train_batch_end", 4, lambda: time.sleep(0.3))
            fit(look, touch, wait, ours(run, every_epochs=9))
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert errors == []
    assert seen == [handlers["SIGTERM"]]
    assert journal(run, "saved")[0]["reason"] == "the SAVE file"
    assert not (run / "SAVE").exists()


def test_a_write_that_takes_too_long_is_given_up(tmp_path, capsys, monkeypatch):
    """It says so, and which checkpoint is safe; the run goes on from that one."""
    run = tmp_path / "run"
    release = threading.Event()
    submit = Writer.submit
    # On a slow machine the tests would be ended.
    monkeypatch.setattr(grace, "_SECONDS_TO_SAY_SO", 60.0)

    def slow(writer, job):
        submit(writer, lambda: release.wait(30) and job())

    with pytest.raises(SystemExit):
        fit(At("on_train_batch_end", 2, raising("SIGTERM")), ours(run))
    monkeypatch.setattr(Writer, "submit", slow)
    with pytest.raises(SystemExit):
        fit(
            At("on_train_batch_end", 2, raising("SIGTERM")),
            ours(run, grace_seconds=4, verbose=1),
        )
    release.set()
    said = capsys.readouterr().out
    assert "could not be saved within 4 s" in said
    assert "newest safe checkpoint is ckpt-000000002" in said
    assert [event["safe"] for event in journal(run, "stopped")] == [True, False]
    for thread in threading.enumerate():
        if "writer" in thread.name:
            thread.join()


@pytest.mark.usefixtures("processes_apart")
def test_nothing_is_exported_of_a_run_that_was_stopped(tmp_path):
    """An older PB stays; the rerun writes the final one."""
    run, pb = tmp_path / "run", tmp_path / "model.pb"
    pb.write_bytes(b"older")
    with pytest.raises(SystemExit):
        stop = At("on_epoch_end", 3, raising("SIGTERM"))
        fit(FrozenGraphExport(pb), stop, ours(run))
    assert pb.read_bytes() == b"older"
    fit(FrozenGraphExport(pb), ours(run))
    assert pb.read_bytes() != b"older"


def test_no_iterator_is_serialised_for_a_validation_that_ends_well(
    tmp_path, monkeypatch
):
    """It takes long where buffers hold much; the last checkpoint alone has one."""
    states, take = [], pipeline.iterator_state

    def counted(iterator, **options):
        states.append(iterator)
        return take(iterator, **options)

    monkeypatch.setattr(pipeline, "iterator_state", counted)
    fit(ours(tmp_path, every_epochs=9))
    assert len(states) == 1


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def work(self, seconds):
        self.now += seconds
        return "a snapshot"


@pytest.mark.parametrize("ceiling", [None, 0.1])
def test_what_is_taken_in_case_counts_and_keeps_to_half_of_the_ceiling(
    ceiling, tmp_path, monkeypatch
):
    """Short validations after short epochs could cost more than all checkpoints."""
    clock = Clock()
    monkeypatch.setattr(saving, "time", clock)
    with Store.open_for_writing(tmp_path / "run") as store:
        saver = saving.Saver(
            store,
            triggers=Triggers(every_steps=5, max_overhead=ceiling),
            keep=saving.Keep(3, 0, None),
            on_error="raise",
            start=Position(0, 0, 0),
            say=print,
        )

        def take():
            return saver.take_in_case(lambda: clock.work(1.0))

        taken = [take() is not None]
        for passing in (10.0, 20.0, 12.0):
            clock.work(passing)
            taken.append(take() is not None)
        assert taken == ([True, False, False, True] if ceiling else [True] * 4)
        assert saver.overhead[0] == pytest.approx(sum(taken))
        assert saver.take_ahead(lambda: clock.work(1.0)) is not None
        assert saver.overhead[0] == pytest.approx(sum(taken) + 1)
        saver.close()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("ends", ["close", "with"])
def test_an_exception_in_a_validation_loses_nothing(ends, tmp_path):
    """It passes on unchanged; the epoch's steps are saved as its validation began."""
    run, error = tmp_path / "run", ValueError("a callback's own")

    def fail():
        raise error

    expected = fit()
    stop = At("on_test_batch_end", 5, fail)
    if ends == "with":
        with pytest.raises(ValueError, match="own") as raised:  # noqa: SIM117
            with ours(run, every_epochs=9) as callback:
                fit(stop, callback)
    else:
        callback = ours(run, every_epochs=9, save_on_signal=False)
        with pytest.raises(ValueError, match="own") as raised:
            fit(stop, callback)
        callback.close()
    assert raised.value is error
    assert [event["reason"] for event in journal(run, "saved")] == ["exception"]
    again = ours(run)
    assert fit(again) == expected
    assert again.resume_point.step == 2 * BATCHES


@pytest.mark.usefixtures("deterministic")
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"every": 0},
        {"every": 3},
        {"every": 0, "source": unknown_length},
        {"every": 0, "source": twice_inside},
        {"every": 0, "source": endless, "steps_per_epoch": BATCHES},
        {"every": 0, "source": by_workers},
    ],
)
def test_an_exception_at_an_epochs_end_loses_nothing(options, tmp_path):
    """Where the epoch has no validation; the callbacks' epoch ends are done again."""

    def plateau():
        return keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=9.0)

    def fail():
        raise ValueError("a callback's own")

    expected = fit(plateau(), **options)
    callback = ours(tmp_path, save_on_signal=False)
    with pytest.raises(ValueError, match="own"), callback:
        fit(callback, plateau(), At("on_epoch_end", 2, fail), **options)
    assert [event["reason"] for event in journal(tmp_path, "saved")] == ["exception"]
    again = ours(tmp_path)
    assert fit(again, plateau(), **options) == expected
    assert again.resume_point.step == 2 * BATCHES
    # It knows of no validation that would come next.
    assert again.resume_point.report.data.endswith("of the epoch, before its end")


def test_what_is_taken_in_case_is_let_go_at_the_epochs_end(tmp_path, monkeypatch):
    """One set of references an epoch, that no step has to copy behind."""
    taken, take = [], Capturer.take

    def noted(*arguments, in_case=False, **options):
        snapshot = take(*arguments, in_case=in_case, **options)
        taken.append((in_case, weakref.ref(snapshot)))
        return snapshot

    monkeypatch.setattr(Capturer, "take", noted)
    alive = []

    class Looks(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            alive.extend(each for _, each in taken if each() is not None)

    fit(ours(tmp_path), Looks(), every=0)
    assert [in_case for in_case, _ in taken] == [True, True, True, False]
    assert alive == []


@pytest.mark.usefixtures("deterministic", "processes_apart")
def test_an_exception_at_train_end_loses_nothing(tmp_path):
    """The last epoch's end is saved; a rerun trains no more, or only what is new."""

    def fail():
        raise ValueError("no display")

    run = tmp_path / "run"
    callback = ours(run)
    with pytest.raises(ValueError, match="no display"):
        fit(callback, At("on_train_end", 1, fail))
    callback.close()
    assert [event["reason"] for event in journal(run, "saved")] == ["exception"]
    again = ours(run)
    assert fit(again) == fit()
    assert again.resume_point.step == 3 * BATCHES
    assert fit(ours(run), epochs=4) == fit(epochs=4)


@pytest.mark.usefixtures("deterministic")
def test_stopped_in_the_validation_of_an_epoch_that_was_cut_short(tmp_path):
    """Its other steps are still to be done: no checkpoint says otherwise."""
    expected = fit()
    cuts = At(
        "on_train_batch_end", 3, lambda: setattr(cuts.model, "stop_training", True)
    )
    stop = At("on_test_batch_end", 1, raising("SIGTERM"))
    with pytest.raises(SystemExit):
        fit(cuts, stop, ours(tmp_path))
    assert [event["safe"] for event in journal(tmp_path, "stopped")] == [False]
    assert fit(ours(tmp_path)) == expected


def test_the_interpreter_writes_what_is_held_when_it_exits(tmp_path):
    """An exception that nobody catches, in a process of its own."""
    script = f"""
import sys
sys.path[:0] = [{str(SCRIPT.parent)!r}]
import interrupted_script as script
script.Marks.on_test_batch_end = lambda *_, **__: 1 / 0
sys.argv = ["script", {str(tmp_path / "run")!r}]
script.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    saved = journal(tmp_path / "run", "saved")
    assert [event["checkpoint"] for event in saved] == ["ckpt-000000006"]


def test_a_child_process_that_is_terminated(tmp_path):
    """A real signal from outside: exit code 143, and equal bits after."""

    def start(run, *options):
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), str(tmp_path / run), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    child = start("run", "--pace", "0.05")
    for line in child.stdout:
        if line == "step 9\n":
            child.send_signal(signal.SIGTERM)
            break
    out, _ = child.communicate()
    assert child.returncode == 143
    assert "safe in ckpt-" in out
    whole = start("whole", "--unsaved")
    again = start("run")
    assert (whole.wait(), again.wait()) == (0, 0)
    assert json.loads((tmp_path / "run" / "outcome.json").read_text()) == json.loads(
        (tmp_path / "whole" / "outcome.json").read_text()
    )
    for child in (whole, again):
        child.stdout.close()


def start_patched(run, patch, *options, **streams):
    """Start the script with something changed in its process, before it trains."""
    begin = f"""
import os, signal, sys, threading, time
sys.path[:0] = [{str(SCRIPT.parent)!r}]
import interrupted_script as script
"""
    end = f"""
sys.argv = {["script", str(run), *options]!r}
script.main()
"""
    return subprocess.Popen([sys.executable, "-c", begin + patch + end], **streams)


def until(happened):
    """Wait for what a child does; what it has not done in two minutes has failed."""
    for _ in range(12000):
        if happened():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")


@pytest.mark.parametrize(
    ("kind", "name", "goes"),
    [
        ("pipe", "SIGINT", "before"),
        ("pipe", "SIGINT", "after"),
        ("terminal", "SIGHUP", "before"),
        ("terminal", "SIGINT", "after"),
    ],
)
def test_who_reads_the_output_may_be_gone(kind, name, goes, tmp_path):
    """As tee by the same Ctrl-C, or a terminal that is closed: all is saved still."""
    there, go_on, told = (tmp_path / each for each in ("there", "go on", "told"))
    patch = f"""
def wait(self, batch, logs=None):
    if batch == 3:
        open({str(there)!r}, "w").close()
        while not os.path.exists({str(go_on)!r}):
            time.sleep(0.01)
        # The progress bar comes next; a little after its last line, or it prints none.
        time.sleep(0.2)
script.Marks.on_train_batch_end = wait
"""
    reader, writer = os.pipe() if kind == "pipe" else pty.openpty()
    with told.open("w") as errors:
        child = start_patched(
            tmp_path / "run",
            patch,
            *("--verbose", "1", "--options", '{"every_epochs": 9}'),
            stdout=writer,
            stderr=writer if goes == "before" else errors,
        )
    os.close(writer)
    until(there.exists)
    if goes == "before":
        os.close(reader)
    child.send_signal(getattr(signal, name))
    if goes == "after":
        until(lambda: "Saving, then stopping" in told.read_text())
        os.close(reader)
    go_on.touch()
    number = getattr(signal, name)
    ends = -number if name == "SIGINT" else 128 + number
    assert child.wait() == ends, told.read_text()
    assert [event["safe"] for event in journal(tmp_path / "run", "stopped")] == [True]
    saved = journal(tmp_path / "run", "saved")
    assert [event["checkpoint"] for event in saved] == ["ckpt-000000004"]


# A disk that never answers, once a checkpoint is being written to it.
HUNG_DISK = """
sync, hung = os.fsync, threading.Event()
def hang(descriptor):
    if "writer" in threading.current_thread().name:
        hung.set()
        threading.Event().wait()
    sync(descriptor)
os.fsync = hang
"""


@pytest.mark.parametrize(
    "patch",
    [
        # While the first one's checkpoint is waited for.
        """
from persist_callbacks.saving import Saver
wait_until = Saver.wait_until
def told(saver, deadline):
    if saver.busy:
        threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    return wait_until(saver, deadline)
Saver.wait_until = told
def act(self, batch, logs=None):
    if batch == 2:
        signal.raise_signal(signal.SIGINT)
script.Marks.on_train_batch_end = act
""",
        # In the middle of a step, beside a write.
        """
def act(self, batch, logs=None):
    if batch == 2:
        hung.wait()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
script.Marks.on_train_batch_end = act
""",
        # In a validation, which an exception would have saved.
        """
def act(self, batch, logs=None):
    hung.wait()
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
script.Marks.on_test_batch_end = act
""",
        # While what was in flight at the end of training is waited for.
        """
def act(self, logs=None):
    signal.raise_signal(signal.SIGINT)
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
script.Marks.on_train_end = act
""",
    ],
    ids=["stopping", "in a step", "in a validation", "at the end"],
)
def test_a_second_ctrl_c_waits_for_no_write(patch, tmp_path):
    """Neither there nor when the process ends, which it would never with this disk."""
    run = tmp_path / "run"
    options = '{"every_steps": 1, "grace_seconds": Infinity}'
    child = start_patched(
        run,
        HUNG_DISK + patch,
        "--options",
        options,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, said = child.communicate(timeout=40)
    finally:
        child.kill()
    assert child.returncode == -signal.SIGINT, said
    assert "PersistWarning" not in said
    assert "KeyboardInterrupt" in said
    assert journal(run, "saved") == journal(run, "failed") == []


# Data made by workers that the loop forks, and whom a signal to the group reaches too:
# of the sixth batch on, they wait for a file.
WORKERS = """
import keras, numpy as np
from persist_callbacks import PeriodicCheckpoint
from persist_callbacks.checkpointed_run import CheckpointedRun

class Rows(keras.utils.PyDataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        while index >= 5 and not os.path.exists(sys.argv[1] + " goes on"):
            time.sleep(0.05)
        return np.ones((8, 4), "float32"), np.ones((8, 1), "float32")

before = CheckpointedRun._before_step
def told(run, iterator):
    before(run, iterator)
    print("before step", run._step, flush=True)
CheckpointedRun._before_step = told

def train():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    options = script.json.loads(sys.argv[sys.argv.index("--options") + 1])
    rows = Rows(workers=2, use_multiprocessing=True, max_queue_size=4)
    ours = PeriodicCheckpoint(sys.argv[1], **options)
    model.fit(rows, verbose=0, shuffle=False, callbacks=[ours])
script.main = train
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 0)])
def test_a_signal_to_the_whole_group(name, code, tmp_path):
    """Workers that die of it take their batches with them, for which training waits."""
    run = tmp_path / "run"
    options = '{"every_epochs": 9, "grace_seconds": 3}'
    child = start_patched(
        run,
        WORKERS,
        *("--options", options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for line in child.stdout:
            if line == "before step 5\n":
                break
        os.killpg(child.pid, getattr(signal, name))
        if not code:
            (tmp_path / "run goes on").touch()
        # What a worker has open ends with it: none is left behind.
        out, said = child.communicate(timeout=100)
    finally:
        child.kill()
    assert child.returncode == code, said
    stopped, saved = journal(run, "stopped"), journal(run, "saved")
    if code:
        assert "within 3 s of SIGTERM: the newest safe checkpoint is none" in said
        assert [(event["reason"], event["safe"]) for event in stopped] == [
            ("SIGTERM", False)
        ]
        assert saved == []
    else:
        assert "before step 19" in out
        assert saved[0]["reason"] == "SIGUSR1"
        assert saved[-1]["reason"] == "finished"


@pytest.mark.parametrize(
    "patch",
    [
        # A step, or whatever comes before the next one, that does not end.
        """
def act(self, batch, logs=None):
    if batch == 2:
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            time.sleep(0.1)
script.Marks.on_train_batch_end = act
""",
        # What is said of it at the boundary is not written either.
        """
sync = os.fsync
def act(self, batch, logs=None):
    if batch == 2:
        os.fsync = lambda descriptor: threading.Event().wait()
        os.kill(os.getpid(), signal.SIGTERM)
script.Marks.on_train_batch_end = act
""",
        # Ctrl-C alone did not end it.
        """
def act(self, batch, logs=None):
    if batch == 2:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            time.sleep(0.1)
script.Marks.on_train_batch_end = act
""",
    ],
    ids=["a step", "the disk", "after Ctrl-C"],
)
def test_a_process_that_does_not_come_to_its_end_is_ended(patch, tmp_path):
    """When the grace is over, by the code that the signal would have given."""
    run = tmp_path / "run"
    child = start_patched(
        run,
        patch,
        *("--options", '{"every_epochs": 9, "grace_seconds": 2}'),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, said = child.communicate(timeout=100)
    finally:
        child.kill()
    assert child.returncode == 143, said
    assert "within 2 s of SIGTERM" in said
    assert "The process ends." in said
    assert journal(run, "saved") == []


def test_ctrl_c_ends_no_process_in_a_long_step(tmp_path):
    """As one of a notebook's: the step goes on for as long as it takes."""
    run, told = tmp_path / "run", tmp_path / "told"
    patch = f"""
def act(self, batch, logs=None):
    if batch == 2:
        os.kill(os.getpid(), signal.SIGINT)
        while "No step has ended" not in open({str(told)!r}).read():
            time.sleep(0.1)
        # Where it ended the process, it would do so now.
        time.sleep(0.5)
script.Marks.on_train_batch_end = act
"""
    options = ("--options", '{"every_epochs": 9, "grace_seconds": 1}')
    with told.open("w") as errors:
        child = start_patched(
            run, patch, *options, stdout=subprocess.DEVNULL, stderr=errors
        )
    assert child.wait() == -signal.SIGINT, told.read_text()
    assert "KeyboardInterrupt" in told.read_text()


@pytest.mark.parametrize("committed", [True, False])
def test_no_warning_of_a_write_that_was_given_up(committed, tmp_path, monkeypatch):
    """Whether it is committed later or not; the journal knows of it if it is."""
    run, release = tmp_path / "run", threading.Event()
    name = "commit" if committed else "stage"
    original = getattr(Store, name)

    def slow(*given, **options):
        if committed:
            done = original(*given, **options)
        release.wait(30)
        return done if committed else original(*given, **options)

    monkeypatch.setattr(Store, name, slow)
    monkeypatch.setattr(grace, "_SECONDS_TO_SAY_SO", 60.0)
    callback = ours(run, every_epochs=9, grace_seconds=4)
    with pytest.raises(SystemExit):
        fit(At("on_train_batch_end", 2, raising("SIGTERM")), callback)
    release.set()
    for thread in threading.enumerate():
        if "writer" in thread.name:
            thread.join()
    callback.close()
    assert [event["safe"] for event in journal(run, "stopped")] == [False]
    assert len(journal(run, "saved")) == committed
    assert journal(run, "failed") == []


@pytest.mark.parametrize(
    "seconds", [1e10, float("inf"), 10**400], ids=["large", "infinite", "huge"]
)
def test_grace_without_a_limit(seconds, tmp_path, capsys):
    """More than Python can wait is as long as it takes."""
    run = tmp_path / "run"
    with pytest.raises(SystemExit):
        stop = At("on_train_batch_end", 2, raising("SIGTERM"))
        fit(stop, ours(run, grace_seconds=seconds, verbose=1))
    assert "safe in ckpt-000000002" in capsys.readouterr().out
    assert [event["safe"] for event in journal(run, "stopped")] == [True]


def poison(*steps, value=np.nan):
    """Make a callback that spoils a weight after some steps."""
    done = itertools.count(1)
    callback = keras.callbacks.Callback()

    def after(batch, logs=None):
        if next(done) in steps:
            kernel = callback.model.layers[0].kernel
            kernel.assign(np.full(kernel.shape, value, "float32"))

    callback.on_train_batch_end = after
    return callback


def linear(rate=0.1):
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss)
    return model


def train_poisoned(model, run, *steps, epochs=2, value=np.nan, **options):
    x, y = data()
    options.setdefault("every_steps", 2)
    return model.fit(
        x,
        y,
        batch_size=8,
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=[poison(*steps, value=value), ours(run, **options)],
    )


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_poisoned_weights_are_never_saved(value, tmp_path):
    """Warned of once; the newest checkpoint and the best are from before."""
    run = tmp_path / "run"
    with pytest.warns(PersistWarning, match="found NaN or infinity in dense/kernel"):
        train_poisoned(linear(), run, 5, value=value, monitor="loss")
    store = Store.open_for_reading(run)
    assert [each.record.position.step for each in store.checkpoints()] == [2, 4]
    assert {event["policy"] for event in journal(run, "poisoned")} == {"skip"}
    assert store.find("latest").record.position.step == 4


@pytest.mark.usefixtures("synchronous")
def test_poisoned_weights_stop_training_where_that_is_wanted(tmp_path):
    """By an error that names the variable and the step."""
    run = tmp_path / "run"
    with pytest.raises(PoisonedWeights, match=r"weights at step 6.*dense/kernel"):
        train_poisoned(linear(), run, 5, on_nan="stop")
    assert Store.open_for_reading(run).newest_sound().committed.record.name == (
        "ckpt-000000004"
    )


@pytest.mark.usefixtures("synchronous")
def test_rollback(tmp_path, capsys):
    """The newest good weights, a lower rate, and the data go on; so often, no more."""
    run, model = tmp_path / "run", linear(0.1)
    train_poisoned(
        model,
        run,
        5,
        on_nan="rollback",
        rollback_learning_rate=0.5,
        verbose=1,
    )
    said = capsys.readouterr().out
    assert "the weights are those of ckpt-000000004 again" in said
    assert "the learning rate is 0.05 now; the data go on (rollback 1 of 3)" in said
    assert np.isfinite(model.layers[0].kernel.numpy()).all()
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    steps = [event["checkpoint"][5:] for event in journal(run, "saved")]
    assert [int(step) for step in steps] == [2, 4, 8, 10, 12, 14]

    with pytest.raises(PoisonedWeights, match="All 2 rollbacks are used up"):
        train_poisoned(
            linear(),
            tmp_path / "other",
            *range(3, 14),
            on_nan="rollback",
            rollback_times=2,
        )
    with pytest.raises(
        PoisonedWeights, match=r"no checkpoint to go back to\..*steps\.$"
    ):
        train_poisoned(linear(), tmp_path / "first", 1, on_nan="rollback")


@pytest.mark.parametrize(("poisoned", "step"), [(5, 4), (4, 2)])
def test_a_rollback_waits_for_the_save_in_flight(
    poisoned, step, tmp_path, monkeypatch, capsys
):
    """It would prune what is read, or be refused and rolled back for once more."""
    submit, write, drain = Writer.submit, saving.write, Writer.drain
    newest_sound = Store.newest_sound
    going_on, writers = threading.Event(), []

    def submit_first_at_once(writer, job):
        submit(writer, job)
        if not writers:
            writer.wait()
        writers.append(writer)

    def hold(store, keep, snapshot, *args):
        if snapshot.state.position.step == 4:
            assert going_on.wait(timeout=60)
        return write(store, keep, snapshot, *args)

    def let_go(writer, *args, **options):
        going_on.set()
        return drain(writer, *args, **options)

    def found_before(store):
        found = newest_sound(store)
        going_on.set()
        writers[-1].wait()
        return found

    monkeypatch.setattr(answering, "_SECONDS_BETWEEN_LOSSES", 0.0)
    monkeypatch.setattr(Writer, "submit", submit_first_at_once)
    monkeypatch.setattr(Writer, "drain", let_go)
    monkeypatch.setattr(saving, "write", hold)
    monkeypatch.setattr(Store, "newest_sound", found_before)
    options = {"keep_last": 1, "on_nan": "rollback", "verbose": 1}
    train_poisoned(linear(), tmp_path / "run", poisoned, **options)
    said = capsys.readouterr().out
    assert f"the weights are those of ckpt-00000000{step} again" in said
    assert said.count("(rollback ") == 1


@pytest.mark.usefixtures("synchronous")
def test_each_rollback_to_a_checkpoint_lowers_the_rate_further(tmp_path, capsys):
    """It has the rate from before the first of them."""
    model = linear(0.1)
    options = {"on_nan": "rollback", "rollback_learning_rate": 0.5, "verbose": 1}
    train_poisoned(model, tmp_path, 5, 8, **options)
    said = capsys.readouterr().out
    assert "the learning rate is 0.05 now; the data go on (rollback 1 of 3)" in said
    assert "the learning rate is 0.025 now; the data go on (rollback 2 of 3)" in said
    assert float(model.optimizer.learning_rate) == pytest.approx(0.025)


@pytest.mark.usefixtures("synchronous")
def test_a_rollback_lowers_the_rate_of_each_optimizer(tmp_path, capsys):
    """Also of those that fit does not know of, beside one that nobody uses."""
    model = linear()
    model.pair = {"one": keras.optimizers.SGD(0.2), "two": [keras.optimizers.Adam(0.4)]}
    options = {"on_nan": "rollback", "rollback_learning_rate": 0.5, "verbose": 1}
    train_poisoned(model, tmp_path, 5, **options)
    assert "the learning rates are 0.05, 0.1, 0.2 now" in capsys.readouterr().out
    rates = [model.optimizer, model.pair["one"], model.pair["two"][0]]
    assert [float(each.learning_rate) for each in rates] == pytest.approx(
        [0.05, 0.1, 0.2]
    )


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none yet"
)
@pytest.mark.usefixtures("synchronous")
def test_a_rollback_lowers_the_rates_within_a_multi_optimizer(tmp_path, capsys):
    """It has no rate itself, and may learn its optimizers from the first step."""
    one, two = keras.optimizers.SGD(0.2), keras.optimizers.Adam(0.4)
    both = keras.optimizers.MultiOptimizer(lambda v: one if "kernel" in v.path else two)
    options = {"on_nan": "rollback", "rollback_learning_rate": 0.5, "verbose": 1}
    model = linear()
    model.compile(both, model.loss)
    train_poisoned(model, tmp_path, 5, **options)
    assert "the learning rates are 0.1, 0.2 now" in capsys.readouterr().out


def test_a_rate_that_a_rollback_cannot_lower_is_refused_before_training(tmp_path):
    """One that a schedule computes: after hours it would be too late to say so."""
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    options = {"on_nan": "rollback", "rollback_learning_rate": 0.5}
    with pytest.raises(ArgumentError, match=r"a schedule .*computes \(SGD\)"):
        train_poisoned(linear(schedule), tmp_path, **options)
    assert not list(tmp_path.iterdir())
    train_poisoned(linear(schedule), tmp_path, on_nan="rollback")


@pytest.mark.usefixtures("synchronous")
def test_an_infinite_mask_is_not_poison(tmp_path):
    """A variable that is not trained may hold one on purpose."""

    class Masked(keras.layers.Layer):
        def build(self, shape):
            self.mask = self.add_weight(
                shape=(CLASSES,), initializer="zeros", trainable=False
            )

        def call(self, x):
            return x

    model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(CLASSES), Masked()]
    )
    model.layers[-1].mask.assign([0.0, -np.inf, 0.0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    train_poisoned(model, tmp_path / "run", epochs=1)
    assert len(journal(tmp_path / "run", "saved")) == 4


def test_large_weights_are_not_poison(tmp_path):
    """Their sum overflows, they do not."""
    from persist_callbacks.training import finiteness

    values = {"a": np.full(9, 3e38, "float32"), "b": np.array([1.0, np.nan])}
    values["c"] = np.array([-np.inf, 0.0])
    watched = {"a": True, "b": False, "c": False}
    assert finiteness.poisoned(values, watched) == ["b"]
    assert finiteness.poisoned(values, {**watched, "c": True}) == ["b", "c"]


def exit_of_child(act):
    """Fork, act in the child, and return how it ended."""
    with warnings.catch_warnings():
        # From Python 3.12 on, of any fork beside threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            act()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_dies_of_a_signal_and_holds_nothing(tmp_path):
    """It has the handlers and the run's objects, and neither is its own."""
    run, ends, held = tmp_path / "run", [], periodic_checkpoint._HOLDING

    def fork():
        ends.append(exit_of_child(raising("SIGTERM")))
        ends.append(exit_of_child(lambda: os._exit(len(held))))
        # Beside it there may be runs of other tests that ended badly.
        ends.append(run in held)

    # In a validation, of which what came before is saved when the process ends.
    fit(At("on_test_batch_end", 1, fork), ours(run))
    assert ends == [-signal.SIGTERM, 0, True]
    assert journal(run, "stopped") == []


def test_nothing_hangs_after_os_exit_and_fork(tmp_path):
    """A process that leaves by os._exit or forks in the middle of a fit is gone."""
    script = f"""
import os, sys
sys.path[:0] = [{str(SCRIPT.parent)!r}]
import interrupted_script as script
def leave(self, batch, logs=None):
    if batch == 3:
        child = os.fork()
        if not child:
            sys.exit(0)
        os.waitpid(child, 0)
        os._exit(7)
script.Marks.on_train_batch_end = leave
sys.argv = ["script", {str(tmp_path / "run")!r}, "--options", '{{"every_steps": 1}}']
script.main()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 7, done.stderr


def test_what_a_forked_child_receives_is_not_its_parents(tmp_path, monkeypatch):
    """It has the descriptor to which the interpreter writes of every signal."""
    begun, ends = [], []
    monkeypatch.setattr(
        grace.Grace, "begin", lambda _, request: begun.append(request.reason)
    )

    def fork():
        ends.append(exit_of_child(raising("SIGHUP")))
        signal.raise_signal(signal.SIGTERM)
        # Once by the handler, once by what is told as it arrives; in order.
        until(lambda: len(begun) >= 2)

    with pytest.raises(SystemExit):
        fit(At("on_train_batch_end", 2, fork), ours(tmp_path / "run"))
    assert ends == [-signal.SIGHUP]
    assert begun == ["SIGTERM", "SIGTERM"]


def test_asked_to_save_a_forked_child_goes_on(tmp_path):
    """It may make the batches that its parent waits for."""
    ends = []

    def fork():
        def act():
            signal.raise_signal(signal.SIGUSR1)
            os._exit(7)

        ends.append(exit_of_child(act))

    fit(At("on_train_batch_end", 2, fork), ours(tmp_path / "run"))
    assert ends == [7]
