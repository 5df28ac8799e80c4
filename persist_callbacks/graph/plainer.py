"""Passes that say the same with fewer or plainer nodes, in TensorFlow's own ops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.writing import Writer, rewritten

_HAVE_WEIGHTS = ("Conv2D", "DepthwiseConv2dNative", "MatMul", "Conv2DBackpropInput")


def additions_to_biases(graph_def: Any) -> Any:
    """Make the addition of one number a channel a BiasAdd, as layers' own biases are.

    A batch norm that was folded leaves such an addition after the convolution, of shape
    [1, 1, 1, channels].

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    pairs: dict[str, tuple[str, Any]] = {}
    for node in graph_def.node:
        for value, constant in with_constant(by_name, node, ("Add", "AddV2")):
            maker = by_name.get(value)
            if maker is not None and maker.op in _HAVE_WEIGHTS:
                pairs[node.name] = (value, constant)
    shapes = inferred_shapes(graph_def, [value for value, _ in pairs.values()])

    def write(node: Any, writer: Writer) -> None:
        if node.name not in pairs:
            return
        value, source = pairs[node.name]
        bias = _per_channel(source, shapes[value])
        if bias is not None:
            dtype = tf.as_dtype(node.attr["T"].type)
            name = writer.constant("bias", bias, dtype)
            writer.add("BiasAdd", "", value, name, T=dtype)

    return rewritten(graph_def, write)


def scales_into_weights(graph_def: Any) -> Any:
    """Fold the product of one number a channel into the weights before it, to rounding.

    TensorFlow's own folding does so for Conv2D alone, and not across a bias. A
    transposed convolution has its output's channels before its input's.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    reads = nd.count_reads(graph_def.node)
    folded: dict[str, Any] = {}
    for node in graph_def.node:
        for value, scale in with_constant(by_name, node, ("Mul",)):
            made = by_name.get(value)
            if made is None or made.op not in _HAVE_WEIGHTS or reads[made.name] > 1:
                continue
            if not nd.has_channels_last(made):
                continue
            weights = by_name[nd.split(made.input[1])[0]]
            turned = "transpose_b" in made.attr and made.attr["transpose_b"].b
            if weights.op != "Const" or turned:
                continue
            scaled = _scaled(made, nd.constant_value(weights), scale)
            if scaled is not None:
                folded[node.name] = (made, scaled)

    def write(node: Any, writer: Writer) -> None:
        if node.name in folded:
            maker, numbers = folded[node.name]
            dtype = tf.as_dtype(maker.attr["T"].type)
            weights = writer.constant("weights", numbers, dtype)
            writer.copy(maker, "", maker.input[0], weights, *maker.input[2:])

    return rewritten(graph_def, write)


def quotients_to_reciprocals(graph_def: Any) -> Any:
    """Divide a constant by a tensor as its product with a reciprocal, to rounding.

    OpenCV's reader divides by constants and tensors by tensors, and no constant. The
    reciprocal of what is near the largest float is nothing to most processors.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}

    def write(node: Any, writer: Writer) -> None:
        if node.op != "RealDiv" or node.attr["T"].type not in nd.REORDERED:
            return
        above, below = (by_name[nd.split(ref)[0]] for ref in node.input[:2])
        if above.op != "Const" or above.input or below.op == "Const":
            return
        dtype = tf.as_dtype(node.attr["T"].type)
        is_scalar = not nd.constant_shape(above).rank
        if is_scalar and np.all(nd.constant_value(above) == 1):
            writer.add("Reciprocal", "", node.input[1], T=dtype)
        else:
            turned = writer.add("Reciprocal", "reciprocal", node.input[1], T=dtype)
            writer.add("Mul", "", turned, node.input[0], T=dtype)

    return rewritten(graph_def, write)


def sums_of_products_to_differences(graph_def: Any) -> Any:
    """Subtract a product with a negated vector where one would be added to a tensor.

    OpenCV's reader takes what is added to a product with a vector for a constant, and
    joins the two. The numbers are the very same.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}

    def write(node: Any, writer: Writer) -> None:
        found = product_with_vector(node, by_name)
        if found is None or node.attr["T"].type not in nd.REORDERED:
            return
        place, value, vector = found
        dtype = tf.as_dtype(node.attr["T"].type)
        negated = writer.constant("negated", -nd.constant_value(vector), dtype)
        product = writer.add("Mul", "product", value, negated, T=dtype)
        writer.add("Sub", "", node.input[1 - place], product, T=dtype)

    return rewritten(graph_def, write)


def product_with_vector(
    node: Any, by_name: Mapping[str, Any]
) -> tuple[int, str, Any] | None:
    """Return which input of a sum of two tensors is a product with several numbers.

    Args:
        node: one of the graph's; None is returned unless it is such a sum.
        by_name: the graph's nodes.

    Returns:
        The input's place, and what is multiplied with which constant.
    """
    if node.op not in ("Add", "AddV2"):
        return None
    sides = [by_name[nd.split(reference)[0]] for reference in node.input[:2]]
    if any(side.op == "Const" for side in sides):
        return None
    for place, side in enumerate(sides):
        found = with_constant(by_name, side, ("Mul",))
        if len(found) == 1:
            ((value, constant),) = found
            if nd.constant_shape(constant).num_elements() != 1:
                return place, value, constant
    return None


def _scaled(maker: Any, weights: Any, scale: Any) -> np.ndarray[Any, Any] | None:
    """Return weights with each output channel scaled; None if the scale is other."""
    by_channel = weights.shape[-1:]
    if maker.op == "DepthwiseConv2dNative":
        by_channel = weights.shape[2:]
    elif maker.op == "Conv2DBackpropInput":
        by_channel = (weights.shape[2], 1)
    rank = 2 if maker.op == "MatMul" else 4
    channels = int(np.prod(by_channel))
    numbers = _per_channel(scale, tf.TensorShape([None] * (rank - 1) + [channels]))
    if not nd.constant_shape(scale).rank:
        numbers = np.full(channels, nd.constant_value(scale))
    if numbers is None:
        return None
    product: np.ndarray[Any, Any] = weights * numbers.reshape(by_channel)
    return product.astype(weights.dtype)


def with_constant(
    by_name: Mapping[str, Any], node: Any, ops: tuple[str, ...]
) -> list[tuple[str, Any]]:
    """Return what a node of these types reads, and the constant that it takes it with.

    Both ways round, where both are constants.

    Args:
        by_name: the graph's nodes.
        node: one of them, that reads two things.
        ops: the types; of another one there is nothing to return.
    """
    if node.op not in ops:
        return []
    one, other = node.input[:2]
    sides = [(one, by_name.get(other)), (other, by_name.get(one))]
    return [
        (value, constant)
        for value, constant in sides
        # One with a control edge may stand in a loop's frame, where it has to stay.
        if constant is not None and constant.op == "Const" and not constant.input
    ]


def _per_channel(source: Any, shape: tf.TensorShape) -> np.ndarray[Any, Any] | None:
    """Return a constant as one number a channel; None if it is anything else."""
    if not tf.as_dtype(source.attr["dtype"].type).is_floating or not shape.rank:
        return None
    array = nd.constant_value(source)
    if shape.rank < 2 or shape[-1] is None or not 1 <= array.ndim <= shape.rank:
        return None
    fits = array.shape[-1] == shape[-1] and set(array.shape[:-1]) <= {1}
    return array.reshape(-1) if fits else None
