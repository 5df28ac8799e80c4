"""Passes that say the same with fewer or plainer nodes, in TensorFlow's own ops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.names import unique
from persist_callbacks.graph.weights import hide_all

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
    result = empty_like(graph_def)
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
    pairs: dict[str, tuple[str, Any]] = {}
    for node in graph_def.node:
        for value, constant in with_constant(by_name, node, ("Add", "AddV2")):
            maker = by_name.get(value)
            if maker is not None and maker.op in _TAKE_BIAS:
                pairs[node.name] = (value, constant)
    if not pairs:
        return graph_def
    shapes = _shapes(graph_def, [value for value, _ in pairs.values()])
    taken = set(by_name)
    result = empty_like(graph_def)
    for node in graph_def.node:
        bias = None
        if node.name in pairs:
            value, source = pairs[node.name]
            bias = per_channel(source, shapes[value])
        if bias is None:
            result.node.add().CopyFrom(node)
            continue
        dtype = tf.as_dtype(node.attr["T"].type)
        name = unique(f"{node.name}/bias", taken)
        taken.add(name)
        result.node.append(nd.constant(name, bias, dtype))
        result.node.append(nd.make_node("BiasAdd", node.name, [value, name], T=dtype))
    return result


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


def per_channel(source: Any, shape: tf.TensorShape) -> np.ndarray[Any, Any] | None:
    """Return a constant as one number a channel; None if it is anything else.

    Args:
        source: a Const.
        shape: of what it is combined with; channels come last.
    """
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
        tf.import_graph_def(hide_all(graph_def)[0], name="")
    found = {}
    for reference in references:
        name, port = nd.split(reference)
        found[reference] = graph.get_tensor_by_name(f"{name}:{port}").shape
    return found


def empty_like(graph_def: Any) -> Any:
    """Return a graph without nodes, of the same versions and functions."""
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph_def.versions)
    result.library.CopyFrom(graph_def.library)
    return result
