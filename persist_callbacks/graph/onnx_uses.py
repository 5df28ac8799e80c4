"""How ops are used that tf2onnx knows, so that ONNX Runtime does not read them.

Read in ``tf2onnx/onnx_opset`` of 1.17, at opset 17, and tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.shapes import inferred_shapes


@dataclass(frozen=True)
class _Graph:
    """Nodes by name, their readers, and the shapes of what is asked of."""

    nodes: Mapping[str, Any]
    readers: Mapping[str, list[Any]]
    shapes: Mapping[str, tf.TensorShape]

    def shape(self, node: Any, place: int = 0) -> tf.TensorShape:
        """Return the shape of what a node reads."""
        return self.shapes[node.input[place]]

    def constant(self, node: Any, place: int) -> Any:
        """Return the number that a node reads, None if it is computed."""
        source = self.nodes[nd.split(node.input[place])[0]]
        return nd.constant_value(source) if source.op == "Const" else None


def obstacles(graph_def: Any) -> Iterator[tuple[str, str]]:
    """Yield each op that is used so, and why that stands in the way.

    Args:
        graph_def: a frozen GraphDef that this TensorFlow imports.
    """
    for node in nd.every_node(graph_def):
        if node.op in ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
            yield from ((node.op, reason) for reason in _product(node))
    asked = [node for node in graph_def.node if node.op in _RULES]
    if not asked:
        return
    references = {ref for node in asked for ref in node.input if ref[0] != "^"}
    graph = _Graph(
        {node.name: node for node in graph_def.node},
        nd.readers(graph_def.node),
        inferred_shapes(graph_def, references),
    )
    for node in asked:
        reason = _RULES[node.op](node, graph)
        if reason is not None:
            yield node.op, reason


def _product(node: Any) -> Iterator[str]:
    key = "Tout" if node.op == "BatchMatMulV3" else "T"
    dtype = tf.as_dtype(node.attr[key].type)
    turned = any(key in node.attr and node.attr[key].b for key in ("adj_x", "adj_y"))
    if turned and not dtype.is_floating:
        yield f"a product of {dtype.name} with a side turned, which it does not turn"


def _patches(node: Any, graph: _Graph) -> str | None:
    shape = graph.shape(node)
    if shape.rank != 4 or shape[3] is None:
        return "patches of pictures whose channels are not known"
    # Each channel becomes a picture of its own.
    if shape[0] is None and shape[3] != 1:
        return "patches of any number of pictures"
    if None in shape[1:3].as_list():
        return "patches of pictures of any size"
    dtype = tf.as_dtype(node.attr["T"].type)
    return None if dtype == tf.float32 else f"patches of {dtype.name}"


def _gather(node: Any, graph: _Graph) -> str | None:
    batch_dims = node.attr["batch_dims"].i if "batch_dims" in node.attr else 0
    axis = graph.constant(node, 2)
    if batch_dims < 0 or (batch_dims and axis is not None and axis < 0):
        return "one of each row, along an axis that is counted from the last"
    return None


def _spectrum(node: Any, graph: _Graph) -> str | None:
    if any(reader.op != "ComplexAbs" for reader in graph.readers.get(node.name, [])):
        return "a spectrum of which more than the size is wanted"
    shape = graph.shape(node)
    is_whole = shape.is_fully_defined() and shape.rank != 1
    if node.op == "RFFT" and shape.rank != 2 and not is_whole:
        return "a spectrum of what has not two dimensions"
    if node.op == "RFFT" and shape[-1] is None:
        return "a spectrum of any number of steps"
    return None


def _diagonal(node: Any, graph: _Graph) -> str | None:
    if graph.shape(node).rank != 3:
        return "a diagonal of what has not three dimensions"
    return None


def _parts(node: Any, graph: _Graph) -> str | None:
    return _of_rows(graph.shape(node, 1))


def _stitched(node: Any, graph: _Graph) -> str | None:
    places = range(node.attr["N"].i)
    reasons = (_of_rows(graph.shape(node, place)) for place in places)
    numbers = [graph.constant(node, place) for place in places]
    known = [each for part in numbers if part is not None for each in part.flat]
    twice = len(set(known)) < len(known)
    again = "parts for one row, of which it keeps each" if twice else None
    return next(filter(None, reasons), again)


def _of_rows(shape: tf.TensorShape) -> str | None:
    return None if shape.rank == 1 else "numbers of parts that are not one a row"


def _extremes(node: Any, graph: _Graph) -> str | None:
    empty = "a part of no rows, which it takes for infinite"
    return _parts(node, graph) or empty


def _one_hot(node: Any, graph: _Graph) -> str | None:
    dtype = tf.as_dtype(node.attr["T"].type)
    computed = any(graph.constant(node, place) is None for place in (1, 2, 3))
    if dtype not in (tf.bool, tf.float32) and (computed or graph.shape(node).rank != 1):
        return f"numbers of {dtype.name}, of more than a row or computed"
    return None


def _text(node: Any, graph: _Graph) -> str | None:
    dtype = tf.as_dtype(node.attr["T"].type)
    if dtype.is_floating:
        return "numbers that it writes with other digits"
    if dtype == tf.bool:
        return "bool, of which it writes other words"
    filled = "fill" in node.attr and node.attr["fill"].s
    if filled or ("width" in node.attr and node.attr["width"].i > 0):
        return "a width, which it leaves out"
    return _last(node, graph)


def _last(node: Any, graph: _Graph) -> str | None:
    return None if node.name in graph.readers else "an output, whose name it loses"


_RULES: Mapping[str, Callable[[Any, _Graph], str | None]] = {
    "AsString": _text,
    "DynamicPartition": _parts,
    "DynamicStitch": _stitched,
    "ExtractImagePatches": _patches,
    "GatherV2": _gather,
    "MatrixDiagPart": _diagonal,
    "OneHot": _one_hot,
    "RFFT": _spectrum,
    "RFFT2D": _spectrum,
    "StringToNumber": _last,
    "UnsortedSegmentMax": _extremes,
    "UnsortedSegmentMin": _extremes,
    "UnsortedSegmentProd": _parts,
    "UnsortedSegmentSum": _parts,
}
