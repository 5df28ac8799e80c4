"""What is one number a pixel, spread over the channels in ops that every reader has.

A layer norm of pictures takes the mean of each pixel's channels from all of them. Other
readers compute pictures with pictures of the same shape only, and so do they with rows
of features, where a product of matrices does what a convolution does for pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.writing import Writer, rewritten

_RANKS = (2, 4)
_BINARY = ("Add", "AddV2", "Mul", "RealDiv", "SquaredDifference", "Sub")


def broadcasts_to_convolutions(graph_def: Any) -> Any:
    """Spread pictures of one channel by a convolution with ones, which copies them.

    A product with one number a channel is that convolution's filter. The squared
    difference and the reciprocal root beside them are made of ops that OpenCV has.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    suspects = [
        node
        for node in graph_def.node
        if node.op in (*_BINARY, "Mean", "Rsqrt")
        and node.attr["T"].type == tf.float32.as_datatype_enum
    ]
    references = {reference for node in suspects for reference in node.input}
    shapes = inferred_shapes(graph_def, references) if suspects else {}
    if not any(_spread(node, by_name, shapes) for node in suspects):
        return graph_def
    rewriting = _Rewriting(by_name, shapes)
    names = {node.name for node in suspects}

    def write(node: Any, writer: Writer) -> None:
        if node.name in names:
            spread = _spread(node, by_name, shapes)
            if spread is not None or shapes[node.input[0]].rank in _RANKS:
                rewriting.write(node, spread, writer)

    return rewritten(graph_def, write)


def _spread(
    node: Any, by_name: Mapping[str, Any], shapes: Mapping[str, tf.TensorShape]
) -> str | None:
    """Return the input of one channel that meets one of many; None if there is none."""
    if node.op not in _BINARY:
        return None
    one, other = node.input[:2]
    for small, large in ((one, other), (other, one)):
        rank = shapes[small].rank
        if by_name[nd.split(small)[0]].op == "Const" or rank not in _RANKS:
            continue
        if shapes[small][-1] != 1 or shapes[small][1:] == [1, 1, 1]:
            continue
        shape = shapes[large]
        channels = shape[-1] if shape.rank else None
        if channels is None or channels == 1:
            continue
        if by_name[nd.split(large)[0]].op == "Const":
            # What a constant picture would be spread by is no single pixel.
            if node.op == "Mul" and shape.num_elements() == channels:
                return str(small)
        elif shape.rank == rank and shape[1:-1] == shapes[small][1:-1]:
            return str(small)
    return None


class _Rewriting:
    """Writes nodes in the place of others; each picture is spread once."""

    def __init__(
        self, by_name: Mapping[str, Any], shapes: Mapping[str, tf.TensorShape]
    ) -> None:
        self._by_name = by_name
        self._shapes = shapes
        self._spread: dict[tuple[str, int], str] = {}

    def write(self, node: Any, spread: str | None, writer: Writer) -> None:
        """Write the nodes in one's place, or none where it is to stay."""
        if node.op == "Mean":
            self._mean(node, writer)
            return
        sides = list(node.input[:2])
        if spread is not None:
            other = sides[1] if sides[0] == spread else sides[0]
            source = self._by_name[nd.split(other)[0]]
            if source.op == "Const":
                numbers = nd.constant_value(source).reshape(1, -1)
                self._product(writer, "", spread, numbers)
                return
            channels = int(self._shapes[other][-1])
            wide = self._spread.get((spread, channels))
            if wide is None:
                ones = np.ones((1, channels), np.float32)
                wide = self._product(writer, "spread", spread, ones)
                self._spread[spread, channels] = wide
            sides = [wide if side == spread else side for side in sides]
        if node.op == "SquaredDifference":
            gap = writer.add("Sub", "difference", *sides, T=tf.float32)
            writer.add("Square", "", gap, T=tf.float32)
        elif node.op == "Rsqrt":
            root = writer.add("Sqrt", "root", *sides, T=tf.float32)
            writer.add("Reciprocal", "", root, T=tf.float32)
        else:
            writer.add(node.op, "", *sides, T=tf.float32)

    def _mean(self, node: Any, writer: Writer) -> None:
        """Take the mean of each pixel's channels by a product, and leave any other.

        OpenCV 5 takes it over another number of channels at each run but the first.
        """
        axes = self._by_name[nd.split(node.input[1])[0]]
        shape = self._shapes[node.input[0]]
        kept = "keep_dims" in node.attr and node.attr["keep_dims"].b
        known = shape.rank in _RANKS and shape[-1] is not None
        last = axes.op == "Const" and nd.constant_value(axes).reshape(-1).tolist()
        if kept and known and last in ([shape.rank - 1], [-1]):
            shares = np.full((shape[-1], 1), 1 / shape[-1], np.float32)
            self._product(writer, "", node.input[0], shares)

    def _product(self, writer: Writer, part: str, source: str, weights: Any) -> str:
        """Multiply each pixel's or row's channels with a matrix."""
        if self._shapes[source].rank != 2:
            return writer.convolution(part, source, weights)
        matrix = writer.constant(f"{part}/weights" if part else "weights", weights)
        return writer.add("MatMul", part, source, matrix, T=tf.float32)
