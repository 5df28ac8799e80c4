"""A graph as OpenCV's reader has it, with what its rules ask of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph import opencv_layouts
from persist_callbacks.graph.canonical import in_order
from persist_callbacks.graph.shapes import inferred_shapes


@dataclass(frozen=True)
class Graph:
    """A graph, and what is known of it.

    Args:
        by_name: its nodes.
        nodes: those that OpenCV makes layers of, each after those that it reads.
        readers: nodes by what they read.
        shapes: of what they read and give.
        layouts: what OpenCV takes their layouts for.
        told: nodes that must come as NCHW, though it guesses nothing of them.
    """

    by_name: Mapping[str, Any]
    nodes: list[Any]
    readers: Mapping[str, list[Any]]
    shapes: Mapping[str, tf.TensorShape]
    layouts: Mapping[str, str]
    told: Collection[str]

    def source(self, node: Any, place: int = 0) -> Any:
        """Return the node that one reads at a place."""
        return self.by_name[nd.split(node.input[place])[0]]

    def layout(self, node: Any, place: int = 0) -> str:
        """Return what OpenCV takes the layout for of what a node reads at a place."""
        return self.layouts[nd.split(node.input[place])[0]]

    def shape(self, node: Any, place: int = 0) -> tf.TensorShape:
        """Return the shape of what a node reads at a place."""
        return self.shapes[node.input[place]]

    def numbers(self, node: Any, place: int) -> np.ndarray[Any, Any]:
        """Return the constant that a node reads at a place."""
        return nd.constant_value(self.source(node, place))

    def constant_sides(self, node: Any) -> list[bool]:
        """Return which of a node's inputs are constants."""
        sides = [self.source(node, place) for place in range(len(node.input))]
        return [side.op == "Const" for side in sides]

    def outputs(self) -> list[Any]:
        """Return the nodes that nothing reads."""
        return [node for node in self.nodes if not self.readers.get(node.name)]


def of(graph_def: Any) -> Graph:
    """Look at a graph.

    Args:
        graph_def: a frozen GraphDef that this TensorFlow imports.
    """
    by_name = {node.name: _without_order(node) for node in graph_def.node}
    swallowed = _taken_with_transposed(by_name)
    ordered = in_order(by_name.values(), list(by_name))
    nodes = [node for node in ordered if node.name not in swallowed]
    readers = nd.readers(nodes)
    references = {ref for node in nodes for ref in node.input}
    given = {node.name for node in nodes if not nd.gives_nothing(node)}
    shapes = inferred_shapes(graph_def, references | given)
    layouts = opencv_layouts.guessed(nodes, shapes)
    told = opencv_layouts.told_apart(nodes, layouts, shapes)
    return Graph(by_name, nodes, readers, shapes, layouts, told)


def _without_order(node: Any) -> Any:
    """Return a node without its control edges, which are no tensors with a shape."""
    data = [reference for reference in node.input if not reference.startswith("^")]
    if len(data) == len(node.input):
        return node
    made = tf.compat.v1.NodeDef()
    made.CopyFrom(node)
    del made.input[:]
    made.input.extend(data)
    return made


def _taken_with_transposed(by_name: Mapping[str, Any]) -> set[str]:
    """Return the nodes that compute a transposed convolution's size as OpenCV knows."""
    taken: set[str] = set()
    for node in by_name.values():
        if node.op != "Conv2DBackpropInput":
            continue
        pack, filters = (by_name[nd.split(ref)[0]] for ref in node.input[:2])
        if pack.op != "Pack" or len(pack.input) != 4 or filters.op != "Const":
            continue
        strides = list(node.attr["strides"].list.i)[1:3]
        kernel = nd.constant_shape(filters).as_list()[:2]
        rests: list[int | None] = [None, None]
        if node.attr["padding"].s == b"VALID":
            rests = [size - by for size, by in zip(kernel, strides, strict=True)]
        sizes = [_scaled_size(reference, by_name) for reference in pack.input[1:3]]
        if sizes != list(zip(strides, rests, strict=True)):
            continue
        waiting = [pack.name]
        while waiting:
            name = waiting.pop()
            if name not in taken:
                taken.add(name)
                each = by_name[name]
                # What the shape is of is computed whether its shape is wanted or not.
                reads: Collection[str] = [] if each.op == "Shape" else each.input
                waiting.extend(nd.split(ref)[0] for ref in reads)
    return taken


def _scaled_size(
    reference: str, by_name: Mapping[str, Any]
) -> tuple[int | None, int | None]:
    """Return what a part of a shape is multiplied by, and what is added then."""

    def numbers(node: Any, op: str) -> tuple[Any, int | None]:
        sides = [by_name[nd.split(ref)[0]] for ref in node.input]
        constants = [side for side in sides if side.op == "Const"]
        if node.op != op or len(constants) != 1:
            return node, None
        (other,) = (side for side in sides if side is not constants[0])
        return other, int(nd.constant_value(constants[0]))

    product, added = numbers(by_name[nd.split(reference)[0]], "Add")
    part, factor = numbers(product, "Mul")
    return (factor if part.op == "StridedSlice" else None), added
