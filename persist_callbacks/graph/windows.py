"""Passes over what a convolution's window reaches: its filter's size and its border."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.writing import Writer, rewritten

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


def crop_filters(graph_def: Any) -> Any:
    """Leave of a filter the one row or column that a picture of one pixel's size meets.

    With padding "SAME" the others meet zeros alone. OpenCV reads beyond such pictures
    for a depthwise convolution of 3x3, and computes with what lies there.

    Args:
        graph_def: a GraphDef; not changed.
    """
    constants = {node.name: node for node in graph_def.node if node.op == "Const"}
    suspects = {
        node.name: node
        for node in graph_def.node
        if node.op in _CONVOLUTIONS
        and nd.has_channels_last(node)
        and node.attr["padding"].s == b"SAME"
        and nd.split(node.input[1])[0] in constants
    }
    if not suspects:
        return graph_def
    shapes = inferred_shapes(graph_def, [node.input[0] for node in suspects.values()])

    def write(node: Any, writer: Writer) -> None:
        if node.name not in suspects or shapes[node.input[0]].rank != 4:
            return
        filters = nd.constant_value(constants[nd.split(node.input[1])[0]])
        cropped = filters
        for axis, dilation in zip((0, 1), _dilations(node), strict=True):
            place, beside = divmod((filters.shape[axis] - 1) * dilation // 2, dilation)
            # Else the pixel lies between two that a dilated filter meets.
            if shapes[node.input[0]][axis + 1] == 1 and not beside:
                cropped = np.take(cropped, [place], axis)
        if cropped.shape != filters.shape:
            dtype = tf.as_dtype(node.attr["T"].type)
            name = writer.constant("filters", cropped, dtype)
            writer.copy(node, "", node.input[0], name)

    return rewritten(graph_def, write)


def pads_into_convolutions(graph_def: Any) -> Any:
    """Let a Pad before a convolution of padding "SAME" do all of the padding.

    OpenCV joins the two, and takes the convolution's padding for the whole.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    borders: dict[str, np.ndarray[Any, Any]] = {}
    for node in graph_def.node:
        border = _border(node, by_name)
        if border is not None:
            borders[node.name] = border
    suspects = [
        node
        for node in graph_def.node
        if node.op in _CONVOLUTIONS
        and nd.has_channels_last(node)
        and node.attr["padding"].s == b"SAME"
        and node.input[0] in borders
    ]
    if not suspects:
        return graph_def
    shapes = inferred_shapes(
        graph_def, {r for node in suspects for r in node.input[:2]}
    )
    whole: dict[str, np.ndarray[Any, Any]] = {}
    for node in suspects:
        own = _padding(node, *(shapes[reference] for reference in node.input[:2]))
        if own is not None:
            whole[node.name] = borders[node.input[0]] + own
    reads = nd.count_reads(graph_def.node)
    taken = Counter(by_name[name].input[0] for name in whole)

    def write(node: Any, writer: Writer) -> None:
        if node.name in whole:
            pad = by_name[node.input[0]]
            sizes = writer.constant("border", whole[node.name].astype(np.int32))
            types = {"T": node.attr["T"], "Tpaddings": tf.int32}
            padded = writer.add("Pad", "padded", pad.input[0], sizes, **types)
            writer.copy(node, "", padded, node.input[1])
            writer.made[-1].attr["padding"].s = b"VALID"
        elif node.name in taken and taken[node.name] == reads[node.name]:
            writer.leave_out()

    return rewritten(graph_def, write)


def _border(node: Any, by_name: Mapping[str, Any]) -> np.ndarray[Any, Any] | None:
    """Return how many zeros a node puts around pictures; None if it does otherwise."""
    if node.op not in ("Pad", "PadV2"):
        return None
    sizes, *filled = (by_name[nd.split(reference)[0]] for reference in node.input[1:])
    if any(each.op != "Const" for each in (sizes, *filled)):
        return None
    if any(np.any(nd.constant_value(each) != 0) for each in filled):
        return None
    border = nd.constant_value(sizes)
    is_picture = border.shape == (4, 2) and not border[0].any() and not border[3].any()
    return border if is_picture else None


def _padding(
    node: Any, shape: tf.TensorShape, filters: tf.TensorShape
) -> np.ndarray[Any, Any] | None:
    """Return what a convolution itself pads; None where that depends on the picture."""
    found = np.zeros((4, 2), np.int64)
    strides = list(node.attr["strides"].list.i)
    if shape.rank != 4 or filters.rank != 4:
        return None
    for axis, dilation in zip((1, 2), _dilations(node), strict=True):
        size, kernel, stride = shape[axis], filters[axis - 1], strides[axis]
        if kernel is None or (size is None and stride != 1):
            return None
        reach = (kernel - 1) * dilation + 1
        total = most_padded(size, reach, stride)
        found[axis] = total // 2, total - total // 2
    return found


def most_padded(size: int | None, reach: int, stride: int) -> int:
    """Return how many pixels padding "SAME" adds along an axis, at both ends together.

    Args:
        size: of the picture; None for an open one, of which it is the most.
        reach: pixels from a window's first to its last, both included.
        stride: from one window to the next.
    """
    # The last window begins at a multiple of the stride, so many pixels from the end.
    rest = 1 if size is None else (size - 1) % stride + 1
    return max(reach - rest, 0)


def _dilations(node: Any) -> list[int]:
    """Return how far apart a filter's rows are, and its columns."""
    given = list(node.attr["dilations"].list.i) if "dilations" in node.attr else []
    return given[1:3] or [1, 1]
