"""Prints of what an object holds: equal as long as nothing that it holds has changed.

They are compared each time a checkpoint is made: a print takes little time, is that of
the content and not of the object that has it, and of what is large or unknown it tells
little or nothing.
"""

from __future__ import annotations

import functools
import random
import sys
import weakref
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from persist_callbacks.training.randomness import HOLDERS

_LARGEST, _LONGEST, _DEPTH = 4096, 100, 2
_OUTERMOST = 4
# By the layer, as soon as it has some.
_WEIGHTS: weakref.WeakKeyDictionary[Any, Sequence[Any]] = weakref.WeakKeyDictionary()
_PLAIN = (type(None), bool, int, str, bytes, complex)
# What is looked at by itself, where it belongs.
_TOLD_APART = (type, keras.callbacks.Callback, keras.utils.PyDataset)
# Their states are saved for the process.
_SHARED = (random.random.__self__, np.random.rand.__self__)  # type: ignore[attr-defined]


class Print(NamedTuple):
    """A part of what an object holds.

    Args:
        content: what equal parts have in common.
        variable: the id of the variable whose value it is; None of anything else.
    """

    content: Any
    variable: int | None = None


def take(holder: Any, but: Collection[str] = ()) -> dict[str, Print]:
    """Take prints of an object's attributes, by the paths to them.

    Args:
        holder: any object with attributes.
        but: names of attributes that are left out.
    """
    found: dict[str, Print] = {}
    for name, value in list(vars(holder).items()):
        if name not in but:
            _add(found, name, value, _DEPTH)
    return found


def changed(
    before: dict[str, Print], after: dict[str, Print], but: Collection[int] = ()
) -> list[str]:
    """List the attributes whose prints differ.

    Args:
        before: from `take`.
        after: from `take`, of the same object.
        but: ids of variables that may differ.
    """
    nothing = Print(content=())
    found: dict[str, None] = {}
    for path in [*before, *(path for path in after if path not in before)]:
        old, new = before.get(path, nothing), after.get(path, nothing)
        known = old.variable in but or new.variable in but
        if old.content != new.content and not known:
            found[path.split("/")[0]] = None
    return list(found)


def sample(array: Any) -> Print:
    """Take a print of a large array, by some of its items.

    Args:
        array: NumPy's own, in memory.
    """
    few = array.flat[:: max(1, array.size // _LONGEST)]
    return Print((array.shape, None if array.dtype.hasobject else few.tobytes()))


def inner(variable: Any) -> Any:
    """Return TensorFlow's variable: of Keras' one, what is in it."""
    value = getattr(variable, "value", variable)
    return variable if callable(value) else value


@functools.cache
def is_users(module: str) -> bool:
    """Whether a module is the user's own: of no library, and not of Python."""
    top = module.split(".")[0]
    if top in sys.stdlib_module_names or top == "persist_callbacks":
        return False
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & set(file.split("/"))


def _add(found: dict[str, Print], path: str, value: Any, depth: int) -> None:
    try:
        content = _content(value)
        parts = () if content is not None else _parts(value, depth)
    except Exception:  # noqa: BLE001 - whatever a user's object does when it is read
        return
    if content is not None or not parts:
        found[path] = content or Print(None)
    for name, part in parts:
        _add(found, f"{path}/{name}", part, depth - 1)


def _content(value: Any) -> Print | None:
    """Condense what is one value; None for what has parts, or is unknown."""
    if isinstance(value, float):
        # NaN is no other than it was.
        return Print(value if value == value else "nan")
    if isinstance(value, _PLAIN):
        return Print(value)
    if isinstance(value, (keras.Variable, tf.Variable)):
        variable = inner(value)
        size = (variable.shape.num_elements() or 0) * max(variable.dtype.size, 1)
        small = size <= _LARGEST
        content = _bytes_of(np.asarray(variable)) if small else tuple(variable.shape)
        return Print(content, id(variable))
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return Print(_bytes_of(array) if array.nbytes <= _LARGEST else array.shape)
    if any(value is shared for shared in _SHARED):
        return Print(None)
    if isinstance(value, random.Random):
        return Print(hash(value.getstate()))
    if isinstance(value, np.random.Generator):
        return Print(tuple(_leaves(value.bit_generator.state)))
    if isinstance(value, np.random.RandomState):
        return Print(tuple(_leaves(value.get_state(legacy=False))))
    if isinstance(value, (set, frozenset)):
        few = value if len(value) <= _LONGEST else ()
        plain = [repr(item) for item in few if isinstance(item, (float, *_PLAIN))]
        return Print((len(value), sorted(plain)))
    return None


def _parts(value: Any, depth: int) -> Sequence[tuple[Any, Any]]:
    """List the parts of a value that are looked at, with their names."""
    if isinstance(value, HOLDERS):
        return [("state", value.state)]
    if isinstance(value, keras.Layer):
        # Metrics of a held model begin anew with each evaluation.
        return list(enumerate(_outermost(value)))
    if isinstance(value, keras.Optimizer):
        # Steps and rate: what else it holds moves with them.
        return list(enumerate(value.variables[:2]))
    if isinstance(value, keras.Metric):
        return list(enumerate(value.variables[:_LONGEST]))
    if isinstance(value, (list, tuple, deque, dict)):
        items: Sequence[tuple[Any, Any]] = ()
        if depth > 0 and len(value) <= _LONGEST:
            items = list(value.items() if isinstance(value, dict) else enumerate(value))
        elif depth > 0 and not isinstance(value, dict):
            # One that is full has another end than it had.
            items = [(0, value[0]), (-1, value[-1])]
        return [("", len(value)), *items]
    if depth <= 0 or isinstance(value, _TOLD_APART):
        return ()
    of_user = is_users(type(value).__module__)
    return list(getattr(value, "__dict__", {}).items()) if of_user else ()


def _outermost(layer: Any) -> Sequence[Any]:
    """List weights of a layer: what moves one moves these too, as an average does.

    To gather those of a large model takes some milliseconds, and to read them more.
    """
    found = _WEIGHTS.get(layer, ())
    if not found:
        first, rest = layer.weights[:_OUTERMOST], layer.weights[_OUTERMOST:]
        found = _WEIGHTS[layer] = (*first, *rest[-_OUTERMOST:])
    return found


def _leaves(state: Any) -> Iterable[Any]:
    """Give what is in a generator's state, which is small and of dicts alone."""
    for part in state.values():
        if isinstance(part, dict):
            yield from _leaves(part)
        else:
            yield part.tobytes() if isinstance(part, np.ndarray) else part


def _bytes_of(array: Any) -> Any:
    # What an array of objects has in memory is where they are.
    return repr(array.tolist()) if array.dtype.hasobject else array.tobytes()
