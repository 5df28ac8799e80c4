"""Passes that rewrite ops as the oldest ones that compute the same.

Other runtimes, and TensorFlow itself on some processors, have no kernel for the newer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.names import unique
from persist_callbacks.graph.shapes import inferred_shapes

# What a caller feeds, and constants, which some readers take for no result.
_NAMED_ALREADY = ("Const", "Placeholder", "PlaceholderWithDefault")
# OpenCV's reader asks for these, be they at their defaults or not.
_ASKED_FOR = {
    "ArgMax": ("output_type",),
    "LeakyRelu": ("alpha",),
    "Mean": ("keep_dims",),
    "Pack": ("axis",),
    "StridedSlice": (
        "begin_mask",
        "ellipsis_mask",
        "end_mask",
        "new_axis_mask",
        "shrink_axis_mask",
    ),
    "Sum": ("keep_dims",),
}


def name_results(graph_def: Any, outputs: Sequence[str]) -> Any:
    """Let the op that computes an output bear its name, not an Identity after it.

    OpenCV's reader removes each Identity, and does not find the output then.

    Args:
        graph_def: a GraphDef; not changed.
        outputs: nodes that are wanted by name.
    """
    by_name = {node.name: node for node in graph_def.node}
    renamed: dict[str, str] = {}
    for output in outputs:
        node = by_name[output]
        if node.op != "Identity" or len(node.input) != 1:
            continue
        source, port = nd.split(node.input[0])
        taken = source in outputs or source in renamed
        if port == 0 and not taken and by_name[source].op not in _NAMED_ALREADY:
            renamed[source] = output
    result = nd.empty_like(graph_def)
    for node in graph_def.node:
        if node.name in renamed.values():
            continue
        made = result.node.add()
        made.CopyFrom(node)
        made.name = renamed.get(node.name, node.name)
        del made.input[:]
        made.input.extend(_renamed(reference, renamed) for reference in node.input)
    return result


def spell_out_attributes(graph_def: Any) -> Any:
    """Write down those attributes at their defaults that a reader asks for.

    Args:
        graph_def: a GraphDef; not changed.
    """
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph_def)
    for node in result.node:
        for key in _ASKED_FOR.get(node.op, ()):
            if key not in node.attr:
                attributes = nd.op_definition(node.op).attr
                (default,) = (a.default_value for a in attributes if a.name == key)
                node.attr[key].CopyFrom(default)
    return result


def erfc_to_erf(graph_def: Any) -> Any:
    """Write Keras' GELU with Erf, as older versions did; ONNX has no Erfc.

    Args:
        graph_def: a GraphDef; not changed.
    """
    result = nd.empty_like(graph_def)
    taken = {node.name for node in graph_def.node}
    for node in graph_def.node:
        if node.op != "Erfc":
            result.node.add().CopyFrom(node)
            continue
        dtype = tf.as_dtype(node.attr["T"].type)
        parts = ("one", "negative", "erf")
        one, negative, erf = (unique(f"{node.name}/{p}", taken) for p in parts)
        taken.update([one, negative, erf])
        ones = np.ones((), dtype.as_numpy_dtype)
        # Erf is odd: 1 - erf(x) is erf(-x) + 1, and what is negated is a product.
        result.node.append(nd.constant(one, ones, dtype))
        result.node.append(nd.make_node("Neg", negative, node.input, T=dtype))
        result.node.append(nd.make_node("Erf", erf, [negative], T=dtype))
        result.node.append(nd.make_node("AddV2", node.name, [erf, one], T=dtype))
    return result


def split_grouped_convolutions(graph_def: Any) -> Any:
    """Make a convolution in groups a depthwise one, or one convolution for each group.

    TensorFlow computes them on a CPU with oneDNN or XLA only. Those whose filters are
    no constants, or whose channels are not known, are left as they are.

    Args:
        graph_def: a GraphDef; not changed.
    """
    constants = {node.name: node for node in graph_def.node if node.op == "Const"}
    suspects = [
        node
        for node in graph_def.node
        if node.op == "Conv2D" and nd.split(node.input[1])[0] in constants
    ]
    if not suspects:
        return graph_def
    shapes = inferred_shapes(graph_def, [node.input[0] for node in suspects])
    result = nd.empty_like(graph_def)
    taken = {node.name for node in graph_def.node}
    names = {node.name for node in suspects}
    for node in graph_def.node:
        if node.name in names:
            filters = nd.constant_value(constants[nd.split(node.input[1])[0]])
            shape = shapes[node.input[0]]
            known = shape[3] if shape.rank == 4 else None
            if known is not None and known != filters.shape[2]:
                groups = known // filters.shape[2]
                result.node.extend(_ungrouped(node, filters, groups, taken))
                continue
        result.node.add().CopyFrom(node)
    return result


def _renamed(reference: str, renamed: Mapping[str, str]) -> str:
    name, port = nd.split(reference)
    name = renamed.get(name, name)
    return f"^{name}" if port < 0 else name if port == 0 else f"{name}:{port}"


def _ungrouped(
    node: Any, filters: np.ndarray[Any, Any], groups: int, taken: set[str]
) -> list[Any]:
    """Return the nodes in a grouped convolution's place; the last bears its name."""
    made: list[Any] = []
    dtype = tf.as_dtype(node.attr["T"].type)

    def add(new: Any) -> str:
        new.name = unique(new.name, taken)
        taken.add(new.name)
        made.append(new)
        return str(new.name)

    strides = list(node.attr["strides"].list.i)
    dilations = list(node.attr["dilations"].list.i) if "dilations" in node.attr else []
    plain = strides[1] == strides[2] and set(dilations) <= {1}
    plain = plain and node.attr["padding"].s in (b"SAME", b"VALID")
    if filters.shape[2] == 1 and plain:
        # Output channels of a group stand together in both.
        each = filters.reshape(*filters.shape[:2], groups, -1)
        by_channel = add(nd.constant(f"{node.name}/filters", each, dtype))
        depthwise = nd.make_node(
            "DepthwiseConv2dNative", node.name, [node.input[0], by_channel]
        )
        for key in ("T", "strides", "padding"):
            depthwise.attr[key].CopyFrom(node.attr[key])
        return [*made, depthwise]
    axis = add(nd.constant(f"{node.name}/axis", np.int32(3), tf.int32))
    split = add(
        nd.make_node(
            "Split",
            f"{node.name}/groups",
            [axis, node.input[0]],
            T=dtype,
            num_split=groups,
        )
    )
    parts = []
    for index, array in enumerate(np.split(filters, groups, axis=3)):
        weights = add(nd.constant(f"{node.name}/filters_{index}", array, dtype))
        part = tf.compat.v1.NodeDef()
        part.CopyFrom(node)
        part.name = f"{node.name}/group_{index}"
        del part.input[:]
        part.input.extend([split if index == 0 else f"{split}:{index}", weights])
        parts.append(add(part))
    joined = nd.make_node(
        "ConcatV2", node.name, [*parts, axis], T=dtype, Tidx=tf.int32, N=groups
    )
    return [*made, joined]
