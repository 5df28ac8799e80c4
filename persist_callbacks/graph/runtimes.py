"""What each runtime reads: a table of ops, and what it asks of how they are used.

The table is in ``known_ops``, one file a runtime, its source in the first line. What is
said of a graph is what its ops and shapes tell; only loading it shows that it loads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import in_order
from persist_callbacks.graph.plainer import product_with_vector
from persist_callbacks.graph.shapes import inferred_shapes

_NOT_KNOWN = "an op that it does not have"
# Where OpenCV's reader wants constants; -1 for the last input, ANY for one of them.
_ANY = -2
_CONSTANTS_IN_OPENCV = {
    "ConcatV2": -1,
    "Conv2D": 1,
    "Conv2DBackpropInput": 1,
    "DepthwiseConv2dNative": 1,
    "ExpandDims": 1,
    "MatMul": _ANY,
    "Max": 1,
    "Mean": 1,
    "Pad": 1,
    "Reshape": 1,
    "ResizeBilinear": 1,
    "ResizeNearestNeighbor": 1,
    "Slice": 1,
    "Split": 0,
    "StridedSlice": 1,
    "Sum": 1,
    "Transpose": 1,
}
_ODD_BIAS = "one number a channel, of what are neither rows nor pictures"
# OpenCV keeps pictures as NCHW, and knows these ways between the two.
_TURNS = ([0, 3, 1, 2], [0, 2, 3, 1])
_JOINED_WITH_BIAS = ("Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "MatMul")
_CHANGES_RANK = ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
_ARITHMETIC = ("Add", "AddV2", "Mul", "RealDiv", "Sub")


@dataclass(frozen=True)
class Obstacle:
    """Why a runtime does not read a graph.

    Args:
        op: the type of op.
        count: how many of them stand in the way.
        reason: what is not there.
    """

    op: str
    count: int
    reason: str

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.op}{times}: {self.reason}"


@dataclass(frozen=True)
class Verdict:
    """What is known of one runtime and one graph.

    Args:
        runtime: its name and version.
        obstacles: what stands in the way; none if it loads as far as is known.
    """

    runtime: str
    obstacles: tuple[Obstacle, ...]

    @property
    def loads(self) -> bool:
        """Whether nothing is known to stand in the way."""
        return not self.obstacles


def judge(graph_def: Any) -> list[Verdict]:
    """Tell which runtimes read a graph, or which ops stand in the way.

    Args:
        graph_def: a frozen GraphDef that this TensorFlow imports.
    """
    return [
        Verdict(name, _counted(find(graph_def))) for name, find in _RUNTIMES.items()
    ]


@cache
def known_ops(runtime: str) -> Mapping[str, frozenset[str]]:
    """Return the op types that a runtime has, and what else its file says of each.

    Args:
        runtime: a file's name in ``known_ops``, without ``.txt``.
    """
    files = resources.files("persist_callbacks.graph") / "known_ops"
    known = {}
    for line in (files / f"{runtime}.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            op, *attributes = line.split()
            known[op] = frozenset(attributes)
    return known


def _counted(found: Iterator[tuple[str, str]]) -> tuple[Obstacle, ...]:
    counts = Counter(found)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Obstacle(op, count, reason) for (op, reason), count in ordered)


def _bodies(graph_def: Any) -> Iterator[Any]:
    """Yield every node, those of functions too."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _of_tensorflow_2(graph_def: Any) -> Iterator[tuple[str, str]]:
    for node in _bodies(graph_def):
        if nd.op_definition(node.op) is None:
            yield node.op, _NOT_KNOWN


def _of_tensorflow_1(graph_def: Any) -> Iterator[tuple[str, str]]:
    known = known_ops("tensorflow-1.15")
    for node in _bodies(graph_def):
        if node.op not in known:
            yield node.op, _NOT_KNOWN
            continue
        newer = {key for key in node.attr if not key.startswith("_")} - known[node.op]
        for key in sorted(newer):
            yield node.op, f"an attribute that it does not know, {key}"
    convolutions = [node for node in graph_def.node if node.op == "Conv2D"]
    references = {ref for node in convolutions for ref in node.input[:2]}
    shapes = inferred_shapes(graph_def, references) if references else {}
    for node in convolutions:
        channels, filters = (shapes[ref] for ref in node.input[:2])
        known = channels.rank and filters.rank and channels[-1] and filters[2]
        if known and channels[-1] != filters[2]:
            yield node.op, "groups, which it does not compute on a CPU"


def _of_reader(runtime: str) -> Callable[[Any], Iterator[tuple[str, str]]]:
    def find(graph_def: Any) -> Iterator[tuple[str, str]]:
        known = known_ops(runtime)
        for node in _bodies(graph_def):
            if node.op not in known:
                yield node.op, _NOT_KNOWN

    return find


def _of_opencv(graph_def: Any) -> Iterator[tuple[str, str]]:
    known = known_ops("opencv")
    by_name = {node.name: node for node in graph_def.node}
    swallowed = _taken_with_transposed(by_name)
    nodes = [node for node in graph_def.node if node.name not in swallowed]
    references = {ref for node in nodes for ref in node.input}
    shapes = inferred_shapes(graph_def, references)
    read = {nd.split(reference)[0] for reference in references}
    as_fed = _as_they_were_fed(by_name)
    yield from _readers_in_opencv(nodes, by_name)
    if graph_def.library.function:
        yield "Function", "calls of functions, such as loops"
    for node in nodes:
        if node.op not in known:
            yield node.op, _NOT_KNOWN
            continue
        constants = [by_name[nd.split(ref)[0]].op == "Const" for ref in node.input]
        place = _CONSTANTS_IN_OPENCV.get(node.op)
        if place == _ANY and not any(constants):
            yield node.op, "a product of two tensors, neither of them constant"
        elif place is not None and place != _ANY and not constants[place]:
            yield node.op, f"an input {place} that is computed, not constant"
        elif node.op == "Softmax" and shapes[node.input[0]].rank == 4:
            yield node.op, "a softmax of pictures, which it takes along their width"
        elif node.op in ("Max", "Mean", "Sum"):
            axes = nd.constant_value(by_name[nd.split(node.input[1])[0]])
            axes = axes.reshape(-1).tolist()
            if axes in ([-1], [3]):
                yield node.op, "one over channels, which OpenCV 5 takes right but once"
            elif len(axes) > 1 and axes != [1, 2]:
                yield node.op, "one over more than a picture's rows and columns"
        elif node.op == "ExpandDims" and any(_is_open(each) for each in nodes):
            yield node.op, "sizes that the inputs leave open"
        elif node.op in _ARITHMETIC:
            yield from _arithmetic_in_opencv(node, constants, shapes)
            yield from _constants_in_opencv(node, constants, shapes, by_name)
            if product_with_vector(node, by_name) is not None:
                yield node.op, "a tensor added to a product with a vector, as its bias"
        elif node.op == "BiasAdd" and shapes[node.input[0]].rank not in (None, 2, 4):
            yield node.op, _ODD_BIAS
        elif node.op in ("ConcatV2", "Split"):
            pictures = [ref for ref in node.input if shapes[ref].rank == 4]
            if pictures and {nd.split(ref)[0] for ref in pictures} <= as_fed:
                yield node.op, "pictures that nothing has told it are some"
        else:
            yield from _layout_in_opencv(node, shapes, by_name, read, as_fed)


def _readers_in_opencv(
    nodes: list[Any], by_name: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield nodes that it joins with one reader, to the loss of another."""
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for reference in node.input:
            readers.setdefault(nd.split(reference)[0], []).append(node)
    for node in nodes:
        ops = [reader.op for reader in readers.get(node.name, [])]
        if node.op in _JOINED_WITH_BIAS and "BiasAdd" in ops and len(ops) > 1:
            yield node.op, "a bias that only some of its readers want"
        if node.op == "SpaceToBatchND" and len(ops) > 1:
            yield node.op, "a dilation that several convolutions share"
        if node.op == "Pad" and len(ops) > 1 and "Conv2D" in ops:
            yield node.op, "a border that a convolution shares with others"
        if node.op == "MatMul" and ops in (["Add"], ["AddV2"]):
            (reader,) = readers[node.name]
            sides = [by_name[nd.split(ref)[0]].op for ref in reader.input]
            if "Const" not in sides:
                yield node.op, "a sum with another tensor, where it wants a bias"


def _is_open(node: Any) -> bool:
    """Whether a node is an input of unknown size; a picture's batch is known as 1."""
    if node.op != "Placeholder":
        return False
    shape = tf.TensorShape(node.attr["shape"].shape)
    if shape.rank is None:
        return True
    return None in shape.as_list()[1 if shape.rank == 4 else 0 :]


def _arithmetic_in_opencv(
    node: Any, constants: list[bool], shapes: Mapping[str, tf.TensorShape]
) -> Iterator[tuple[str, str]]:
    dtype = tf.as_dtype(node.attr["T"].type)
    if not dtype.is_floating:
        yield node.op, f"arithmetic with {dtype.name}"
    elif not any(constants):
        one, other = (shapes[ref] for ref in node.input[:2])
        if not (one.rank and other.rank):
            return
        # One number a channel it does spread, over the pixels.
        pooled = (1, 1) in (tuple(one[1:3]), tuple(other[1:3])) and one.rank == 4
        if one.rank != other.rank or not (one.is_compatible_with(other) or pooled):
            yield node.op, "two tensors of shapes that differ"
    elif node.op == "Sub" and constants[0]:
        yield node.op, "a constant minus a tensor, which it takes for the reverse"


def _constants_in_opencv(
    node: Any,
    constants: list[bool],
    shapes: Mapping[str, tf.TensorShape],
    by_name: Mapping[str, Any],
) -> Iterator[tuple[str, str]]:
    if not any(constants):
        return
    place = constants.index(True)
    if node.op == "RealDiv" and place == 0:
        yield node.op, "a constant divided by a tensor"
    other = shapes[node.input[1 - place]]
    sizes = by_name[nd.split(node.input[place])[0]].attr["value"].tensor.tensor_shape
    inner = [dim.size for dim in sizes.dim][:-1]
    if other.rank and other.rank not in (2, 4) and len(sizes.dim) == 1:
        yield node.op, _ODD_BIAS
    if other.rank and other.rank > 3 and any(size != 1 for size in inner):
        yield node.op, "a constant that is not one number, or one a channel"


def _layout_in_opencv(
    node: Any,
    shapes: Mapping[str, tf.TensorShape],
    by_name: Mapping[str, Any],
    read: Collection[str],
    as_fed: Collection[str],
) -> Iterator[tuple[str, str]]:
    """Yield what it does not do to pictures, which it keeps as NCHW."""
    source = shapes[node.input[0]] if node.input else tf.TensorShape(None)
    if not source.rank:
        return

    def number(place: int) -> Any:
        return nd.constant_value(by_name[nd.split(node.input[place])[0]])

    if node.op == "Transpose":
        if source.rank > 4 or (source.rank == 4 and number(1).tolist() not in _TURNS):
            yield node.op, "another order of axes than NHWC and NCHW"
    elif node.op == "Pad" and source.rank == 4 and np.any(number(1)[3]):
        yield node.op, "a border of channels"
    elif node.op == "StridedSlice" and source.rank == 4:
        odd = [node.attr[key].i for key in _CHANGES_RANK if key in node.attr]
        if len(number(1)) < 4 or any(odd) or nd.split(node.input[0])[0] in as_fed:
            yield node.op, "a part of pictures, as it takes none"
        elif np.any(number(3) < 1):
            yield node.op, "pictures that are turned round"
    elif node.op == "Reshape":
        sizes = number(1).tolist()
        is_picture = len(sizes) == 4 and sizes[1:3] != [1, 1]
        if is_picture and source.rank != 4 and node.name in read:
            yield node.op, "rows made pictures, which it takes for NCHW"


def _as_they_were_fed(by_name: Mapping[str, Any]) -> set[str]:
    """Return the nodes on whose way from an input no op says how pictures lie."""
    found: set[str] = set()
    for node in in_order(by_name.values(), list(by_name)):
        definition = nd.op_definition(node.op)
        if definition is None or any(a.name == "data_format" for a in definition.attr):
            continue
        sources = {nd.split(reference)[0] for reference in node.input}
        if all(name in found or by_name[name].op == "Const" for name in sources):
            found.add(node.name)
    return found


def _taken_with_transposed(by_name: Mapping[str, Any]) -> set[str]:
    """Return the nodes that compute a transposed convolution's size as OpenCV knows."""
    taken: set[str] = set()
    for node in by_name.values():
        if node.op != "Conv2DBackpropInput":
            continue
        pack, filters = (by_name[nd.split(ref)[0]] for ref in node.input[:2])
        if pack.op != "Pack" or len(pack.input) != 4 or filters.op != "Const":
            continue
        strides = list(node.attr["strides"].list.i)[1:3]
        kernel = [dim.size for dim in filters.attr["value"].tensor.tensor_shape.dim][:2]
        rests: list[int | None] = [None, None]
        if node.attr["padding"].s == b"VALID":
            rests = [size - by for size, by in zip(kernel, strides, strict=True)]
        sizes = [_scaled_size(reference, by_name) for reference in pack.input[1:3]]
        if sizes != list(zip(strides, rests, strict=True)):
            continue
        waiting = [pack.name]
        while waiting:
            name = waiting.pop()
            if name not in taken:
                taken.add(name)
                each = by_name[name]
                # What the shape is of is computed whether its shape is wanted or not.
                reads = [] if each.op == "Shape" else each.input
                waiting.extend(nd.split(ref)[0] for ref in reads)
    return taken


def _scaled_size(
    reference: str, by_name: Mapping[str, Any]
) -> tuple[int | None, int | None]:
    """Return what a part of a shape is multiplied by, and what is added then."""

    def numbers(node: Any, op: str) -> tuple[Any, int | None]:
        sides = [by_name[nd.split(ref)[0]] for ref in node.input]
        constants = [side for side in sides if side.op == "Const"]
        if node.op != op or len(constants) != 1:
            return node, None
        (other,) = (side for side in sides if side is not constants[0])
        return other, int(nd.constant_value(constants[0]))

    product, added = numbers(by_name[nd.split(reference)[0]], "Add")
    part, factor = numbers(product, "Mul")
    return (factor if part.op == "StridedSlice" else None), added


_RUNTIMES: Mapping[str, Callable[[Any], Iterator[tuple[str, str]]]] = {
    f"TensorFlow {tf.__version__}": _of_tensorflow_2,
    "TensorFlow 1.15": _of_tensorflow_1,
    "OpenCV 4 and 5": _of_opencv,
    "OpenVINO": _of_reader("openvino"),
    "ONNX Runtime": _of_reader("onnxruntime"),
}
