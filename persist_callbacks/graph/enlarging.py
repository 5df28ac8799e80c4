"""Passes for what makes pictures larger: repeats of pixels, transposed convolutions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.names import unique
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.sizes import Evaluation, Sizes


def repeats_to_resizes(graph_def: Any) -> Any:
    """Make rows or columns that are repeated a ResizeNearestNeighbor.

    Keras repeats pixels by ExpandDims, Tile and Reshape, one direction after the other;
    both together are one resize. OpenCV has no pictures of five dimensions.

    Args:
        graph_def: a GraphDef, its Reshapes' shapes constant; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    reads = Counter(nd.split(ref)[0] for node in graph_def.node for ref in node.input)
    found: dict[str, tuple[str, tuple[int, int]]] = {}
    suspects = [node for node in graph_def.node if node.op == "Reshape"]
    tiles = {node.name for node in graph_def.node if node.op == "Tile"}
    suspects = [node for node in suspects if nd.split(node.input[0])[0] in tiles]
    if not suspects:
        return graph_def
    shapes = inferred_shapes(
        graph_def, {ref for node in graph_def.node for ref in node.input}
    )
    for node in suspects:
        repeat = _repeat(node, by_name, reads, shapes)
        if repeat is not None:
            found[node.name] = repeat
    # Rows that are repeated already are taken in by the columns after them.
    for name, (source, size) in list(found.items()):
        if source in found and reads[source] == 1:
            found[name] = (found[source][0], size)
    taken = set(by_name)
    result = nd.empty_like(graph_def)
    for node in graph_def.node:
        if node.name not in found:
            result.node.add().CopyFrom(node)
            continue
        source, size = found[node.name]
        dtype = tf.as_dtype(node.attr["T"].type)
        name = unique(f"{node.name}/size", taken)
        taken.add(name)
        result.node.append(nd.constant(name, np.array(size, np.int32), tf.int32))
        inputs = [source, name]
        result.node.append(
            nd.make_node("ResizeNearestNeighbor", node.name, inputs, T=dtype)
        )
    return result


def _repeat(
    node: Any,
    by_name: Mapping[str, Any],
    reads: Mapping[str, int],
    shapes: Mapping[str, tf.TensorShape],
) -> tuple[str, tuple[int, int]] | None:
    """Return what is repeated, and the size that it has then; None if it is other."""
    tile = by_name[nd.split(node.input[0])[0]]
    expand = by_name[nd.split(tile.input[0])[0]]
    if expand.op != "ExpandDims" or reads[tile.name] != 1 or reads[expand.name] != 1:
        return None
    sources = [expand.input[1], tile.input[1], node.input[1]]
    constants = [by_name[nd.split(each)[0]] for each in sources]
    shape = shapes[expand.input[0]]
    if any(each.op != "Const" for each in constants) or shape.rank != 4:
        return None
    axis, multiples, sizes = (nd.constant_value(each) for each in constants)
    _, height, width, channels = shape.as_list()
    before = {1: height, 2: width}.get(int(axis) % 5 - 1)
    if None in (height, width, channels) or before is None:
        return None
    factor = int(multiples[int(axis) % 5])
    after = [height, width]
    after[int(axis) % 5 - 2] *= factor
    others = np.delete(multiples, int(axis) % 5)
    if list(sizes[1:]) != [*after, channels] or np.any(others != 1):
        return None
    if not _is_exact(before, factor):
        return None
    return str(expand.input[0]), (after[0], after[1])


def _is_exact(size: int, factor: int) -> bool:
    """Whether a resize, computed as it is, takes each pixel as often as a repeat."""
    scale = np.float32(size) / np.float32(size * factor)
    taken = np.floor(np.arange(size * factor, dtype=np.float32) * scale)
    return bool(np.all(taken == np.repeat(np.arange(size), factor)))


def transposed_convolution_sizes(graph_def: Any) -> Any:
    """Say a transposed convolution's size by its input's, where the batch is open.

    It wants its whole output's shape. OpenCV takes a constant, or this one way to
    compute it: the input's height and width times the strides.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    suspects = [
        node
        for node in graph_def.node
        if node.op == "Conv2DBackpropInput"
        and by_name[nd.split(node.input[0])[0]].op != "Const"
    ]
    if not suspects:
        return graph_def
    shapes = inferred_shapes(graph_def, [node.input[2] for node in suspects])
    taken, evaluate = set(by_name), Evaluation(graph_def)
    written = {
        node.name: _sizes(node, evaluate(node.input[0]), shapes, taken)
        for node in suspects
    }
    result = nd.empty_like(graph_def)
    for node in graph_def.node:
        made = tf.compat.v1.NodeDef()
        made.CopyFrom(node)
        if added := written.get(node.name):
            result.node.extend(added)
            made.input[0] = added[-1].name
        result.node.append(made)
    return result


def _sizes(
    node: Any,
    wanted: Sizes | None,
    shapes: Mapping[str, tf.TensorShape],
    taken: set[str],
) -> list[Any]:
    """Return the nodes that give a size; none if it is not input times strides."""
    shape, strides = shapes[node.input[2]], list(node.attr["strides"].list.i)
    if wanted is None or len(wanted) != 4 or shape.rank != 4:
        return []
    if None not in wanted:
        name = unique(f"{node.name}/size", taken)
        taken.add(name)
        return [nd.constant(name, np.array(wanted, np.int32), tf.int32)]
    same = node.attr["padding"].s == b"SAME"
    if not same or None in wanted[1:] or None in shape.as_list()[1:3]:
        return []
    if wanted[1:3] != [shape[1] * strides[1], shape[2] * strides[2]]:
        return []
    made: list[Any] = []

    def add(new: Any) -> str:
        new.name = unique(f"{node.name}/{new.name}", taken)
        taken.add(new.name)
        made.append(new)
        return str(new.name)

    def constant(name: str, value: Any) -> str:
        return add(nd.constant(name, np.asarray(value, np.int32), tf.int32))

    i32 = tf.int32
    dtype = tf.as_dtype(node.attr["T"].type)
    whole = add(nd.make_node("Shape", "shape", [node.input[2]], T=dtype, out_type=i32))
    sizes = []
    for index, part in enumerate(("batch", "height", "width")):
        # OpenCV's reader writes into one of these, so each is there for itself.
        bounds = [constant(f"{part}/{k}", [v]) for k, v in _bounds(index).items()]
        types = {"T": i32, "Index": i32, "shrink_axis_mask": 1}
        size = add(nd.make_node("StridedSlice", part, [whole, *bounds], **types))
        if index:
            stride = constant(f"{part}/stride", strides[index])
            size = add(nd.make_node("Mul", f"{part}/times", [size, stride], T=i32))
        sizes.append(size)
    sizes.append(constant("channels", wanted[3]))
    add(nd.make_node("Pack", "size", sizes, T=i32, N=4))
    return made


def _bounds(index: int) -> dict[str, int]:
    return {"begin": index, "end": index + 1, "step": 1}
