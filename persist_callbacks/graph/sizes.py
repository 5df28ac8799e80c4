"""Shapes that a graph computes while it runs, written down where they are known before.

Readers other than TensorFlow have few of the ops that compute shapes, and plan better
without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.names import unique

# Sizes in order; None where one depends on the batch. A scalar is a list of one.
Sizes = list[int | None]

_ELEMENTWISE: Mapping[str, Callable[[int, int], int]] = {
    "Add": lambda a, b: a + b,
    "AddV2": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "FloorDiv": lambda a, b: a // b,
}
_SAME = ("Cast", "Identity", "ExpandDims", "Squeeze", "Reshape")


def static_reshapes(graph_def: Any) -> Any:
    """Make a Reshape's shape a constant where no more than one size is computed.

    As many numbers come out of a Reshape as go in, so that -1 stands for that size.
    Keras takes the batch's from the input's Shape, and for a Dense on more than two
    dimensions each other size too. Of single pixels of a known batch OpenCV's reader
    makes outputs that nobody asked for: there it stands for the batch as well.

    Args:
        graph_def: a GraphDef; not changed.
    """
    # A shape that is known now may tell those that are computed from its result.
    while replaced := _known_shapes(graph_def):
        result = nd.empty_like(graph_def)
        for node in graph_def.node:
            made = tf.compat.v1.NodeDef()
            made.CopyFrom(node)
            if node.name in replaced:
                constant = replaced[node.name]
                result.node.append(constant)
                made.input[1] = constant.name
                made.attr["Tshape"].type = constant.attr["dtype"].type
            result.node.append(made)
        graph_def = result
    return graph_def


def _known_shapes(graph_def: Any) -> dict[str, Any]:
    """Return a constant for each Reshape that has none yet that serves."""
    by_name = {node.name: node for node in graph_def.node}
    suspects = [
        node
        for node in graph_def.node
        if node.op == "Reshape" and not _serves(by_name[nd.split(node.input[1])[0]])
    ]
    if not suspects:
        return {}
    evaluate = Evaluation(graph_def)
    known: dict[str, Any] = {}
    taken = set(by_name)
    for node in suspects:
        sizes = evaluate(node.input[1])
        if sizes is None:
            continue
        wanted = [-1 if size is None else size for size in sizes]
        if _is_pixel(wanted):
            wanted[0] = -1
        if wanted.count(-1) > 1 or 0 in wanted:
            continue
        name = unique(f"{node.name}/sizes", taken)
        taken.add(name)
        known[node.name] = nd.constant(name, np.array(wanted, np.int32), tf.int32)
    return known


def _serves(shape: Any) -> bool:
    """Whether a Reshape's shape is a constant that is to stay."""
    return shape.op == "Const" and not _is_pixel(
        nd.constant_value(shape).reshape(-1).tolist()
    )


def _is_pixel(sizes: list[int]) -> bool:
    """Whether they are those of a known number of single pixels."""
    return len(sizes) == 4 and sizes[1:3] == [1, 1] and min(sizes) > 0


class Evaluation:
    """What is known of a graph's shape arithmetic before it runs.

    Args:
        graph_def: a GraphDef; not changed.
    """

    def __init__(self, graph_def: Any) -> None:
        self._by_name = {node.name: node for node in graph_def.node}
        self._graph = tf.Graph()
        with self._graph.as_default():
            tf.import_graph_def(graph_def, name="")
        self._known: dict[str, Sizes | None] = {}

    def __call__(self, reference: str) -> Sizes | None:
        """Return a small tensor's numbers; None where not even their count is known."""
        if reference not in self._known:
            self._known[reference] = self._evaluate(reference)
        return self._known[reference]

    def _evaluate(self, reference: str) -> Sizes | None:
        name, port = nd.split(reference)
        node = self._by_name[name]
        if port != 0:
            return None
        # Numbers alone do not tell in which order those of a matrix are.
        if self._graph.get_tensor_by_name(f"{name}:0").shape.rank not in (0, 1):
            return None
        if node.op == "Const":
            array = nd.constant_value(node)
            whole = array.dtype.kind in "iu"
            return [int(each) for each in array.reshape(-1)] if whole else None
        if node.op in ("Shape", "ShapeN"):
            source, number = nd.split(node.input[0])
            shape = self._graph.get_tensor_by_name(f"{source}:{number}").shape
            return None if shape.rank is None else list(shape.as_list())
        if node.op in _SAME:
            return self(node.input[0])
        if node.op in _ELEMENTWISE:
            return self._elementwise(node)
        if node.op in ("Pack", "ConcatV2"):
            parts = [self(each) for each in node.input[: node.attr["N"].i]]
            if any(part is None for part in parts):
                return None
            return [size for part in parts for size in part or ()]
        if node.op == "Prod":
            return self._product(node)
        if node.op == "GatherV2":
            return self._picked(node)
        if node.op == "StridedSlice":
            return self._sliced(node)
        return None

    def _elementwise(self, node: Any) -> Sizes | None:
        one, other = (self(each) for each in node.input[:2])
        if one is None or other is None:
            return None
        count = max(len(one), len(other))
        sides = [side * count if len(side) == 1 else side for side in (one, other)]
        if len(sides[0]) != len(sides[1]):
            return None
        compute = _ELEMENTWISE[node.op]
        return [
            None if a is None or b is None else compute(a, b)
            for a, b in zip(*sides, strict=True)
        ]

    def _product(self, node: Any) -> Sizes | None:
        sizes, axes = self(node.input[0]), self(node.input[1])
        if sizes is None or not axes:
            return None
        known = [size for size in sizes if size is not None]
        return [math.prod(known) if len(known) == len(sizes) else None]

    def _picked(self, node: Any) -> Sizes | None:
        sizes, places = self(node.input[0]), self(node.input[1])
        if sizes is None or places is None or None in places:
            return None
        return [sizes[place] for place in places if place is not None]

    def _sliced(self, node: Any) -> Sizes | None:
        sizes = self(node.input[0])
        begin, end, step = (self(each) for each in node.input[1:4])
        if sizes is None or begin is None or end is None or step is None:
            return None
        if not len(begin) == len(end) == len(step) == 1:
            return None
        masks = {key: node.attr[key].i for key in node.attr if key.endswith("_mask")}
        if masks.get("ellipsis_mask") or masks.get("new_axis_mask"):
            return None
        if masks.get("shrink_axis_mask"):
            return [sizes[begin[0]]] if begin[0] is not None else None
        first = None if masks.get("begin_mask") else begin[0]
        last = None if masks.get("end_mask") else end[0]
        return sizes[first : last : step[0]]
