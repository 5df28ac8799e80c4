"""Plain values to JSON and back with nothing lost: NaN, NumPy numbers, arrays.

JSON has no NaN, no infinity and one kind of number; a History or a callback that comes
back with others than it had would decide differently.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from persist_callbacks.errors import ArgumentError

# An object with one of these keys alone is a value that JSON cannot hold by itself.
_FLOAT, _NUMPY, _ARRAY, _TUPLE = "$float", "$numpy", "$tensor", "$tuple"
_INLINE = "$array"


def encode(value: Any, *, where: str, arrays: dict[str, Any] | None = None) -> Any:
    """Turn a value into one that JSON holds exactly.

    Args:
        value: None, bool, int, float, str, NumPy or TensorFlow numbers, and lists,
            tuples and dicts with string keys of those.
        where: what the value belongs to: the name in messages, and the beginning of
            the names that arrays get.
        arrays: receives arrays and tensors by name; None to write them out as numbers.

    Returns:
        The value for JSON.

    Raises:
        ArgumentError: the value is of another kind.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, np.generic):
        if value.dtype.kind not in "biuf":
            raise _unfit(value, where)
        return {_NUMPY: [value.dtype.name, encode(value.item(), where=where)]}
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if isinstance(value, (list, tuple)):
        items = [
            encode(item, where=f"{where}/{index}", arrays=arrays)
            for index, item in enumerate(value)
        ]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or key.startswith("$"):
                raise _unfit(value, where)
        return {
            key: encode(item, where=f"{where}/{key}", arrays=arrays)
            for key, item in value.items()
        }
    if hasattr(value, "__array__") and arrays is not None:
        # A variable, as a rate in the logs may be, goes on changing.
        arrays[where] = np.asarray(value) if hasattr(value, "assign") else value
        return {_ARRAY: where}
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.ndim == 0:
            return encode(array[()], where=where)
        if array.dtype.kind in "biuf":
            items = array.tolist()
            if not np.isfinite(array).all():
                items = encode(items, where=where)
            return {_INLINE: [array.dtype.name, list(array.shape), items]}
    raise _unfit(value, where)


def decode(value: Any, arrays: dict[str, Any] | None = None) -> Any:
    """Turn what `encode` made back into the value.

    Args:
        value: the value from JSON.
        arrays: the arrays by name.

    Returns:
        The value, with the types that it had.
    """
    if isinstance(value, list):
        return [decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key == _FLOAT:
            return float(inner)
        if key == _NUMPY:
            return np.dtype(inner[0]).type(decode(inner[1]))
        if key == _TUPLE:
            return tuple(decode(item, arrays) for item in inner)
        if key == _ARRAY:
            return (arrays or {})[inner]
        if key == _INLINE:
            dtype, shape, items = inner
            return np.array(decode(items), np.dtype(dtype)).reshape(shape)
    return {key: decode(item, arrays) for key, item in value.items()}


def array_names(value: Any) -> list[str]:
    """List the names of the arrays that an encoded value refers to."""
    if isinstance(value, list):
        return [name for item in value for name in array_names(item)]
    if not isinstance(value, dict):
        return []
    if set(value) == {_ARRAY}:
        return [value[_ARRAY]]
    return [name for item in value.values() for name in array_names(item)]


def _unfit(value: Any, where: str) -> ArgumentError:
    return ArgumentError(
        where,
        expected="numbers, strings, None, lists, tuples, and dicts with string keys",
        found=f"{type(value).__name__}: {value!r:.80}",
        advice="Keep to what JSON can hold; of a callback, see to its get_state().",
    )
