"""What OpenCV 4 and 5 ask of sums, products and biases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph import opencv_layouts as lay
from persist_callbacks.graph.opencv_graph import Graph
from persist_callbacks.graph.plainer import product_with_vector

ARITHMETIC = ("Add", "AddV2", "Mul", "RealDiv", "Sub")
# What it reads together with a bias behind it.
TAKE_BIAS = (
    *("Conv2D", "Conv2DBackpropInput", "Conv3D", "DepthwiseConv2dNative", "MatMul"),
)
_SUMS = ("Add", "AddV2")
_CONVOLUTIONS = ("Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative")
_ODD_BIAS = "one number a channel, of what are neither rows nor pictures"
_LONE_SUM = "several numbers added to what is no product with as many"
_TURNED = "pictures that are NCHW already, which it takes for NHWC"


def of_pictures(node: Any, graph: Graph, place: int = 0) -> Iterator[str]:
    """Yield if what an op works on lies otherwise than the op takes it.

    Args:
        node: one of the graph's.
        graph: the graph.
        place: which of its inputs it works on.
    """
    layout = graph.layout(node, place)
    stated = "data_format" in node.attr and not nd.has_channels_last(node)
    if graph.shape(node, place).rank == 4 and layout == lay.NCHW and not stated:
        yield _TURNED


def arithmetic(node: Any, graph: Graph) -> Iterator[str]:
    """Yield what stands in the way of a sum, a difference, a product or a quotient.

    Args:
        node: one of the graph's.
        graph: the graph.
    """
    constants = graph.constant_sides(node)
    dtype = tf.as_dtype(node.attr["T"].type)
    if not dtype.is_floating:
        yield f"arithmetic with {dtype.name}"
    elif not any(constants):
        yield from _two_tensors(node, graph)
    elif node.op == "Sub" and constants[0]:
        yield "a constant minus a tensor, which it takes for the reverse"
    if any(constants):
        yield from _with_constant(node, constants.index(True), graph)
    if product_with_vector(node, graph.by_name) is not None:
        yield "a tensor added to a product with a vector, as its bias"


def _two_tensors(node: Any, graph: Graph) -> Iterator[str]:
    one, other = (graph.shape(node, place) for place in (0, 1))
    if not (one.rank and other.rank):
        return
    # One number a channel it does spread, over the pixels.
    pooled = one.rank == 4 and (1, 1) in (tuple(one[1:3]), tuple(other[1:3]))
    pooled = pooled and one[3:].is_compatible_with(other[3:])
    spread = any({1, None} == {*pair} for pair in zip(one, other, strict=False))
    if one.rank != other.rank or not (
        (one.is_compatible_with(other) and not spread) or pooled
    ):
        yield "two tensors of shapes that differ"
    elif node.op in ("Mul", "RealDiv") and _is_behind_fixed(node, graph):
        yield "sizes that are fixed, of pictures that OpenCV 4 takes for NCHW"


def _is_behind_fixed(node: Any, graph: Graph) -> bool:
    """Whether it asks for sizes here, and knows the input's, but not the layout.

    The convolutions on the way then get other channels than they want.
    """
    if not any(
        each.op == "Placeholder"
        and graph.layouts[each.name] == lay.UNKNOWN
        and (shape := nd.stated_shape(each)).rank == 4
        and shape.is_fully_defined()
        for each in graph.nodes
    ):
        return False
    waiting, seen = [node], {node.name}
    while waiting:
        each = waiting.pop()
        if each.op in _CONVOLUTIONS:
            return True
        sources = {nd.split(ref)[0] for ref in each.input} - seen
        seen |= sources
        waiting.extend(graph.by_name[name] for name in sources)
    return False


def _with_constant(node: Any, place: int, graph: Graph) -> Iterator[str]:
    if node.op == "RealDiv" and place == 0:
        yield "a constant divided by a tensor"
    other, sizes = (
        graph.shape(node, 1 - place),
        nd.constant_shape(graph.source(node, place)),
    )
    if not other.rank or sizes.num_elements() == 1:
        return
    is_matrix = any(size != 1 for size in sizes[:-1])
    if other.rank not in (2, 4) and sizes.rank in (1, 2) and not is_matrix:
        yield _ODD_BIAS
    elif is_matrix and other.rank > 3:
        yield "a constant that is not one number, or one a channel"
    elif node.op not in ("Mul", "RealDiv"):
        if sizes[-1] > 1 and not sizes[-1:].is_compatible_with(other[-1:]):
            yield "more numbers than there are channels to add them to"
        elif not _is_joined(node, 1 - place, graph):
            yield _LONE_SUM
    yield from of_pictures(node, graph, 1 - place)


def _is_joined(node: Any, place: int, graph: Graph) -> bool:
    """Whether it takes numbers for the bias of what they are added to."""
    maker = graph.source(node, place)
    if node.op == "BiasAdd":
        return maker.op in TAKE_BIAS
    if maker.op == "MatMul" and node.op in _SUMS:
        return True
    constants = factors(maker, graph)
    sizes = nd.constant_shape(graph.source(node, 1 - place))
    count = sizes.num_elements()
    return node.op in _SUMS and [
        nd.constant_shape(c).num_elements() for c in constants
    ] == [count]


def factors(node: Any, graph: Graph) -> list[Any]:
    """Return the constant of several numbers that a product is with, if it is one.

    Args:
        node: one of the graph's.
        graph: the graph.
    """
    if node.op not in ("Mul", "RealDiv"):
        return []
    sides = [graph.source(node, place) for place in (0, 1)]
    constants = [side for side in sides if side.op == "Const"]
    return [each for each in constants if nd.constant_shape(each).num_elements() != 1]


def bias(node: Any, graph: Graph) -> Iterator[str]:
    """Yield what stands in the way of a BiasAdd.

    Args:
        node: one of the graph's.
        graph: the graph.
    """
    rank, maker = graph.shape(node).rank, graph.source(node)
    if nd.constant_shape(graph.source(node, 1)).num_elements() == 1 and rank == 3:
        # To each number alike, whatever it takes them for.
        return
    if rank not in (None, 2, 4) and not (maker.op == "Conv3D" and rank == 5):
        yield _ODD_BIAS
    elif not nd.has_channels_last(node):
        yield "one number a row, which it takes for one a channel"
    elif not _is_joined(node, 0, graph):
        yield _LONE_SUM
    yield from of_pictures(node, graph)
