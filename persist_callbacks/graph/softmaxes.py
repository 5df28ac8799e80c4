"""A softmax over the channels of pictures, from parts that every reader computes so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.writing import Writer, rewritten

_MAKE_PICTURES = (
    *("AvgPool", "Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "MaxPool"),
    *("ResizeBilinear", "ResizeNearestNeighbor"),
)
# What leaves a picture one. Those of attention, which other readers take over the right
# axis or not at all, come out of products of matrices.
_KEEP_PICTURES = ("Add", "AddV2", "BiasAdd", "ConcatV2", "Mul", "Relu", "Sub")
# A class is masked by an infinity at times, or by a number that leaves no digits for
# another beside it. An exponential is zero long before.
_LOWEST = -1e9


def spell_out_softmaxes(graph_def: Any) -> Any:
    """Compute a softmax over the channels of pictures from its parts.

    OpenCV takes the last axis of its own layout, which is the pictures' width; and
    over the channels it takes no maximum twice in the same way.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    suspects = [
        node
        for node in graph_def.node
        if node.op == "Softmax"
        and node.attr["T"].type == tf.float32.as_datatype_enum
        and _is_picture(node.input[0], by_name)
    ]
    if not suspects:
        return graph_def
    shapes = inferred_shapes(graph_def, [node.input[0] for node in suspects])
    names = {node.name for node in suspects}

    def write(node: Any, writer: Writer) -> None:
        shape = shapes[node.input[0]] if node.name in names else None
        if shape is not None and shape.rank == 4 and shape[-1] is not None:
            _write(node, int(shape[-1]), writer)

    return rewritten(graph_def, write)


def _is_picture(reference: str, by_name: Mapping[str, Any]) -> bool:
    waiting, seen = [reference], set()
    while waiting:
        node = by_name[nd.split(waiting.pop())[0]]
        if node.op in _MAKE_PICTURES:
            return True
        if node.name not in seen and node.op in _KEEP_PICTURES:
            seen.add(node.name)
            waiting.extend(node.input)
    return False


def _write(node: Any, channels: int, writer: Writer) -> None:
    """Write the nodes in a softmax' place."""
    lowest = writer.constant("lowest", np.float32(_LOWEST))
    highest = writer.constant("highest", np.finfo(np.float32).max)
    bounds = (lowest, highest)
    source = writer.add("ClipByValue", "clipped", *node.input, *bounds, T=tf.float32)
    largest = _largest(writer, source, channels)
    below = writer.add("Sub", "below", source, largest, T=tf.float32)
    power = writer.add("Exp", "exponential", below, T=tf.float32)
    ones = np.ones((channels, channels), np.float32)
    total = writer.convolution("sum", power, ones)
    writer.add("RealDiv", "", power, total, T=tf.float32)


def _largest(writer: Writer, current: str, channels: int) -> str:
    """Take the largest of each pixel's channels, by halves: b is a + relu(b - a).

    It keeps the exponentials small; a digit more or less does not matter.
    """
    count = channels
    while count > 1:
        half, odd = divmod(count, 2)
        one = _slice(writer, current, 0, half)
        other = _slice(writer, current, half, half)
        gap = writer.add("Sub", "gap", other, one, T=tf.float32)
        more = writer.add("Relu", "more", gap, T=tf.float32)
        larger = writer.add("AddV2", "larger", one, more, T=tf.float32)
        if odd:
            rest = _slice(writer, current, count - 1, 1)
            axis = writer.constant("axis", np.int32(3))
            types = {"T": tf.float32, "Tidx": tf.int32, "N": 2}
            larger = writer.add("ConcatV2", "with_rest", larger, rest, axis, **types)
        current, count = larger, half + odd
    return current


def _slice(writer: Writer, source: str, begin: int, size: int) -> str:
    bounds = [
        writer.constant("bounds", np.array(each, np.int32))
        for each in ([0, 0, 0, begin], [-1, -1, -1, size])
    ]
    return writer.add("Slice", "part", source, *bounds, T=tf.float32, Index=tf.int32)
