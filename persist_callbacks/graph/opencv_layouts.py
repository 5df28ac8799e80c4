"""How OpenCV's reader of PBs takes tensors to lie, which is what it goes by.

It keeps pictures as NCHW. Of each node it guesses how TensorFlow has them, from
``data_format`` where a PB has it and from the nodes before and behind. What it does
with axes, sizes and orders follows from that guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd

# Its guesses, besides what data_format says. What it has no guess of is UNKNOWN;
# MADE is NCHW too, but of what it did not turn itself.
UNKNOWN, NHWC, NCHW, MADE, ROWS = "", "NHWC", "NCHW", "made", "rows"
TURNED, TURNED_BACK = [0, 3, 1, 2], [0, 2, 3, 1]
_CONVOLUTIONS = ("Conv2D", "Conv3D", "DepthwiseConv2dNative")
# What works on the dimensions that it has, and thereby tells how pictures must lie.
_TELLS = (
    *_CONVOLUTIONS,
    *("AvgPool", "BiasAdd", "Conv2DBackpropInput", "FusedBatchNorm", "LRN"),
    *("FusedBatchNormV3", "Max", "MaxPool", "Mean", "MirrorPad", "Pad", "Sum"),
    *("ResizeBilinear", "ResizeNearestNeighbor", "Transpose"),
)
_BY_CHANNEL = ("Add", "AddV2", "Mul", "RealDiv", "Sub")


def guessed(ordered: list[Any], shapes: Mapping[str, tf.TensorShape]) -> dict[str, str]:
    """Return what the reader takes each node's layout for, by node.

    Args:
        ordered: a graph's nodes, each after those that it reads.
        shapes: of all references.
    """
    by_name = {node.name: node for node in ordered}
    found: dict[str, str] = {}
    for node in reversed(ordered):
        layout = _stated(node)
        if node.name not in found:
            found[node.name] = layout
        elif layout and found[node.name] not in ("", layout):
            found[node.name] = layout = UNKNOWN
        else:
            found[node.name] = layout = layout or found[node.name]
        for source in _sources(node):
            if not found.get(source):
                found[source] = layout
            elif layout and found[source] != layout:
                found[source] = UNKNOWN
    for node in ordered:
        if node.op != "Const":
            seen = {found[source] for source in _sources(node)} - {UNKNOWN}
            agreed = seen.pop() if len(seen) == 1 else UNKNOWN
            known = UNKNOWN if seen else found[node.name]
            layout = _stated(node) or agreed or known
            found[node.name] = _of_result(node, layout, by_name, shapes)
    return found


def _of_result(
    node: Any,
    layout: str,
    by_name: Mapping[str, Any],
    shapes: Mapping[str, tf.TensorShape],
) -> str:
    """Return the guess of what a node gives, from that of what it is given."""
    if node.op in _CONVOLUTIONS:
        return layout or NHWC
    if node.op in ("MatMul", "Squeeze"):
        return ROWS
    if node.op not in ("ExpandDims", "Max", "Mean", "Reshape", "Sum", "Transpose"):
        return layout
    numbers = _numbers(node.input[1], by_name)
    if node.op == "Transpose":
        if len(numbers) != 4:
            return UNKNOWN
        turns = {(NHWC, *TURNED): NCHW, (NCHW, *TURNED_BACK): NHWC}
        return turns.get((layout, *numbers), layout)
    if node.op == "ExpandDims":
        return MADE if shapes[node.input[0]].rank == 3 else layout
    if node.op == "Reshape":
        if len(numbers) == 4:
            return layout if numbers[1:3] == [1, 1] else MADE
        return ROWS if len(numbers) == 2 else NCHW if layout == NHWC else layout
    kept = "keep_dims" in node.attr and node.attr["keep_dims"].b
    return ROWS if numbers == [1, 2] and not kept else layout


def told_apart(
    ordered: list[Any], layouts: Mapping[str, str], shapes: Mapping[str, tf.TensorShape]
) -> set[str]:
    """Return the nodes that must come as NCHW, though it guesses nothing of them.

    Or takes them for rows, as it does with what a transposed convolution makes of one
    pixel that was a row. A pooling works by its dimensions, whether it guesses or not.

    Args:
        ordered: a graph's nodes, each after those that it reads.
        layouts: from `guessed`.
        shapes: of all references.
    """
    by_name = {node.name: node for node in ordered}
    told: set[str] = set()
    # Both ways, for what one reader tells holds for another: until nothing is added.
    count = -1
    while count < len(told):
        count = len(told)
        for node in [*ordered, *reversed(ordered)]:
            pictures = {
                nd.split(reference)[0]
                for reference in node.input
                if shapes[reference].rank == 4
            }
            pictures = {name for name in pictures if by_name[name].op != "Const"}
            around = pictures | {node.name} if _keeps_rank(node) else pictures
            if _tells(node, by_name) or told & around:
                told |= around
    return {name for name in told if layouts[name] in (UNKNOWN, ROWS)}


def _keeps_rank(node: Any) -> bool:
    return node.op not in ("Const", "Reshape", "Squeeze", "ExpandDims", "Transpose")


def _tells(node: Any, by_name: Mapping[str, Any]) -> bool:
    if node.op not in _BY_CHANNEL:
        return node.op in _TELLS
    sides = [by_name[nd.split(reference)[0]] for reference in node.input[:2]]
    return any(
        side.op == "Const" and nd.constant_value(side).size > 1 for side in sides
    )


def _stated(node: Any) -> str:
    if "data_format" not in node.attr:
        return UNKNOWN
    return str(node.attr["data_format"].s.decode())


def _sources(node: Any) -> list[str]:
    return [nd.split(reference)[0] for reference in node.input]


def _numbers(reference: str, by_name: Mapping[str, Any]) -> list[int]:
    """Return a constant's numbers; none of what is computed."""
    node = by_name[nd.split(reference)[0]]
    if node.op != "Const":
        return []
    return np.ravel(nd.constant_value(node)).tolist()  # type: ignore[no-any-return]
