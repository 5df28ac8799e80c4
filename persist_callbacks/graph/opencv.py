"""What OpenCV 4 and 5 ask of a graph: which ops, and how they are used.

The rules are of both: what one of them refuses, or computes otherwise without a word,
stands in the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph import opencv_graph
from persist_callbacks.graph import opencv_layouts as lay
from persist_callbacks.graph.op_tables import NOT_KNOWN, known_ops
from persist_callbacks.graph.opencv_arithmetic import (
    ARITHMETIC,
    TAKE_BIAS,
    arithmetic,
    bias,
    factors,
    of_pictures,
)
from persist_callbacks.graph.opencv_graph import Graph
from persist_callbacks.graph.windows import most_padded

Found = Iterator[tuple[str, str]]
# The inputs of which its reader wants constants; -1 for the last one.
_CONSTANTS: Mapping[str, tuple[int, ...]] = {
    "ConcatV2": (-1,),
    "Conv2D": (1,),
    "Conv2DBackpropInput": (1,),
    "DepthwiseConv2dNative": (1,),
    "ExpandDims": (1,),
    "Max": (1,),
    "Mean": (1,),
    "MirrorPad": (1,),
    "Pad": (1,),
    "Reshape": (1,),
    "ResizeBilinear": (1,),
    "ResizeNearestNeighbor": (1,),
    "Slice": (1, 2),
    "Split": (0,),
    "StridedSlice": (1, 2, 3),
    "Sum": (1,),
    "Transpose": (1,),
}
_ONCE_PICTURES = "what was pictures, whose axes it takes for theirs"
_UNTOLD = "pictures that nothing has told it are some"
_WINDOWS = ("Conv2D", "DepthwiseConv2dNative")
_CHANGES_RANK = ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
_SUMS = ("Add", "AddV2")
# They take a tensor whose dimension was not left out as they would the other.
_FLATTENS = ("MatMul", "Reshape")
# They give what they are given, number by number.
_PLAIN = ("Elu", "LeakyRelu", "Relu", "Relu6", "Selu", "Sigmoid", "Softplus", "Tanh")


def obstacles(graph_def: Any) -> Found:
    """Yield each op that stands in the way, and why.

    Args:
        graph_def: a frozen GraphDef that this TensorFlow imports.
    """
    known = known_ops("opencv")
    graph = opencv_graph.of(graph_def)
    if graph_def.library.function:
        yield "Function", "calls of functions, such as loops"
    for node in graph.nodes:
        if node.op not in known:
            yield node.op, NOT_KNOWN
        elif (refused := _not_constant(node, graph)) is not None:
            yield node.op, refused
        else:
            yield from _dtypes(node, graph)
            yield from _shared(node, graph)
            for rule in _RULES.get(node.op, ()):
                yield from ((node.op, reason) for reason in rule(node, graph))


def _not_constant(node: Any, graph: Graph) -> str | None:
    constants = graph.constant_sides(node)
    if node.op == "MatMul" and not any(constants):
        return "a product of two tensors, neither of them constant"
    for place in _CONSTANTS.get(node.op, ()):
        if not constants[place]:
            return f"an input {place} that is computed, not constant"
    return None


def _dtypes(node: Any, graph: Graph) -> Found:
    """Yield inputs and constants of other numbers than it has."""
    if node.op not in ("Const", "Placeholder", "PlaceholderWithDefault"):
        return
    dtype = tf.as_dtype(node.attr["dtype"].type)
    if node.op != "Const" and not dtype.is_floating:
        yield node.op, f"an input of {dtype.name}"
    elif dtype in (tf.float64, tf.bfloat16):
        yield node.op, f"numbers of {dtype.name}"
    elif node.op == "Const" and not graph.readers.get(node.name):
        yield node.op, "an output that is a constant"


def _unlike(node: Any, graph: Graph) -> Iterator[str]:
    """Yield products for which OpenCV 4 infers shapes, and knows one input's only.

    It does so where anything says how pictures lie, in a graph of pictures and rows,
    and with an input itself where all sizes are known.
    """
    if len(node.input) != 2 or any(graph.constant_sides(node)):
        return
    inputs = [each for each in graph.nodes if each.op == "Placeholder"]
    shapes = [nd.stated_shape(each) for each in inputs]
    stated = any("data_format" in each.attr for each in graph.nodes)
    of_input = any(graph.source(node, place) in inputs for place in (0, 1))
    if (stated and len({shape.rank for shape in shapes}) > 1) or (
        of_input
        and len(inputs) > 1
        and all(shape.is_fully_defined() for shape in shapes)
    ):
        yield "a product or quotient of two tensors, for which OpenCV 4 infers shapes"


def _shared(node: Any, graph: Graph) -> Found:
    """Yield nodes that it joins with one reader, to the loss of another."""
    readers = graph.readers.get(node.name, [])
    ops = [reader.op for reader in readers]
    sums = sum(ops.count(op) for op in _SUMS)
    is_biased = node.op in TAKE_BIAS and "BiasAdd" in ops
    is_biased |= sums > 0 and bool(factors(node, graph))
    if len(ops) > 1 and (is_biased or (node.op == "MatMul" and sums == 1)):
        yield node.op, "a bias that only some of its readers want"
    if node.op == "SpaceToBatchND" and len(ops) > 1:
        yield node.op, "a dilation that several convolutions share"
    if node.op == "SpaceToBatchND" and len(ops) < 2 and not {*ops} & {*_WINDOWS}:
        yield node.op, "pieces of pictures that no convolution takes"
    if node.op == "Pad" and len(ops) > 1 and "Conv2D" in ops:
        yield node.op, "a border that a convolution shares with others"
    if node.op == "MatMul" and ops in (["Add"], ["AddV2"]):
        (reader,) = readers
        if not any(graph.constant_sides(reader)):
            yield node.op, "a sum with another tensor, where it wants a bias"


def _softmax(node: Any, graph: Graph) -> Iterator[str]:
    if graph.shape(node).rank == 4:
        yield "a softmax of pictures, which it takes along their width"


def _reduction(node: Any, graph: Graph) -> Iterator[str]:
    rank = graph.shape(node).rank
    axes = graph.numbers(node, 1).reshape(-1).tolist()
    if axes == [0] or rank is None:
        return
    if rank != 4:
        yield "one of what are no pictures, which it takes for some"
    elif axes in ([-1], [3]):
        yield "one over channels, which OpenCV 5 takes right but once"
    elif axes in ([-2], [2]):
        yield "one over columns, which OpenCV 5 takes right but once"
    elif len(axes) > 1 and axes != [1, 2]:
        yield "one over more than a picture's rows and columns"


def _expansion(node: Any, graph: Graph) -> Iterator[str]:
    inputs = [each for each in graph.nodes if each.op == "Placeholder"]
    if any(_is_open(each, graph) for each in inputs):
        yield "sizes that the inputs leave open"
    elif graph.source(node) in inputs:
        yield "one of an input, which OpenCV 4 does not take"


def _is_open(node: Any, graph: Graph) -> bool:
    """Whether an input's size is not known; of NHWC it takes one without a batch."""
    shape = nd.stated_shape(node)
    layout = graph.layouts[node.name]
    turns = (shape.rank, layout) in ((4, lay.NHWC), (5, "NDHWC"))
    if shape.rank is None or (shape.rank == 4 and not turns):
        return True
    return None in shape.as_list()[1 if turns else 0 :]


def _volume(node: Any, graph: Graph) -> Iterator[str]:
    if "data_format" not in node.attr:
        yield "an order of axes that is not said, which it takes for that of pictures"


def _transposed(node: Any, _: Graph) -> Iterator[str]:
    if nd.is_dilated(node):
        yield "a dilation, which it leaves out"


def _parts(node: Any, graph: Graph) -> Iterator[str]:
    """Yield what it does not do where an axis is meant."""
    pictures = [ref for ref in node.input if graph.shapes[ref].rank == 4]
    layout = graph.layouts[node.name]
    larger = [ref for ref in pictures if tuple(graph.shapes[ref][1:3]) != (1, 1)]
    if (pictures and layout in (lay.UNKNOWN, lay.MADE)) or (
        larger and layout == lay.ROWS
    ):
        yield _UNTOLD
    data = node.input[1 if node.op == "Split" else 0]
    if layout == lay.NHWC and graph.shapes[data].rank not in (None, 4):
        yield _ONCE_PICTURES
    elif node.op == "Split" and graph.shapes[data].rank == 5:
        yield "volumes, of which it takes another axis"


def _transposition(node: Any, graph: Graph) -> Iterator[str]:
    rank, turn = graph.shape(node).rank, graph.numbers(node, 1).tolist()
    already = {lay.NHWC: lay.TURNED_BACK, lay.NCHW: lay.TURNED}
    layout = graph.layout(node)
    if (rank and rank > 4) or (
        rank == 4
        and (
            turn not in (lay.TURNED, lay.TURNED_BACK)
            or already.get(layout) == turn
            or layout == lay.MADE
        )
    ):
        yield "another order of axes than NHWC and NCHW"


def _border(node: Any, graph: Graph) -> Iterator[str]:
    rank = graph.shape(node).rank
    if rank != 4:
        if rank == 5 or node.op == "MirrorPad":
            yield "a border of what are no pictures, which it takes for some"
        return
    border = graph.numbers(node, 1)
    if np.any(border[3]):
        yield "a border of channels"
    if node.op == "MirrorPad":
        if node.attr["mode"].s == b"SYMMETRIC":
            yield "a border that repeats the edge, which it takes for one that does not"
        return
    # One that is alike on both sides it joins with a convolution.
    is_even = all(before == after for before, after in border[1:3])
    for reader in graph.readers.get(node.name, []):
        if is_even and reader.op in _WINDOWS and _pads_more(reader, graph):
            yield "a border before a convolution that pads more, which it leaves out"
            return


def _pads_more(node: Any, graph: Graph) -> bool:
    """Whether a convolution's own padding is any, as far as is known."""
    if node.attr["padding"].s != b"SAME" or not graph.constant_sides(node)[1]:
        return False
    kernel = nd.constant_shape(graph.source(node, 1))
    shape, strides = graph.shape(node), list(node.attr["strides"].list.i)
    return any(
        most_padded(shape[axis], kernel[axis - 1], strides[axis]) > 0 for axis in (1, 2)
    )


def _slice(node: Any, graph: Graph) -> Iterator[str]:
    shape = graph.shape(node)
    odd = [key for key in _CHANGES_RANK if key in node.attr and node.attr[key].i]
    if not shape.rank:
        return
    begins = graph.numbers(node, 1).reshape(-1)
    if np.any(graph.numbers(node, 3) < 1):
        yield "a part that is turned round"
    elif shape.rank == 4:
        untold = graph.layout(node) in (lay.UNKNOWN, lay.MADE, lay.ROWS)
        if len(begins) < 4 or odd or untold:
            yield "a part of pictures, as it takes none"
    elif set(odd) - {"shrink_axis_mask"}:
        yield "a part that names not each dimension from the first on"
    elif odd and shape.rank > 1 and node.attr[odd[0]].i & 1:
        # Kept, it is a batch of one.
        yield "one of several along the first dimension, which it keeps"
    elif odd and _is_wanted_smaller(node, graph):
        yield "one of several, which keeps the dimension there"
    elif odd and any(
        begin == -1 and node.attr[odd[0]].i >> place & 1
        for place, begin in enumerate(begins.tolist())
    ):
        yield "the last of several, which it takes for none"
    if 0 in graph.shapes[node.name].as_list():
        yield "a part of nothing"


def _part(node: Any, graph: Graph) -> Iterator[str]:
    if nd.split(node.input[0])[0] in graph.told:
        yield _UNTOLD


def _is_wanted_smaller(node: Any, graph: Graph) -> bool:
    """Whether anybody would see that a dimension was not left out."""
    waiting = [node]
    while waiting:
        each = waiting.pop()
        readers = graph.readers.get(each.name, [])
        if not readers:
            return True
        if not all(
            reader.op in _FLATTENS or _keeps_place(reader, graph) for reader in readers
        ):
            return True
        waiting.extend(reader for reader in readers if reader.op not in _FLATTENS)
    return False


def _keeps_place(node: Any, graph: Graph) -> bool:
    """Whether a dimension of 1 that was left in does not change what it gives."""
    if node.op in (*_PLAIN, "BiasAdd"):
        return True
    if node.op == "ConcatV2":
        return bool(graph.numbers(node, len(node.input) - 1) == -1)
    sides = {graph.source(node, place).op for place in range(len(node.input))}
    return node.op in ARITHMETIC and ("Const" in sides or sides == {"StridedSlice"})


def _reshaping(node: Any, graph: Graph) -> Iterator[str]:
    source, sizes = graph.shape(node), graph.numbers(node, 1).reshape(-1).tolist()
    if not source.rank:
        return
    is_picture = len(sizes) == 4 and sizes[1:3] != [1, 1]
    if is_picture and source.rank != 4 and graph.readers.get(node.name):
        yield "rows made pictures, which it takes for NCHW"
    elif is_picture and source.rank != 4 and len(graph.outputs()) > 1:
        yield "pictures that it does not give by their name, one of several outputs"
    elif is_picture and source.rank == 4 and graph.layout(node) == lay.UNKNOWN:
        yield _UNTOLD
    yield from _flattening(node, graph)


def _flattening(node: Any, graph: Graph) -> Iterator[str]:
    """Yield where it does not turn the numbers back that it has as NCHW."""
    source, layout = graph.shape(node), graph.layout(node)
    if source.rank == 5:
        yield "volumes, whose numbers it takes in another order"
    elif source.rank != 4:
        if source.rank and layout == lay.NHWC:
            yield _ONCE_PICTURES
    elif source[3] == 1 or tuple(source[1:3]) == (1, 1):
        return
    elif nd.split(node.input[0])[0] in graph.told:
        yield "pictures that it has as NCHW, and does not know that"
    elif layout == lay.MADE:
        yield "rows made pictures, which it takes for NCHW"


def _packing(node: Any, graph: Graph) -> Iterator[str]:
    if node.attr["axis"].i != 0:
        yield "tensors laid along a new axis"


def _clip(node: Any, graph: Graph) -> Iterator[str]:
    """Yield unless it is half of a clip, which it knows in one order alone."""
    lower, upper = node, graph.source(node)
    if node.op == "Minimum":
        readers = graph.readers.get(node.name, [])
        lower, upper = (readers[0] if len(readers) == 1 else node), node
    if (lower.op, upper.op) != ("Maximum", "Minimum") or not all(
        graph.constant_sides(each) == [False, True] and not graph.shape(each, 1).rank
        for each in (lower, upper)
    ):
        yield "one that is no clip, the smaller of two before the larger"


def _crop(node: Any, graph: Graph) -> Iterator[str]:
    yield "boxes of pictures that are told, where it takes them for the first"


_RULES: Mapping[str, tuple[Callable[[Any, Graph], Iterator[str]], ...]] = {
    **dict.fromkeys(ARITHMETIC, (arithmetic,)),
    **dict.fromkeys(("Mul", "RealDiv"), (arithmetic, _unlike)),
    **dict.fromkeys(("ConcatV2", "Split"), (_parts,)),
    **dict.fromkeys(("Max", "Mean", "Sum"), (_reduction, of_pictures)),
    **dict.fromkeys(("MirrorPad", "Pad"), (_border, of_pictures)),
    **dict.fromkeys(
        (*_WINDOWS, "AvgPool", "MaxPool", "ResizeBilinear", "ResizeNearestNeighbor"),
        (of_pictures,),
    ),
    "BiasAdd": (bias,),
    "Conv2DBackpropInput": (_transposed,),
    "Conv3D": (_volume,),
    "CropAndResize": (_crop,),
    "ExpandDims": (_expansion,),
    **dict.fromkeys(("Maximum", "Minimum"), (_clip,)),
    "Pack": (_packing,),
    "Reshape": (_reshaping,),
    "Slice": (_part,),
    "Softmax": (_softmax,),
    "Squeeze": (_flattening,),
    "StridedSlice": (_slice,),
    "Transpose": (_transposition,),
}
