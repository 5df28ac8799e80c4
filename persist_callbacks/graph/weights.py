"""Large constants kept out of sight while the rest of a graph is worked on.

TensorFlow's optimizer copies every constant several times a pass: for a graph of large
weights that takes many times longer than all the rest of an export, and many times
their memory. Placeholders of the same shapes stand for them meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import in_order

# Smaller ones cost nothing to speak of.
_LARGE_BYTES = 2**16
# Ops that fold into nothing as long as they depend on an input, by which of their
# inputs takes weights; None for any of them.
_TAKES_WEIGHTS: Mapping[str, tuple[int, ...] | None] = {
    "BatchMatMul": None,
    "BatchMatMulV2": None,
    "BatchMatMulV3": None,
    "Einsum": None,
    "MatMul": None,
    "GatherV2": (0,),
    "GatherNd": (0,),
    "StatelessWhile": None,
    "While": None,
    "Conv2D": (1,),
    "Conv2DBackpropInput": (1,),
    "Conv3D": (1,),
    "Conv3DBackpropInputV2": (1,),
    "DepthwiseConv2dNative": (1,),
}
# Where a TensorProto holds numbers one by one.
_VALUES = tuple(
    field.name
    for field in tf.make_tensor_proto(0).DESCRIPTOR.fields
    if field.name.endswith("_val")
)


def hide_all(graph_def: Any) -> tuple[Any, dict[str, Any]]:
    """Put a Placeholder of its shape in place of every large constant.

    For what looks at types and shapes only.

    Args:
        graph_def: a GraphDef; not changed.

    Returns:
        The graph, and the constants by name.
    """
    return _without(graph_def, {n.name: n for n in graph_def.node if _is_large(n)})


def hide_unfoldable(graph_def: Any) -> tuple[Any, dict[str, Any]]:
    """Put a Placeholder in place of each large constant that no folding could touch.

    Those are the weights of ops that depend on an input. Of a constant that is cast
    or reshaped, what comes of it is hidden too.

    Args:
        graph_def: a GraphDef; not changed.

    Returns:
        The graph, and the constants by name.
    """
    large = {node.name: node for node in graph_def.node if _is_large(node)}
    if not large or any(node.op in nd.OLD_CONTROL_FLOW for node in graph_def.node):
        return graph_def, {}
    by_name = {node.name: node for node in graph_def.node}
    readers = _readers(graph_def)
    varying = _varying(graph_def)
    hidden: dict[str, Any] = {}
    for name, node in large.items():
        read_by = list(_beyond_identities(name, readers))
        forms = {
            r.name: _in_other_form(node, r, by_name) for r, at in read_by if not at
        }
        made = {reader: form for reader, form in forms.items() if form is not None}
        read_as = [(reader, at) for reader, at in read_by if reader.name not in made]
        for form in made:
            read_as.extend(_beyond_identities(form, readers))
        if read_as and all(
            reader.name in varying and _takes_weights(reader, at)
            for reader, at in read_as
        ):
            hidden[name] = node
            hidden.update((form, build()) for form, build in made.items())
    return _without(graph_def, hidden)


def put_back(graph_def: Any, hidden: Mapping[str, Any]) -> Any:
    """Put hidden constants back where their placeholders stand.

    Args:
        graph_def: a GraphDef; not changed.
        hidden: from `hide_unfoldable` or `hide_all`.
    """
    if not hidden:
        return graph_def
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph_def.versions)
    result.library.CopyFrom(graph_def.library)
    for node in graph_def.node:
        made = result.node.add()
        made.CopyFrom(hidden.get(node.name, node))
        if node.name in hidden:
            for key in [key for key in made.attr if key.startswith("_")]:
                del made.attr[key]
    return result


def _is_large(node: Any) -> bool:
    """Whether a node is a constant of many numbers, written out as bytes."""
    if node.op != "Const" or node.input:
        return False
    proto = node.attr["value"].tensor
    dtype = tf.as_dtype(proto.dtype)
    size = tf.TensorShape(proto.tensor_shape).num_elements() or 0
    if dtype == tf.string or size * dtype.size < _LARGE_BYTES:
        return False
    # A field of one number stands for all; asking for the bytes would copy them.
    return not any(len(getattr(proto, field)) for field in _VALUES)


def _readers(graph_def: Any) -> dict[str, list[tuple[Any, int]]]:
    """Return who reads each node, and as which of its inputs."""
    readers: dict[str, list[tuple[Any, int]]] = {}
    for node in graph_def.node:
        for index, reference in enumerate(node.input):
            source, port = nd.split(reference)
            readers.setdefault(source, []).append((node, index if port >= 0 else -1))
    return readers


def _varying(graph_def: Any) -> set[str]:
    """Return the nodes that depend on an input, or give something else each time."""
    varying: set[str] = set()
    for node in in_order(graph_def.node, [node.name for node in graph_def.node]):
        itself = node.op.startswith("Placeholder") or nd.has_state(node.op)
        if itself or any(nd.split(ref)[0] in varying for ref in node.input):
            varying.add(node.name)
    return varying


def _beyond_identities(
    name: str, readers: Mapping[str, list[tuple[Any, int]]]
) -> Iterator[tuple[Any, int]]:
    """Yield who reads a node, be it by way of an Identity, and as which input."""
    for reader, index in readers.get(name, ()):
        if reader.op == "Identity" and index == 0:
            yield from _beyond_identities(reader.name, readers)
        else:
            yield reader, index


def _takes_weights(node: Any, index: int) -> bool:
    places = _TAKES_WEIGHTS.get(node.op, ())
    return index >= 0 and (places is None or index in places)


def _in_other_form(
    node: Any, reader: Any, by_name: Mapping[str, Any]
) -> Callable[[], Any] | None:
    """Return what makes the constant that a cast or reshape of a constant gives.

    None if the reader is neither, or its shape is computed.
    """
    if reader.op == "Cast":
        return lambda: _cast(node, reader)
    if reader.op != "Reshape":
        return None
    sizes = by_name.get(reader.input[1])
    if sizes is None or sizes.op != "Const":
        return None
    return lambda: _reshaped(node, reader, nd.constant_value(sizes))


def _cast(node: Any, cast: Any) -> Any:
    """Return the constant that a cast of a constant gives, by the cast's name."""
    dtype = tf.as_dtype(cast.attr["DstT"].type)
    with np.errstate(over="ignore", invalid="ignore"):
        array = nd.constant_value(node).astype(dtype.as_numpy_dtype)
    return nd.constant(cast.name, array, dtype)


def _reshaped(node: Any, reshape: Any, sizes: np.ndarray[Any, Any]) -> Any:
    dtype = tf.as_dtype(node.attr["dtype"].type)
    return nd.constant(reshape.name, nd.constant_value(node).reshape(sizes), dtype)


def _without(graph_def: Any, hidden: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the graph with placeholders in place of the constants given."""
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph_def.versions)
    result.library.CopyFrom(graph_def.library)
    for node in graph_def.node:
        made = result.node.add()
        if node.name not in hidden:
            made.CopyFrom(node)
            continue
        constant = hidden[node.name]
        dtype = tf.as_dtype(constant.attr["dtype"].type)
        shape = nd.constant_shape(constant)
        made.CopyFrom(nd.make_node("Placeholder", node.name, dtype=dtype, shape=shape))
    return result, dict(hidden)
