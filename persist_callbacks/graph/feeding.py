"""Arrays that a user hands to a frozen graph, checked and cast to what it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.errors import InputMismatch
from persist_callbacks.records import TensorInfo

_Array = np.ndarray[Any, Any]


def feed(
    inputs: Sequence[TensorInfo],
    arrays: Sequence[Any],
    named: Mapping[str, Any],
    originals: Mapping[str, str],
) -> dict[str, _Array]:
    """Match arrays to a graph's inputs.

    Args:
        inputs: what the graph takes.
        arrays: arrays in the inputs' order.
        named: arrays by name, with or without ``:0``.
        originals: the users' names of inputs to the graph's, where they differ.

    Returns:
        An array for each input, in its dtype.

    Raises:
        InputMismatch: a name, shape or dtype is not what the graph takes.
    """
    taken = ", ".join(str(info) for info in inputs) or "nothing"
    names = [info.name for info in inputs]
    if len(arrays) > len(inputs):
        raise InputMismatch(
            "inputs",
            expected=f"{len(inputs)} arrays: {taken}",
            found=f"{len(arrays)}",
            advice="Give one array for each input, or a dict by name.",
        )
    given: dict[str, Any] = dict(zip(names, arrays, strict=False))
    for key, value in named.items():
        plain = key.removesuffix(":0")
        name = originals.get(plain, plain)
        if name not in names or name in given:
            raise InputMismatch(
                key,
                expected=f"each of these once: {taken}",
                found=f"{key!r}" + (" again" if name in given else ""),
                advice="Use the graph's input names.",
            )
        given[name] = value
    missing = [name for name in names if name not in given]
    if missing:
        raise InputMismatch(
            missing[0],
            expected=f"an array for each input: {taken}",
            found=f"arrays for: {', '.join(given) or 'none'}",
            advice="Give an array for every input.",
        )
    return {info.name: _cast(given[info.name], info) for info in inputs}


def rows(arrays: Mapping[str, _Array]) -> int:
    """Return the number of rows that the arrays share.

    Raises:
        InputMismatch: they have different numbers of rows, or none at all.
    """
    sizes = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(set(sizes.values())) != 1 or len(sizes) < len(arrays):
        found = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise InputMismatch(
            "inputs",
            expected="arrays with the same number of rows",
            found=found or "arrays without rows",
            advice="Leave batch_size out, or give arrays that can be cut in batches.",
        )
    return next(iter(sizes.values()))


def _cast(value: Any, info: TensorInfo) -> _Array:
    """Return a value as an array of an input's dtype and shape."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputMismatch(
            info.name,
            expected=str(info),
            found="rows of different lengths",
            advice="Pad them to one length.",
        ) from error
    found = f"{array.dtype}{list(array.shape)}"
    dtype = tf.as_dtype(info.dtype)
    if not _safe(array, dtype):
        raise InputMismatch(
            info.name,
            expected=str(info),
            found=found,
            advice="Cast it first, if its values allow that.",
        )
    if dtype != tf.string:
        array = array.astype(dtype.as_numpy_dtype, copy=False)
    if not _fits(array.shape, info.shape):
        advice = "Reshape it."
        if info.shape and _fits((1, *array.shape), info.shape):
            advice = "Add the batch dimension: array[None]."
        raise InputMismatch(info.name, expected=str(info), found=found, advice=advice)
    return array


def _fits(shape: Sequence[int], wanted: Sequence[int | None] | None) -> bool:
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(
        want in (None, have) for have, want in zip(shape, wanted, strict=True)
    )


def _safe(array: _Array, dtype: Any) -> bool:
    """Whether an array's values keep their meaning in a dtype; rounding is no loss."""
    if dtype == tf.string:
        texts = array.reshape(-1) if array.dtype.kind == "O" else ()
        return array.dtype.kind in "OSU" and all(
            isinstance(each, str | bytes) for each in texts
        )
    target = np.dtype(dtype.as_numpy_dtype)
    if array.dtype == target:
        return True
    if array.size == 0:
        # An empty list is float64 to NumPy, and means no rows of anything.
        return array.dtype.kind in "biufcV"
    try:
        source_is_float = tf.as_dtype(array.dtype).is_floating
    except TypeError:
        return False
    if dtype.is_complex:
        return array.dtype.kind in "biufc" or source_is_float
    if dtype.is_floating:
        return array.dtype.kind in "biu" or source_is_float
    if dtype.is_integer and array.dtype.kind in "biu":
        return bool(array.min() >= dtype.min and array.max() <= dtype.max)
    return False
