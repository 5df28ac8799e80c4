"""A few real rows of the data, got without any effect on what training draws."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from persist_callbacks.training import pipeline

ROWS = 8


def rows_of_arrays(packed: Any, most: int | None = None) -> Any:
    """Cut the first rows of the inputs off what ``fit`` was given as arrays.

    Args:
        packed: inputs, or a tuple that begins with them.
        most: rows of a batch, if that is known: memory may not do for more.
    """
    inputs = packed[0] if isinstance(packed, tuple) else packed
    rows = min(ROWS, most or ROWS)
    return keras.tree.map_structure(lambda array: np.asarray(array[:rows]), inputs)


def rows_of_batch(batch: Any) -> Any:
    """Copy the first rows of the inputs of a batch, as Python code has made it.

    Args:
        batch: inputs, or a tuple that begins with them.

    Returns:
        Inputs as arrays; None if some are no dense arrays.
    """
    inputs = _inputs(batch)
    leaves = keras.tree.flatten(inputs)
    if not all(
        getattr(leaf, "shape", ()) and hasattr(leaf, "__array__") for leaf in leaves
    ):
        return None
    return keras.tree.map_structure(lambda leaf: np.array(leaf[:ROWS]), inputs)


def rows_of_dataset(dataset: Any, most: int | None = None) -> Any:
    """Draw a few rows of inputs from the part of a pipeline that is not random.

    An iterator over a data set that shuffles moves its seeds on, and what a map draws
    is drawn no second time: only parts that give the same whenever they are asked are.

    Args:
        dataset: what ``fit`` draws from: inputs, or tuples that begin with them.
        most: rows of a batch, if that is known.

    Returns:
        Inputs as arrays; None if no such part gives what the data set itself gives.
    """
    wanted = _inputs(dataset.element_spec)
    rows = min(ROWS, most or ROWS)
    for part in pipeline.repeatable_parts(dataset):
        given = _inputs(part.element_spec)
        if _alike(given, wanted):
            drawn = part.take(1)
        elif _alike(keras.tree.map_structure(_with_rows, given), wanted):
            drawn = part.take(rows).batch(rows)
        else:
            continue
        # What cannot be read fails in `fit` too, which says so better.
        with contextlib.suppress(tf.errors.OpError):
            for element in drawn:
                return keras.tree.map_structure(
                    lambda leaf: leaf[:rows].numpy(), _inputs(element)
                )
        break
    return None


def _inputs(element: Any) -> Any:
    return element[0] if isinstance(element, tuple) else element


def _with_rows(spec: Any) -> Any:
    if not isinstance(spec, tf.TensorSpec):
        return spec
    return tf.TensorSpec([None, *spec.shape], spec.dtype)


def _alike(given: Any, wanted: Any) -> bool:
    """Whether two structures of specs are the same but for sizes of batches."""
    try:
        keras.tree.assert_same_structure(given, wanted)
    except (ValueError, TypeError):
        return False
    leaves: list[Sequence[Any]] = [keras.tree.flatten(each) for each in (given, wanted)]
    return all(
        isinstance(one, tf.TensorSpec)
        and isinstance(other, tf.TensorSpec)
        and one.dtype == other.dtype
        and one.shape.rank
        and one.shape.rank == other.shape.rank
        and one.shape[1:].is_compatible_with(other.shape[1:])
        for one, other in zip(*leaves, strict=True)
    )
