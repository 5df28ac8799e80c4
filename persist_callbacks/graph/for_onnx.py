"""Passes that say what tf2onnx takes wrongly, or not at all, as it takes it right."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.writing import Writer, rewritten


def gathers_by_own_axes(graph_def: Any) -> Any:
    """Count from the first dimension on where each row is gathered from by its own.

    tf2onnx takes an axis that is counted from the last one for another.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    counted = {}
    for node in graph_def.node:
        if node.op != "GatherV2" or "batch_dims" not in node.attr:
            continue
        rows = node.attr["batch_dims"].i
        axis = by_name[nd.split(node.input[2])[0]]
        if rows and axis.op == "Const":
            number = int(nd.constant_value(axis))
            if number < 0 or rows < 0:
                counted[node.name] = (node, number)
    if not counted:
        return graph_def
    references = {ref for node, _ in counted.values() for ref in node.input[:2]}
    shapes = inferred_shapes(graph_def, references)

    def write(node: Any, writer: Writer) -> None:
        if node.name not in counted:
            return
        ranks = [shapes[reference].rank for reference in node.input[:2]]
        if None in ranks:
            return
        axis, rows = counted[node.name][1], node.attr["batch_dims"].i
        first = axis + ranks[0] if axis < 0 else axis
        dtype = tf.as_dtype(node.attr["Taxis"].type)
        name = writer.constant("axis", np.array(first, dtype.as_numpy_dtype), dtype)
        writer.copy(node, "", *node.input[:2], name)
        kept = rows + ranks[1] if rows < 0 else rows
        writer.made[-1].attr["batch_dims"].i = kept

    return rewritten(graph_def, write)


def patches_to_depths(graph_def: Any) -> Any:
    """Cut pictures into patches, one beside the other, by what moves them to channels.

    tf2onnx cuts a known number of pictures only. The numbers are the very same.

    Args:
        graph_def: a GraphDef; not changed.
    """
    suspects = {
        node.name: node.attr["ksizes"].list.i[1]
        for node in graph_def.node
        if node.op == "ExtractImagePatches" and _are_side_by_side(node)
    }
    if not suspects:
        return graph_def
    references = [n.input[0] for n in graph_def.node if n.name in suspects]
    shapes = inferred_shapes(graph_def, references)

    def write(node: Any, writer: Writer) -> None:
        size = suspects.get(node.name)
        if size is None:
            return
        shape = shapes[node.input[0]]
        if shape.rank == 4 and all(edge and edge % size == 0 for edge in shape[1:3]):
            types = {"T": node.attr["T"], "block_size": size}
            writer.add("SpaceToDepth", "", node.input[0], **types)

    return rewritten(graph_def, write)


def _are_side_by_side(node: Any) -> bool:
    """Whether patches are squares of several pixels, with no gaps and no overlaps."""
    sizes, steps, rates = (
        [*node.attr[key].list.i] for key in ("ksizes", "strides", "rates")
    )
    return (
        tf.as_dtype(node.attr["T"].type).is_floating
        and sizes == steps
        and sizes[1] == sizes[2] > 1
        and set(rates) == {1}
    )
