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
    channels = _channels(graph_def, [node.input[0] for node in suspects])
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph_def.versions)
    result.library.CopyFrom(graph_def.library)
    taken = {node.name for node in graph_def.node}
    names = {node.name for node in suspects}
    for node in graph_def.node:
        if node.name in names:
            filters = nd.constant_value(constants[nd.split(node.input[1])[0]])
            known = channels[node.input[0]]
            if known is not None and known != filters.shape[2]:
                groups = known // filters.shape[2]
                result.node.extend(_ungrouped(node, filters, groups, taken))
                continue
        result.node.add().CopyFrom(node)
    return result


def _channels(graph_def: Any, references: Sequence[str]) -> Mapping[str, int | None]:
    """Infer the number of channels of tensors of four dimensions, channels last."""
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    found: dict[str, int | None] = {}
    for reference in references:
        name, port = nd.split(reference)
        shape = graph.get_tensor_by_name(f"{name}:{port}").shape
        found[reference] = None if shape.rank != 4 else shape[3]
    return found


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
