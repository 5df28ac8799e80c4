"""Passes for what makes pictures larger: repeats of pixels, transposed convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.sizes import Evaluation, Sizes
from persist_callbacks.graph.writing import Writer, rewritten

# Those that OpenCV has. Of others, readers have a Tile more often than a resize.
_ENLARGED = tuple(dtype.as_datatype_enum for dtype in (tf.float16, tf.float32))


def repeats_to_resizes(graph_def: Any) -> Any:
    """Make rows or columns that are repeated a ResizeNearestNeighbor.

    Keras repeats pixels by ExpandDims, Tile and Reshape, one direction after the other;
    both together are one resize. OpenCV has no pictures of five dimensions.

    Args:
        graph_def: a GraphDef, its Reshapes' shapes constant; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    reads = nd.count_reads(graph_def.node)
    found: dict[str, tuple[str, tuple[int, int]]] = {}
    tiles = {node.name for node in graph_def.node if node.op == "Tile"}
    suspects = [
        node
        for node in graph_def.node
        if node.op == "Reshape"
        and node.attr["T"].type in _ENLARGED
        and nd.split(node.input[0])[0] in tiles
    ]
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
            first = found[source][0]
            if all(map(_is_exact, shapes[first].as_list()[1:3], size)):
                found[name] = (first, size)

    def write(node: Any, writer: Writer) -> None:
        if node.name in found:
            source, size = found[node.name]
            dtype = tf.as_dtype(node.attr["T"].type)
            sizes = writer.constant("size", np.array(size, np.int32))
            writer.add("ResizeNearestNeighbor", "", source, sizes, T=dtype)

    return rewritten(graph_def, write)


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
    if not _is_exact(before, before * factor):
        return None
    return str(expand.input[0]), (after[0], after[1])


def _is_exact(before: int, after: int) -> bool:
    """Whether a resize, computed as it is, takes each pixel as often as a repeat."""
    scale = np.float32(before) / np.float32(after)
    taken = np.floor(np.arange(after, dtype=np.float32) * scale)
    return bool(np.all(taken == np.arange(after) * before // after))


def transposed_convolution_sizes(graph_def: Any) -> Any:
    """Say a transposed convolution's size by its input's, where the batch is open.

    It wants its whole output's shape. OpenCV takes a constant, or one way to compute it
    for each padding: the input's height and width times the strides, and for "VALID"
    what a filter sticks out besides. Where it does not stick out both are the same. The
    input's height and width are constants for TensorFlow to fold, which looks up the
    batch alone while it runs. A filter that does not reach the output's end, of which
    ONNX' converter makes a negative padding, is filled up with zeros.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    suspects = {
        node.name: node
        for node in graph_def.node
        if node.op == "Conv2DBackpropInput" and nd.has_channels_last(node)
    }
    if not suspects:
        return graph_def
    shapes = inferred_shapes(
        graph_def, [ref for node in suspects.values() for ref in node.input[1:]]
    )
    evaluate = Evaluation(graph_def)

    def write(node: Any, writer: Writer) -> None:
        if node.name not in suspects:
            return
        facts = _facts(node, evaluate(node.input[0]), shapes)
        if facts is None:
            return
        size, filters = (by_name[nd.split(ref)[0]] for ref in node.input[:2])
        made = tf.compat.v1.NodeDef()
        made.CopyFrom(node)
        facts = _filled(made, facts, filters, writer)
        if size.op != "Const":
            _sized(made, facts, writer)
        writer.copy(made, "", *made.input)

    return rewritten(graph_def, write)


@dataclass(frozen=True)
class _Facts:
    """What is known of a transposed convolution.

    Args:
        wanted: its output's four sizes, None for those that are open.
        before: its input's height and width; each None if it is open, as the others.
        kernel: its filter's.
        strides: in both directions.
    """

    wanted: Sizes
    before: Sizes
    kernel: Sizes
    strides: list[int]

    def more(self) -> Sizes:
        """Tell how much larger than the input times the strides the output is."""
        sides = zip(self.wanted[1:3], self.before, self.strides, strict=True)
        return [
            None if size is None or before is None else size - before * stride
            for size, before, stride in sides
        ]

    def over(self) -> Sizes:
        """Tell how much larger than the strides the filter is."""
        sides = zip(self.kernel, self.strides, strict=True)
        return [None if size is None else size - stride for size, stride in sides]


def _facts(
    node: Any, wanted: Sizes | None, shapes: Mapping[str, tf.TensorShape]
) -> _Facts | None:
    """Return what is known; None where not even the number of sizes is."""
    filters, shape = shapes[node.input[1]], shapes[node.input[2]]
    if wanted is None or len(wanted) != 4 or shape.rank != 4 or filters.rank != 4:
        return None
    strides = list(node.attr["strides"].list.i)[1:3]
    return _Facts(wanted, shape.as_list()[1:3], filters.as_list()[:2], strides)


def _filled(node: Any, facts: _Facts, filters: Any, writer: Writer) -> _Facts:
    """Give a node a filter that reaches its output's end, by zeros at its own end."""
    more, over = facts.more(), facts.over()
    # The output begins where the first filter does, whatever the padding is called:
    # where it goes on behind the last one, no rows are cut off.
    short = [
        one is not None and other is not None and one > other
        for one, other in zip(more, over, strict=True)
    ]
    if not any(short) or filters.op != "Const" or not nd.has_plain_window(node):
        return facts
    array = nd.constant_value(filters)
    kernel = [
        stride + (rest or 0) if is_short else size
        for is_short, size, stride, rest in zip(
            short, array.shape[:2], facts.strides, more, strict=True
        )
    ]
    filled = np.zeros((*kernel, *array.shape[2:]), array.dtype)
    filled[: array.shape[0], : array.shape[1]] = array
    dtype = tf.as_dtype(node.attr["T"].type)
    node.input[1] = writer.constant("filters", filled, dtype)
    return replace(facts, kernel=[*kernel])


def _sized(node: Any, facts: _Facts, writer: Writer) -> None:
    """Give a node its size as OpenCV takes it, if that can be said."""
    wanted, strides = facts.wanted, facts.strides
    if None not in wanted:
        node.input[0] = writer.constant("size", np.array(wanted, np.int32))
        return
    more, over = facts.more(), facts.over()
    padding = bytes(node.attr["padding"].s)
    if None in [wanted[3], *more]:
        return
    if more == [0, 0] and padding == b"SAME":
        pass
    elif more == over and nd.has_plain_window(node) and padding == b"VALID":
        # Where it does not stick out, the other one has fewer nodes.
        padding = b"SAME" if over == [0, 0] else padding
    else:
        return
    dtype = tf.as_dtype(node.attr["T"].type)
    types = {"T": dtype, "out_type": tf.int32}
    whole = writer.add("Shape", "shape", node.input[2], **types)
    # The reader looks for a Shape behind one of the slices. Where the others take what
    # is known from a constant, TensorFlow folds them before it runs anything.
    known = np.array([1, *facts.before, 1], np.int32)
    sizes = []
    for index, part in enumerate(("batch", "height", "width")):
        # OpenCV's reader writes into one of these, so each is there for itself.
        bounds = [
            writer.constant(f"{part}/{bound}", np.array([number], np.int32))
            for bound, number in _bounds(index).items()
        ]
        types = {"T": tf.int32, "Index": tf.int32, "shrink_axis_mask": 1}
        of = writer.constant(f"{part}/of", known) if index else whole
        size = writer.add("StridedSlice", part, of, *bounds, **types)
        if index:
            stride = writer.constant(f"{part}/stride", np.int32(strides[index - 1]))
            size = writer.add("Mul", f"{part}/times", size, stride, T=tf.int32)
        if index and padding == b"VALID":
            # By the name that its reader looks for; AddV2 is not it.
            rest = writer.constant(f"{part}/rest", np.array(more[index - 1], np.int32))
            size = writer.add("Add", f"{part}/plus", size, rest, T=tf.int32)
        sizes.append(size)
    sizes.append(writer.constant("channels", np.array(wanted[3], np.int32)))
    node.input[0] = writer.add("Pack", "size", *sizes, T=tf.int32, N=4)
    node.attr["padding"].s = padding


def _bounds(index: int) -> dict[str, int]:
    return {"begin": index, "end": index + 1, "step": 1}
