"""What is written otherwise for OpenCV, where its reader takes axes for others.

It keeps pictures as NCHW and guesses how each tensor of a PB lies. What helps it with
one graph is in the way of another, and of no use to other readers. So each of these is
tried on the graph, and written where nothing else stands in OpenCV's way then.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph import opencv
from persist_callbacks.graph.canonical import canonical
from persist_callbacks.graph.decoding import rows_to_pictures
from persist_callbacks.graph.op_tables import NOT_KNOWN
from persist_callbacks.graph.portable import spell_out_attributes
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.slices import keep_dimensions

_PICTURE = 4


def suit_opencv(
    graph_def: Any, *, inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """Return the graph as OpenCV reads it, or as it is.

    Args:
        graph_def: a GraphDef that all other passes have been over; not changed.
        inputs: placeholders, all kept.
        outputs: nodes that are kept by name.
    """
    found = list(opencv.obstacles(graph_def))
    beyond_help = any(op == "Function" or why == NOT_KNOWN for op, why in found)
    if not found or beyond_help:
        return graph_def
    for candidate in _candidates(graph_def, inputs, outputs):
        if not any(opencv.obstacles(candidate)):
            return candidate
    return graph_def


def _candidates(
    graph_def: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> Iterator[Any]:
    """Yield the graph in other forms, those first that are nearest to it."""
    yield from _forms(graph_def, inputs, outputs)
    whole = keep_dimensions(graph_def)
    if whole != graph_def:
        whole = _as_written(whole, inputs, outputs)
        yield whole
        yield from _forms(whole, inputs, outputs)


def _forms(
    graph_def: Any, inputs: Sequence[str], outputs: Sequence[str]
) -> Iterator[Any]:
    yield from _stated(graph_def)
    for apart, told_after in itertools.product((False, True), repeat=2):
        changed = rows_to_pictures(graph_def, told_after=told_after, apart=apart)
        if changed == graph_def:
            return
        # Told nothing, it goes on taking what comes of the rows for rows.
        yield from _stated(_as_written(changed, inputs, outputs))


def _as_written(graph_def: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    return spell_out_attributes(canonical(graph_def, inputs=inputs, outputs=outputs))


def _stated(graph_def: Any) -> Iterator[Any]:
    """Yield the graph with what says how pictures lie, left out as a default else.

    To be told helps OpenCV with an input that is read as pictures and as rows, say; but
    it takes a picture that is turned around, or scaled by another input, for something
    else if it is told what comes before.
    """
    for wanted in (_is_window, _has_format):
        stated = _with_formats(graph_def, wanted)
        if stated is not None:
            yield stated


def _is_window(node: Any) -> bool:
    return _has_format(node) and node.op != "BiasAdd"


def _has_format(node: Any) -> bool:
    definition = nd.op_definition(node.op)
    return definition is not None and any(
        each.name == "data_format" for each in definition.attr
    )


def _with_formats(graph_def: Any, wanted: Callable[[Any], bool]) -> Any:
    """Return the graph with the formats of ops on pictures; None if it has them."""
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph_def)
    silent = [
        node for node in result.node if "data_format" not in node.attr and wanted(node)
    ]
    shapes = inferred_shapes(graph_def, {node.name for node in silent})
    silent = [node for node in silent if shapes[node.name].rank == _PICTURE]
    for node in silent:
        node.attr["data_format"].s = b"NHWC"
    return result if silent else None
