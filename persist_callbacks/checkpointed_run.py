"""One call of `fit`, or one loop of the user's own, that is saved and resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from persist_callbacks import environment, handing_over, tracing
from persist_callbacks.answering import Answerer, OnNan, Poisoning, require_rates
from persist_callbacks.capturing import Boundary, Capturer, Snapshot
from persist_callbacks.doubts import Doubts
from persist_callbacks.errors import (
    CheckpointNotFound,
    ModelNotBuilt,
    NothingToResume,
    PersistError,
    PersistWarning,
    SaveFailed,
    UnexpectedRun,
)
from persist_callbacks.interruptions import Interruptions
from persist_callbacks.records import Position, Score
from persist_callbacks.recovery import Recovery, ResumePoint, require_trainable
from persist_callbacks.saving import Keep, Saver
from persist_callbacks.storage import cache_files, progress
from persist_callbacks.storage.progress import ProgressFile
from persist_callbacks.storage.schedule import Triggers
from persist_callbacks.storage.store import Committed, Store
from persist_callbacks.training import (
    callback_state,
    data_position,
    directions,
    lasting_metrics,
    model_building,
    randomness,
    settings,
)
from persist_callbacks.training.fit_data import (
    Beginning,
    FitData,
    Passed,
    note_order,
)
from persist_callbacks.training.fit_loop import (
    END_OF_DATA,
    FitLoop,
    Logs,
    Tail,
)
from persist_callbacks.watchers import Watcher

# Of all tails the checkpoint's comes first: an export may want the best checkpoint.
_RANK = 0
_LAST_RANK = 100


@dataclass(frozen=True)
class Options:
    """What the user asked `PeriodicCheckpoint` for; its docstring says what each is."""

    path: Path
    triggers: Triggers
    keep: Keep
    monitor: str | None
    lower_is_better: bool | None
    resume: Literal["auto", "must", "never"]
    on_error: Literal["warn", "raise"]
    data_state: data_position.Way
    save_on_signal: bool
    grace_seconds: float
    watchers: tuple[Watcher, ...]
    on_nan: OnNan
    verbose: int


class CheckpointedRun:
    """Follows a loop from train begin to train end, saves it, and resumes it.

    All captures and the restore happen at one and the same place in the program: just
    before a step, after every begin hook. What was captured there is therefore all that
    has to be put back there.

    Args:
        options: what the user asked for.
        owner: the callback on whose behalf it runs.
        loop: the loop that the callback is part of.

    Raises:
        PersistError: the directory is not fit for the run, or its newest checkpoint is
            not one of this model and data; nothing was written.
    """

    def __init__(self, options: Options, owner: Any, loop: FitLoop) -> None:
        self._options = options
        self._owner = owner
        self._model = owner.model
        self._loop = loop
        # None in a loop of the user's own, which hands over no iterator.
        self._fit = loop if loop.drives_model else None
        self.resume_point: ResumePoint | None = None
        self._thread = threading.current_thread()

        require_rates(options.on_nan, self._model)
        if self._fit is not None:
            model_building.build_rest(self._model, self._fit.data.element_spec())
        self._recovery = self._find_recovery()
        self._settings = settings.describe(self._model, loop.arguments)
        loop.arguments = {}
        self._trained = self._in_batch = self._is_whole = False
        self._cut_short = self._size_known = self._over = False
        # Ends of epochs that the data had been told of when the present one began.
        self._ended_before = 0
        self._validation: FitData | None = None
        # Until its first validation, what an earlier process has left of the data.
        self._validated = Passed()
        self._validation_beginning: Beginning | None = None
        self._iterator: Any = None
        self._drawn = 0
        self._last_logs: Logs = {}
        self._epoch_ended = False
        self._score: Score | None = None
        self._last: Snapshot | None = None
        # Taken when an epoch's steps are done: all that a validation may have to be
        # stopped with, and an exception leaves.
        self._held: Snapshot | None = None
        self._has_validated = False
        self._rewinder: data_position.Rewinder | None = None
        self._rehearsed = 0
        self._resumed_at = ""
        # In a loop of the user's own, until the first step's begin hooks are over.
        self._again: Recovery | None = None
        self._refresh_due = True
        self._meta: bytes | None = None
        self._meta_asked = False
        self._monitor_missed = False
        self._epoch_began_at = self._said_at = time.monotonic()
        self._epoch_seconds: float | None = None

        self._capturer = Capturer(
            self._model, self._siblings, self._meta_graph, options.data_state
        )
        self._doubts = Doubts(self._model, self._siblings, loop)
        self._tails = (_AfterOthers(self), _AfterTails(self))
        self._head = _BeforeOthers(self)
        self._store = Store.open_for_writing(
            options.path, versions=environment.versions()
        )
        try:
            if self._store.checkpoints()[-1:] != self._newest:
                # Whoever has held the directory until now has saved since we looked.
                self._recovery = self._find_recovery()
            start = Position(0, 0, 0)
            if self._recovery is not None:
                start = self._recovery.state.position
            self._epoch, self._batch, self._step = start.epoch, start.batch, start.step
            self._saver = Saver(
                self._store,
                triggers=options.triggers,
                keep=options.keep,
                on_error=options.on_error,
                start=start,
                say=self._say,
            )
            self._progress = ProgressFile(options.path)
            self._interruptions = Interruptions(
                signals=options.save_on_signal,
                is_alive=self._is_alive,
                saves=self._store.take_save_request,
                watchers=options.watchers,
            )
            self._answerer = Answerer(
                self._interruptions,
                self._saver,
                self._store,
                grace=options.grace_seconds,
                say=self._say,
            )
            self._poisoning = Poisoning(
                options.on_nan,
                self._model,
                self._store,
                self._saver,
                self._capturer,
                self._say,
            )
            self._attach()
            self._interruptions.open()
        except BaseException:
            self._store.close()
            self._detach()
            raise

    def is_dead(self) -> bool:
        """Whether the loop has ended without saying so, by an exception.

        To be asked within another loop's train begin: of two loops in one thread, the
        one that is not on the stack has ended.
        """
        if self._thread is threading.current_thread():
            return not self._loop.is_running()
        return not self._thread.is_alive()

    @property
    def directory(self) -> Path:
        """The run directory that it was begun in."""
        return self._options.path

    @property
    def is_of_fit(self) -> bool:
        """Whether ``fit`` runs the loop, rather than code of the user's."""
        return self._loop.drives_model

    def _is_alive(self) -> bool:
        if self._over:
            return self._loop.is_running()
        return self._fit is None or self._fit.is_fitting()

    # -- train begin ----------------------------------------------------------------

    def _find_recovery(self) -> Recovery | None:
        """Find the newest sound checkpoint and see that it fits; reads only."""
        options = self._options
        recovery = None
        self._damaged: list[tuple[Path, str]] = []
        self._newest: list[Committed] = []
        with contextlib.suppress(CheckpointNotFound):
            store = Store.open_for_reading(options.path)
            self._newest = store.checkpoints()[-1:]
            sound = store.newest_sound()
            self._damaged = [(path, str(why)) for path, why in sound.passed_over]
            if sound.committed is not None:
                recovery = Recovery(store, sound.committed, sound.passed_over)
        if recovery is None and options.resume == "must":
            raise NothingToResume(
                options.path,
                expected='a checkpoint to go on from, since resume="must"',
                found="none",
                advice='Give the directory of a run, or resume="auto" to start one.',
            )
        if self._fit is None:
            # Not when hours of training are to be resumed.
            require_trainable(self._model, options.path, built=recovery is not None)
        if recovery is None:
            return None
        if options.resume == "never":
            raise UnexpectedRun(
                options.path,
                expected='no checkpoint, since resume="never"',
                found=recovery.committed.record.name,
                advice='Give a new directory, or resume="auto" to go on with this run.',
            )
        if self._fit is not None:
            recovery.check_data(
                self._fit.batches_per_epoch, self._fit.steps_per_execution
            )
        recovery.check_architecture(self._model)
        return recovery

    def _attach(self) -> None:
        """Take our places in the loop; what failed to validate is set aside."""
        for path, reason in self._damaged:
            self._store.set_aside(path, reason)
        for tail in self._tails:
            self._loop.run_last(tail)
        if self._fit is not None:
            self._clear_caches(self._fit)
            self._fit.wrap_train_function(self._fit_step)
            state = None if self._recovery is None else self._recovery.state
            passed = Passed() if state is None else state.data.passed
            self._fit.data.share_seeds(
                self._fit.validates_on, passed, self._validation_name, self._filling
            )
            # The iterator that was in use is made anew by fit itself.
            self._fit.data.count_iterators(
                max(0, passed.iterators - 1),
                None if self._recovery is None else self._recovery.data_beginning(),
                drawn_before=0 if state is None else state.data.drawn_before,
                run=str(self._options.path),
                filling=self._filling,
            )
            self._fit.data.count_epochs(passed.epochs)
            note_order(self._fit.validates_on)
            self._validated = passed
            if self._recovery is not None:
                self._fit.data.mark_end()
                self._validation_beginning = self._recovery.validation_beginning()
                if not self._recovery.ended_an_epoch:
                    # A finished run goes on with whatever data there are by now.
                    self._fit.data.expect_length(self._recovery.state.learnt_batches)

    def _clear_caches(self, fit: FitLoop) -> None:
        """Let the data be drawn from, though a process died while it filled a cache."""
        if (
            self._recovery is not None
            and self._first_epoch(self._recovery) >= fit.epochs
        ):
            return
        if self._recovery is not None:
            data = self._recovery.state.data
            if data.way == "iterator":
                cache_files.require_whole(
                    fit.data.cache_files(), self._recovery.committed.path
                )
        reached = progress.read(self._options.path)
        for cache in cache_files.clear(
            fit.data.cache_files(at_once=True),
            drawn_until=None if reached is None else reached.at,
        ):
            self._say(
                f"The data's cache {cache} was half filled when this run ended: it is "
                "filled anew."
            )

    def _first_epoch(self, recovery: Recovery) -> int:
        state = recovery.state
        # Training that a callback ended before its time is as finished as any other,
        # until more epochs are asked for than there were then.
        if state.stopped and self._loop.epochs <= (state.epochs or 0):
            return max(self._loop.epochs, state.position.epoch)
        return state.position.epoch

    def after_train_begin(self) -> None:
        """Put back what can be, after all callbacks have reset themselves."""
        # Tracing takes a second or so, which would be felt at the first checkpoint.
        self._meta_graph()
        self._doubts.training_begins()
        if self._fit is not None:
            self._fit.run_first(self._head)
            self._fit.data.watch(self._ids_of_saved)
        recovery = self._recovery
        if recovery is None:
            if self._fit is not None:
                self._tell_of(self._doubts.about(self._fit.data))
            return
        if handing_over.was_changed(self._model, self._options.path):
            warnings.warn(
                f"{self._options.path}: the model's weights have been changed since "
                f"this process wrote {recovery.committed.record.name} there, and are "
                "replaced by that checkpoint's, from which the run goes on. To train "
                "on from the model's own, give another directory.",
                PersistWarning,
                stacklevel=2,
            )
        over = self._fit is not None and (
            self._first_epoch(recovery) >= self._loop.epochs
        )
        if over and handing_over.is_of_another(self._model, self._options.path):
            warnings.warn(
                f"{self._options.path}: the run there was finished by another model of "
                f"this process, at {recovery.place}. "
                f"This model gets the weights of {recovery.committed.record.name} and "
                "is not trained. To train it, as the next fold of a cross validation, "
                "say, give it a directory of its own.",
                PersistWarning,
                stacklevel=2,
            )
        if self._fit is not None:
            # Here, since another callback's train begin may say otherwise, or fail.
            self._fit.start_at(self._first_epoch(recovery))
        if over and self._fit is not None:
            self._fit.data.catch_up(
                recovery.iterators_made,
                recovery.state.data.passed.drawn,
                recovery.data_end(),
            )
        if self._is_ready(recovery, over=over):
            # Begin hooks of epochs and batches shall see the model as it was. Its
            # metrics fit will reset then, as it would have after that epoch.
            lasting = recovery.ended_an_epoch and lasting_metrics.may_be_in(self._model)
            if lasting and self._fit is not None:
                lasting_metrics.build(self._model, self._fit.data.element_spec())
            whole = recovery.put_back_variables(
                self._model,
                metrics=lasting or self._fit is None,
                but=[] if self._fit is None else self._fit.data.variables(),
                early=self._fit is not None,
            )
            recovery.put_back_callbacks(self._siblings())
            if recovery.ended_an_epoch or self._fit is None:
                recovery.put_back_seeds()
                # What the next epoch's begin does comes on top of it, as it would have.
                self._is_whole = whole
        if self._fit is None and not recovery.ended_an_epoch:
            self._again = recovery
        if over or self._fit is None:
            self._resumed(recovery, quietly=over)
        elif recovery.state.position.batch:
            self._fit.mute_batches_before(recovery.state.position.batch)

    def _is_ready(self, recovery: Recovery, *, over: bool) -> bool:
        """Make variables that no step will make in time; say if the model has its own.

        Where an epoch had ended, the next one's begin hooks are to come on top of what
        is put back; where the run is over, no step comes at all.
        """
        if self._fit is None:
            return True
        if (over or recovery.ended_an_epoch) and not recovery.made_to_fit(self._model):
            # Code of the user's, which may not be made for this.
            with contextlib.suppress(Exception):
                model_building.build_all(self._model, self._fit.data.element_spec())
        if model_building.is_built(self._model) or recovery.made_to_fit(self._model):
            return True
        if over:
            raise ModelNotBuilt(
                self._options.path,
                expected="a built model, since the run there is finished",
                found=f"{type(self._model).__name__} {self._model.name!r}, that "
                "cannot be built by the shapes of its data",
                advice="Begin its layers with keras.Input(...), or call them on one "
                "batch first.",
            )
        return False

    # -- steps ----------------------------------------------------------------------

    def epoch_begins(self, epoch: int) -> None:
        """Note which epoch begins."""
        if self._fit is not None:
            self._fit.forget_start()
            self._ended_before = self._fit.data.epochs_ended
        if self._fit is not None or epoch != self._epoch:
            self._batch = 0
        if not self._trained and self.resume_point is None and self._recovery is None:
            self._saver.begin_at(epoch)
        self._epoch, self._has_validated = epoch, False
        self._epoch_began_at = time.monotonic()
        self._refresh_due = True

    def step_begins(self, batch: int) -> None:
        """Take a step boundary of a loop that is not fit's."""
        if self._fit is not None:
            self.see_to_train_function()
            return
        self._step += batch - self._batch
        self._batch = self._drawn = batch
        self._put_back_again()
        self._note_progress()
        self._before_step(None)
        self._trained = self._in_batch = True

    def _put_back_again(self) -> None:
        """Undo what begin hooks have done once more, as was captured after them."""
        recovery, self._again = self._again, None
        if recovery is None:
            return
        position = recovery.state.position
        if (self._epoch, self._batch) == (position.epoch, position.batch):
            recovery.put_back_variables(self._model)
            recovery.put_back_callbacks(self._siblings(), step_has_begun=True)
            recovery.put_back_seeds()
        recovery.forget_tensors()

    def see_to_train_function(self) -> None:
        """Stay between fit and its train function, whoever has made that anew."""
        if self._fit is not None and self._fit.keep_wrapped():
            self._refresh_due = True

    def _fit_step(self, run: Any, iterator: Any) -> Logs:
        """Stand in for fit's train function."""
        try:
            return self._pass_or_train(run, iterator)
        except END_OF_DATA:
            raise
        except BaseException:
            # `fit` has no way to tell its callbacks that it ends by an exception.
            self.release()
            raise

    def _pass_or_train(self, run: Any, iterator: Any) -> Logs:
        """Pass what is done; then put everything back, save what is due, and train."""
        if self._fit is None:
            logs: Logs = run(iterator)
            return logs
        steps = self._fit.steps_per_execution
        if iterator is not self._iterator:
            if not self._fit.is_fitting():
                # Ours has died, and another one has found our wrapper on the model.
                self.release()
                return self._pass_or_train(run, iterator)
            self._iterator, self._drawn = iterator, 0
            if self._recovery is not None:
                state = self._recovery.state
                self._fit.data.add_seen(state.data.drawn - state.position.batch)
        if self._recovery is not None:
            if self._batch < self._recovery.state.position.batch:
                return self._pass(self._recovery, run, iterator)
            if self._recovery.state.in_validation:
                # Of data of unknown length, fit finds the end by trying to go on.
                raise StopIteration
            self._resume_here(self._recovery, run, iterator)
            run = self._fit.wrapped_function
        self._before_step(iterator)
        self._last_logs = run(iterator)
        self._trained = True
        known = self._fit.batches_per_epoch
        # The last execution of an epoch may hold fewer steps than the others.
        self._step += (
            steps if known is None else max(1, min(steps, known - self._batch))
        )
        self._batch += steps
        self._drawn += steps
        self._fit.data.note_drawn(iterator)
        self._note_progress()
        return self._last_logs

    def _pass(self, recovery: Recovery, run: Any, iterator: Any) -> Logs:
        """Answer for steps that are done."""
        assert self._fit is not None
        self._batch += self._fit.steps_per_execution
        state = recovery.state
        if state.in_validation and self._batch >= state.position.batch:
            # No step of this epoch comes any more before which it could be done.
            late = self._fit.data.seeds.late()
            self._rewinder = data_position.Rewinder(state.data, iterator, late)
            self._rehearsed = self._put_back_all_variables(recovery, run, iterator)
            self._last_logs = recovery.last_logs()
        return recovery.last_logs()

    def _resume_here(self, recovery: Recovery, run: Any, iterator: Any) -> None:
        """Put everything back, just before the first step that is not done."""
        assert self._fit is not None
        data, drawn = self._fit.data, 0
        rewinder = data_position.Rewinder(
            recovery.state.data, iterator, data.seeds.late()
        )
        if not self._is_whole:
            drawn = self._put_back_all_variables(recovery, run, iterator)
            recovery.put_back_callbacks(self._siblings(), step_has_begun=True)
        rewinder.restore(
            recovery.tensors(),
            already_drawn=drawn,
            spare=data.spare_iterator,
            progress=self._replaying,
        )
        if recovery.state.data.drawn:
            data.note_drawn(iterator)
        if not self._is_whole:
            recovery.put_back_seeds(but=self._drawn_by_data(rewinder))
        self._drawn = recovery.state.data.drawn
        self._last_logs = recovery.last_logs()
        self._resumed(recovery)

    def _resume_after_steps(self, recovery: Recovery) -> None:
        """Put the rest back after an epoch's steps, all of which were done."""
        assert self._fit is not None
        drawn: Collection[str] = ()
        # Callbacks that begin a validation may have moved them again, as one that swaps
        # averages in does by what it remembers, which is put back too.
        recovery.put_back_variables(self._model, but=self._fit.data.variables())
        self._fit.data.forget_length()
        if not recovery.state.data.begins:
            self._fit.data.keep(self._iterator, recovery.state.data.drawn)
        self._fit.data.put_back_order(recovery.data_beginning())
        if self._rewinder is not None and not recovery.state.data.begins:
            self._rewinder.restore(
                recovery.tensors(),
                already_drawn=self._rehearsed,
                spare=self._fit.data.spare_iterator,
                progress=self._replaying,
            )
            drawn = self._drawn_by_data(self._rewinder)
            if recovery.state.data.drawn:
                self._fit.data.note_drawn(self._iterator)
        else:
            self._fit.data.forget_read_ahead()
            passed = recovery.state.data.passed
            self._fit.data.catch_up(0, passed.drawn, recovery.data_end())
        self._rewinder = None
        recovery.put_back_callbacks(self._siblings())
        recovery.put_back_seeds(but=drawn)
        self._drawn = recovery.state.data.drawn
        self._fit.unmute_batches()
        self._resumed(recovery)

    def _drawn_by_data(self, rewinder: data_position.Rewinder) -> Collection[str]:
        """Name the generators that are where a replay by Python code left them.

        It reads ahead of training: another place is not the data's. But what it has not
        drawn from, callbacks may have.
        """
        assert self._fit is not None
        data = self._fit.data
        if not (rewinder.replays and data.is_python):
            return ()
        if data.draws_in_turn:
            return rewinder.moved_generators()
        return randomness.OF_PYTHON

    def _put_back_all_variables(
        self, recovery: Recovery, run: Any, iterator: Any
    ) -> int:
        """Assign all variables, made if need be; return how many batches that drew."""
        assert self._fit is not None
        steps, drawn = self._fit.steps_per_execution, 0
        spec = self._fit.data.element_spec()
        within = recovery.state.position.batch > 0

        def build(metrics_alone: bool) -> None:
            # One step makes every variable that training has, in whatever way the
            # model makes them. What else it changes is put back right afterwards.
            nonlocal drawn
            if recovery.can_rehearse(steps):
                drawn = steps
                run(iterator)
                if not within:
                    # Those that cannot be put back begin the epoch anew.
                    self._model.reset_metrics()
            elif metrics_alone and not within:
                lasting_metrics.build(self._model, spec)
            else:
                self._build_all(spec)

        recovery.put_back_variables(
            self._model,
            build=build,
            # At an epoch's beginning fit has reset all others.
            metrics=within or lasting_metrics.may_be_in(self._model),
            but=self._fit.data.variables(),
        )
        if recovery.ended_an_epoch and not within:
            # It has those of that epoch's end, and fit's reset came too early.
            self._model.reset_metrics()
        return drawn

    def _build_all(self, spec: Any) -> None:
        try:
            model_building.build_all(self._model, spec)
        except Exception as error:
            raise ModelNotBuilt(
                self._options.path,
                expected="a model whose variables are there or can be made from its "
                "data's shapes, before the checkpoint's are put back",
                found=f"{type(self._model).__name__} {self._model.name!r} and batches "
                f"of {spec}, by which it cannot be built: {error}",
                advice="Call the model on one batch before fit, or give the data their "
                "shapes, by tf.ensure_shape say.",
            ) from error

    def _resumed(self, recovery: Recovery, *, quietly: bool = False) -> None:
        self._recovery = None
        self._resumed_at = recovery.place
        doubts: list[str] = []
        if self._fit is not None:
            recovery.note_data(self._fit.data.left_out)
            if not quietly:
                # A step that was rehearsed has shown what it draws.
                doubts = self._doubts.about(self._fit.data)
                doubts += self._doubts.about_train_steps()
        self._settings = recovery.note_settings(self._settings)
        in_fit = self._fit is not None
        self.resume_point = point = recovery.point(in_fit=in_fit, doubts=doubts)
        if self._again is None:
            recovery.forget_tensors()
        try:
            self._store.note("resumed", **point.as_event())
        except SaveFailed as error:
            warnings.warn(
                f"{error} The run goes on without its journal.",
                PersistWarning,
                stacklevel=2,
            )
        if not quietly:
            self._say(str(point))

    def _before_step(self, iterator: Any) -> None:
        """Save if something asks for it: here alone training is captured."""
        self._saver.step_ends()
        try:
            self._save_what_is_due(iterator)
        finally:
            self._saver.step_begins()

    def _save_what_is_due(self, iterator: Any) -> None:
        self._saver.check()
        position = Position(self._epoch, self._batch, self._step)
        epoch_ended, score = self._epoch_ended, self._score
        self._epoch_ended, self._score = False, None
        if self._trained and not self._size_known:
            self._size_known = True
            self._capturer.refresh()
            self._saver.expect(self._capturer.size)
            self._tell_of(self._doubts.about_train_steps())
            self._doubts.watch_steps()
        self._held = None

        def take() -> Snapshot:
            return self._take(position, iterator, score)

        if self._trained:
            self._poisoning.check(self._step, self._last_logs)
        self._answerer.answer(self._step, take, self.release)
        reason = self._saver.due(
            position,
            at_epoch_end=epoch_ended,
            epoch_seconds_left=self._epoch_seconds_left(),
            score=score,
        )
        if reason is None:
            return
        self._doubts.warn_of_unsaved(self._watched())
        self._saver.save(take, reason)
        if self._options.verbose > 1:
            self._say(f"Checkpoint of step {position.step} ({reason})")

    def _take(
        self,
        position: Position,
        iterator: Any,
        score: Score | None,
        *,
        stopped: bool = False,
        passed: Passed | None = None,
        in_validation: bool = False,
        in_case: bool = False,
    ) -> Snapshot:
        self._note_progress(look=True)
        if self._refresh_due:
            self._capturer.refresh()
            self._refresh_due = False
        data = self._fit.data if self._fit is not None else None
        learnt = None if data is None else data.learnt_length
        return self._capturer.take(
            Boundary(
                position=position,
                iterator=iterator,
                drawn=self._drawn,
                passed=passed or self._passed(begins=iterator is None),
                data=data,
                last_logs=dict(self._last_logs),
                batches_per_epoch=None if learnt else self._loop.batches_per_epoch,
                learnt_batches=learnt,
                score=score,
                stopped=stopped,
                epochs=self._loop.epochs,
                in_validation=in_validation,
                settings=self._settings,
                validation=self._validation_begins_with(),
            ),
            in_case=in_case,
        )

    def _tell_of(self, doubts: Iterable[str]) -> None:
        when = "If this run is resumed" if self.resume_point is None else "Resumed"
        for doubt in doubts:
            self._say(f"{when}: {doubt}.")

    # -- between an epoch's steps and its end -----------------------------------------

    def validation_begins(self) -> None:
        """Take or put back what there is between an epoch's steps and its end."""
        if self._fit is None:
            return
        self._saver.pause()
        self._has_validated = True
        begun = self._recovery is not None and self._recovery.state.in_validation
        if self._recovery is not None and begun:
            self._resume_after_steps(self._recovery)
        if self._validation is None and self._fit.validation_data is not None:
            # It may reshuffle too.
            self._validation = validation = self._fit.validation_data
            passed = self._validated
            beginning = self._validation_beginning or Beginning()
            validation.count_iterators(
                passed.validation_iterators,
                validation.beginning_of_validation(beginning),
                drawn_before=passed.validation_drawn,
                run=self._validation_name,
                filling=self._filling,
                where="data/validation",
            )
            validation.count_validations(
                passed.validation_epochs, beginning, self._fit.data, begun=begun
            )
            validation.watch(self._ids_of_saved, self._fit.data)
            if self.resume_point is not None:
                self._tell_of(validation.order_doubts())
        self._hold(self._fit)
        self._validated = dataclasses.replace(
            self._validated, validation_drawn=self._validated.validation_drawn + 1
        )

    def validation_step_begins(self) -> None:
        """Stop here if that was asked for: the epoch's steps are all done."""
        held = self._held
        if held is not None:
            self._answerer.answer_stop(self._step, held.complete, self.release)

    def epoch_is_ending(self) -> None:
        """Do the same where fit has not validated, before any callback's epoch end."""
        if self._fit is None:
            return
        self._saver.pause()
        if self._recovery is not None and self._recovery.state.in_validation:
            # Maybe the script validates no more.
            self._resume_after_steps(self._recovery)
        elif not self._has_validated:
            self._hold(self._fit)

    def _hold(self, fit: FitLoop) -> None:
        """Take a snapshot in case that the program ends before the epoch does."""
        data = fit.data
        # Stopped within the epoch, fit has steps of it left, or the end to tell of.
        if self._recovery is None and self._has_reached_end(fit):
            self._held = self._saver.take_in_case(lambda: self._take_after_steps(data))

    def _take_after_steps(self, data: FitData) -> Snapshot:
        """Take a snapshot after the epoch's last step.

        By now fit may have made an iterator that it will not use, and has told the data
        of the epoch's end, and those of a validation; a resumed one does so again.
        """
        waiting = data.waiting_iterator
        extra = waiting is not None and waiting is not self._iterator
        passed = self._passed(begins=False)
        told = passed.validation_epochs
        passed = dataclasses.replace(
            passed,
            iterators=passed.iterators - extra,
            epochs=passed.epochs - 1,
            validation_epochs=told - (self._has_validated and told > 0),
        )
        iterator, drawn = self._iterator, self._drawn
        if data.kept_iterator is not iterator:
            iterator, self._drawn = data.kept_iterator, 0
        position = Position(self._epoch, self._batch, self._step)
        try:
            return self._take(
                position,
                iterator,
                None,
                passed=passed,
                in_validation=True,
                in_case=True,
            )
        finally:
            self._drawn = drawn

    # -- ends -----------------------------------------------------------------------

    def epoch_ends(self, epoch: int, logs: Logs) -> None:
        """Note that an epoch is over and every other callback is done with it."""
        if self._fit is None and self._in_batch:
            # The batch that began last is done; nobody says so between batches.
            self._step += 1
            self._in_batch = False
        self._held = None
        if self._again is not None:
            # That step did not come.
            self._again.forget_tensors()
            self._again = None
        self._saver.pause()
        # Metrics and callbacks have seen the end of an epoch that has none: no
        # checkpoint of it would be exact, and the last one is.
        self._cut_short = self._is_cut_short()
        self._tell_of(self._doubts.about_test_steps())
        if self._fit is not None and self._drawn > self._batch:
            # What epochs of a steps_per_epoch had left over, by which none is long.
            self._fit.data.expect_length(None)
        if self._fit is not None and self.resume_point is not None:
            self._tell_of(self._doubts.about_length(self._fit.data, self._batch))
        for data in self._watched():
            data.callbacks_end_epoch()
        self._epoch, self._batch = epoch + 1, 0
        self._epoch_ended, self._score = True, self._score_of(logs)
        self._epoch_seconds = time.monotonic() - self._epoch_began_at
        self._note_progress()
        self._saver.check()
        # An attribute that compile makes, and fit.
        told = bool(getattr(self._model, "stop_training", False))
        stopped = told and self._epoch < self._loop.epochs
        if self._cut_short:
            return
        if stopped or self._epoch >= self._loop.epochs:
            # Before train end averages weights or puts the best ones back.
            self._last = self._saver.take_ahead(lambda: self._take_last(stopped))

    def _is_cut_short(self) -> bool:
        """Whether training was told to stop within the epoch that is under way."""
        if self._fit is None or not self._model.stop_training:
            return False
        if self._has_reached_end(self._fit):
            return False
        # Told to stop at the last batch, fit does not look for an end.
        known = self._loop.batches_per_epoch
        return known is None or self._batch < known

    def _has_reached_end(self, fit: FitLoop) -> bool:
        """Whether fit has come to the data's end in this epoch, wherever that was."""
        return fit.data.epochs_ended > self._ended_before

    def _take_last(self, stopped: bool = False) -> Snapshot:
        iterator = self._iterator
        if self._fit is not None and self._fit.data.kept_iterator is not iterator:
            # What comes next is drawn from another: the data are at their end.
            iterator, self._drawn = self._fit.data.kept_iterator, 0
        position = Position(self._epoch, self._batch, self._step)
        return self._take(position, iterator, self._score, stopped=stopped)

    def ends(self) -> None:
        """Write the last checkpoint, after every other callback's train end."""
        try:
            if self._cut_short:
                self._saver.end_at(self._step)
                self._saver.wait()
                self._say(
                    f"Training was stopped within epoch {self._epoch}, at step "
                    f"{self._step}: the run is not finished, and goes on from its "
                    "newest checkpoint when the script is run again."
                )
            elif self._trained or self._last is not None:
                last, self._last = self._last, None
                self._saver.finish(
                    lambda: self._capturer.finish(last or self._take_last()),
                    self._step,
                )
                self._poisoning.check(self._step, {})
            elif self.resume_point is not None:
                self._say(
                    f"Nothing left to train: the run in {self._options.path} is at "
                    f"{self._resumed_at}, and its weights are restored from "
                    f"{self.resume_point.path.name}."
                )
            handing_over.note(self._model, self._options.path)
            # Of a run that was stopped within an epoch it was said already.
            self._saver.tell_end(0 if self._cut_short else self._step)
            self._over = True
        finally:
            self.release()
        self._answerer.end(self._step, is_safe=not self._cut_short)

    def let_signals_go(self) -> None:
        """Put back what is left of the handlers, after every other tail's train end."""
        self._over = False
        self._interruptions.close()

    def release(self, *, within: float | None = None) -> None:
        """Finish the write in flight; leave directory and model as they were found.

        A validation or an epoch's end that an exception has ended is saved as it began,
        and a train end as the last epoch ended. After a second Ctrl-C nothing is
        written any more.

        Args:
            within: seconds after which a write is given up; None for no such limit.
        """
        self._detach()
        # While an export is under way, say, there is nothing left to save.
        self._interruptions.close(but_saves=self._over and self._loop.is_running())
        last, self._last = self._last, None
        if last is not None:
            # What train end does to the model, the rerun's does again.
            last.finished = True
        held, self._held = self._held or last, None
        if self._interruptions.at_once:
            self._saver.abandon()
            held = None
        deadline = math.inf if within is None else time.monotonic() + within
        if held is not None and held.state.position.step > self._saver.newest_step:
            with contextlib.suppress(PersistError):
                # A failure of it was journalled, and what ends the run counts more.
                self._saver.save_before(deadline, held.complete, "exception")
        if within is not None and not self._saver.wait_until(deadline):
            self._saver.abandon()
        self._progress.close()
        self._saver.close()
        self._iterator = self._rewinder = self._validation = self._again = None
        self._doubts.let_go()
        self._loop.let_go()

    def _detach(self) -> None:
        self._fit = None
        self._loop.unwrap_train_function()
        self._loop.unmute_batches()
        self._loop.forget_start()
        self._loop.drop_tails((self._head, *self._tails))

    # -- small things -----------------------------------------------------------------

    def _note_progress(self, *, look: bool = False) -> None:
        # What it is for is not worth a warning, let alone an end.
        with contextlib.suppress(OSError):
            self._progress.note(self._step, look=look)

    def _passed(self, *, begins: bool) -> Passed:
        if self._fit is None:
            return Passed()
        data, validation = self._fit.data, self._validation
        if validation is None:
            return dataclasses.replace(
                self._validated,
                iterators=data.iterators_made + begins,
                epochs=data.epochs_ended,
                drawn=data.iterators_drawn,
            )
        return Passed(
            data.iterators_made + begins,
            data.epochs_ended,
            validation.iterators_made,
            validation.epochs_ended,
            data.iterators_drawn,
            self._validated.validation_drawn,
        )

    @property
    def _validation_name(self) -> str:
        """What iterators over validation data count for, which may be the data too."""
        return f"validation of {self._options.path}"

    def _validation_begins_with(self) -> Beginning | None:
        validation = self._validation
        if validation is None:
            return self._validation_beginning
        return validation.beginning_now()

    def _siblings(self) -> list[Any]:
        return [member for member in self._loop.callbacks if member is not self._owner]

    def _meta_graph(self) -> bytes | None:
        """Trace the inference graph, once; None while the model is not built."""
        if not self._meta_asked and self._model.built:
            self._meta_asked = True
            spec = None if self._fit is None else self._fit.data.element_spec()
            self._meta = tracing.meta_of(
                self._model,
                self._siblings(),
                specs=spec and model_building.unknown_inputs(self._model, spec),
            )
        return self._meta

    def _score_of(self, logs: Logs) -> Score | None:
        monitor = self._options.monitor
        if monitor is None:
            return None
        if np.ndim(logs.get(monitor, ())) == 0:
            lower = self._options.lower_is_better
            if lower is None:
                lower = directions.lower_is_better(self._model, monitor)
            return Score(monitor, float(logs[monitor]), lower)
        if not self._monitor_missed and not self._awaits_validation(monitor, logs):
            self._monitor_missed = True
            warnings.warn(
                f"monitor={monitor!r} is not a number in the logs of the epoch, which "
                f"has: {', '.join(sorted(logs)) or 'none'}. No checkpoint counts as "
                "best.",
                PersistWarning,
                stacklevel=2,
            )
        return None

    def _awaits_validation(self, monitor: str, logs: Logs) -> bool:
        """Whether a value is of validations, and fit has done none in this epoch."""
        validates = self._fit is not None and self._fit.validates_on is not None
        return (
            validates
            and monitor.startswith("val_")
            and not any(name.startswith("val_") for name in logs)
        )

    def _watched(self) -> list[FitData]:
        data = None if self._fit is None else self._fit.data
        return [each for each in (data, self._validation) if each is not None]

    def _ids_of_saved(self) -> set[int]:
        return callback_state.ids_of_saved(self._model)

    def _epoch_seconds_left(self) -> float | None:
        known = self._loop.batches_per_epoch
        elapsed = time.monotonic() - self._epoch_began_at
        if known and self._batch:
            return elapsed * (known - self._batch) / self._batch
        if self._epoch_seconds is None:
            return None
        return max(0.0, self._epoch_seconds - elapsed)

    def _replaying(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said_at > 1.0:
            self._said_at = now
            self._say(f"Replaying the data: {done} of {total} batches")

    def _filling(self, number: int) -> None:
        now = time.monotonic()
        if now - self._said_at > 1.0:
            self._said_at = now
            self._say(
                f"Filling the data's cache as the first epoch did: {number} batches"
            )

    def _say(self, message: str) -> None:
        if self._options.verbose:
            environment.say(message)


@contextlib.contextmanager
def _releasing(run: CheckpointedRun) -> Iterator[None]:
    """Let go of directory and model when the loop ends by an error of ours."""
    try:
        yield
    except BaseException:
        run.release()
        raise


class _AfterOthers(Tail):
    """Calls a run back after every other callback has had its hook."""

    def __init__(self, run: CheckpointedRun) -> None:
        super().__init__(_RANK)
        self._run = run

    def on_train_begin(self, logs: Logs | None = None) -> None:
        with _releasing(self._run):
            self._run.after_train_begin()

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        with _releasing(self._run):
            self._run.step_begins(batch)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        with _releasing(self._run):
            self._run.see_to_train_function()

    def on_test_begin(self, logs: Logs | None = None) -> None:
        with _releasing(self._run):
            self._run.validation_begins()

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        with _releasing(self._run):
            self._run.validation_step_begins()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        with _releasing(self._run):
            self._run.epoch_ends(epoch, logs or {})

    def on_train_end(self, logs: Logs | None = None) -> None:
        try:
            self._run.ends()
        except BaseException:
            self._run.let_signals_go()
            raise


class _BeforeOthers(Tail):
    """Calls a run back before any other callback has had its epoch end."""

    def __init__(self, run: CheckpointedRun) -> None:
        super().__init__(_RANK)
        self._run = run

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        with _releasing(self._run):
            self._run.epoch_is_ending()


class _AfterTails(Tail):
    """Calls a run back after every other tail, an export's say, has had its train end.

    One that fails ends the loop before that: signals find it dead then, as they do when
    any other callback fails.
    """

    def __init__(self, run: CheckpointedRun) -> None:
        super().__init__(_LAST_RANK)
        self._run = run

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._run.let_signals_go()
