"""Rows that become pictures, as where a generator or a decoder begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.writing import Writer, rewritten

_PICTURE = 4
# Numbers for each one of a row that a batch norm takes, three times four bytes; and as
# many bytes as do not matter in any PB, else what share of it they may be.
_PER_NUMBER = 12
_FEW_BYTES = 65536
_SHARE = 8
# Number by number: as well after a Reshape as before it.
_ACTIVATIONS = (
    *("Elu", "Exp", "LeakyRelu", "Relu", "Relu6", "Selu", "Sigmoid", "Softplus"),
    *("Softsign", "Tanh"),
)


def rows_to_pictures(
    graph_def: Any, *, told_after: bool = False, apart: bool = False
) -> Any:
    """Make rows a picture of one pixel first, where a Reshape makes pictures of them.

    OpenCV takes what a Reshape makes of rows for NCHW. Of a picture it knows that it
    lies as NHWC, and turns it before and after; a batch norm that changes no number
    tells it that this is one. Activations come afterwards: it is told of rows by the
    product that they are. A bias of these is the batch norm's: one row's product and
    bias take TensorFlow a third longer in one op than in two, where rows grow longer.

    Args:
        graph_def: a GraphDef, its Reshapes' shapes constant; not changed.
        told_after: whether to tell it again what comes of the Reshape, for what reads
            that and does not tell it by itself, as a convolution does.
        apart: whether to have it forget first what it takes them for. It passes on what
            it is told to what that came of, such as an input, and takes only products
            for rows whatever it is told.
    """
    by_name = {node.name: node for node in graph_def.node}
    suspects = [node for node in graph_def.node if _gives_pictures(node, by_name)]
    if not suspects:
        return graph_def
    shapes = inferred_shapes(graph_def, {node.input[0] for node in suspects})
    found = {
        node.name
        for node in suspects
        if shapes[node.input[0]].rank not in (None, _PICTURE)
    }
    most = _most_channels(graph_def)
    reads = nd.count_reads(graph_def.node)
    biased = {
        node.name: nd.constant_value(by_name[nd.split(node.input[1])[0]])
        for node in graph_def.node
        if reads[node.name] == 1 and _is_bias_of_longer_rows(node, by_name)
    }

    def write(node: Any, writer: Writer) -> None:
        if node.name in found:
            _write(
                *(node, by_name, writer, most),
                biased={} if apart else biased,
                told_after=told_after,
                apart=apart,
            )

    return rewritten(graph_def, write)


def _most_channels(graph_def: Any) -> int:
    """Return for how long a row constants do not make the graph much larger."""
    size = sum(node.ByteSize() for node in graph_def.node)
    return int(max(size // _SHARE, _FEW_BYTES) // _PER_NUMBER)


def _gives_pictures(node: Any, by_name: Mapping[str, Any]) -> bool:
    """Whether a Reshape gives pictures of a known size, of more than one row.

    To OpenCV's reader one row is a form of its own, which it does not turn back.
    """
    if node.op != "Reshape" or not tf.as_dtype(node.attr["T"].type).is_floating:
        return False
    if by_name[nd.split(node.input[1])[0]].op != "Const":
        return False
    sizes = _sizes(node, by_name)
    return len(sizes) == _PICTURE and sizes[1] > 1 and min(sizes[2:]) > 0


def _is_bias_of_longer_rows(node: Any, by_name: Mapping[str, Any]) -> bool:
    """Whether a node adds a bias to a product whose rows are no shorter than before."""
    if node.op != "BiasAdd" or node.attr["T"].type != tf.float32.as_datatype_enum:
        return False
    product, bias = (by_name[nd.split(reference)[0]] for reference in node.input[:2])
    if product.op != "MatMul" or bias.op != "Const":
        return False
    weights = by_name[nd.split(product.input[1])[0]]
    if weights.op != "Const":
        return False
    after = nd.constant_shape(bias).num_elements()
    return bool(nd.constant_shape(weights).num_elements() <= after**2)


def _write(
    node: Any,
    by_name: Mapping[str, Any],
    writer: Writer,
    most: int,
    *,
    biased: Mapping[str, np.ndarray[Any, Any]],
    told_after: bool,
    apart: bool,
) -> None:
    source, activations = node.input[0], []
    while (maker := by_name[nd.split(source)[0]]).op in _ACTIVATIONS:
        activations.append(maker)
        source = maker.input[0]
    picture = _sizes(node, by_name)[1:]
    row = int(np.prod(picture))
    dtype = tf.as_dtype(node.attr["T"].type)
    pooled = dtype != tf.float32 or row > most
    bias = None if pooled else biased.get(source)
    if apart:
        source = _forgotten(writer, source, row, dtype)
    elif bias is not None and bias.size == row:
        source = by_name[source].input[0]
    else:
        bias = None
    # Of one of a known batch its reader makes an output more.
    one = np.array([-1, 1, 1, row], np.int32)
    types = {"T": dtype, "Tshape": tf.int32}
    sizes = writer.constant("pixel/sizes", one)
    pixel = writer.add("Reshape", "pixel", source, sizes, **types)
    # Of these the last one bears the name.
    steps: list[tuple[str, Any]] = [("picture", node)]
    if told_after:
        steps.append(("told", None))
    steps += [
        (f"activation_{place}", activation)
        for place, activation in enumerate(reversed(activations))
    ]
    last = _same(writer, "pixel/told", pixel, dtype, None if pooled else row, bias)
    for part, step in steps:
        name = "" if part == steps[-1][0] else part
        if step is None:
            last = _same(writer, name, last, dtype, None if pooled else picture[-1])
        else:
            last = writer.copy(step, name, last, *step.input[1:])


def _forgotten(writer: Writer, source: str, size: int, dtype: tf.DType) -> str:
    """Write the same as rows, of which OpenCV knows that they are some.

    What says NCHW, between things that say NHWC, leaves it with no guess of what comes
    before; and numbers in two dimensions are rows.
    """
    types = {"T": dtype, "Tshape": tf.int32}
    sizes = writer.constant("apart/sizes", np.array([-1, 1, size], np.int32))
    lines = writer.add("Reshape", "apart", source, sizes, **types)
    # Nothing else leaves each number as it is, a negative zero too.
    nothing = writer.constant("apart/nothing", np.array([-0.0]), dtype)
    same = writer.add(
        "BiasAdd", "apart/same", lines, nothing, T=dtype, data_format=b"NCHW"
    )
    sizes = writer.constant("rows/sizes", np.array([-1, size], np.int32))
    return writer.add("Reshape", "rows", same, sizes, **types)


def _same(
    writer: Writer,
    part: str,
    source: str,
    dtype: tf.DType,
    channels: int | None,
    bias: np.ndarray[Any, Any] | None = None,
) -> str:
    """Write the same numbers by an op on pictures: a pooling, or of so many channels.

    The latter may add a bias to them.

    TensorFlow folds the other one, where a pooling takes longer than all else around
    it in a small network.
    """
    if channels is None:
        # The mean of each single pixel; a maximum would lose what is no number.
        once = {"ksize": [1, 1, 1, 1], "strides": [1, 1, 1, 1]}
        return writer.add("AvgPool", part, source, T=dtype, padding=b"VALID", **once)
    own = part or "told"
    ones = np.ones(channels, np.float32)
    one = writer.constant(f"{own}/one", ones)
    mean = writer.constant(f"{own}/mean", 0 * ones)
    # A negative zero: it leaves each of those as it is, as well.
    shift = -0.0 * ones if bias is None else bias
    offset = writer.constant(f"{own}/offset", shift)
    options: dict[str, Any] = {"epsilon": 0.0, "is_training": False}
    scaled = [source, one, offset, mean, one]
    return writer.add("FusedBatchNorm", part, *scaled, T=dtype, **options)


def _sizes(node: Any, by_name: Mapping[str, Any]) -> list[int]:
    sizes = nd.constant_value(by_name[nd.split(node.input[1])[0]])
    return [int(size) for size in sizes.reshape(-1)]
