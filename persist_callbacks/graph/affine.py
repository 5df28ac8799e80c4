"""Chains of additions and products with constants, made one product and one addition.

What stands between layers, such as a rescaling of pictures or a batch norm that no
convolution takes in, comes as up to five ops; every reader knows these two.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import in_order
from persist_callbacks.graph.names import unique
from persist_callbacks.graph.shapes import inferred_shapes

_OPS = ("Add", "AddV2", "BiasAdd", "Mul", "Neg", "RealDiv", "Sub")
# These take in an addition that follows them; OpenCV's reader does, whoever else reads
# the result without it.
_TAKE_ADDITIONS = ("Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "MatMul")


# A shift that costs no more than three of a number's 24 bits, where it cancels.
LARGE_SHIFT = 8.0


@dataclass(frozen=True)
class _Affine:
    """A tensor times a scale plus a shift, all scalars or one number a channel.

    Args:
        source: the tensor.
        scale: what it is multiplied by.
        shift: what is added to the product.
        first: what is added before anything is multiplied, where that is finite; in
            the shift too.
        length: how many nodes it is made of.
    """

    source: str
    scale: np.ndarray[Any, Any]
    shift: np.ndarray[Any, Any]
    first: np.ndarray[Any, Any]
    length: int = 1

    @property
    def cancels(self) -> bool:
        """Whether product and shift would be large numbers that cancel each other.

        As for a year of which 2000 is taken off and that is divided by 5 then: taken
        off first, that costs no digits.
        """
        return bool(np.any(np.abs(self.first * self.scale) > LARGE_SHIFT))


def merge_affine_chains(graph_def: Any) -> Any:
    """Rewrite each chain as a Mul and an AddV2, or as one of them.

    Where they would cancel each other, what was added first stays before them.

    A constant from which something is subtracted, a division and a negation are made
    products and additions too: OpenCV's reader takes ``1 - x`` for ``x - 1``. Where it
    would add a vector to a picture by itself, it counts the batch among the channels,
    so that a product with ones goes before.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    if any(node.op in nd.OLD_CONTROL_FLOW for node in graph_def.node):
        # There a constant belongs to one loop or branch.
        return graph_def
    ordered = in_order(graph_def.node, list(by_name))
    suspects = [node for node in ordered if _is_suspect(node, by_name)]
    if not suspects:
        return graph_def
    references = {reference for node in suspects for reference in node.input}
    shapes = inferred_shapes(graph_def, references)
    reads = nd.count_reads(graph_def.node)
    chains: dict[str, _Affine] = {}
    inner: set[str] = set()
    for node in suspects:
        step = _step(node, by_name, shapes)
        if step is None:
            continue
        before = chains.get(step.source)
        if before is not None and reads[step.source] == 1:
            inner.add(step.source)
            scale, shift = before.scale, before.shift
            first = before.first
            if np.all(scale == 1) and np.all(step.scale == 1):
                first = first + step.first
            step = _Affine(
                before.source,
                scale * step.scale,
                shift * step.scale + step.shift,
                first,
                before.length + 1,
            )
        chains[node.name] = step
    joining = {
        node.name
        for node in graph_def.node
        if node.op in _TAKE_ADDITIONS and reads[node.name] == 1
    }
    taken = set(by_name)
    result = nd.empty_like(graph_def)
    for node in graph_def.node:
        if node.name in inner:
            continue
        chain = chains.get(node.name)
        if chain is None or _is_plain(node, chain, joining, shapes):
            result.node.add().CopyFrom(node)
            continue
        result.node.extend(_written(node, chain, joining, shapes, taken))
    return result


def _is_suspect(node: Any, by_name: Mapping[str, Any]) -> bool:
    if node.op not in _OPS or node.attr["T"].type not in nd.REORDERED:
        return False
    if not nd.has_channels_last(node):
        return False
    constants = [by_name[nd.split(ref)[0]].op == "Const" for ref in node.input]
    return constants.count(True) == len(constants) - 1


def _step(
    node: Any, by_name: Mapping[str, Any], shapes: Mapping[str, tf.TensorShape]
) -> _Affine | None:
    """Return what one node does; None if its constant is not one number a channel."""
    first = len(node.input) < 2 or by_name[nd.split(node.input[0])[0]].op != "Const"
    source = node.input[0] if first else node.input[1]
    one, zero = np.float64(1), np.float64(0)
    if node.op == "Neg":
        return _Affine(source, np.asarray(-one), np.asarray(zero), np.asarray(zero))
    constant = by_name[nd.split(node.input[1 if first else 0])[0]]
    number = nd.constant_value(constant).astype(np.float64)
    if number.ndim:
        shape = shapes[source]
        fits = shape.rank is not None and 0 < number.ndim <= shape.rank
        fits = fits and shape[-1] == number.shape[-1] and number.size == shape[-1]
        if not fits:
            return None
        number = number.reshape(-1)
    if node.op in ("Add", "AddV2", "BiasAdd"):
        return _Affine(source, np.asarray(one), number, _finite(number))
    if node.op == "Mul":
        if np.any(np.isinf(number)):
            # Times the nothing that is added, that would be no number.
            return None
        return _Affine(source, number, np.asarray(zero), np.asarray(zero))
    if node.op == "Sub":
        if first:
            return _Affine(source, np.asarray(one), -number, _finite(-number))
        return _Affine(source, np.asarray(-one), number, np.asarray(zero))
    if not first or not np.all(number):
        return None
    return _Affine(source, np.asarray(1 / number), np.asarray(zero), np.asarray(zero))


def _finite(number: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Leave out what a mask adds: nothing can be taken off an infinity again."""
    return np.where(np.isfinite(number), number, 0.0)


def _is_plain(
    node: Any,
    chain: _Affine,
    joining: Collection[str],
    shapes: Mapping[str, tf.TensorShape],
) -> bool:
    """Whether a chain is one node, and one that every reader takes as it is."""
    if chain.length > 1 or node.op in ("Neg", "RealDiv", "Sub"):
        # TensorFlow's own addition of a product with -1 is a Sub again.
        return False
    return node.op == "Mul" or not _needs_ones(chain, joining, shapes)


def _needs_ones(
    chain: _Affine, joining: Collection[str], shapes: Mapping[str, tf.TensorShape]
) -> bool:
    """Whether a chain adds a vector to pictures or rows, and multiplies by none."""
    picture = shapes[chain.source].rank in (2, 4)
    alone = chain.scale.ndim == 0 and chain.shift.ndim > 0
    if not alone or not picture:
        return False
    return chain.source not in joining or bool(chain.scale != 1)


def _written(
    node: Any,
    chain: _Affine,
    joining: Collection[str],
    shapes: Mapping[str, tf.TensorShape],
    taken: set[str],
) -> list[Any]:
    """Return the nodes of a chain; the last bears the name of the chain's last."""
    dtype = tf.as_dtype(node.attr["T"].type)
    scale, shift = chain.scale, chain.shift
    if _needs_ones(chain, joining, shapes):
        scale = np.full_like(shift, scale)
    steps = [("Mul", "scale", scale)] if np.any(scale != 1) or scale.ndim else []
    if steps and chain.cancels:
        if chain.first.ndim and shapes[chain.source].rank in (2, 4):
            steps.insert(0, ("Mul", "one", np.ones_like(chain.first)))
        steps.insert(-1, ("AddV2", "first", chain.first))
        shift = shift - chain.first * scale
        # What rounding leaves of nothing.
        shift = np.where(np.abs(shift) < 1e-12 * np.abs(chain.shift), 0.0, shift)
    if np.any(shift != 0) or not steps:
        steps.append(("AddV2", "shift", shift))
    made: list[Any] = []
    source = chain.source
    for op, part, number in steps:
        names = [f"{node.name}/{part}", f"{node.name}/{part}ed"]
        names = [unique(name, taken) for name in names]
        if (op, part) == steps[-1][:2]:
            names[1] = node.name
        taken.update(names)
        array = np.asarray(number, dtype.as_numpy_dtype)
        made.append(nd.constant(names[0], array, dtype))
        made.append(nd.make_node(op, names[1], [source, names[0]], T=dtype))
        source = names[1]
    return made
