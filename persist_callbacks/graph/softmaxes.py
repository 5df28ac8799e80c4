"""A softmax over the channels of pictures, from parts that every reader computes so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.names import unique
from persist_callbacks.graph.shapes import inferred_shapes

_MAKE_PICTURES = (
    *("AvgPool", "Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "MaxPool"),
    *("ResizeBilinear", "ResizeNearestNeighbor"),
)
# What leaves a picture one. Those of attention, which other readers take over the right
# axis or not at all, come out of products of matrices.
_KEEP_PICTURES = ("Add", "AddV2", "BiasAdd", "ConcatV2", "Mul", "Relu", "Sub")


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
    taken = set(by_name)
    result = nd.empty_like(graph_def)
    for node in graph_def.node:
        shape = shapes[node.input[0]] if node.name in names else None
        if shape is None or shape.rank != 4 or shape[-1] is None:
            result.node.add().CopyFrom(node)
            continue
        result.node.extend(_Parts(node, int(shape[-1]), taken).written())
    return result


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


class _Parts:
    """Writes one softmax."""

    def __init__(self, node: Any, channels: int, taken: set[str]) -> None:
        self._node = node
        self._channels = channels
        self._taken = taken
        self._made: list[Any] = []

    def written(self) -> list[Any]:
        """Return the nodes in a softmax' place; the last bears its name."""
        (source,) = self._node.input
        below = self._add("Sub", "below", source, self._largest(source))
        power = self._add("Exp", "exponential", below)
        ones = np.ones((1, 1, self._channels, self._channels), np.float32)
        filters = self._constant("ones", ones)
        total = self._add("Conv2D", "sum", power, filters)
        self._made[-1].attr["strides"].list.i.extend([1, 1, 1, 1])
        self._made[-1].attr["padding"].s = b"VALID"
        self._add("RealDiv", "", power, total)
        self._made[-1].name = self._node.name
        return self._made

    def _largest(self, current: str) -> str:
        """Take the largest of each pixel's channels, by halves: b is a + relu(b - a).

        It keeps the exponentials small; a digit more or less does not matter.
        """
        count = self._channels
        while count > 1:
            half, odd = divmod(count, 2)
            one = self._slice(current, 0, half)
            other = self._slice(current, half, half)
            gap = self._add("Sub", "gap", other, one)
            more = self._add("Relu", "more", gap)
            larger = self._add("AddV2", "larger", one, more)
            if odd:
                rest = self._slice(current, count - 1, 1)
                axis = self._constant("axis", np.int32(3))
                larger = self._add("ConcatV2", "with_rest", larger, rest, axis)
                self._made[-1].attr["N"].i = 2
                self._made[-1].attr["Tidx"].type = tf.int32.as_datatype_enum
            current, count = larger, half + odd
        return current

    def _slice(self, source: str, begin: int, size: int) -> str:
        bounds = [[0, 0, 0, begin], [-1, -1, -1, size]]
        arrays = [np.array(each, np.int32) for each in bounds]
        names = [self._constant("bounds", array) for array in arrays]
        made = self._add("Slice", "part", source, *names)
        self._made[-1].attr["Index"].type = tf.int32.as_datatype_enum
        return made

    def _constant(self, part: str, value: Any) -> str:
        name = self._unique(part)
        array = np.asarray(value)
        self._made.append(nd.constant(name, array, tf.as_dtype(array.dtype)))
        return name

    def _add(self, op: str, part: str, *inputs: str) -> str:
        name = self._unique(part)
        self._made.append(nd.make_node(op, name, inputs, T=tf.float32))
        return name

    def _unique(self, part: str) -> str:
        name = unique(f"{self._node.name}/{part}", self._taken)
        self._taken.add(name)
        return name
