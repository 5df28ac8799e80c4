"""Where in the data a run stands: the iterator's own state, or a counted replay."""

from __future__ import annotations

import textwrap
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import tensorflow as tf

from persist_callbacks.errors import DataMismatch
from persist_callbacks.training import json_values, pipeline, randomness
from persist_callbacks.training.fit_data import Beginning, FitData, Passed

KEY = "data/iterator"

# What the state of an iterator may hold, if the way is ``auto``: to serialise it takes
# 10 to 15 microseconds an element, whatever its size, in which no step is trained. More
# where a replay would have to run functions for every element that it drops, such as
# the decoding of pictures.
_MOST_ELEMENTS = 2_500
_MOST_COMPUTED = 10_000

Way = Literal["auto", "iterator", "replay"]


@dataclass(frozen=True)
class DataPosition:
    """How the position in the data is kept.

    Args:
        way: ``iterator`` when the state of fit's iterator is in the checkpoint;
            ``replay`` when batches are drawn and dropped on resume.
        drawn: batches drawn from the iterator so far.
        passed: how often the data were begun anew.
        variables: how many variables of the pipeline are in the checkpoint, with their
            values from when the iterator was made.
        random: the generators' state from then, where Python makes the batches.
        own: a ``PyDataset``'s own state from then.
        begins: whether the next step is the first of an iterator that is not made yet;
            the state is that of the one before it then, for the seeds of the data set.
        reason: why it is a replay, else empty.
        validation_variables: how many variables of the validation pipeline are in the
            checkpoint, with their values from then.
        validation_own: the own state of a ``PyDataset`` to validate on.
        redrawn: batches that were drawn after the iterator's state was taken, and are
            drawn again on resume: its state would not have been whole here.
        order: what a ``PyDataset`` changes at epochs' ends, see `orders`.
        validation_order: likewise of one to validate on.
    """

    way: Literal["iterator", "replay"]
    drawn: int
    passed: Passed
    variables: int = 0
    random: dict[str, Any] | None = None
    own: dict[str, Any] | None = None
    begins: bool = False
    reason: str = ""
    validation_variables: int = 0
    validation_own: dict[str, Any] | None = None
    redrawn: int = 0
    order: dict[str, Any] = field(default_factory=dict)
    validation_order: dict[str, Any] = field(default_factory=dict)

    @property
    def drawn_before(self) -> int:
        """How many iterators before the one in use were drawn from."""
        in_use = self.drawn > 0 and not self.begins
        return max(0, self.passed.drawn - in_use)

    def keys(self) -> list[str]:
        """List the names of the tensors that go with it in the checkpoint."""
        state = [KEY] if self.way == "iterator" else []
        orders = json_values.array_names([self.order, self.validation_order])
        return state + self.variable_keys() + self.validation_keys() + orders

    def variable_keys(self) -> list[str]:
        """List the names of the pipeline's variables in the checkpoint."""
        return [f"data/variables/{number}" for number in range(self.variables)]

    def validation_keys(self) -> list[str]:
        """List the names of the validation pipeline's variables in the checkpoint."""
        return [f"data/validation/{n}" for n in range(self.validation_variables)]


class Locator:
    """Takes positions in the data by the way that suits the data, or the user.

    The state of an iterator brings it back at once, and holds all that shuffle buffers
    and caches in memory hold. A replay costs a checkpoint nothing, and a resume the
    time that the pipeline takes for the batches that are drawn again.

    Args:
        way: ``iterator`` or ``replay``; ``auto`` takes the iterator's state while it is
            small, and a replay otherwise.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        # Why the iterator's state is not taken: a pipeline's nature does not change.
        self._refusal: str | None = None
        self._judged = self._measures = False
        # The last whole state of an iterator, and how many batches were drawn then.
        self._whole: tuple[weakref.ref[Any], int, Any] | None = None

    def take(
        self,
        iterator: Any,
        drawn: int,
        passed: Passed,
        data: FitData | None,
        *,
        largest: int,
    ) -> tuple[DataPosition, dict[str, Any]]:
        """Take the position of an iterator.

        Runs on the train thread; costs what the pipeline's buffers cost to serialise.

        Args:
            iterator: the iterator that ``fit`` hands to the train function; None in a
                loop that is not fit's.
            drawn: batches drawn from it so far.
            passed: how often the data were begun anew so far.
            data: the data that the iterator goes through; None in a loop that is not
                fit's.
            largest: bytes of the data that a state may hold, if the way is ``auto``.

        Returns:
            The position, and the tensors that go with it into the checkpoint.
        """
        if data is None:
            return _position(
                "replay", drawn, passed, reason="the loop is the caller's own"
            )
        state = self._state(iterator, data, largest)
        reason, redrawn = self._refusal or "", 0
        if state is not None and data.seeds.come_back:
            state, redrawn = self._whole_state(iterator, drawn, state, data)
            reason = "its state lacks a part that is between two rounds"
        if state is not None:
            return _position("iterator", drawn, passed, state=state, redrawn=redrawn)
        return _position("replay", drawn, passed, began=data.beginning, reason=reason)

    def _whole_state(
        self, iterator: Any, drawn: int, state: Any, data: FitData
    ) -> tuple[Any, int]:
        """Give a state that is whole, and how many batches were drawn since."""
        if data.seeds.is_whole(state):
            self._whole = weakref.ref(iterator), drawn, state
            return state, 0
        if self._whole is None or self._whole[0]() is not iterator:
            return None, 0
        return self._whole[2], drawn - self._whole[1]

    def take_end(
        self, passed: Passed, data: FitData, began: Beginning, *, largest: int
    ) -> tuple[DataPosition, dict[str, Any]]:
        """Take the position after the last epoch, before an iterator for a further one.

        None is made for it: the user's next ``fit`` on the same data would notice.

        Args:
            passed: how often the data will have been begun anew by the next step.
            data: the data.
            began: what a further iterator would begin with.
            largest: as for `take`.

        Returns:
            As `take` does.
        """
        waiting = data.waiting_iterator
        state = None if waiting is None else self._state(waiting, data, largest)
        way: Literal["iterator", "replay"] = "replay" if state is None else "iterator"
        return _position(way, 0, passed, state=state, began=began, begins=True)

    def _state(self, iterator: Any, data: FitData, largest: int) -> Any:
        """Give the iterator's state, None where it cannot or shall not be taken."""
        if not self._judged:
            self._judged = True
            self._refusal = self._judge(iterator, data, largest)
        return None if self._refusal else self._try(iterator, data, largest)

    def _judge(self, iterator: Any, data: FitData, largest: int) -> str | None:
        """Say why the state cannot or shall not be taken, before it is tried."""
        if data.unsaved_randomness is not None:
            return data.unsaved_randomness
        if not isinstance(iterator, tf.data.Iterator):
            return f"{type(iterator).__name__} has no state to save"
        if self._way == "replay":
            return 'data_state="replay"'
        if data.cache_files():
            # A state speaks of the files as they were: restored beside others, or none,
            # it ends the process. To take it while one is filled divides the files.
            return "it caches in files, which the state of an iterator does not hold"
        if data.writes_snapshots:
            # To take a state while one is written damages what is written.
            return "it keeps a snapshot, which taking the state of an iterator damages"
        if self._way == "auto":
            held = data.buffered()
            self._measures = held.size is None
            if held.size is not None and held.size > largest:
                return _too_large(held.size, largest)
            most = _MOST_COMPUTED if data.runs_functions else _MOST_ELEMENTS
            if held.elements is not None and held.elements > most:
                return (
                    f"its buffers hold {held.elements:,} elements, over the {most:,} "
                    'that data_state="auto" saves'
                )
        return None

    def _try(self, iterator: Any, data: FitData, largest: int) -> Any:
        try:
            state = pipeline.iterator_state(
                iterator, strictly=not data.ignores_random_ops
            )
        except (
            tf.errors.FailedPreconditionError,
            tf.errors.UnimplementedError,
        ) as error:
            # TensorFlow refuses pipelines with Python functions or stateful random ops.
            self._refusal = _said_by(error)
            return None
        if self._measures and (size := len(_as_bytes(state))) > largest:
            self._refusal = _too_large(size, largest)
            return None
        return state


def _position(
    way: Literal["iterator", "replay"],
    drawn: int,
    passed: Passed,
    *,
    state: Any = None,
    began: Beginning | None = None,
    begins: bool = False,
    reason: str = "",
    redrawn: int = 0,
) -> tuple[DataPosition, dict[str, Any]]:
    began = began or Beginning()
    position = DataPosition(
        way,
        drawn,
        passed,
        len(began.variables),
        began.random,
        began.own,
        begins,
        reason,
        redrawn=redrawn,
        order=began.order.record,
    )
    tensors = dict(zip(position.variable_keys(), began.variables, strict=True))
    tensors.update(began.order.arrays)
    return position, tensors if state is None else {KEY: state, **tensors}


def _too_large(size: int, largest: int) -> str:
    return (
        f"its buffers hold {size / 1e6:.3g} MB, over the {largest / 1e6:.3g} MB that "
        'data_state="auto" saves'
    )


class Rewinder:
    """Brings fit's fresh iterator to a saved position.

    Args:
        position: from `Locator.take`.
        iterator: as many were made before it as before the one that was captured, and
            nothing was drawn from it yet.
        late: parts of its pipeline that take seeds when it is first drawn from.
    """

    def __init__(
        self, position: DataPosition, iterator: Any, late: Sequence[Any] = ()
    ) -> None:
        self._position = position
        self._iterator = iterator
        self._random = randomness.capture()
        # Nothing drawn, nothing begun; and a replay begins them itself.
        self._late = late if self._has_state and position.drawn else ()
        # Both are taken now: a rehearsal may draw from the iterator.
        takes = position.way == "iterator"
        self._fresh = pipeline.iterator_state(iterator) if takes else None
        self._begun = [pipeline.iterator_state(iter(part)) for part in self._late]

    @property
    def _has_state(self) -> bool:
        # One that begins is where it is to be, and so are its data set's seeds.
        return self._position.way == "iterator" and not self._position.begins

    @property
    def replays(self) -> bool:
        """Whether batches are drawn and dropped."""
        return self._position.drawn > 0 and not self._has_state

    def moved_generators(self) -> set[str]:
        """Name those of Python's that were drawn from since it was made."""
        now = randomness.capture()
        return {
            name for name in randomness.OF_PYTHON if now[name] != self._random[name]
        }

    @property
    def _draws(self) -> int:
        """How many batches are drawn, after the state is restored if there is one."""
        return self._position.redrawn if self._has_state else self._position.drawn

    def restore(
        self,
        tensors: dict[str, Any],
        *,
        already_drawn: int,
        spare: Callable[[], Any],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Go to the position.

        Args:
            tensors: the tensors that `Locator.take` gave.
            already_drawn: batches drawn from the iterator since it was made.
            spare: makes another iterator over the same data.
            progress: called with the batches dropped so far and their total, in a
                replay.

        Raises:
            DataMismatch: the state is one of other data.
        """
        if self._has_state:
            try:
                self._restore_state(tensors[KEY], spare)
            except (tf.errors.OpError, ValueError) as error:
                raise DataMismatch(
                    "the data given to fit",
                    expected="the pipeline whose iterator's state the checkpoint holds",
                    found=f"another: {_said_by(error)}",
                    advice="Give fit the same data, batch size and transformations as "
                    "before, or go on from a checkpoint at an epoch's end with "
                    "persist_callbacks.resume, fit(initial_epoch=...) and another "
                    "directory for PeriodicCheckpoint.",
                ) from error
            already_drawn = 0
        elif already_drawn > self._draws and self._fresh is not None:
            # A step was rehearsed at the beginning: the epoch is to have its batches.
            self._restore_state(self._fresh, spare)
            return
        for done in range(already_drawn, self._draws):
            if progress is not None:
                progress(done, self._draws)
            try:
                next(self._iterator)
            except StopIteration:
                # A last execution of fewer steps: the epoch ends here anyway.
                return

    def _restore_state(self, state: Any, spare: Callable[[], Any]) -> None:
        """Restore the iterator, and the seeds that its data set holds for later ones.

        A reshuffling data set keeps a generator of seeds, and making an iterator takes
        a pair from it; so does restoring one. A shuffle that is under way puts the
        generator back to where it was when the state was saved. One whose input is
        exhausted, as it is some batches before an epoch ends, has left the state, and
        nothing says where the generator was: then the fresh iterator does. For a part
        that takes seeds as it is drawn from, one of its own does: it takes the pair
        that the iterator under way had taken.
        """
        pipeline.set_iterator_state(self._iterator, state)
        after_one = _as_bytes(pipeline.iterator_state(spare()))
        pipeline.set_iterator_state(self._iterator, state)
        after_two = _as_bytes(pipeline.iterator_state(spare()))
        if after_one == after_two:
            # The spare iterators have taken seeds themselves.
            pipeline.set_iterator_state(self._iterator, state)
        else:
            pipeline.set_iterator_state(spare(), self._fresh)
        for part, own_state in zip(self._late, self._begun, strict=True):
            pipeline.set_iterator_state(iter(part), own_state)


def _said_by(error: Exception, most: int = 200) -> str:
    """Give the beginning of what TensorFlow says, to a sentence's or a word's end."""
    # Before and after it, it says in what op.
    text = str(error).split("[Op:")[0].split("}} ")[-1].strip()
    text = text.partition("\n")[0].strip()
    if len(text) > most:
        sentences, stop, _ = text[:most].rpartition(". ")
        text = sentences if stop else textwrap.shorten(text, most, placeholder=" ...")
    return text.removesuffix(".")


def _as_bytes(state: Any) -> bytes:
    serialized: bytes = tf.io.serialize_tensor(state).numpy()
    return serialized
