"""A batch size written into a graph, for readers that take no open one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.errors import ArgumentError
from persist_callbacks.records import TensorInfo


def fix_batch(
    graph_def: Any, inputs: Sequence[TensorInfo], size: int
) -> tuple[Any, tuple[TensorInfo, ...]]:
    """Give each input whose first dimension is open that many rows.

    Args:
        graph_def: a frozen GraphDef; not changed.
        inputs: its Placeholders.
        size: rows.

    Returns:
        The graph, and its inputs as they are then.

    Raises:
        ArgumentError: an input has another batch size already, or none.
    """
    fixed = {}
    for info in inputs:
        if not info.shape or info.shape[0] not in (None, size):
            found = "an unknown rank" if info.shape is None else list(info.shape)
            raise ArgumentError(
                "batch_size",
                expected=f"a size that {info.name} can have; its shape is {found}",
                found=str(size),
                advice="Leave it out, or build the model with that batch size.",
            )
        fixed[info.name] = dataclasses.replace(info, shape=(size, *info.shape[1:]))
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph_def)
    for node in result.node:
        if node.name in fixed:
            shape = tf.TensorShape(fixed[node.name].shape).as_proto()
            node.attr["shape"].shape.CopyFrom(shape)
    return result, tuple(fixed.values())


def known_sizes(
    outputs: Sequence[TensorInfo], inferred: Sequence[TensorInfo]
) -> list[TensorInfo]:
    """Take sizes that are open in outputs from what is inferred of the graph.

    Args:
        outputs: as the model has them.
        inferred: the same tensors, in the same order.
    """
    answers = []
    for info, other in zip(outputs, inferred, strict=True):
        shape = other.shape if info.shape is None else info.shape
        if shape is not None and other.shape is not None:
            pairs = zip(shape, other.shape, strict=True)
            shape = tuple(b if a is None else a for a, b in pairs)
        answers.append(dataclasses.replace(info, shape=shape))
    return answers


def fit_rows(
    arrays: Mapping[str, np.ndarray[Any, Any]], inputs: Sequence[TensorInfo]
) -> dict[str, np.ndarray[Any, Any]]:
    """Cut or repeat rows where a graph takes a fixed number of them.

    Args:
        arrays: by input name.
        inputs: what the graph takes.
    """
    fitted = dict(arrays)
    for info in inputs:
        array = arrays.get(info.name)
        if array is None or not info.shape or info.shape[0] is None:
            continue
        if array.ndim and len(array) not in (0, info.shape[0]):
            rows = np.arange(info.shape[0]) % len(array)
            fitted[info.name] = array[rows]
    return fitted
