"""What a run does when it is asked to save or stop, and when its weights are lost."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np

from persist_callbacks.capturing import Capturer, Snapshot
from persist_callbacks.errors import (
    ArgumentError,
    NoSoundCheckpoint,
    PersistError,
    PersistWarning,
    PoisonedWeights,
)
from persist_callbacks.grace import Grace
from persist_callbacks.interruptions import Interruptions, Request
from persist_callbacks.recovery import Recovery
from persist_callbacks.saving import Saver, poisoned_weights
from persist_callbacks.storage.store import Store
from persist_callbacks.training import finiteness, learning_rates
from persist_callbacks.training.variables import optimizers_of

# A loss is a tensor; to read it waits for the step on a device that runs ahead.
_SECONDS_BETWEEN_LOSSES = 1.0


class Answerer:
    """Answers requests at step boundaries.

    Args:
        interruptions: where requests come in.
        saver: saves.
        store: the run directory, open for writing.
        grace: seconds from a request to stop within which the process must be gone;
            no limit where they are more than Python can wait.
        say: prints a line for the user.
    """

    def __init__(
        self,
        interruptions: Interruptions,
        saver: Saver,
        store: Store,
        *,
        grace: float,
        say: Callable[[str], None],
    ) -> None:
        self._interruptions = interruptions
        self._saver = saver
        self._store = store
        self._grace = Grace(grace, interruptions, store)
        self._say = say
        interruptions.on_stop = self._grace.begin
        interruptions.on_haste = saver.leave_at_exit

    def answer(
        self, step: int, take: Callable[[], Snapshot], release: Callable[[], None]
    ) -> None:
        """Save, or save and end the program, if that was asked for.

        Args:
            step: the step that comes next.
            take: takes a snapshot of this very boundary.
            release: lets directory, model and signals go.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after any other request to stop.
        """
        self.answer_stop(step, take, release)
        for watcher, error in self._interruptions.take_failures():
            warnings.warn(
                f"{type(watcher).__name__}.notice() raised {type(error).__name__}: "
                f"{error}. It is asked again every {watcher.seconds:g} s; until it "
                "answers, no notice of its kind is seen.",
                PersistWarning,
                stacklevel=2,
            )
        if self._saver.busy:
            return
        request = self._interruptions.take_save()
        if request is not None:
            self._saver.save(take, request.reason)
            self._say(f"Checkpoint of step {step}, asked for by {request.reason}")

    def end(self, step: int, *, is_safe: bool = True) -> None:
        """End the program after training, if it was asked to stop by then.

        What comes after training is left to the rerun.

        Args:
            step: the steps that are done.
            is_safe: whether the last of them are in a checkpoint.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after any other request to stop.
        """
        request = self._interruptions.stop
        if request is None:
            return
        taken = time.monotonic() - request.at
        self._note(request, step, is_safe, taken)
        self._say(f"Stopped by {request.reason} at the end of training.")
        raise request.exit()

    def answer_stop(
        self, step: int, take: Callable[[], Snapshot], release: Callable[[], None]
    ) -> None:
        """Do the same where a request to go on is left for later."""
        request = self._interruptions.stop
        if request is not None:
            self._stop(request, step, take, release)

    def _stop(
        self,
        request: Request,
        step: int,
        take: Callable[[], Snapshot],
        release: Callable[[], None],
    ) -> NoReturn:
        self._grace.is_answered = True
        try:
            is_safe = self._save(request, step, take)
        except PersistError as error:
            is_safe = False
            self._say(str(error))
        except BaseException:
            # A second Ctrl-C, which is not to wait for what the first one asked for.
            self._saver.abandon()
            raise
        taken = time.monotonic() - request.at
        self._note(request, step, is_safe, taken)
        self._say(self._told(request, step, is_safe, taken))
        if self._saver.busy:
            self._saver.abandon()
        release()
        raise request.exit()

    def _save(self, request: Request, step: int, take: Callable[[], Snapshot]) -> bool:
        deadline = request.at + self._grace.seconds
        if step == self._saver.newest_step:
            # Nothing was trained since: what is in flight, if anything, is all.
            return self._saver.wait_until(deadline)
        return self._saver.save_before(deadline, take, request.reason)

    def _told(self, request: Request, step: int, is_safe: bool, taken: float) -> str:
        newest = self._saver.newest_name
        head = f"Stopped by {request.reason} before step {step + 1}"
        again = "Run the same command again to go on."
        if is_safe and newest is None:
            return f"{head}; nothing was trained yet. {again}"
        if is_safe:
            return f"{head}, safe in {newest} after {taken:.1f} s. {again}"
        seconds = self._grace.seconds
        within = "" if math.isinf(seconds) else f" within {seconds:g} s"
        return (
            f"{head}; it could not be saved{within}. The newest safe checkpoint is "
            f"{newest or 'none'}. {again}"
        )

    def _note(self, request: Request, step: int, is_safe: bool, taken: float) -> None:
        try:
            self._store.note(
                "stopped",
                reason=request.reason,
                step=step,
                safe=is_safe,
                seconds=round(taken, 4),
            )
        except (OSError, PersistError) as error:
            self._say(f"The journal could not be written: {error}")


@dataclass(frozen=True)
class OnNan:
    """What to do about weights that are not finite.

    Args:
        policy: ``skip``, ``stop`` or ``rollback``.
        times: how many rollbacks at most.
        learning_rate: what each rollback multiplies the learning rate by, which is the
            checkpoint's or a lower one of before the rollback.
    """

    policy: Literal["skip", "stop", "rollback"] = "skip"
    times: int = 3
    learning_rate: float = 1.0


def require_rates(on_nan: OnNan, model: Any) -> None:
    """See to it that a rollback can multiply the learning rate, where it is to.

    Args:
        on_nan: what the user wants.
        model: the Keras model.

    Raises:
        ArgumentError: the model has a learning rate that cannot be set, or none.
    """
    if on_nan.policy != "rollback" or on_nan.learning_rate == 1.0:
        return
    computed = learning_rates.computed(model)
    if computed or not optimizers_of(model):
        names = ", ".join(computed)
        raise ArgumentError(
            "rollback_learning_rate",
            expected="optimizers of the model's whose learning rates are numbers",
            found=f"one that a schedule or a function computes ({names})"
            if computed
            else "no optimizer",
            advice="Leave it out, so that a rollback changes the weights alone, or "
            "give the optimizer a number, which a LearningRateScheduler may change.",
        )


class Poisoning:
    """Finds out that weights are lost, and does about it what the user wants.

    Args:
        on_nan: what the user wants.
        model: the Keras model.
        store: the run directory.
        saver: tells of saves that were refused.
        capturer: knows the variables.
        say: prints a line for the user.
    """

    def __init__(
        self,
        on_nan: OnNan,
        model: Any,
        store: Store,
        saver: Saver,
        capturer: Capturer,
        say: Callable[[str], None],
    ) -> None:
        self._on_nan = on_nan
        self._model = model
        self._store = store
        self._saver = saver
        self._capturer = capturer
        self._say = say
        self._read_loss_at = -math.inf
        self._warned = False
        self.rollbacks = 0

    def check(self, step: int, logs: dict[str, Any]) -> None:
        """Act if a save was refused, or if the loss and then the weights are lost.

        Args:
            step: the step that comes next.
            logs: of the step before.

        Raises:
            PoisonedWeights: training is to stop, or there is nothing to go back to.
        """
        error, self._saver.poisoned = self._saver.poisoned, None
        if error is None and self._loss_is_lost(logs):
            keys = finiteness.poisoned(
                self._capturer.values().open(), self._capturer.watched
            )
            if keys:
                error = poisoned_weights(self._store.directory, keys, step)
        if error is not None:
            self._act(error, step)

    def _loss_is_lost(self, logs: dict[str, Any]) -> bool:
        now = time.monotonic()
        if now - self._read_loss_at < _SECONDS_BETWEEN_LOSSES:
            return False
        self._read_loss_at = now
        loss = logs.get("loss")
        return loss is not None and not np.all(np.isfinite(np.asarray(loss)))

    def _act(self, error: PoisonedWeights, step: int) -> None:
        policy = self._on_nan.policy
        self._note(error, step, policy)
        if policy == "stop":
            raise error
        if policy == "rollback":
            self._roll_back(error, step)
        elif not self._warned:
            self._warned = True
            warnings.warn(str(error), PersistWarning, stacklevel=2)

    def _roll_back(self, error: PoisonedWeights, step: int) -> None:
        if self.rollbacks >= self._on_nan.times:
            raise _advising(
                error,
                f"All {self._on_nan.times} rollbacks are used up. No checkpoint is "
                "made of it; the one before stays the newest. Look at the learning "
                "rate and the data.",
            )
        # The save in flight could prune what is read here, and its poison is this one.
        self._saver.wait()
        self._saver.poisoned = None
        try:
            committed = self._store.newest_sound().committed
        except NoSoundCheckpoint:
            committed = None
        if committed is None:
            raise _advising(
                error,
                "There is no checkpoint to go back to. Look at the learning rate and "
                "at the data of the first steps.",
            )
        self.rollbacks += 1
        # A checkpoint that was gone back to before has the rate from before that.
        rates = [float(each) for each in learning_rates.given(self._model)]
        Recovery(self._store, committed).put_back_variables(self._model, metrics=False)
        self._model.reset_metrics()
        rate = ""
        if self._on_nan.learning_rate != 1.0:
            factor = self._on_nan.learning_rate
            rate = _rates_told(
                learning_rates.multiply(self._model, factor, at_most=rates)
            )
        self._say(
            f"{error.found} at step {step}: the weights are those of "
            f"{committed.record.name} again{rate}; the data go on "
            f"(rollback {self.rollbacks} of {self._on_nan.times})."
        )

    def _note(self, error: PoisonedWeights, step: int, policy: str) -> None:
        try:
            self._store.note("poisoned", step=step, found=error.found, policy=policy)
        except (OSError, PersistError) as failure:
            self._say(f"The journal could not be written: {failure}")


def _advising(error: PoisonedWeights, advice: str) -> PoisonedWeights:
    """Give the same error with other advice."""
    return PoisonedWeights(
        error.where, expected=error.expected, found=error.found, advice=advice
    )


def _rates_told(rates: list[float]) -> str:
    if not rates:
        return ", the learning rate could not be changed"
    verb = "the learning rate is" if len(rates) == 1 else "the learning rates are"
    return f", {verb} {', '.join(f'{rate:.3g}' for rate in rates)} now"
