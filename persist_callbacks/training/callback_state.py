"""The state of callbacks: Keras' own by a table, users' own by two methods.

A callback with ``get_state() -> dict`` and ``set_state(dict)`` is saved and put back by
them, wherever it stands in the list; the dict holds what JSON can hold, and arrays.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from persist_callbacks.training import (
    csv_log,
    json_values,
    pipeline,
    prints,
    randomness,
    variables,
)

# What each of Keras' callbacks decides by. All of it is reset in on_train_begin or
# __init__, and none of it is in the model.
_ATTRIBUTES: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: (
        "wait",
        "stopped_epoch",
        "best",
        "best_epoch",
        "best_weights",
    ),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
        "_current_epoch",
    ),
    keras.callbacks.History: ("epoch", "history"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: (
        "_global_train_batch",
        "_global_test_batch",
        "_previous_epoch_iterations",
    ),
}
# Older versions have none.
_ORBAX = getattr(keras.callbacks, "OrbaxCheckpoint", None)
if _ORBAX is not None:
    _ATTRIBUTES[_ORBAX] = (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
        "_total_batches_seen",
    )
# What tells two callbacks of one class apart.
_ABOUT = {
    "monitor": "monitor",
    "mode": "mode",
    "filepath": "path",
    "directory": "path",
    "filename": "path",
    "log_dir": "path",
}
_SAVE_THE_BEST = tuple(filter(None, (keras.callbacks.ModelCheckpoint, _ORBAX)))


@dataclass(frozen=True)
class CallbackState:
    """One callback's state.

    Args:
        kind: the class's name; with `about` it finds the callback again.
        occurrence: which of the callbacks of that class it is, from 0.
        state: JSON-ready values.
        about: ``monitor``, ``mode`` and ``path`` of a callback that has these; None
            where an older version has not written it: then `occurrence` tells.
    """

    kind: str
    occurrence: int
    state: dict[str, Any]
    about: dict[str, str] | None = None


def capture(callbacks: Iterable[Any]) -> tuple[list[CallbackState], dict[str, Any]]:
    """Take the state of all callbacks that have one.

    Args:
        callbacks: the callbacks of the run.

    Returns:
        The states, and the arrays that they refer to, by their names in the checkpoint.
    """
    arrays: dict[str, Any] = {}
    states = []
    for kind, occurrence, callback in _counted(callbacks):
        if isinstance(callback, keras.callbacks.CSVLogger):
            values = csv_log.get_state(callback)
        elif _has_protocol(callback):
            # The callback may write into an array that it handed out.
            values = copy.deepcopy(callback.get_state())
        elif (names := _attributes_of(callback)) is not None:
            values = {
                name: getattr(callback, name)
                for name in names
                if hasattr(callback, name)
            }
        else:
            continue
        where = f"callbacks/{kind}/{occurrence}"
        state = json_values.encode(values, where=where, arrays=arrays)
        states.append(CallbackState(kind, occurrence, state, _about(callback)))
    return states, arrays


def restore(
    callbacks: Iterable[Any],
    states: Iterable[CallbackState],
    arrays: Mapping[str, Any],
    *,
    step_has_begun: bool = False,
) -> list[str]:
    """Put the callbacks' states back.

    Args:
        callbacks: the callbacks of this run.
        states: from `capture`.
        arrays: the arrays that the states refer to.
        step_has_begun: whether begin hooks of a step were called, with other states.

    Returns:
        A sentence for each state or callback that has no counterpart.
    """
    states, counted = list(states), list(_counted(callbacks))
    found = _matched(counted, states)
    left_out = []
    for kind, occurrence, callback in counted:
        saved = found.get((kind, occurrence))
        protocol, names = _has_protocol(callback), _attributes_of(callback)
        if saved is None:
            if protocol or names is not None:
                name = _named(kind, _about(callback))
                left_out.append(f"{name} was not there when the checkpoint was made")
            continue
        values = values_of(saved, arrays)
        if isinstance(callback, keras.callbacks.CSVLogger):
            csv_log.set_state(callback, values)
            if values["text"] is None:
                left_out.append(f"the rows that {kind} had written could not be read")
        elif protocol:
            callback.set_state(values)
        else:
            for name in names or ():
                if name in values:
                    setattr(callback, name, values[name])
            if isinstance(callback, _SAVE_THE_BEST):
                _let_compare(callback)
            if step_has_begun and isinstance(callback, keras.callbacks.TensorBoard):
                _write_of_step(callback)
    used = {id(saved) for saved in found.values()}
    left_out += [
        f"{_named(saved.kind, saved.about)} is not among the callbacks any more"
        for saved in states
        if id(saved) not in used
    ]
    return left_out


def _matched(
    counted: Iterable[tuple[str, int, Any]], states: Iterable[CallbackState]
) -> dict[tuple[str, int], CallbackState]:
    """Find each callback's state: that of the same file if there is one.

    What has decided by another value is nobody's. A path may be another one, as where a
    run was moved.
    """
    waiting, found = list(states), {}
    for suits in (_is_equal, _is_alike):
        for kind, occurrence, callback in counted:
            if (kind, occurrence) in found:
                continue
            about = _about(callback)
            for at, saved in enumerate(waiting):
                by_place = saved.about is None and saved.occurrence == occurrence
                by_what = saved.about is not None and suits(saved.about, about)
                if saved.kind == kind and (by_place or by_what):
                    found[kind, occurrence] = waiting.pop(at)
                    break
    return found


def _is_equal(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return one == other


def _is_alike(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    modes = {each.get("mode") for each in (one, other)}
    return one.get("monitor") == other.get("monitor") and modes != {"min", "max"}


def _about(callback: Any) -> dict[str, str]:
    """Tell by what a callback decides, and where it writes."""
    held = vars(callback)
    return {
        name: os.fsdecode(held[attribute])
        for attribute, name in _ABOUT.items()
        if isinstance(held.get(attribute), (str, os.PathLike))
    }


def _named(kind: str, about: Mapping[str, str] | None) -> str:
    monitor, mode = ((about or {}).get(name) for name in ("monitor", "mode"))
    if monitor is None:
        return kind
    return f"{kind} of {monitor}" + (f" ({mode})" if mode in ("min", "max") else "")


def _let_compare(saves: Any) -> None:
    """Let a callback that saves the best find out which value is the better one.

    Keras has it do so at the first epoch's end, and takes it for done before that as
    soon as there is a best value.
    """
    if saves.best is None or saves.monitor_op is not None:
        return

    def compare(value: Any, best: Any) -> Any:
        # No earlier: the metric that tells may be built in the next step alone. Keras
        # looks at what it has found, which is not to be this.
        saves.monitor_op = None
        saves._set_monitor_op()
        return saves.monitor_op(value, best)

    saves.monitor_op = compare


def values_of(saved: CallbackState, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a callback's state holds.

    Args:
        saved: from `capture`.
        arrays: the arrays that it refers to.
    """
    here = dict(arrays)
    if saved.kind == "History":
        # A metric's vectors, which Keras has there as NumPy's.
        names = json_values.array_names(saved.state)
        here = {name: np.asarray(arrays[name]) for name in names}
    values: dict[str, Any] = json_values.decode(saved.state, here)
    return values


def _write_of_step(board: keras.callbacks.TensorBoard) -> None:
    """Let TensorBoard write of the step that it counts, if it is one to write of.

    It has chosen by its count as a step began; how has no public name. Older versions
    choose once, as training begins, and a subclass may never do.
    """
    begin = keras.callbacks.TensorBoard.on_train_batch_begin
    chooses = "_push_writer" in inspect.unwrap(begin).__code__.co_names
    if not chooses or type(board).on_train_batch_begin is not begin:
        return
    if getattr(board, "_prev_summary_state", None):
        board._pop_writer()
        board._push_writer(board._train_writer, board._global_train_batch)


def ids_of_saved(model: Any) -> set[int]:
    """Give the ids of the variables that are saved with a model, and of their parts.

    Args:
        model: the Keras model.
    """
    live = variables.collect(model, randomness.seed_variables())
    found = {id(item.variable) for item in live}
    for item in live:
        if isinstance(item.variable, tf.distribute.DistributedValues):
            found |= {id(part) for part in item.variable.values}
    return found


def ids_of_kept(callbacks: Iterable[Any]) -> set[int]:
    """Give the ids of variables that callbacks hold which keep their state."""
    return {
        id(prints.inner(variable))
        for callback in callbacks
        if _has_protocol(callback)
        for variable in variables.held_by(callback)
    }


def reshuffling(callbacks: Iterable[Any]) -> list[str]:
    """Name the attributes of callbacks that are data sets which reshuffle."""
    return [
        name
        for name, value in _attributes(callbacks)
        if isinstance(value, tf.data.Dataset) and pipeline.reshuffles(value)
    ]


def iterators(callbacks: Iterable[Any]) -> list[str]:
    """Name the attributes of callbacks without the protocol that are iterators.

    Where such a one stands is in nothing that Python can compare.
    """
    users = [c for c in callbacks if not _has_protocol(c) and not _is_of_keras(type(c))]
    return [
        name
        for name, value in _attributes(users)
        # A file goes through its lines.
        if isinstance(value, Iterator) and not hasattr(value, "read")
    ]


def _attributes(callbacks: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    for callback in callbacks:
        for name, value in vars(callback).items():
            yield f"{type(callback).__qualname__}.{name}", value


class ForgottenState:
    """Finds callbacks that carry state from step to step which nobody saves.

    Those are callbacks without the protocol, not known to us, with an attribute that
    is another than it was when training began. What is saved with their model, as its
    optimizer's learning rate is, may be.

    Args:
        callbacks: the callbacks of the run, as training begins.
    """

    def __init__(self, callbacks: Iterable[Any]) -> None:
        # Ids of variables that are saved, as far as they were asked for.
        self._saved: set[int] = set()
        self._before = [
            (callback, prints.take(callback, _known(callback)))
            for callback in callbacks
            if not _has_protocol(callback)
            and not type(callback).__module__.startswith(("keras.", "persist_callba"))
        ]

    def found(self) -> list[str]:
        """Name the classes of such callbacks, each once and never again."""
        changed = [pair[0] for pair in self._before if self._has_changed(*pair)]
        gone = {id(callback) for callback in changed}
        self._before = [pair for pair in self._before if id(pair[0]) not in gone]
        return sorted({type(callback).__qualname__ for callback in changed})

    def _has_changed(self, callback: Any, before: dict[str, prints.Print]) -> bool:
        now = prints.take(callback, _known(callback))
        if not prints.changed(before, now, self._saved):
            return False
        model = getattr(callback, "_model", None)
        if model is None:
            return True
        # To list them takes its time: only for what was not among them before.
        self._saved = ids_of_saved(model)
        return bool(prints.changed(before, now, self._saved))


def _known(callback: Any) -> set[str]:
    """List the attributes that Keras keeps in a callback.

    Of a subclass of one of Keras' own, what that one keeps is left to its table.
    """
    kinds = filter(_is_of_keras, type(callback).__mro__)
    return {"params", "_model"}.union(*map(_named_by, kinds))


def _is_of_keras(kind: type) -> bool:
    return kind.__module__.startswith("keras.")


@functools.cache
def _named_by(kind: type) -> frozenset[str]:
    """List the attributes that a class of Keras' speaks of in its own code."""
    return frozenset(re.findall(r"self\.(\w+)", inspect.getsource(kind)))


def _counted(callbacks: Iterable[Any]) -> Iterable[tuple[str, int, Any]]:
    seen: Counter[str] = Counter()
    for callback in callbacks:
        kind = type(callback).__qualname__
        yield kind, seen[kind], callback
        seen[kind] += 1


def _has_protocol(callback: Any) -> bool:
    return callable(getattr(callback, "get_state", None)) and callable(
        getattr(callback, "set_state", None)
    )


def _attributes_of(callback: Any) -> tuple[str, ...] | None:
    for kind, names in _ATTRIBUTES.items():
        if isinstance(callback, kind):
            return names
    return None
