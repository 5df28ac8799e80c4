"""Passes that say the same with fewer or plainer nodes, in TensorFlow's own ops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.names import unique

_TAKE_BIAS = ("Conv2D", "DepthwiseConv2dNative", "MatMul")


def static_reshapes(graph_def: Any) -> Any:
    """Make a Reshape's shape a constant with -1 where one size alone is computed.

    Keras takes the batch's size from the input's Shape, by three nodes more, which
    other readers have no shapes for.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    replaced: dict[str, Any] = {}
    taken = set(by_name)
    for node in graph_def.node:
        if node.op != "Reshape":
            continue
        sizes = _packed_sizes(by_name, node.input[1])
        if sizes is None:
            continue
        name = unique(f"{node.name}/sizes", taken)
        taken.add(name)
        dtype = tf.as_dtype(by_name[node.input[1]].attr["T"].type)
        array = np.array(sizes, dtype.as_numpy_dtype)
        replaced[node.name] = nd.constant(name, array, dtype)
    if not replaced:
        return graph_def
    result = _empty_like(graph_def)
    for node in graph_def.node:
        made = tf.compat.v1.NodeDef()
        made.CopyFrom(node)
        if node.name in replaced:
            constant = replaced[node.name]
            result.node.append(constant)
            made.input[1] = constant.name
            made.attr["Tshape"].type = constant.attr["dtype"].type
        result.node.append(made)
    return result


def additions_to_biases(graph_def: Any) -> Any:
    """Make the addition of one number a channel a BiasAdd, as layers' own biases are.

    A batch norm that was folded leaves such an addition after the convolution, of shape
    [1, 1, 1, channels].

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    pairs = {}
    for node in graph_def.node:
        for value, constant in _with_constant(by_name, node, ("Add", "AddV2")):
            maker = by_name.get(value)
            if maker is not None and maker.op in _TAKE_BIAS:
                pairs[node.name] = (value, constant)
    shapes = _shapes(graph_def, [value for value, _ in pairs.values()])
    taken = set(by_name)
    result = _empty_like(graph_def)
    for node in graph_def.node:
        bias = None
        if node.name in pairs:
            value, source = pairs[node.name]
            bias = _per_channel(source, shapes[value])
        if bias is None:
            result.node.add().CopyFrom(node)
            continue
        dtype = tf.as_dtype(node.attr["T"].type)
        name = unique(f"{node.name}/bias", taken)
        taken.add(name)
        result.node.append(nd.constant(name, bias, dtype))
        result.node.append(nd.make_node("BiasAdd", node.name, [value, name], T=dtype))
    return result


def scales_into_depthwise(graph_def: Any) -> Any:
    """Fold the product of one number a channel into the depthwise filters before it.

    TensorFlow's own folding does so for Conv2D alone; here too, to rounding.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    reads = Counter(nd.split(ref)[0] for node in graph_def.node for ref in node.input)
    folded: dict[str, Any] = {}
    for node in graph_def.node:
        for value, scale in _with_constant(by_name, node, ("Mul",)):
            made = by_name.get(value)
            if made is None or made.op != "DepthwiseConv2dNative":
                continue
            filters = by_name[nd.split(made.input[1])[0]]
            if reads[made.name] > 1 or filters.op != "Const":
                continue
            weights = nd.constant_value(filters)
            channels = weights.shape[2] * weights.shape[3]
            numbers = _per_channel(scale, tf.TensorShape([None] * 3 + [channels]))
            if numbers is not None:
                scaled = weights * numbers.reshape(weights.shape[2:])
                folded[node.name] = (made, scaled.astype(weights.dtype))
    taken = set(by_name)
    result = _empty_like(graph_def)
    for node in graph_def.node:
        if node.name not in folded:
            result.node.add().CopyFrom(node)
            continue
        convolution, weights = folded[node.name]
        name = unique(f"{node.name}/filters", taken)
        taken.add(name)
        dtype = tf.as_dtype(convolution.attr["T"].type)
        result.node.append(nd.constant(name, weights, dtype))
        made = result.node.add()
        made.CopyFrom(convolution)
        made.name = node.name
        made.input[1] = name
    return result


def _with_constant(
    by_name: Mapping[str, Any], node: Any, ops: tuple[str, ...]
) -> list[tuple[str, Any]]:
    """Return what a node of these types reads, and the constant that it takes it with.

    Both ways round, where both are constants.
    """
    if node.op not in ops:
        return []
    one, other = node.input[:2]
    sides = [(one, by_name.get(other)), (other, by_name.get(one))]
    return [
        (value, constant)
        for value, constant in sides
        if constant is not None and constant.op == "Const"
    ]


def _packed_sizes(by_name: Mapping[str, Any], reference: str) -> list[int] | None:
    """Return the sizes that a Pack makes, -1 for the one that is not constant."""
    pack = by_name.get(reference)
    if pack is None or pack.op != "Pack":
        return None
    sizes: list[int] = []
    for each in pack.input:
        source = by_name.get(each)
        known = source is not None and source.op == "Const"
        value = nd.constant_value(source) if known else np.array(-1)
        if value.ndim:
            return None
        sizes.append(int(value))
    return sizes if sizes.count(-1) == 1 and 0 not in sizes else None


def _per_channel(source: Any, shape: tf.TensorShape) -> np.ndarray[Any, Any] | None:
    """Return a constant as one number a channel; None if it is anything else."""
    if not tf.as_dtype(source.attr["dtype"].type).is_floating or not shape.rank:
        return None
    array = nd.constant_value(source)
    if shape.rank < 2 or shape[-1] is None or not 1 <= array.ndim <= shape.rank:
        return None
    fits = array.shape[-1] == shape[-1] and set(array.shape[:-1]) <= {1}
    return array.reshape(-1) if fits else None


def _shapes(graph_def: Any, references: Iterable[str]) -> Mapping[str, tf.TensorShape]:
    """Infer shapes of tensors."""
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    found = {}
    for reference in references:
        name, port = nd.split(reference)
        found[reference] = graph.get_tensor_by_name(f"{name}:{port}").shape
    return found


def _empty_like(graph_def: Any) -> Any:
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph_def.versions)
    result.library.CopyFrom(graph_def.library)
    return result
