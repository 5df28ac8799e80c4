"""From a snapshot to a checkpoint on disk, written behind training."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from persist_callbacks.capturing import Snapshot
from persist_callbacks.errors import (
    ArgumentError,
    PersistError,
    PersistWarning,
    PoisonedWeights,
    SaveFailed,
)
from persist_callbacks.records import Position, Score
from persist_callbacks.storage import bundle, retention, sharing
from persist_callbacks.storage.checkpoints import Committed
from persist_callbacks.storage.layout import META, STATE
from persist_callbacks.storage.overhead import Overhead
from persist_callbacks.storage.schedule import (
    Moment,
    Past,
    Reason,
    Triggers,
    due,
    held_back,
    interval,
)
from persist_callbacks.storage.sharing import Stamp, Written
from persist_callbacks.storage.staging import Staged
from persist_callbacks.storage.store import Store
from persist_callbacks.storage.writer import Outcome, Writer
from persist_callbacks.training import (
    finiteness,
    json_values,
)
from persist_callbacks.training import state as training_state

# Until a save has been measured, its cost is taken from its size: a modest disk and the
# fixed cost of syncing a handful of files.
_BYTES_PER_SECOND = 200e6
_FIXED_SECONDS = 0.05
# Of a budget, what may go into snapshots that are only written if training ends before
# its time; the rest is for checkpoints.
_IN_CASE_SHARE = 0.5


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay.

    Args:
        last: how many of the newest.
        best: how many of those with the best scores.
        every_seconds: one for each such span of time, for good; None for no such.
    """

    last: int
    best: int
    every_seconds: float | None


@dataclass(frozen=True)
class Saved:
    """A checkpoint that has been committed.

    Args:
        committed: the checkpoint.
        files: its files, which the next one may share.
        trouble: what went wrong afterwards, with older ones or with the journal.
    """

    committed: Committed
    files: Files
    trouble: Exception | None = None


@dataclass(frozen=True)
class Files:
    """The files of the last checkpoint that was written here.

    Args:
        written: the data files; None before the first.
        meta: what is in its ``.meta``.
        meta_stamp: what the system says of that file.
    """

    written: Written | None = None
    meta: bytes | None = None
    meta_stamp: Stamp | None = None


def write(
    store: Store, keep: Keep, snapshot: Snapshot, reason: str, before: Files
) -> Saved:
    """Write, commit and prune; runs on the writer's thread.

    Args:
        store: the run directory, open for writing.
        keep: which checkpoints stay.
        snapshot: what to write; its tensors are gone afterwards.
        reason: what made it due, for the journal.
        before: the files of the last one.

    Returns:
        The committed checkpoint, durable.

    Raises:
        PoisonedWeights: there are NaNs in it; no checkpoint was made.
    """
    begun = time.monotonic()
    snapshot.open()
    if not snapshot.is_whole:
        raise RuntimeError("write: the snapshot has been written, or half so")
    state = dataclasses.replace(
        snapshot.state, last_logs=_encoded_logs(snapshot.last_logs)
    )
    needs = bundle.expected_size(snapshot.tensors) + len(snapshot.meta or b"")
    if before.written is not None:
        needs = max(0, needs - before.written.shareable())
    try:
        staged = store.stage(state.position.step, needs=needs)
    except (OSError, PersistError) as error:
        _note_failure(store, error)
        raise
    try:
        written = bundle.write(
            staged.prefix,
            snapshot.tensors,
            further_keys=snapshot.further_keys,
            before=before.written,
            frozen=snapshot.frozen,
            look=functools.partial(_refuse_poison, store, snapshot),
        )
        staged.write(STATE, training_state.to_json(state))
        stamp = None
        if snapshot.meta is not None:
            stamp = _write_meta(staged, snapshot.meta, before)
        committed = store.commit(
            staged,
            position=state.position,
            fingerprint=snapshot.fingerprint,
            score=snapshot.score,
            finished=snapshot.finished,
            digests=written.digests(),
            announce=False,
        )
    except BaseException as error:
        # The error that counts is this one; what is left is swept at the next start.
        with contextlib.suppress(OSError, PersistError):
            store.abandon(staged)
        # Of poison the journal is told by who decides what becomes of it.
        if not isinstance(error, PoisonedWeights):
            _note_failure(store, error)
        raise
    files = Files(written.moved_to(committed.path), snapshot.meta, stamp)
    try:
        # A save that was given up may be committed all the same, and no more than that.
        pruned = _prune(store, keep, committed) if store.is_held else []
        store.note(
            "saved",
            checkpoint=committed.record.name,
            reason=reason,
            size=committed.record.size,
            written=committed.record.size - written.linked_bytes,
            seconds=round(time.monotonic() - begun, 4),
            pruned=list(pruned),
        )
    except (OSError, PersistError) as error:
        return Saved(committed, files, trouble=error)
    return Saved(committed, files)


def _write_meta(staged: Staged, meta: bytes, before: Files) -> Stamp:
    """Write the graph, or share the last checkpoint's file if it has the same one."""
    path = staged.path / META
    shared = (
        before.written is not None
        and before.meta_stamp is not None
        and len(meta) >= sharing.SMALLEST
        and meta == before.meta
        and sharing.link(before.written.folder / META, before.meta_stamp, path)
    )
    if not shared:
        staged.write(META, meta)
    return sharing.stamp_of(path)


def _refuse_poison(store: Store, snapshot: Snapshot, key: str, block: Any) -> None:
    """Look at numbers just before they are written, while they are at hand."""
    watched = snapshot.watched
    if key not in watched or finiteness.is_sound(block, watched[key]):
        return
    # What was written before it was sound; the rest is still there.
    found = {key, *finiteness.poisoned(snapshot.tensors, watched)}
    keys = [each for each in watched if each in found]
    raise poisoned_weights(store.directory, keys, snapshot.state.position.step)


def poisoned_weights(where: object, keys: Sequence[str], step: int) -> PoisonedWeights:
    """Word the failure that weights are not finite.

    Args:
        where: the run directory.
        keys: the variables that are not.
        step: the step that comes next.
    """
    return PoisonedWeights(
        where,
        expected=f"finite weights at step {step}",
        found=f"NaN or infinity in {first_few(keys)}",
        advice="No checkpoint is made of it; the one before stays the newest. Look at "
        "the learning rate and the data, or let on_nan='rollback' go back.",
    )


def first_few(names: Sequence[str]) -> str:
    """Name three of many at most, and tell how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _prune(store: Store, keep: Keep, committed: Committed) -> list[str]:
    gone = retention.to_delete(
        [checkpoint.record for checkpoint in store.own_checkpoints()],
        keep_last=keep.last,
        keep_best=keep.best,
        keep_every_seconds=keep.every_seconds,
        pinned=(committed.record.name,),
    )
    store.prune(gone)
    return gone


def _note_failure(store: Store, error: BaseException) -> None:
    # What kept the checkpoint from being written may keep the journal from it too; the
    # warning or error that follows says it all the same.
    with contextlib.suppress(OSError, PersistError):
        store.note("failed", error=str(error) or type(error).__name__)


class Saver:
    """Decides when, hands snapshots to the writer, and answers for its failures.

    Args:
        store: the run directory, open for writing.
        triggers: when to save.
        keep: which checkpoints stay.
        on_error: ``warn`` goes on training, ``raise`` stops it.
        start: where training begins or goes on.
        say: prints a line for the user.
    """

    def __init__(
        self,
        store: Store,
        *,
        triggers: Triggers,
        keep: Keep,
        on_error: Literal["warn", "raise"],
        start: Position,
        say: Callable[[str], None],
    ) -> None:
        self._store = store
        self._triggers = triggers
        self._keep = keep
        self._on_error = on_error
        self._say = say
        self._writer: Writer[Saved] = Writer()
        now = time.monotonic()
        self._started_at = self._saved_at = now
        self._saved_step, self._saved_epoch = start.step, start.epoch
        self._first_step = self._asked_step = self._failed_step = start.step
        self._overhead = Overhead()
        self._in_case_spent = self._in_case_cost = 0.0
        self._told_interval = False
        self._untold: float | None = None
        self._files = Files()
        self._guess = _FIXED_SECONDS
        self._best = retention.best([c.record for c in store.own_checkpoints()])
        self._is_last = False
        self._end_step: int | None = None
        self.saved = 0
        self.failed = 0
        self.last: Committed | None = None
        self.poisoned: PoisonedWeights | None = None

    @property
    def newest_step(self) -> int:
        """The step that the newest checkpoint, or the one in flight, was taken before.

        Where training began or went on, while there is none.
        """
        return self._saved_step

    def expect(self, size: int) -> None:
        """Estimate the first save's cost from the bytes that it will write."""
        self._guess = _FIXED_SECONDS + size / _BYTES_PER_SECOND

    def due(
        self,
        position: Position,
        *,
        at_epoch_end: bool,
        epoch_seconds_left: float | None,
        score: Score | None,
    ) -> str | None:
        """Say what asks for a checkpoint at this boundary, None if nothing does.

        Costs some ten microseconds when nothing is due. While a save is in flight
        nothing is due; what was is asked for again afterwards.
        """
        if self._writer.busy and not at_epoch_end:
            return None
        self._asked_step = position.step
        reason = self._reason(position, at_epoch_end, epoch_seconds_left, score)
        if reason is not None and self._writer.busy:
            # What an epoch's end asks for cannot be had at a later step.
            is_best = score is not None and self._is_best(score)
            if reason != Reason.EPOCHS.value and not is_best:
                return None
            self.wait()
        return reason

    def _reason(
        self,
        position: Position,
        at_epoch_end: bool,
        epoch_seconds_left: float | None,
        score: Score | None,
    ) -> str | None:
        past = Past(
            started_at=self._started_at,
            saved_at=self._saved_at,
            # What could not be taken is tried again at the next trigger, as the warning
            # says, and not at each step.
            saved_step=max(self._saved_step, self._failed_step),
            saved_epoch=self._saved_epoch,
            spent_seconds=self._overhead.spent,
            expected_seconds=self._expected(),
        )
        moment = Moment(
            now=time.monotonic(),
            step=position.step,
            epoch=position.epoch,
            at_epoch_end=at_epoch_end,
            epoch_seconds_left=epoch_seconds_left,
        )
        reason: Reason | None = due(self._triggers, moment, past)
        if reason is not None:
            return reason.value
        if not self._told_interval and held_back(self._triggers, moment, past):
            self._tell_interval(moment, past)
        return "best" if score is not None and self._is_best(score) else None

    def _tell_interval(self, moment: Moment, past: Past) -> None:
        """Say once what a ceiling makes of triggers that ask for more."""
        if self._overhead.expected is None:
            # What one really costs is not known yet; a short run ends before it is.
            self._untold = past.expected_seconds
            return
        self._told_interval = True
        seconds = interval(self._triggers, past)
        each = (moment.now - past.started_at) / max(1, moment.step - self._first_step)
        self._say(
            f"A checkpoint costs {past.expected_seconds:.2g} s, so that max_overhead="
            f"{self._triggers.max_overhead} allows one in {seconds:.2g} s, about every "
            f"{max(1, round(seconds / each))} steps: less often than was asked for."
        )

    def step_ends(self) -> None:
        """Note the time: a step has ended, and nothing is done at the boundary yet."""
        self._overhead.arrive(time.monotonic())

    def step_begins(self) -> None:
        """Note the time: all that was to be done at the boundary is done."""
        self._overhead.leave(time.monotonic(), beside=self._writer.busy)

    def pause(self) -> None:
        """Note that what comes next is no step."""
        self._overhead.pause()

    @property
    def overhead(self) -> tuple[float, float]:
        """Seconds that checkpoints have cost, and their share of the time so far."""
        spent = self._overhead.spent
        return spent, spent / max(time.monotonic() - self._started_at, 1e-9)

    def begin_at(self, epoch: int) -> None:
        """Count epochs from here, when a new run does not begin with the first."""
        self._saved_epoch = epoch

    def _is_best(self, score: Score) -> bool:
        best = None if self._best is None else self._best.score
        if best is not None and (best.monitor, best.lower_is_better) != (
            score.monitor,
            score.lower_is_better,
        ):
            best = None
        return score.beats(best)

    def save(self, take: Callable[[], Snapshot], reason: str) -> None:
        """Take a snapshot and have it written behind training.

        Args:
            take: takes the snapshot.
            reason: what made it due.
        """
        begun = time.monotonic()
        try:
            snapshot = take()
            position = snapshot.state.position
            job = functools.partial(
                write, self._store, self._keep, snapshot, reason, self._files
            )
            del snapshot
            # There may be no thread to be had.
            self._writer.submit(job)
        except Exception as error:  # noqa: BLE001 - reported as on_error says
            self._saved_at, self._failed_step = begun, self._asked_step
            _note_failure(self._store, error)
            self._fail(error)
            return
        del job
        self._overhead.begin(time.monotonic() - begun)
        self._saved_at, self._saved_step = begun, position.step
        if position.batch == 0:
            self._saved_epoch = position.epoch

    def take_ahead(self, take: Callable[[], Snapshot]) -> Snapshot | None:
        """Take a snapshot that is not written yet, and count what that has cost.

        Args:
            take: takes the snapshot.

        Returns:
            None where it could not be taken, which has been told.

        Raises:
            SaveFailed: it could not, and ``on_error`` is ``raise``.
        """
        begun = time.monotonic()
        try:
            snapshot = take()
        except Exception as error:  # noqa: BLE001 - reported as on_error says
            _note_failure(self._store, error)
            self._fail(error)
            return None
        self._overhead.charge(time.monotonic() - begun)
        return snapshot

    def take_in_case(self, take: Callable[[], Snapshot]) -> Snapshot | None:
        """Take a snapshot that is written only if training ends before its time.

        Args:
            take: takes the snapshot.

        Returns:
            None where such snapshots would take too much of what checkpoints may cost.
        """
        budget = self._triggers.budget
        if budget is not None:
            expected = self._in_case_spent + self._in_case_cost
            elapsed = time.monotonic() - self._started_at
            if expected > _IN_CASE_SHARE * budget * elapsed:
                return None
        before = self._overhead.spent
        snapshot = self.take_ahead(take)
        self._in_case_cost = self._overhead.spent - before
        self._in_case_spent += self._in_case_cost
        return snapshot

    def save_before(
        self, deadline: float, take: Callable[[], Snapshot], reason: str
    ) -> bool:
        """Have a snapshot written, and wait until it is durable or time is over.

        Args:
            deadline: of the monotonic clock.
            take: takes the snapshot.
            reason: what made it due.

        Returns:
            Whether it is durable. If not, the writer goes on until the process ends.
        """
        if not self.wait_until(deadline):
            return False
        saved = self.saved
        self._is_last = True
        self.save(take, reason)
        return self.wait_until(deadline) and self.saved > saved

    def wait_until(self, deadline: float) -> bool:
        """Wait for the save in flight, as long as there is time.

        Args:
            deadline: of the monotonic clock.

        Returns:
            Whether none is in flight any more.
        """
        left = max(0.0, deadline - time.monotonic())
        outcome = self._writer.drain(None if math.isinf(left) else left)
        if outcome is not None:
            self._note(outcome)
        self.check()
        return not self._writer.busy

    @property
    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self._writer.busy

    @property
    def newest_name(self) -> str | None:
        """The name of the newest checkpoint that is safe, None if there is none."""
        if self.last is not None:
            return self.last.record.name
        return self._newest_before()

    def abandon(self) -> None:
        """Give up the write in flight: neither `close` nor the process waits for it."""
        self._writer.abandon()

    def leave_at_exit(self) -> None:
        """Wait no more for the write in flight when the process ends."""
        self._writer.leave_at_exit()

    def check(self) -> None:
        """Take note of a save that has ended; to be called at every step boundary.

        Raises:
            SaveFailed: it failed and ``on_error`` is ``raise``.
        """
        while (outcome := self._writer.collect()) is not None:
            self._note(outcome)

    def end_at(self, step: int) -> None:
        """Say of what fails from here on that nothing tries it again.

        Args:
            step: the steps that are done, with which training is over.
        """
        self._is_last, self._end_step = True, step

    def lost(self, step: int) -> str:
        """Word which steps no checkpoint holds; nothing where there are none.

        Args:
            step: the steps that are done.
        """
        safe = self._first_step
        if self.last is not None:
            safe = self.last.record.position.step
        if step <= safe:
            return ""
        if step == safe + 1:
            return f"step {step} is saved nowhere"
        return f"steps {safe + 1} to {step} are saved nowhere"

    def tell_end(self, step: int) -> None:
        """Print what was written, and what was not though it should have been.

        Args:
            step: the steps that are done and should be in a checkpoint.
        """
        lost = self.lost(step)
        if self.last is None and not lost:
            return
        told = f"{self.saved} checkpoints written to {self._store.directory}"
        if self.last is not None:
            seconds, share = self.overhead
            told += (
                f", the last one is {self.last.record.name}; they took at most "
                f"{seconds:.2g} s, {share:.1%} of the time"
            )
        if lost:
            told += f". Training ended at step {step}: {lost}"
        self._say(f"{told}.")

    def finish(self, take: Callable[[], Snapshot], step: int) -> None:
        """Write the last checkpoint of a run and wait until it is durable.

        Args:
            take: takes the snapshot.
            step: the steps that are done.

        Raises:
            SaveFailed: it failed and ``on_error`` is ``raise``.
        """
        if self._untold is not None and not self._told_interval:
            self._say(
                f"max_overhead={self._triggers.max_overhead} held back what was asked "
                f"for: a first checkpoint is taken to cost {self._untold:.2g} s, and "
                "training was too short to pay for it. The last one is written anyway."
            )
        failure: Exception | None = None
        try:
            self.wait()
        except Exception as error:  # noqa: BLE001 - raised below
            # Whatever became of the one before; but a second Ctrl-C ends all.
            failure = error
        self.end_at(step)
        self.save(take, "finished")
        self.wait()
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Wait for the save in flight; says so when it takes over a second.

        Raises:
            SaveFailed: it failed and ``on_error`` is ``raise``.
        """
        outcome = self._writer.drain(timeout=1.0)
        if outcome is None and self._writer.busy:
            self._say("Waiting for the last checkpoint to be written ...")
            outcome = self._writer.drain()
        if outcome is not None:
            self._note(outcome)
        self.check()

    def close(self) -> None:
        """Wait for the save in flight, without raising, and let the directory go.

        Ctrl-C ends the waiting, and the save is given up.
        """
        self._is_last = True
        try:
            try:
                self._writer.close()
            except BaseException:
                self._writer.abandon()
                raise
            self._tell_notices()
            while (outcome := self._writer.collect()) is not None:
                if outcome.error is not None:
                    self._warn(outcome.error)
        finally:
            self._store.close()

    def _expected(self) -> float:
        expected = self._overhead.expected
        return self._guess if expected is None else expected

    def _note(self, outcome: Outcome[Saved]) -> None:
        self._overhead.end(outcome.seconds)
        if outcome.error is None:
            self._record(outcome.result())
        elif isinstance(outcome.error, PoisonedWeights):
            self.poisoned = outcome.error
        # Whatever has become of the save in which the writer came upon them.
        self._tell_notices()
        if outcome.error is not None and outcome.error is not self.poisoned:
            self._fail(outcome.error)

    def _record(self, saved: Saved) -> None:
        self.saved += 1
        self.last, self._files = saved.committed, saved.files
        record = saved.committed.record
        if record.score is not None and self._is_best(record.score):
            self._best = record
        if saved.trouble is not None:
            warnings.warn(
                f"{record.name} is written, but not all that follows: {saved.trouble}",
                PersistWarning,
                stacklevel=2,
            )

    def _tell_notices(self) -> None:
        for notice in self._store.take_notices():
            warnings.warn(notice, PersistWarning, stacklevel=2)

    def _fail(self, error: BaseException) -> None:
        self.failed += 1
        if self._on_error == "raise":
            raise self._failure(error) from error
        self._warn(error)

    def _warn(self, error: BaseException) -> None:
        warnings.warn(str(self._failure(error)), PersistWarning, stacklevel=2)

    def _newest_safe(self) -> str:
        if self.last is not None:
            return self.last.record.name
        before = self._newest_before()
        return f"none yet, that of an earlier one is {before}" if before else "none yet"

    def _newest_before(self) -> str | None:
        """Name the newest one of earlier sessions; None where the disk is away."""
        with contextlib.suppress(OSError):
            before = self._store.checkpoints()
            return before[-1].record.name if before else None
        return None

    def _failure(self, error: BaseException) -> SaveFailed:
        found = str(error) if isinstance(error, PersistError) else repr(error)
        return SaveFailed(
            self._store.directory,
            expected="to write a checkpoint",
            # Keras raises what a callback raises without its cause.
            found=found.rstrip("."),
            advice=self._advice(),
        )

    def _advice(self) -> str:
        advice = f"The newest safe checkpoint of this session is {self._newest_safe()}."
        if not self._is_last and self._on_error == "warn":
            return f"{advice} The next trigger tries again."
        lost = "" if self._end_step is None else self.lost(self._end_step)
        if lost:
            advice += (
                f" Training ended at step {self._end_step}: {lost}, and nothing tries "
                "again. The model still has them: save it elsewhere."
            )
        return f"{advice} Run the script again when the cause is gone."


def _encoded_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Make numbers of the last step's logs; leave out what is none."""
    encoded = {}
    for name, value in logs.items():
        # Only shown and, for a step of the user's own, recorded at the epoch's end.
        with contextlib.suppress(ArgumentError):
            encoded[name] = json_values.encode(_plain(value), where=f"logs/{name}")
    return encoded


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if hasattr(value, "__array__"):
        array = keras.ops.convert_to_numpy(value)
        return float(array) if np.ndim(array) == 0 else array
    return value
