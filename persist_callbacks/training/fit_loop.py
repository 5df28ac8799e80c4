"""The one place that knows how Keras' ``fit`` is made; of its data knows `fit_data`.

What is used here has no public name in Keras; ``tests/training/test_fit_loop.py`` fails
by name when a version moves one of them.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import keras
import tensorflow as tf

from persist_callbacks.training import pipeline
from persist_callbacks.training.fit_data import FitData

Logs = dict[str, Any]

# What a train function may raise when the data is at its end; ``fit`` expects either.
END_OF_DATA = (StopIteration, tf.errors.OutOfRangeError)

# They change what is in a lookup table, or in a queue.
_CHANGING = re.compile(
    r"LookupTable(Insert|Remove|Import)V2|Queue(De|En)queue\w*|Stack(Push|Pop)V2"
)
# What a reference to an iterator prints of itself; a data set's elements come by it.
_OF_ITERATOR = 'type="tensorflow::data::IteratorResource"'


@dataclass(frozen=True)
class UnsavedOps:
    """What a traced function does that no checkpoint follows.

    Args:
        drawing: ops that draw at random and keep their place themselves, in the kernel,
            where nobody can read it: what Keras draws goes through seeds in variables.
        changing: ops that change a lookup table, a queue or a stack.
        iterates: whether it draws from an iterator that it was not given.
    """

    drawing: tuple[str, ...] = ()
    changing: tuple[str, ...] = ()
    iterates: bool = False


class Step(Protocol):
    """What stands in for a model's train function: run it, or answer for it."""

    def __call__(self, run: Callable[[Any], Logs], iterator: Any) -> Logs:
        """Take one call of the train function.

        Args:
            run: the train function that would have been called.
            iterator: the data iterator that ``fit`` handed over.

        Returns:
            The logs that ``fit`` gets.
        """


class Tail(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback that runs after all others, whatever the user's order was; or before.

    ``CallbackList`` goes through a plain list, so one that is appended while
    ``on_train_begin`` is under way is reached at the end of that very round.

    Args:
        rank: tails run in the order of their ranks.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank


class FitLoop:
    """The loop that a callback is part of, seen from its ``on_train_begin``.

    Args:
        callback_list: the ``keras.callbacks.CallbackList`` that called the callback.
        fit_locals: what ``Model.fit`` holds; None when the user's own loop calls the
            hooks.
    """

    def __init__(
        self, callback_list: Any, model: Any, fit_locals: dict[str, Any] | None
    ) -> None:
        self._list = callback_list
        self._model = model
        self._data = None if fit_locals is None else FitData.of(fit_locals)
        self._drives_model = self._data is not None
        # A list of callbacks that the user has made need not know of them.
        self._epochs: int | None = (fit_locals or {}).get("epochs")
        # What fit was called with; a user's own loop tells nothing.
        self.arguments: dict[str, Any] = dict(fit_locals or {})
        # What it is to validate on, where that is known.
        self.validates_on: Any = self.arguments.get("val_x")
        self._wrapped: _Wrapped | None = None

    @classmethod
    def around(cls, callback: Any) -> FitLoop | None:
        """Find the loop whose ``on_train_begin`` is calling a callback right now.

        Args:
            callback: the callback whose hook is running.

        Returns:
            The loop, or None when the hook was called by hand, without a list.
        """
        for frame in _callers():
            owner = frame.f_locals.get("self")
            if isinstance(owner, keras.callbacks.CallbackList) and any(
                member is callback for member in owner.callbacks
            ):
                return cls(owner, callback.model, _fit_locals_above(frame))
        return None

    @property
    def drives_model(self) -> bool:
        """Whether ``Model.fit`` runs this loop, rather than code of the user's."""
        return self._drives_model

    @property
    def data(self) -> FitData:
        """The data that ``Model.fit`` goes through, where it drives the model."""
        assert self._data is not None
        return self._data

    @property
    def validation_data(self) -> FitData | None:
        """The data that ``Model.fit`` validates on, once it has begun to."""
        # Kept on the model from the first validation on, and taken off at fit's end.
        source = getattr(self._model, "_eval_epoch_iterator", None)
        return None if source is None else FitData(source, given=self.validates_on)

    @property
    def callbacks(self) -> list[Any]:
        """All callbacks of the loop but tails, in the order in which they run."""
        return [c for c in self._list.callbacks if not isinstance(c, Tail)]

    @property
    def epochs(self) -> int:
        """The total number of epochs that was asked for."""
        if self._epochs is not None:
            return self._epochs
        return int((self._list.params or {}).get("epochs", 1))

    @property
    def batches_per_epoch(self) -> int | None:
        """Batches in an epoch, None while that is unknown."""
        if self._data is not None:
            return self._data.batches_per_epoch
        known = (self._list.params or {}).get("steps")
        return int(known) if known and int(known) > 0 else None

    @property
    def steps_per_execution(self) -> int:
        """Training steps in one call of the train function."""
        return int(getattr(self._model, "steps_per_execution", 1) or 1)

    def is_running(self) -> bool:
        """Whether a hook of this loop is on the stack of the calling thread."""
        return any(frame.f_locals.get("self") is self._list for frame in _callers())

    def is_fitting(self) -> bool:
        """Whether the ``fit`` that this loop belongs to is on the calling thread."""
        return any(
            frame.f_code.co_name == "fit"
            and self._data is not None
            and self._data.is_of(frame.f_locals)
            for frame in _callers()
        )

    def run_last(self, tail: Tail) -> None:
        """Let a tail run after every callback of the user's, and of Keras'."""
        tail.set_model(self._model)
        tail.set_params(self._list.params)
        members = self._list.callbacks
        if any(member is tail for member in members):
            return
        at = len(members)
        while (
            at
            and isinstance(members[at - 1], Tail)
            and members[at - 1].rank > tail.rank
        ):
            at -= 1
        members.insert(at, tail)

    def run_first(self, tail: Tail) -> None:
        """Let one run before every callback, from the hook after the present one on."""
        tail.set_model(self._model)
        tail.set_params(self._list.params)
        # A new list: a running round would come to the present one once more.
        self._list.callbacks = [tail, *self._list.callbacks]

    def drop_tails(self, tails: Iterable[Tail]) -> None:
        """Take tails out again; safe while the list is being gone through."""
        gone = {id(tail) for tail in tails}
        # A new list, since a running round holds on to the old one.
        self._list.callbacks = [c for c in self._list.callbacks if id(c) not in gone]

    def start_at(self, epoch: int) -> None:
        """Make ``fit`` begin with an epoch; must be called from ``on_train_begin``."""
        self._model._initial_epoch = epoch

    def forget_start(self) -> None:
        """Undo `start_at`, which would hold for the next ``fit`` of the model too."""
        self._model._initial_epoch = None

    def wrap_train_function(self, step: Step) -> None:
        """Hand every call of the train function to a function of ours.

        Args:
            step: called with the real train function and fit's iterator.
        """
        self._wrapped = _Wrapped(self._model.train_function, step, self)
        self._model.train_function = self._wrapped

    def keep_wrapped(self) -> bool:
        """Wrap the train function again if somebody has made it anew.

        ``compile`` in a callback does, and ``make_train_function(force=True)``.

        Returns:
            Whether it had been made anew.
        """
        if self._wrapped is None:
            return False
        function = self._model.train_function
        while isinstance(function, _Wrapped):
            if function is self._wrapped:
                return False
            function = function.run
        if self._model.train_function is None:
            self._model.make_train_function()
        self._wrapped = _Wrapped(self._model.train_function, self._wrapped.step, self)
        self._model.train_function = self._wrapped
        return True

    @property
    def wrapped_function(self) -> Any:
        """What calls of the train function are handed on to, which may be made anew."""
        return None if self._wrapped is None else self._wrapped.run

    def unwrap_train_function(self) -> None:
        """Put the train function back that `wrap_train_function` had found."""
        if self._wrapped is None:
            return
        if self._model.train_function is self._wrapped:
            self._model.train_function = self._wrapped.run
        else:
            outer = self._model.train_function
            while isinstance(outer, _Wrapped):
                if outer.run is self._wrapped:
                    outer.run = self._wrapped.run
                    break
                outer = outer.run
        self._wrapped = None

    def unsaved_ops(self) -> UnsavedOps:
        """Find what the train function, if it is traced, does that is not saved."""
        return _unsaved(self._train_function())

    def unsaved_test_ops(self) -> UnsavedOps | None:
        """Find what the test function does that is not saved; None before it is traced.

        An evaluation by a callback is one, too.
        """
        function = getattr(self._model, "test_function", None)
        return _unsaved(function) if _traced(function) else None

    def variables_of_steps(self) -> list[Any]:
        """List the variables that the train function uses, as far as it is traced."""
        found: list[Any] = []
        for concrete in _traced(self._train_function()):
            # TensorFlow's word for one whose variables are gone, as those that an
            # earlier fit was traced with: nobody calls it any more.
            with contextlib.suppress(AssertionError):
                found += concrete.graph.variables
        return found

    def _train_function(self) -> Any:
        """Return the train function itself, whoever has wrapped it."""
        function = self.wrapped_function
        while isinstance(function, _Wrapped):
            function = function.run
        return function

    def let_go(self) -> None:
        """Hold on to fit's data no longer: buffers of its iterator may be large."""
        self._data = self.validates_on = None

    def mute_batches_before(self, batch: int) -> None:
        """Keep batch hooks from callbacks while batches that are done pass by.

        The progress bar alone sees them, so that it shows the right place. It ends by
        itself with the first batch that is not done.

        Args:
            batch: the first batch whose hooks everybody sees again.
        """
        begin = self._list.on_train_batch_begin

        def muted_begin(index: int, logs: Logs | None = None) -> None:
            if index >= batch:
                self.unmute_batches()
                begin(index, logs)

        def muted_end(index: int, logs: Logs | None = None) -> None:
            for callback in self._list.callbacks:
                if isinstance(callback, keras.callbacks.ProgbarLogger):
                    callback.on_train_batch_end(index, logs)

        # Attributes of the instance stand before the methods of its class.
        self._list.on_train_batch_begin = muted_begin
        self._list.on_train_batch_end = muted_end

    def unmute_batches(self) -> None:
        """End what `mute_batches_before` began."""
        vars(self._list).pop("on_train_batch_begin", None)
        vars(self._list).pop("on_train_batch_end", None)


class _Wrapped:
    """A train function that goes through a `Step` first."""

    def __init__(self, run: Callable[[Any], Logs], step: Step, loop: FitLoop) -> None:
        self.run = run
        self.loop = loop
        self.step = step

    def __call__(self, iterator: Any) -> Logs:
        return self.step(self.run, iterator)


def _unsaved(function: Any) -> UnsavedOps:
    drawing: set[str] = set()
    changing: set[str] = set()
    iterates = False
    seen: set[str] = set()
    for concrete in _traced(function):
        # One that another calls has been gone through with that.
        if concrete.name in seen:
            continue
        definition = concrete.graph.as_graph_def()
        seen |= {inner.signature.name for inner in definition.library.function}
        for node in pipeline.nodes_of(definition):
            # One of the first kind has both parts of its seed as attributes.
            if "seed" in node.attr and "seed2" in node.attr:
                drawing.add(node.op)
            elif _CHANGING.fullmatch(node.op):
                changing.add(node.op)
        # What it is given, as fit's own iterator, is no capture.
        iterates |= any(
            outside.dtype == tf.resource and _OF_ITERATOR in str(outside)
            for outside, _ in concrete.graph.captures
        )
    return UnsavedOps(tuple(sorted(drawing)), tuple(sorted(changing)), iterates)


def _traced(function: Any) -> list[Any]:
    """List what TensorFlow has traced of a function or of those in its closure.

    Keras' train function is a plain one around a ``tf.function``. What runs eagerly has
    none, and draws from a generator that is saved. Callers come before what they call.
    """
    waiting, seen, found = deque([function]), {id(function)}, []
    while waiting:
        current = waiting.popleft()
        if isinstance(current, tf.types.experimental.PolymorphicFunction):
            found += current._list_all_concrete_functions()
            continue
        for cell in getattr(current, "__closure__", None) or ():
            try:
                inner = cell.cell_contents
            except ValueError:
                # It is not filled yet.
                continue
            if callable(inner) and id(inner) not in seen:
                seen.add(id(inner))
                waiting.append(inner)
    return found


def remove_stale_wrappers(model: Any) -> None:
    """Take wrappers off that a ``fit`` which ended by an exception left on a model."""
    live, function = [], model.train_function
    while isinstance(function, _Wrapped):
        if function.loop.is_fitting():
            live.append(function)
        function = function.run
    for wrapped in reversed(live):
        wrapped.run = function
        function = wrapped
    model.train_function = function


def trace_anew(model: Any) -> None:
    """Have a model's functions traced anew, under whatever has wrapped them.

    Args:
        model: the Keras model, whose layers compute with other constants now.
    """
    outermost = function = getattr(model, "train_function", None)
    wrapped = None
    while isinstance(function, _Wrapped):
        wrapped, function = function, function.run
    model.train_function = model.test_function = model.predict_function = None
    if function is not None:
        # A fit that is under way asks for it but once.
        model.make_train_function()
    if wrapped is not None:
        wrapped.run, model.train_function = model.train_function, outermost


def _callers() -> Iterable[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _fit_locals_above(frame: FrameType) -> dict[str, Any] | None:
    above = frame.f_back
    if above is not None and above.f_code.co_name == "fit":
        return dict(above.f_locals)
    return None
