"""Scales and shifts of channels, folded into the weights and the bias before them.

What a batch normalisation is at inference. TensorFlow's own folding knows it after a
convolution without bias, or whose bias is zero still: not of a model that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.names import unique
from persist_callbacks.graph.plainer import empty_like, per_channel, with_constant

_SHIFTS = ("Add", "AddV2", "BiasAdd")
# Dimensions of the result: its last one is the channels'.
_RANKS = {"Conv2D": 4, "DepthwiseConv2dNative": 4, "MatMul": 2}

_Array = np.ndarray[Any, Any]


@dataclass
class _Chain:
    """A node with weights, and the scales and shifts that follow it.

    Args:
        maker: the node that has weights.
        members: names of the nodes that follow it, each read by the next alone.
        scale: the product of the scales; None if there is none.
        shift: what is added after the scale; None if nothing is.
    """

    maker: Any
    members: list[str]
    scale: _Array | None = None
    shift: _Array | None = None

    @property
    def plain(self) -> bool:
        """Whether it is as short as can be: no scale, and one shift at most."""
        return self.scale is None and len(self.members) < 2


def fold_scales_and_shifts(graph_def: Any) -> Any:
    """Fold products and sums of one number a channel into weights and one bias.

    To rounding; the last of the nodes gives its name to what takes their place.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    readers: dict[str, list[Any]] = {}
    for node in graph_def.node:
        for reference in node.input:
            readers.setdefault(nd.split(reference)[0], []).append(node)
    chains: dict[str, _Chain] = {}
    for node in graph_def.node:
        chain = _chain(node, by_name, readers)
        if chain is not None and not chain.plain:
            chains[chain.members[-1]] = chain
    if not chains:
        return graph_def
    gone = {name for chain in chains.values() for name in chain.members}
    gone |= {chain.maker.name for chain in chains.values()}
    taken = set(by_name)
    result = empty_like(graph_def)
    for node in graph_def.node:
        if node.name in chains:
            result.node.extend(_folded(chains[node.name], by_name, taken))
        elif node.name not in gone:
            result.node.add().CopyFrom(node)
    return result


def _chain(
    node: Any, by_name: Mapping[str, Any], readers: Mapping[str, list[Any]]
) -> _Chain | None:
    """Follow a node with constant weights as long as scales and shifts come."""
    channels = _channels(node, by_name)
    if channels is None:
        return None
    shape = tf.TensorShape([None] * (_RANKS[node.op] - 1) + [channels])
    chain = _Chain(node, [])
    last = node.name
    while len(readers.get(last, ())) == 1:
        (reader,) = readers[last]
        numbers = _numbers(reader, last, by_name, shape)
        if numbers is None:
            break
        if reader.op == "Mul":
            chain.scale = numbers if chain.scale is None else chain.scale * numbers
            if chain.shift is not None:
                chain.shift = chain.shift * numbers
        else:
            chain.shift = numbers if chain.shift is None else chain.shift + numbers
        chain.members.append(reader.name)
        last = reader.name
    return chain if chain.members else None


def _channels(node: Any, by_name: Mapping[str, Any]) -> int | None:
    """Return how many channels a node gives whose weights are constant."""
    if node.op not in _RANKS or any(ref.startswith("^") for ref in node.input):
        return None
    weights = by_name.get(nd.split(node.input[1])[0])
    if weights is None or weights.op != "Const" or weights.input:
        return None
    if not _channels_last(node):
        return None
    if "transpose_b" in node.attr and node.attr["transpose_b"].b:
        return None
    shape = tf.TensorShape(weights.attr["value"].tensor.tensor_shape).as_list()
    return int(shape[-1] * shape[-2] if "Depthwise" in node.op else shape[-1])


def _channels_last(node: Any) -> bool:
    return "data_format" not in node.attr or node.attr["data_format"].s == b"NHWC"


def _numbers(
    reader: Any, value: str, by_name: Mapping[str, Any], shape: tf.TensorShape
) -> _Array | None:
    """Return the one number a channel that a node scales or shifts a value by."""
    if not _channels_last(reader):
        return None
    for read, constant in with_constant(by_name, reader, ("Mul", *_SHIFTS)):
        if read == value:
            return per_channel(constant, shape)
    return None


def _folded(chain: _Chain, by_name: Mapping[str, Any], taken: set[str]) -> list[Any]:
    """Return the nodes that take a chain's place."""
    last = chain.members[-1]
    dtype = tf.as_dtype(chain.maker.attr["T"].type)
    made = tf.compat.v1.NodeDef()
    made.CopyFrom(chain.maker)
    nodes = []
    if chain.scale is not None:
        weights = nd.constant_value(by_name[nd.split(made.input[1])[0]])
        depthwise = "Depthwise" in made.op
        scale = chain.scale.reshape(weights.shape[2:]) if depthwise else chain.scale
        made.input[1] = _named(f"{made.name}/scaled", taken)
        array = (weights * scale).astype(weights.dtype)
        nodes.append(nd.constant(made.input[1], array, dtype))
    if chain.shift is None:
        made.name = last
        return [*nodes, made]
    bias = _named(f"{last}/bias", taken)
    array = chain.shift.astype(dtype.as_numpy_dtype)
    nodes.append(nd.constant(bias, array, dtype))
    added = nd.make_node("BiasAdd", last, [made.name, bias], T=dtype)
    return [*nodes, made, added]


def _named(name: str, taken: set[str]) -> str:
    name = unique(name, taken)
    taken.add(name)
    return name
