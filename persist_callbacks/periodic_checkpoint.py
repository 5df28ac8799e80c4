"""PeriodicCheckpoint: saves while `fit` trains, resumes when the script runs again."""

from __future__ import annotations

import atexit
import math
import os
import weakref
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import keras

from persist_callbacks import environment
from persist_callbacks.answering import OnNan
from persist_callbacks.checkpointed_run import CheckpointedRun, Options
from persist_callbacks.errors import ArgumentError
from persist_callbacks.recovery import ResumePoint
from persist_callbacks.saving import Keep
from persist_callbacks.storage.retention import SHORTEST_SPAN
from persist_callbacks.storage.run_directory import absolute, check_directory, resolved
from persist_callbacks.storage.schedule import Triggers
from persist_callbacks.training.fit_loop import FitLoop, Logs, remove_stale_wrappers
from persist_callbacks.watchers import Watcher

# Runs that hold a directory: one of this thread whose fit died by an exception gives
# way to the next, as in a notebook cell that is run again.
_HOLDING: weakref.WeakValueDictionary[Path, CheckpointedRun] = (
    weakref.WeakValueDictionary()
)
_EXIT_SECONDS = 60.0


# A forked child holds none, and writes nothing of its parent's when it exits.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HOLDING.clear)


@atexit.register
def _release_all() -> None:
    """Write what runs still hold that died by an exception."""
    for run in list(_HOLDING.values()):
        run.release(within=_EXIT_SECONDS)


class PeriodicCheckpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Write checkpoints while training goes on, and resume from the newest sound one.

    A step boundary is captured by taking references to the variables; a background
    thread writes them. When the same script is run again after a crash, training goes
    on at the very batch, with the same data order, seeds, optimizer state, metrics,
    History and callbacks' decisions as if nothing had happened.

    ``epochs`` in ``fit`` is the total: a finished run that is rerun trains nothing
    more, and with a larger ``epochs`` it goes on.

    With none of the ``every_`` arguments it saves as often as 1 % of wall time pays
    for: at ends of epochs where they come often enough, else in between.

    Args:
        directory: the run directory; made if it is not there.
        every_steps: training steps between checkpoints.
        every_seconds: seconds between checkpoints.
        every_epochs: epochs between checkpoints at an epoch's end.
        max_overhead: share of wall time, between 0 and 1, that checkpoints may cost;
            beside other triggers it is their ceiling.
        keep_last: how many of the newest checkpoints stay.
        keep_best: how many of those with the best ``monitor`` stay; without
            ``monitor`` none.
        keep_every_seconds: keep one checkpoint of each such span of time for good.
        monitor: the key in Keras' logs that tells how good a model is, such as
            ``val_loss``. An epoch that improves on it is saved, whatever the triggers.
        mode: ``min`` or ``max``, which value of ``monitor`` is the better one; ``auto``
            goes by what Keras' metric of that name knows of itself, else by the name.
        resume: ``auto`` starts or goes on, ``must`` fails if there is nothing to go on
            from, ``never`` fails if there is something.
        on_error: when a checkpoint cannot be written, ``warn`` keeps training and tries
            again at the next trigger, ``raise`` stops training with the cause.
        data_state: how the place in the data is kept. ``iterator`` saves the state of
            fit's iterator with its shuffle buffers and caches, ``replay`` counts, and
            draws as many batches again on resume. ``auto`` saves the state while it
            holds at most 8 MB of the data, or a tenth of the variables' size, in at
            most 2,500 elements; 10,000 where functions of the pipeline compute them.
            What has no such state, as a Python generator, is replayed in any case.
        on_nan: what to do about weights that are NaN or infinite; they are never saved.
            They are found when a checkpoint is due, or when the loss is not finite.
            ``skip`` warns and trains on, ``stop`` ends ``fit`` by PoisonedWeights,
            ``rollback`` puts the newest checkpoint's weights and optimizer back; the
            data go on, so what led there is not met again.
        rollback_times: how often, before it stops after all.
        rollback_learning_rate: what each rollback multiplies the learning rate by, of
            each of the model's optimizers; none may have a schedule then. A further one
            to the same checkpoint lowers it further.
        save_on_signal: at SIGTERM, SIGHUP, SIGXCPU or Ctrl-C save at the next step
            boundary, or as the validation under way began, and end the program as the
            signal would have; a second Ctrl-C does so at once. At SIGUSR1 save and go
            on. Handlers of your own are called too, at once. In the main thread only.
            A file named SAVE in the run directory asks for a checkpoint in any case.
        grace_seconds: from a request to stop to the end of the process; a checkpoint
            that cannot be written by then is given up, and so is a step that has not
            ended; after Ctrl-C or a notice that is only said. Infinity is no limit.
        watchers: look for notices that the machine will be taken away, which count as
            SIGTERM; see `persist_callbacks.watchers`.
        verbose: 0 prints nothing, 1 where a run goes on and how it ended, 2 every
            checkpoint too.

    Raises:
        ArgumentError: an argument has a value that is not one of these.
        BackendError: Keras does not run on TensorFlow.
        NotARunDirectory: the directory holds something else.
        DirectoryNotWritable: it cannot be written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        every_epochs: int | None = None,
        max_overhead: float | None = None,
        keep_last: int = 3,
        keep_best: int = 1,
        keep_every_seconds: float | None = None,
        monitor: str | None = None,
        mode: Literal["auto", "min", "max"] = "auto",
        resume: Literal["auto", "must", "never"] = "auto",
        on_error: Literal["warn", "raise"] = "warn",
        data_state: Literal["auto", "iterator", "replay"] = "auto",
        on_nan: Literal["skip", "stop", "rollback"] = "skip",
        rollback_times: int = 3,
        rollback_learning_rate: float = 1.0,
        save_on_signal: bool = True,
        grace_seconds: float = 25.0,
        watchers: Sequence[Watcher] = (),
        verbose: int = 1,
    ) -> None:
        super().__init__()
        environment.require_tensorflow_backend()
        path = absolute(directory)
        if monitor is not None and not isinstance(monitor, str):
            raise ArgumentError(
                "monitor",
                expected="the name of a value in Keras' logs, or None",
                found=repr(monitor),
                advice='Give one, such as "val_loss".',
            )
        _watchers(watchers)
        _one_of("mode", mode, ("auto", "min", "max"))
        _one_of("resume", resume, ("auto", "must", "never"))
        _one_of("on_error", on_error, ("warn", "raise"))
        _one_of("data_state", data_state, ("auto", "iterator", "replay"))
        _one_of("verbose", verbose, (0, 1, 2))
        _one_of("save_on_signal", save_on_signal, (True, False))
        _one_of("on_nan", on_nan, ("skip", "stop", "rollback"))
        _whole("rollback_times", rollback_times, at_least=1)
        _positive("rollback_learning_rate", rollback_learning_rate)
        _positive("grace_seconds", grace_seconds, or_infinite=True)
        _whole("keep_last", keep_last, at_least=1)
        _whole("keep_best", keep_best, at_least=0)
        _span("keep_every_seconds", keep_every_seconds)
        self._options = Options(
            path=path,
            triggers=Triggers(
                every_steps=every_steps,
                every_seconds=every_seconds,
                every_epochs=every_epochs,
                max_overhead=max_overhead,
            ),
            keep=Keep(
                keep_last,
                keep_best,
                None if keep_every_seconds is None else _of_python(keep_every_seconds),
            ),
            monitor=monitor,
            lower_is_better=None if mode == "auto" else mode == "min",
            resume=resume,
            on_error=on_error,
            data_state=data_state,
            save_on_signal=save_on_signal,
            grace_seconds=_of_python(grace_seconds),
            watchers=tuple(watchers),
            on_nan=OnNan(on_nan, rollback_times, _of_python(rollback_learning_rate)),
            verbose=verbose,
        )
        check_directory(self._options.path)
        self._run: CheckpointedRun | None = None

    @property
    def run_directory(self) -> Path:
        """The run directory, absolute; since ``fit`` began, with links followed."""
        return self._options.path if self._run is None else self._run.directory

    @property
    def monitor(self) -> str | None:
        """The key in Keras' logs that tells how good a model is."""
        return self._options.monitor

    @property
    def resume_point(self) -> ResumePoint | None:
        """Where the present or last ``fit`` went on; None if it began anew."""
        return None if self._run is None else self._run.resume_point

    def close(self) -> None:
        """Finish the write in flight and let the run directory go.

        ``fit`` does so when it ends by itself, a new ``fit`` when it finds that the one
        before has died, and the interpreter when it exits; to be called where neither
        comes and the process goes on. ``with PeriodicCheckpoint(...) as ours:`` does.
        """
        if self._run is not None:
            self._run.release()

    def __enter__(self) -> PeriodicCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Open the run directory and find the checkpoint to go on from."""
        # Once: a link to the latest run may be pointed at the next one meanwhile.
        options = replace(self._options, path=resolved(self._options.path))
        for path, run in list(_HOLDING.items()):
            # A loop of the user's own may well call this fit in its middle.
            if run.is_dead() and (path == options.path or run.is_of_fit):
                run.release()
        remove_stale_wrappers(self.model)
        loop = FitLoop.around(self)
        if loop is None:
            raise ArgumentError(
                "PeriodicCheckpoint.on_train_begin",
                expected="to be called by fit or by a keras.callbacks.CallbackList",
                found="a call by hand",
                advice="In a loop of your own, put the callback into "
                "keras.callbacks.CallbackList([...], model=model, epochs=...) and call "
                "the list's hooks.",
            )
        others = [
            each
            for each in loop.callbacks
            if isinstance(each, PeriodicCheckpoint) and each is not self
        ]
        if others:
            raise ArgumentError(
                "callbacks",
                expected="one PeriodicCheckpoint in a fit, which answers for its steps",
                found=f"another one, for {others[0].run_directory}",
                advice="Keep its directory on the disk that shall outlive the machine, "
                "and every_steps or max_overhead for how often.",
            )
        self._run = CheckpointedRun(options, self, loop)
        _HOLDING[options.path] = self._run

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Note which epoch begins."""
        if self._run is not None:
            self._run.epoch_begins(epoch)


def _one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if not isinstance(value, (str, int)) or value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ArgumentError(
            name,
            expected=f"one of {choices}",
            found=repr(value),
            advice=f"Leave {name} out for the default.",
        )


def _watchers(value: object) -> None:
    """Refuse what would fail in a watcher's thread, where nobody sees it."""
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    for each in value if is_list else [value]:  # type: ignore[attr-defined]
        seconds = getattr(each, "seconds", None)
        is_number = isinstance(seconds, Real) and not isinstance(seconds, bool)
        looks = is_number and callable(getattr(each, "notice", None))
        if not is_list or not looks:
            raise ArgumentError(
                "watchers",
                expected="a list of objects with seconds and notice()",
                found=repr(value),
                advice="Give some of persist_callbacks.watchers, such as [Ec2Spot()].",
            )


def _whole(name: str, value: Any, *, at_least: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < at_least:
        raise ArgumentError(
            name,
            expected=f"a whole number of {at_least} or more",
            found=repr(value),
            advice=f"Leave {name} out for the default.",
        )


def _positive(name: str, value: Any, *, or_infinite: bool = False) -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not value > 0 or (value == math.inf and not or_infinite):
        raise ArgumentError(
            name,
            expected="a number above 0" + ("" if or_infinite else " and finite"),
            found=repr(value),
            advice=f"Leave {name} out for the default.",
        )


def _of_python(value: Any) -> float:
    """Make a plain number of one of NumPy's, whose precision would spread."""
    return value if isinstance(value, (int, float)) else float(value)


def _span(name: str, value: Any) -> None:
    if value is None:
        return
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not value >= SHORTEST_SPAN:
        raise ArgumentError(
            name,
            expected=f"a number of seconds, {SHORTEST_SPAN} or more, or None",
            found=repr(value),
            advice=f"Leave {name} out to keep none for good.",
        )
