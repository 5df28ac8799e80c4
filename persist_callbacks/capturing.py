"""From live training to a snapshot of one step boundary, on the train thread."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from persist_callbacks.records import Position, Score
from persist_callbacks.storage import bundle
from persist_callbacks.training import (
    callback_state,
    data_position,
    finiteness,
    randomness,
    variables,
)
from persist_callbacks.training.fit_data import Beginning, FitData, Passed
from persist_callbacks.training.references import References, Taken
from persist_callbacks.training.state import BEFORE_TRAIN_END, TrainingState

_Located = tuple[data_position.DataPosition, dict[str, Any]]
_NOT_LOCATED = data_position.DataPosition("replay", 0, Passed())

# What the state of an iterator may hold of the data unless the user says otherwise:
# some tens of milliseconds of the train thread, or little beside the variables.
_LARGEST_DATA = 8_000_000
_LARGEST_DATA_SHARE = 0.1


@dataclass(frozen=True)
class Boundary:
    """Where the loop stands and what it holds there: what a snapshot is taken of.

    Args:
        position: the step that comes next.
        iterator: fit's iterator; None in a loop that is not fit's, and after the last
            epoch, where fit would make another for the next.
        drawn: batches drawn from it.
        passed: how often the data were begun anew so far.
        data: the data that the iterator goes through, None in a loop that is not fit's.
        last_logs: logs of the last step.
        batches_per_epoch: where fit was told.
        learnt_batches: in an epoch, as far as it has found out.
        score: the monitored value, at the end of an epoch.
        stopped: whether training was told to stop.
        epochs: how many were asked for.
        in_validation: whether the epoch's validation comes next, or else its end.
        settings: what the script has asked for.
        validation: what the next iterator over the validation data begins with.
    """

    position: Position
    iterator: Any
    drawn: int
    passed: Passed
    data: FitData | None
    last_logs: dict[str, Any]
    batches_per_epoch: int | None
    learnt_batches: int | None = None
    score: Score | None = None
    stopped: bool = False
    epochs: int | None = None
    in_validation: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    validation: Beginning | None = None


@dataclass
class Snapshot:
    """A captured step boundary; nothing that training does later changes it.

    Args:
        state: all that is not a tensor, but for the last logs.
        tensors: all that is, by key, the variables after `open`; emptied when it is
            written.
        last_logs: logs of the last step, maybe still tensors: turned into numbers by
            whoever writes, so that the train thread does not wait for a device.
        fingerprint: the architecture's.
        score: the monitored value.
        finished: whether the run has ended by itself.
        meta: the serialised MetaGraphDef, None if the model cannot be traced.
        further_keys: keys that tensors are to be found under too, to their own.
        watched: keys whose values must be finite, see `finiteness.watched`.
        frozen: keys of what training is not expected to change.
        growing: keys of variables that may have another shape than they had when they
            were looked for.
        taken: the variables' values until `open`, which is for whoever needs them: it
            would hold up the train thread.
        random: what the process-wide generators held, until then.
        locate: gives the position in the data and its tensors, until `complete`.
    """

    state: TrainingState
    tensors: dict[str, Any]
    last_logs: dict[str, Any]
    fingerprint: str
    score: Score | None
    finished: bool
    meta: bytes | None
    further_keys: Mapping[str, str]
    watched: Mapping[str, bool] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    growing: frozenset[str] = frozenset()
    taken: Taken | None = None
    random: randomness.Taken | None = None
    locate: Callable[[], _Located] | None = None

    def complete(self) -> Snapshot:
        """Take the position in the data, if that was put off; on the train thread.

        Returns:
            Itself, to be written.
        """
        locate, self.locate = self.locate, None
        if locate is not None:
            data, tensors = locate()
            self.state = dataclasses.replace(self.state, data=data)
            self.tensors.update(tensors)
        return self

    def open(self) -> None:
        """Put the variables' values among the tensors, and write down the seeds."""
        random, self.random = self.random, None
        if random is not None:
            self.state = dataclasses.replace(self.state, random=random.record())
        taken, self.taken = self.taken, None
        if taken is None:
            return
        self.tensors.update(taken.open())
        if self.growing:
            described = tuple(
                dataclasses.replace(info, shape=tuple(self.tensors[info.key].shape))
                if info.key in self.growing
                else info
                for info in self.state.variables
            )
            self.state = dataclasses.replace(self.state, variables=described)

    @property
    def is_whole(self) -> bool:
        """Whether all variables are still there: writing takes them out."""
        return all(info.key in self.tensors for info in self.state.variables)


class Capturer:
    """Takes snapshots of a model and its callbacks.

    Args:
        model: the Keras model.
        callbacks: gives the callbacks whose state is taken.
        meta: gives the MetaGraphDef once the model is built.
        data_state: by which way the position in the data is taken.

    Attributes:
        size: bytes of all variables, as of the last `refresh`.
        watched: keys whose values must be finite, as of then.
    """

    def __init__(
        self,
        model: Any,
        callbacks: Callable[[], Sequence[Any]],
        meta: Callable[[], bytes | None],
        data_state: data_position.Way,
    ) -> None:
        self._model = model
        self._callbacks = callbacks
        self._meta = meta
        self._locator = data_position.Locator(data_state)
        self._live: list[variables.LiveVariable] = []
        self._infos: tuple[variables.VariableInfo, ...] = ()
        self._references: References | None = None
        self._glance: tuple[int, ...] | None = None
        self._object_graph = variables.ObjectGraph()
        self._fingerprint = ""
        self._frozen: frozenset[str] = frozenset()
        self._growing: frozenset[str] = frozenset()
        self.watched: Mapping[str, bool] = {}
        self.size = 0

    def refresh(self) -> None:
        """Look for variables anew: before the first capture of an epoch, say."""
        glance = variables.glance(self._model)
        if glance is not None and glance == self._glance:
            return
        self._glance = glance
        live = variables.collect(self._model, randomness.seed_variables())
        infos = variables.infos(live)
        known = self._references is not None and infos == self._infos
        if known and all(
            ours.variable is theirs.variable
            for ours, theirs in zip(live, self._live, strict=True)
        ):
            return
        self._live, self._references = live, References(live)
        self._infos = infos
        self.size = sum(
            item.variable.dtype.size * math.prod(item.info.shape) for item in live
        )
        self.watched = finiteness.watched(live)
        self._frozen = variables.frozen(self._model, live)
        self._growing = frozenset(
            item.info.key for item in live if not item.variable.shape.is_fully_defined()
        )
        self._object_graph = variables.object_graph(self._model, live)
        self._fingerprint = variables.fingerprint(infos, self._model)

    def values(self) -> Taken:
        """Take references to all variables, and nothing else."""
        if self._references is None:
            self.refresh()
        assert self._references is not None
        return self._references.take()

    def take(self, boundary: Boundary, *, in_case: bool = False) -> Snapshot:
        """Take a snapshot of a step boundary; runs on the train thread.

        Args:
            boundary: where the loop stands.
            in_case: whether it is likely never to be written. What costs most then, to
                serialise fit's iterator, is put off to its `complete`; until then
                nothing may be drawn from that.

        Returns:
            The snapshot, for `write`.
        """
        taken = self.values()
        objects = self._object_graph
        # A variable of that name comes over it.
        tensors: dict[str, Any] = {"save_counter": np.int64(objects.save_counter)}
        tensors[bundle.OBJECT_GRAPH_KEY] = np.array(objects.serialized, dtype=object)
        states, arrays = callback_state.capture(self._callbacks())
        tensors.update(arrays)
        state = TrainingState(
            position=boundary.position,
            data=_NOT_LOCATED,
            variables=self._infos,
            random={},
            callbacks=tuple(states),
            batches_per_epoch=boundary.batches_per_epoch,
            learnt_batches=boundary.learnt_batches,
            stopped=boundary.stopped,
            epochs=boundary.epochs,
            in_validation=boundary.in_validation,
            settings=dict(boundary.settings),
        )
        snapshot = Snapshot(
            state=state,
            tensors=tensors,
            last_logs=boundary.last_logs,
            fingerprint=self._fingerprint,
            score=boundary.score,
            finished=False,
            meta=self._meta(),
            further_keys=objects.keys,
            watched=self.watched,
            frozen=self._frozen,
            growing=self._growing,
            taken=taken,
            random=randomness.take(),
            locate=self._locating(boundary),
        )
        return snapshot if in_case else snapshot.complete()

    def _locating(self, boundary: Boundary) -> Callable[[], _Located]:
        """Return what takes the position in the data; all that moves is taken now."""
        data, began = boundary.data, None
        largest = max(_LARGEST_DATA, int(_LARGEST_DATA_SHARE * self.size))
        if data is not None and boundary.iterator is None:
            began = data.beginning_now()

        def locate() -> _Located:
            if data is not None and began is not None:
                position, tensors = self._locator.take_end(
                    boundary.passed, data, began, largest=largest
                )
            else:
                position, tensors = self._locator.take(
                    boundary.iterator,
                    boundary.drawn,
                    boundary.passed,
                    data,
                    largest=largest,
                )
            if boundary.validation is None:
                return position, tensors
            beginning = boundary.validation
            position = dataclasses.replace(
                position,
                validation_variables=len(beginning.variables),
                validation_own=beginning.own,
                validation_order=beginning.order.record,
            )
            keys = position.validation_keys()
            return position, {
                **dict(zip(keys, beginning.variables, strict=True)),
                **beginning.order.arrays,
                **tensors,
            }

        return locate

    def finish(self, last: Snapshot) -> Snapshot:
        """Complete the snapshot of the last epoch's end with what train end has done.

        An average or the best weights may have been put into the model since. The
        checkpoint's variables are those that the user is left with; the values that
        further training depends on are kept beside them.

        Args:
            last: taken when the last epoch had ended.

        Returns:
            The snapshot to write.
        """
        last.open()
        tensors = dict(last.tensors)
        replaced = []
        for key, value in self.values().open().items():
            before = last.tensors.get(key)
            if before is not None and not _same_bits(before, value):
                tensors[BEFORE_TRAIN_END + key] = before
                replaced.append(key)
            tensors[key] = value
        state = dataclasses.replace(last.state, replaced_at_end=tuple(replaced))
        return Snapshot(
            state=state,
            tensors=tensors,
            last_logs=last.last_logs,
            fingerprint=last.fingerprint,
            score=last.score,
            finished=True,
            meta=last.meta,
            further_keys=last.further_keys,
            watched=last.watched,
            frozen=last.frozen,
        )


def _same_bits(one: Any, other: Any) -> bool:
    left, right = np.asarray(one), np.asarray(other)
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    # Two reads of a variable that nobody has written to share one buffer.
    if left.ctypes.data == right.ctypes.data:
        return True
    if left.dtype == object:
        # Strings: NumPy's array is made anew by each look.
        return bool(np.array_equal(left, right))
    return bool(np.array_equal(_bytes(left), _bytes(right)))


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
