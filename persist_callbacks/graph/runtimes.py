"""What each runtime reads: a table of ops, and what it asks of how they are used.

The table is in ``known_ops``, one file a runtime, its source in the first line. What is
said of a graph is what its ops and shapes tell; only loading it shows that it loads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph import onnx_uses, opencv
from persist_callbacks.graph.op_tables import NOT_KNOWN, known_ops
from persist_callbacks.graph.portable import gelu_products
from persist_callbacks.graph.shapes import inferred_shapes

_Found = Iterator[tuple[str, str]]
# The last that TensorFlow 1.15 has a number for.
_LAST_OF_TENSORFLOW_1 = int(tf.uint64.as_datatype_enum)
# What has no kernel there on a CPU, of those that the newer one has.
_NO_KERNELS_IN_TENSORFLOW_1 = {
    "Einsum": (tf.bfloat16, tf.float16, tf.int32, tf.int64),
    "Range": (tf.bfloat16,),
    "TopKV2": (tf.uint64,),
    **dict.fromkeys(("Greater", "GreaterEqual", "Less", "LessEqual"), (tf.uint16,)),
    **dict.fromkeys(
        (
            *("Cumprod", "Cumsum", "EuclideanNorm", "SegmentMax", "SegmentMean"),
            *("SegmentMin", "SegmentProd", "SegmentSum", "Tile", "Unique", "Where"),
        ),
        (tf.uint32, tf.uint64),
    ),
}
# In a function; elsewhere XLA's are taken.
_NO_KERNELS_IN_FUNCTIONS = {"Sigmoid": (tf.bfloat16,)}
_FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
_NONE_IN_ONNX = ("bfloat16", *_FLOAT8)
# What tf2onnx writes so that ONNX Runtime computes otherwise, or refuses.
_TRANSLATED_WRONGLY = {
    "AdjustSaturation": "colours that it computes otherwise",
    **dict.fromkeys(
        ("BitwiseAnd", "BitwiseOr", "BitwiseXor", "Invert"),
        "an op that ONNX has from opset 18 on",
    ),
    "CTCGreedyDecoder": "sequences that it gives otherwise",
    "FFT": "complex numbers, which it does not have",
    "MatrixInverse": "an op of its extensions, which do not come with it",
    "StringToHashBucketFast": "an op of its extensions, which do not come with it",
}
# What may give no number, or an infinite one, of numbers that are some.
_MAY_BE_NO_NUMBERS = (
    *("Acos", "Acosh", "Asin", "Atanh", "Div", "DivNoNan", "Log", "Log1p", "Pow"),
    *("RealDiv", "Reciprocal", "Rsqrt", "Sqrt"),
)
_LOOKS = ("IsFinite", "IsInf", "IsNan")
_CHOICES = ("Select", "SelectV2")
_NUMBER_BY_NUMBER = (
    *("Abs", "Add", "AddV2", "BiasAdd", "Cast", "Exp", "Identity", "Maximum"),
    *("Minimum", "Mul", "Neg", "Reshape", "Square", "Sub", "Tanh"),
)


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


def _counted(found: Iterator[tuple[str, str]]) -> tuple[Obstacle, ...]:
    counts = Counter(found)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Obstacle(op, count, reason) for (op, reason), count in ordered)


def _of_tensorflow_2(graph_def: Any) -> _Found:
    for node in nd.every_node(graph_def):
        if nd.op_definition(node.op) is None:
            yield node.op, NOT_KNOWN


def _of_tensorflow_1(graph_def: Any) -> _Found:
    known = known_ops("tensorflow-1.15")
    for node in nd.every_node(graph_def):
        if node.op not in known:
            yield node.op, NOT_KNOWN
            continue
        attributes = {key for key in node.attr if not key.startswith("_")}
        for key in sorted(attributes - known[node.op].keys()):
            yield node.op, f"an attribute that it does not know, {key}"
        if node.op == "Conv2DBackpropInput" and nd.is_dilated(node):
            yield node.op, "a dilation, which it does not compute on a CPU"
    yield from _numbers_of_tensorflow_1(graph_def)
    convolutions = [node for node in graph_def.node if node.op == "Conv2D"]
    gathers = [node for node in graph_def.node if _gathers_by_row(node)]
    references = {ref for node in convolutions + gathers for ref in node.input[:2]}
    shapes = inferred_shapes(graph_def, references) if references else {}
    for node in convolutions:
        channels, filters = (shapes[ref] for ref in node.input[:2])
        known = channels.rank and filters.rank and channels[-1] and filters[2]
        if known and channels[-1] != filters[2]:
            yield node.op, "groups, which it does not compute on a CPU"
    for node in gathers:
        if shapes[node.input[1]].rank == node.attr["batch_dims"].i:
            yield node.op, "one of each row, with no dimension of indices beside"


def _gathers_by_row(node: Any) -> bool:
    return bool(
        node.op == "GatherV2"
        and "batch_dims" in node.attr
        and node.attr["batch_dims"].i > 0
    )


def _numbers_of_tensorflow_1(graph_def: Any) -> _Found:
    functions = [node for each in graph_def.library.function for node in each.node_def]
    for node in functions:
        for dtype in _dtypes(node) & {*_NO_KERNELS_IN_FUNCTIONS.get(node.op, ())}:
            yield node.op, f"numbers of {dtype.name}, in a function"
    for node in nd.every_node(graph_def):
        dtypes = _dtypes(node)
        lacking = dtypes & {*_NO_KERNELS_IN_TENSORFLOW_1.get(node.op, ())}
        lacking |= {d for d in dtypes if d.as_datatype_enum > _LAST_OF_TENSORFLOW_1}
        lacking |= _beyond("tensorflow-1.15", node)
        for dtype in sorted(lacking, key=str):
            yield node.op, f"numbers of {dtype.name}"


def _dtypes(node: Any) -> set[tf.DType]:
    """Return the dtypes that a node's attributes name."""
    return {*_dtypes_by_attribute(node).values()}


def _dtypes_by_attribute(node: Any) -> dict[str, tf.DType]:
    enums = {key: value.type for key, value in node.attr.items()}
    return {key: tf.as_dtype(enum) for key, enum in enums.items() if enum}


def _beyond(runtime: str, node: Any) -> set[tf.DType]:
    """Return the dtypes that a node names, and a runtime's table does not."""
    allowed = known_ops(runtime).get(node.op, {})
    return {
        dtype
        for key, dtype in _dtypes_by_attribute(node).items()
        if allowed.get(key) and dtype.name not in allowed[key]
    }


def _of_openvino(graph_def: Any) -> _Found:
    yield from _of_ops("openvino", graph_def)
    yield from _of_dtypes(graph_def, _FLOAT8)
    for node in nd.every_node(graph_def):
        if node.op == "BatchMatMulV3":
            sides = {node.attr[key].type for key in ("Ta", "Tb")}
            if sides != {node.attr["Tout"].type}:
                yield node.op, "a product in more bits than its sides have"
        if node.op in ("Const", "Placeholder"):
            dtype = tf.as_dtype(node.attr["dtype"].type)
            # Of several numbers it takes the bytes.
            is_one = (
                node.op == "Placeholder" or not node.attr["value"].tensor.tensor_content
            )
            if dtype == tf.bfloat16 and is_one:
                yield node.op, "numbers of bfloat16"
            elif dtype.is_complex and node.op == "Const":
                yield node.op, "complex numbers"
    gelus = set(gelu_products(graph_def).values())
    for node in graph_def.node:
        if node.op == "Erfc" and node.name not in gelus:
            yield node.op, "a far tail that it takes for nothing"
    for node, dtype in _outputs(graph_def):
        if dtype.is_complex or dtype == tf.bfloat16:
            yield node.op, f"an output of {dtype.name}"


def _of_onnx(graph_def: Any) -> _Found:
    yield from _of_ops("onnxruntime", graph_def)
    yield from _of_dtypes(graph_def, _NONE_IN_ONNX)
    by_name = {node.name: node for node in graph_def.node}
    for node in nd.every_node(graph_def):
        if node.op in _TRANSLATED_WRONGLY:
            yield node.op, _TRANSLATED_WRONGLY[node.op]
        dtype = node.attr["T"].type if "T" in node.attr else 0
        for lacking in sorted(_beyond("onnxruntime", node), key=str):
            if lacking.name not in _NONE_IN_ONNX:
                yield node.op, f"numbers of {lacking.name}"
        if node.op == "OneHot" and dtype == tf.bool:
            yield node.op, "numbers of bool"
        if node.op == "CropAndResize" and _reaches_edge(node, by_name):
            yield node.op, "boxes to a picture's edge, where it may give nothing"
        # It knows such a loop for one of its own recurrent ops.
        loop = node.op in ("StatelessWhile", "While")
        if loop and tf.float64.as_datatype_enum in node.attr["T"].list.type:
            yield node.op, "numbers of float64"
        if node.op in _CHOICES and _may_multiply_no_numbers(node, by_name):
            yield node.op, "a choice by products, with what may be no number"
    yield from onnx_uses.obstacles(graph_def)
    yield from _means_of_float64(graph_def)
    for node, dtype in _outputs(graph_def):
        if dtype.is_complex:
            yield node.op, f"an output of {dtype.name}"


def _means_of_float64(graph_def: Any) -> _Found:
    """Yield what becomes a pooling of ONNX's, which has no kernel for float64."""
    constants = {node.name: node for node in graph_def.node if node.op == "Const"}
    means = [
        node
        for node in graph_def.node
        if node.op == "Mean"
        and node.attr["T"].type == tf.float64
        and nd.split(node.input[1])[0] in constants
    ]
    shapes = inferred_shapes(graph_def, [node.input[0] for node in means])
    for node in means:
        axes = nd.constant_value(constants[nd.split(node.input[1])[0]])
        is_last = axes.reshape(-1).tolist() in ([-1], [2])
        if is_last and shapes[node.input[0]].rank == 3:
            yield node.op, "numbers of float64"


def _may_multiply_no_numbers(node: Any, by_name: Mapping[str, Any]) -> bool:
    """Whether tf2onnx multiplies a side that is not chosen, no number maybe, with zero.

    It does not of a choice by what is no number itself, or with a constant that is
    none (``onnx_opset/controlflow.py`` of 1.16).
    """
    if not tf.as_dtype(node.attr["T"].type).is_floating:
        return False
    names = [nd.split(reference)[0] for reference in node.input]
    # In a function they may be arguments, of which nothing is known.
    sides = [by_name[name] for name in names if name in by_name]
    if len(sides) < len(names) or sides[0].op in _LOOKS:
        return False
    if sides[0].op in ("LogicalAnd", "LogicalOr") and any(
        by_name[nd.split(reference)[0]].op in _LOOKS for reference in sides[0].input
    ):
        # What it looks for among others it does not find.
        return True
    if any(_has_no_numbers(side) for side in sides[1:]):
        return False
    return any(_may_be_no_number(side, by_name) for side in sides[1:])


def _has_no_numbers(node: Any) -> bool:
    """Whether it is a constant with infinities, or with what is no number."""
    if node.op != "Const" or not tf.as_dtype(node.attr["dtype"].type).is_floating:
        return False
    return not np.isfinite(np.float64(nd.constant_value(node))).all()


def _may_be_no_number(node: Any, by_name: Mapping[str, Any]) -> bool:
    """Whether a number is computed of others, one by one, and may be none."""
    waiting, seen = [node.name], set()
    while waiting:
        each = by_name.get(waiting.pop())
        if each is None or each.name in seen or each.op in _CHOICES:
            continue
        seen.add(each.name)
        if each.op in _MAY_BE_NO_NUMBERS or _has_no_numbers(each):
            return True
        if each.op in _NUMBER_BY_NUMBER:
            waiting += [nd.split(reference)[0] for reference in each.input]
    return False


def _reaches_edge(node: Any, by_name: Mapping[str, Any]) -> bool:
    """Whether a box ends where its picture does, as far as is known."""
    boxes = by_name.get(nd.split(node.input[1])[0])
    is_known = boxes is not None and boxes.op == "Const"
    return not is_known or bool((nd.constant_value(boxes) >= 1).any())


def _of_ops(runtime: str, graph_def: Any) -> _Found:
    known = known_ops(runtime)
    for node in nd.every_node(graph_def):
        if node.op not in known:
            yield node.op, NOT_KNOWN


def _of_dtypes(graph_def: Any, names: Collection[str]) -> _Found:
    for node in nd.every_node(graph_def):
        for dtype in sorted(_dtypes(node), key=str):
            if dtype.name in names:
                yield node.op, f"numbers of {dtype.name}"


def _outputs(graph_def: Any) -> Iterator[tuple[Any, tf.DType]]:
    """Yield the nodes that nothing reads, and what numbers they give."""
    read = {nd.split(ref)[0] for node in graph_def.node for ref in node.input}
    for node in graph_def.node:
        definition = nd.op_definition(node.op)
        if node.name in read or definition is None:
            continue
        defaults = {each.name: each.default_value for each in definition.attr}
        for argument in definition.output_arg:
            key = argument.type_attr
            kept = node.attr[key] if key in node.attr else defaults.get(key)
            enum = kept.type if kept is not None else argument.type
            if enum:
                yield node, tf.as_dtype(enum)


_RUNTIMES: Mapping[str, Callable[[Any], _Found]] = {
    f"TensorFlow {tf.__version__}": _of_tensorflow_2,
    "TensorFlow 1.15": _of_tensorflow_1,
    "OpenCV 4 and 5": opencv.obstacles,
    "OpenVINO": _of_openvino,
    "ONNX Runtime": _of_onnx,
}
