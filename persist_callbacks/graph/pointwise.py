"""A Dense on pictures is a convolution of one pixel, and every reader knows those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.writing import Writer, rewritten


@dataclass(frozen=True)
class _Dense:
    """A picture flattened to its pixels, multiplied, and made a picture again."""

    source: str
    weights: Any


def dense_to_convolutions(graph_def: Any) -> Any:
    """Make Reshape, MatMul, Reshape around one picture a Conv2D of one pixel.

    Args:
        graph_def: a GraphDef, its Reshapes' shapes constant; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    reads = nd.count_reads(graph_def.node)
    found: dict[str, _Dense] = {}
    for node in graph_def.node:
        dense = _dense(node, by_name, reads)
        if dense is not None:
            found[node.name] = dense
    if not found:
        return graph_def
    shapes = inferred_shapes(graph_def, [dense.source for dense in found.values()])

    def write(node: Any, writer: Writer) -> None:
        dense = found.get(node.name)
        if dense is not None and _same_picture(node, dense, by_name, shapes):
            weights = nd.constant_value(dense.weights)
            dtype = tf.as_dtype(node.attr["T"].type)
            writer.convolution("", dense.source, weights, dtype)

    return rewritten(graph_def, write)


def _dense(
    node: Any, by_name: Mapping[str, Any], reads: Mapping[str, int]
) -> _Dense | None:
    """Match the last of the three nodes."""
    if node.op != "Reshape" or not tf.as_dtype(node.attr["T"].type).is_floating:
        return None
    product = by_name[nd.split(node.input[0])[0]]
    if product.op != "MatMul" or reads[product.name] != 1:
        return None
    turned = [key for key in ("transpose_a", "transpose_b") if key in product.attr]
    flat = by_name[nd.split(product.input[0])[0]]
    weights = by_name[nd.split(product.input[1])[0]]
    if flat.op != "Reshape" or weights.op != "Const":
        return None
    if any(product.attr[key].b for key in turned):
        return None
    return _Dense(flat.input[0], weights)


def _same_picture(
    node: Any,
    dense: _Dense,
    by_name: Mapping[str, Any],
    shapes: Mapping[str, tf.TensorShape],
) -> bool:
    """Whether a Dense changes a picture's channels and nothing else."""
    sizes = by_name[nd.split(node.input[1])[0]]
    shape = shapes[dense.source]
    if sizes.op != "Const" or shape.rank != 4 or None in shape.as_list()[1:]:
        return False
    before, after = nd.constant_value(dense.weights).shape
    batch, *inner = nd.constant_value(sizes).tolist()
    known = shape[0] if shape[0] is not None else -1
    return (
        shape[3] == before
        and batch in (-1, known)
        and inner == [*shape.as_list()[1:3], after]
    )
