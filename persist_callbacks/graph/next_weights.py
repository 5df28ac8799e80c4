"""What scales and shifts a layer norm's result goes into the weights that read it.

Each number of a product's sum is scaled by what its channel is, so that the weights may
be scaled instead, once and for all; what shifts them adds up to one number an output,
which the bias takes. ``plainer`` does the same for weights that stand before a product.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.affine import LARGE_SHIFT
from persist_callbacks.graph.plainer import with_constant
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.writing import Writer, rewritten

_Array: TypeAlias = np.ndarray[Any, Any]
_ADDITIONS = ("Add", "AddV2", "BiasAdd")
_TAKE_BIAS = ("Conv2D", "MatMul")


@dataclass(frozen=True)
class _Affine:
    """A tensor times one number a channel, and plus one a channel.

    Args:
        last: name of the node that ends it.
        source: the tensor, as a reference.
        scale: the factors.
        shift: what is added, None for nothing.
        rank: the most axes that one of the constants has.
        within: names of its nodes.
    """

    last: str
    source: str
    scale: _Array
    shift: _Array | None
    rank: int
    within: tuple[str, ...]


@dataclass
class _Folding:
    """What is written in the place of which node.

    Args:
        sources: by the reader's name, what it reads instead of a scaled tensor.
        weights: by a product's name, its new weights.
        biases: by a product's name, what is added to it.
        additions: by an addition's name, the place and new value of its constant.
        gone: names of nodes that nothing reads any more.
    """

    sources: dict[str, str] = field(default_factory=dict)
    weights: dict[str, _Array] = field(default_factory=dict)
    biases: dict[str, _Array] = field(default_factory=dict)
    additions: dict[str, tuple[int, _Array]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def take_in(self, other: _Folding) -> None:
        """Add what another one says."""
        self.sources.update(other.sources)
        self.weights.update(other.weights)
        self.biases.update(other.biases)
        self.additions.update(other.additions)
        self.gone |= other.gone


def affine_into_next_weights(graph_def: Any) -> Any:
    """Fold a product and a sum of one number a channel into what reads it, to rounding.

    Done where every reader is a product with constant weights, and where operations get
    fewer by it.

    Args:
        graph_def: a GraphDef; not changed.
    """
    if any(node.op in nd.OLD_CONTROL_FLOW for node in graph_def.node):
        # There a constant belongs to one loop or branch.
        return graph_def
    graph = _Graph(graph_def)
    found = [affine for node in graph_def.node if (affine := graph.affine(node))]
    if not found:
        return graph_def
    shapes = inferred_shapes(graph_def, [affine.source for affine in found])
    whole = _Folding()
    for affine in found:
        shape = shapes[affine.source]
        # What the numbers make wider, or give more axes, has no channels of its own.
        if (shape.rank or 0) < affine.rank or shape[-1] != len(affine.scale):
            continue
        folding = graph.folding(affine)
        if folding is not None:
            whole.take_in(folding)

    def write(node: Any, writer: Writer) -> None:
        if node.name in whole.gone:
            writer.leave_out()
            return
        if not _is_touched(node, whole):
            return
        dtype = tf.as_dtype(node.attr["T"].type)
        inputs = [str(reference) for reference in node.input]
        if node.name in whole.sources:
            inputs[0] = whole.sources[node.name]
        if node.name in whole.weights:
            inputs[1] = writer.constant("weights", whole.weights[node.name], dtype)
        if node.name in whole.additions:
            place, value = whole.additions[node.name]
            inputs[place] = writer.constant("bias", value, dtype)
        bias = whole.biases.get(node.name)
        if bias is None:
            writer.copy(node, "", *inputs)
            return
        product = writer.copy(node, "product", *inputs)
        # TensorFlow 1.15 has no BiasAdd for the highest ranks that the others may have.
        op = "BiasAdd" if node.op in _TAKE_BIAS else "AddV2"
        writer.add(op, "", product, writer.constant("bias", bias, dtype), T=dtype)

    return rewritten(graph_def, write)


def _is_touched(node: Any, whole: _Folding) -> bool:
    changes = (whole.sources, whole.weights, whole.additions)
    return any(node.name in change for change in changes)


class _Graph:
    """A graph's nodes, and who reads whom.

    Args:
        graph_def: a GraphDef; not changed.
    """

    def __init__(self, graph_def: Any) -> None:
        self._nodes = {node.name: node for node in graph_def.node}
        self._readers: dict[str, list[tuple[Any, int]]] = defaultdict(list)
        for node in graph_def.node:
            for place, reference in enumerate(node.input):
                self._readers[nd.split(reference)[0]].append((node, place))

    def affine(self, node: Any) -> _Affine | None:
        """Match the last node of a product and a sum, or of a product alone."""
        if node.op not in ("Mul", *_ADDITIONS):
            return None
        if node.attr["T"].type not in nd.REORDERED:
            return None
        if node.op == "Mul":
            readers = self._readers[node.name]
            if len(readers) == 1 and self._vector(readers[0][0], _ADDITIONS):
                return None
            return self._product(node)
        added = self._vector(node, _ADDITIONS)
        if added is None:
            return None
        source, shift, rank = added
        product = self._nodes[nd.split(source)[0]]
        if product.op != "Mul" or len(self._readers[product.name]) != 1:
            return None
        affine = self._product(product)
        if affine is None or len(affine.scale) != len(shift):
            return None
        if np.any(np.abs(shift) > LARGE_SHIFT):
            return None
        names, rank = (product.name, node.name), max(rank, affine.rank)
        return _Affine(node.name, affine.source, affine.scale, shift, rank, names)

    def folding(self, affine: _Affine) -> _Folding | None:
        """Say what is to be written so that an affine is done by its readers.

        Args:
            affine: one number for each of the last axis of its source.

        Returns:
            None if a reader cannot take it, or if nothing is saved by it.
        """
        folding = _Folding(gone=set(affine.within))
        readers = self._readers[affine.last]
        products: list[Any] = []
        for reader, place in readers:
            if place != 0:
                return None
            folding.sources[reader.name] = affine.source
            if reader.op != "Reshape":
                products.append(reader)
                continue
            sizes = self._constant(reader, 1)
            further = self._readers[reader.name]
            if sizes is None or not sizes.size or sizes[-1] != len(affine.scale):
                return None
            if not further or any(place != 0 for _, place in further):
                return None
            products += [product for product, _ in further]
        for product in products:
            if not self._take(product, affine, folding):
                return None
        saved = len(affine.within) - len(folding.biases)
        return folding if products and saved > 0 else None

    def _take(self, product: Any, affine: _Affine, folding: _Folding) -> bool:
        """Let a product's weights and bias take an affine in; False if they cannot."""
        weights = self._constant(product, 1)
        # What another product reads too would be written twice.
        if weights is None or len(self._readers[nd.split(product.input[1])[0]]) > 1:
            return False
        axis = _axis_of_channels(product, weights, pads=affine.shift is not None)
        if axis is None or weights.shape[axis] != len(affine.scale):
            return False
        along = [1] * weights.ndim
        along[axis] = -1
        scaled = weights * affine.scale.reshape(along)
        folding.weights[product.name] = scaled.astype(weights.dtype)
        if affine.shift is None:
            return True
        moved = np.moveaxis(weights.astype(np.float64), axis, -1)
        sums = moved @ affine.shift.astype(np.float64)
        # All but the outputs' axis are a window's, or of size 1.
        total = sums.reshape(-1, sums.shape[-1]).sum(axis=0)
        found = self._addition_after(product, total)
        if found is not None:
            name, place, value = found
            folding.additions[name] = place, value
            return True
        folding.biases[product.name] = total.astype(weights.dtype)
        return True

    def _addition_after(
        self, product: Any, total: _Array
    ) -> tuple[str, int, _Array] | None:
        """Find the layer's own bias, and what it is with a sum added to it."""
        suffix: tuple[int, ...] = total.shape
        readers = self._readers[product.name]
        if len(readers) == 1 and readers[0][0].op == "Reshape" and not readers[0][1]:
            reshape = readers[0][0]
            parted = self._parts(reshape, len(total))
            if parted is None:
                return None
            suffix, readers = parted, self._readers[reshape.name]
        if len(readers) != 1:
            return None
        node, of_value = readers[0]
        if node.op not in _ADDITIONS or not nd.has_channels_last(node):
            return None
        constant = self._constant(node, 1 - of_value)
        if constant is None:
            return None
        if node.op == "BiasAdd" and len(suffix) > 1:
            # It takes one number a channel, and there would be one a head too.
            return None
        # Axes before them are all of size 1 if the sum does not get larger by them.
        ones = (1,) * (constant.ndim - len(suffix))
        if constant.shape[: len(ones)] != ones:
            return None
        wide = np.broadcast_to(constant, ones + suffix)
        value = wide.astype(np.float64) + total.reshape(suffix)
        return node.name, 1 - of_value, value.astype(constant.dtype)

    def _parts(self, reshape: Any, channels: int) -> tuple[int, ...] | None:
        """Return the last sizes of a Reshape that the channels are parted into."""
        sizes = self._constant(reshape, 1)
        if sizes is None:
            return None
        for first in reversed(range(sizes.size)):
            last = [int(size) for size in sizes[first:]]
            if min(last) < 1:
                return None
            if int(np.prod(last)) == channels:
                return tuple(last)
        return None

    def _product(self, node: Any) -> _Affine | None:
        factor = self._vector(node, ("Mul",))
        if factor is None:
            return None
        source, scale, rank = factor
        return _Affine(node.name, source, scale, None, rank, (node.name,))

    def _vector(
        self, node: Any, ops: tuple[str, ...]
    ) -> tuple[str, _Array, int] | None:
        """Return what a node takes with a constant vector, its numbers and its rank."""
        if len(node.input) != 2 or not nd.has_channels_last(node):
            return None
        found = with_constant(self._nodes, node, ops)
        if len(found) != 1:
            return None
        ((source, constant),) = found
        array = nd.constant_value(constant)
        if array.ndim == 0 or array.size != array.shape[-1]:
            return None
        return source, array.reshape(-1), array.ndim

    def _constant(self, node: Any, place: int) -> _Array | None:
        if len(node.input) <= place:
            return None
        made = self._nodes.get(nd.split(node.input[place])[0])
        if made is None or made.op != "Const" or made.input:
            return None
        return nd.constant_value(made)


def _axis_of_channels(product: Any, weights: _Array, *, pads: bool) -> int | None:
    """Return the axis of its weights that a product sums up.

    Args:
        product: a NodeDef; None is returned of what is no such product.
        weights: its second input.
        pads: whether zeros around a picture would be shifted too, where they may not.
    """
    flags: Mapping[str, Any] = product.attr
    if product.op == "MatMul" and weights.ndim == 2:
        if "transpose_a" in flags and flags["transpose_a"].b:
            return None
        return 1 if "transpose_b" in flags and flags["transpose_b"].b else 0
    if product.op == "BatchMatMulV2" and weights.ndim >= 2:
        if any(flag in flags and flags[flag].b for flag in ("adj_x", "adj_y")):
            return None
        return weights.ndim - 2 if set(weights.shape[:-2]) <= {1} else None
    if product.op == "Conv2D" and nd.has_channels_last(product):
        padding = flags["padding"].s
        whole = padding == b"VALID" or weights.shape[:2] == (1, 1)
        return 2 if padding != b"EXPLICIT" and (whole or not pads) else None
    return None
