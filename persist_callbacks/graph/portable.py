"""Passes that rewrite ops as the oldest ones that compute the same.

Other runtimes, and TensorFlow itself on some processors, have no kernel for the newer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.writing import Writer, rewritten

_FED = ("Placeholder", "PlaceholderWithDefault")
# Those for which every TensorFlow has a product.
_MULTIPLIED = tuple(
    dtype.as_datatype_enum
    for dtype in (tf.float16, tf.bfloat16, tf.float32, tf.float64)
)
# What OpenVINO's reader makes several ops of, none of them by the name.
_NAMELESS = ("TensorListStack", *nd.BRANCHES)
# OpenCV's reader asks for these, be they at their defaults or not.
_ASKED_FOR = {
    "ArgMax": ("output_type",),
    # Left out, it takes volumes for pictures.
    "Conv3D": ("data_format",),
    "LRN": ("alpha", "beta", "bias", "depth_radius"),
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

    OpenCV's reader removes each Identity, and does not find the output then. OpenVINO's
    takes what nothing reads for results: an op that others read too goes on to them,
    and the output is its product with one, which changes no number. So is an input that
    is an output, and of several outputs one that ends in a bias, which OpenCV joins
    with what it is added to, under that one's name. Whole numbers and booleans are
    reshaped to the shape that they have; OpenCV has no products of them.

    Args:
        graph_def: a GraphDef; not changed.
        outputs: nodes that are wanted by name.
    """
    by_name = {node.name: node for node in graph_def.node}
    identities = {
        output: by_name[output].input[0]
        for output in outputs
        if by_name[output].op == "Identity" and len(by_name[output].input) == 1
    }
    # What reads an output reads what the output is of, so that all are counted.
    body = [_redirected(node, identities) for node in graph_def.node]
    reads = nd.count_reads(body)
    renamed: dict[str, str] = {}
    multiplied = set()
    reshaped: dict[str, str] = {}
    for output in identities:
        reference = nd.redirected(output, identities)
        source, port = nd.split(reference)
        maker = by_name[source]
        if maker.op == "Const" or (source in outputs and maker.op not in _FED):
            continue
        dtype = tf.as_dtype(by_name[output].attr["T"].type)
        alone = port == 0 and reads[source] == 1 and maker.op not in _FED
        alone = alone and maker.op not in _NAMELESS
        if dtype.as_datatype_enum in _MULTIPLIED and (
            not alone or (len(outputs) > 1 and _ends_in_bias(maker, by_name))
        ):
            multiplied.add(output)
        elif alone:
            renamed[source] = output
        elif (dtype.is_integer or dtype.is_bool) and not (
            # OpenVINO computes these as int32, and passes an input on as it is.
            dtype.size > 4 and maker.op in _FED
        ):
            reshaped[output] = reference
    sizes = _sizes_but_one(graph_def, reshaped)
    taken, replaced = set(by_name), set(renamed.values())
    result = nd.empty_like(graph_def)
    for node in body:
        if node.name in replaced:
            continue
        if node.name in multiplied:
            dtype = tf.as_dtype(node.attr["T"].type)
            writer = Writer(node.name, taken)
            one = writer.constant("one", np.ones((), dtype.as_numpy_dtype), dtype)
            writer.add("Mul", "", node.input[0], one, T=dtype)
            result.node.extend(writer.made)
            continue
        if node.name in sizes:
            writer = Writer(node.name, taken)
            shape = writer.constant("sizes", np.array(sizes[node.name], np.int32))
            types = {"T": node.attr["T"], "Tshape": tf.int32}
            writer.add("Reshape", "", node.input[0], shape, **types)
            result.node.extend(writer.made)
            continue
        node.name = renamed.get(node.name, node.name)
        result.node.append(node)
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

    ``h * erfc(x)`` becomes ``h + h * erf(-x)``. OpenVINO joins ``h * (1 + erf(-x))``
    into an op of its own. Part of the convolution before it, that takes less time than
    these do, and longer anywhere else. In half precision, in which either has no digits
    left of what is below zero, the Erfc alone is ``1 + erf(-x)`` in float32. Any other
    Erfc stays: one plus Erf has no digits left where it is small, as a logarithm of it
    shows.

    Args:
        graph_def: a GraphDef; not changed.
    """
    gelus = gelu_products(graph_def)
    erfcs = set(gelus.values())
    by_name = {node.name: node for node in graph_def.node}
    # By the node that multiplies: the Erfc, and the other.
    products = {
        name: (by_name[name].input[place], by_name[name].input[1 - place])
        for name, erfc in gelus.items()
        for place in (1, 0)
        if nd.split(by_name[name].input[place])[0] == erfc
    }
    in_products = {
        nd.split(erfc)[0]
        for erfc, other in products.values()
        if by_name[nd.split(erfc)[0]].attr["T"].type in nd.REORDERED
        and not _is_convolved(_unscaled(other, by_name), by_name)
    }

    def write(node: Any, writer: Writer) -> None:
        if node.name not in erfcs and node.name not in products:
            return
        dtype = tf.as_dtype(node.attr["T"].type)
        if node.name in erfcs:
            # Erf is odd: 1 - erf(x) is erf(-x) + 1, and what is negated is a product.
            negative = writer.add("Neg", "negative", *node.input, T=dtype)
            if node.name in in_products:
                writer.add("Erf", "", negative, T=dtype)
                return
            is_half = dtype.as_datatype_enum not in nd.REORDERED
            wide = tf.float32 if is_half else dtype
            if is_half:
                types = {"SrcT": dtype, "DstT": wide}
                negative = writer.add("Cast", "widened", negative, **types)
            erf = writer.add("Erf", "erf", negative, T=wide)
            one = writer.constant("one", np.ones((), wide.as_numpy_dtype), wide)
            part = "sum" if is_half else ""
            total = writer.add("AddV2", part, erf, one, T=wide)
            if is_half:
                writer.add("Cast", "", total, SrcT=wide, DstT=dtype)
        else:
            erf, other = products[node.name]
            if nd.split(erf)[0] in in_products:
                product = writer.add("Mul", "product", other, erf, T=dtype)
                writer.add("AddV2", "", other, product, T=dtype)

    return rewritten(graph_def, write)


def _is_convolved(reference: str, by_name: Mapping[str, Any]) -> bool:
    """Tell whether a tensor is a convolution's, scaled and shifted by constants or not.

    Args:
        reference: the tensor.
        by_name: the graph's nodes.
    """
    node = by_name[nd.split(reference)[0]]
    while node.op in ("Add", "AddV2", "BiasAdd", "FusedBatchNormV3", "Mul", "Sub"):
        first, *others = (by_name[nd.split(ref)[0]] for ref in node.input)
        if any(other.op != "Const" for other in others):
            return False
        node = first
    return node.op in ("Conv2D", "DepthwiseConv2dNative")


def gelu_products(graph_def: Any) -> dict[str, str]:
    """Return the nodes that multiply an Erfc with what it is of, each with that Erfc.

    Args:
        graph_def: a GraphDef.
    """
    by_name = {node.name: node for node in graph_def.node}
    reads = nd.count_reads(graph_def.node)
    found = {}
    for node in graph_def.node:
        for place in (0, 1) if node.op == "Mul" else ():
            side, other = node.input[place], node.input[1 - place]
            erfc = by_name[nd.split(_unscaled(side, by_name, reads))[0]]
            if (
                erfc.op == "Erfc"
                and reads[erfc.name] == 1
                and _unscaled(other, by_name) == _unscaled(erfc.input[0], by_name)
            ):
                found[node.name] = str(erfc.name)
    return found


def _unscaled(
    reference: str, by_name: Mapping[str, Any], reads: Mapping[str, int] | None = None
) -> str:
    """Return what a tensor is a multiple of, be it of itself.

    Args:
        reference: the tensor.
        by_name: the graph's nodes.
        reads: where given, what is on the way is read by nothing else.
    """
    while True:
        node = by_name[nd.split(reference)[0]]
        if reads is not None and reads[node.name] != 1:
            return reference
        is_constant = [by_name[nd.split(ref)[0]].op == "Const" for ref in node.input]
        if node.op == "Neg" or (node.op in ("Mul", "RealDiv") and is_constant[1]):
            reference = node.input[0]
        elif node.op == "Mul" and is_constant[0]:
            reference = node.input[1]
        else:
            return reference


def signs_by_quotients(graph_def: Any) -> Any:
    """Tell whether a number is negative by comparing, where its bits are looked at.

    Keras does so in ``argmax`` and ``argmin``, for the sake of a negative zero, and
    neither OpenVINO nor ONNX knows the bits of a float. One divided by that is negative
    too. What is no number counts as none that is negative.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}

    def write(node: Any, writer: Writer) -> None:
        source = _of_sign_bit(node, by_name)
        if source is None:
            return
        types = {"T": tf.float32}
        zero = writer.constant("zero", np.float32(0))
        one = writer.constant("one", np.float32(1))
        quotient = writer.add("RealDiv", "quotient", one, source, **types)
        below = writer.add("Less", "below", source, zero, **types)
        negative = writer.add("Less", "negative_zero", quotient, zero, **types)
        writer.add("LogicalOr", "", below, negative)

    return rewritten(graph_def, write)


def _of_sign_bit(node: Any, by_name: Mapping[str, Any]) -> str | None:
    """Return what a node tells the sign of by its bits; None if it is no such node."""

    def side(each: Any, place: int) -> Any:
        return by_name[nd.split(each.input[place])[0]]

    def is_number(each: Any, number: int) -> bool:
        return each.op == "Const" and bool(np.all(nd.constant_value(each) == number))

    if node.op != "Less" or not is_number(side(node, 1), 0):
        return None
    masked = side(node, 0)
    if masked.op != "BitwiseAnd":
        return None
    for place in (0, 1):
        bits = side(masked, place)
        is_sign = is_number(side(masked, 1 - place), tf.int32.min)
        if is_sign and bits.op == "Bitcast" and bits.attr["T"].type == tf.float32:
            return str(bits.input[0])
    return None


def cast_before_products(graph_def: Any) -> Any:
    """Multiply in the type of the result, where the sides are of a narrower one.

    Of a product of int8 that is int32, as Keras' quantized layers have it, TensorFlow
    1.15 has no op, and OpenVINO computes each number in 8 bits. The weights stay int8.

    Args:
        graph_def: a GraphDef; not changed.
    """

    def write(node: Any, writer: Writer) -> None:
        if node.op != "BatchMatMulV3":
            return
        dtype = tf.as_dtype(node.attr["Tout"].type)
        sides = []
        for side, part in zip(node.input[:2], ("Ta", "Tb"), strict=True):
            own = node.attr[part]
            if own.type != dtype.as_datatype_enum:
                types = {"SrcT": own, "DstT": dtype}
                side = writer.add("Cast", f"cast_{part[1]}", side, **types)
            sides.append(side)
        turned = {key: node.attr[key] for key in ("adj_x", "adj_y") if key in node.attr}
        writer.add("BatchMatMulV2", "", *sides, T=dtype, **turned)

    return rewritten(graph_def, write)


def split_grouped_convolutions(graph_def: Any) -> Any:
    """Make a convolution in groups a depthwise one, or one convolution for each group.

    TensorFlow computes them on a CPU with oneDNN or XLA only, those of volumes with XLA
    alone. Those whose filters are no constants, or whose channels are not known, are
    left as they are. Each group gets its part of a bias: OpenCV does not read one that
    comes after the groups are joined.

    Args:
        graph_def: a GraphDef; not changed.
    """
    nodes = {node.name: node for node in graph_def.node}
    constants = {name: node for name, node in nodes.items() if node.op == "Const"}
    filters_of = {
        node.name: nd.behind_identities(nodes, node.input[1])
        for node in graph_def.node
        if node.op in ("Conv2D", "Conv3D") and nd.has_channels_last(node)
    }
    suspects = [nodes[name] for name, each in filters_of.items() if each.op == "Const"]
    if not suspects:
        return graph_def
    shapes = inferred_shapes(graph_def, [node.input[0] for node in suspects])
    grouped: dict[str, tuple[np.ndarray[Any, Any], int]] = {}
    for node in suspects:
        filters = nd.constant_value(filters_of[node.name])
        shape = shapes[node.input[0]]
        known = shape[-1] if shape.rank == filters.ndim else None
        if known is not None and known != filters.shape[-2]:
            grouped[node.name] = filters, known // filters.shape[-2]
    by_name = {node.name: node for node in suspects}
    reads = nd.count_reads(graph_def.node)
    # By the node that adds it: the convolution that nothing else reads.
    biased = {
        node.name: by_name[node.input[0]]
        for node in graph_def.node
        if node.op == "BiasAdd"
        and nd.has_channels_last(node)
        and node.input[0] in grouped
        and node.input[1] in constants
        and reads[node.input[0]] == 1
        and not _is_depthwise(by_name[node.input[0]], grouped[node.input[0]][0])
    }
    joined = {convolution.name for convolution in biased.values()}

    def write(node: Any, writer: Writer) -> None:
        if node.name in joined:
            writer.leave_out()
        elif node.name in biased:
            convolution = biased[node.name]
            bias = nd.constant_value(constants[node.input[1]])
            _ungroup(convolution, *grouped[convolution.name], writer, bias)
        elif node.name in grouped:
            _ungroup(node, *grouped[node.name], writer)

    return rewritten(graph_def, write)


def _sizes_but_one(
    graph_def: Any, references: Mapping[str, str]
) -> dict[str, list[int]]:
    """Return the sizes of tensors, -1 for one that is open; of no others."""
    if not references:
        return {}
    shapes = inferred_shapes(graph_def, references.values())
    known = {name: shapes[reference] for name, reference in references.items()}
    sizes = {
        name: [-1 if size is None else size for size in shape]
        for name, shape in known.items()
        if shape.rank
    }
    return {
        name: each
        for name, each in sizes.items()
        if each.count(-1) < 2 and 0 not in each
    }


def _ends_in_bias(node: Any, by_name: Mapping[str, Any]) -> bool:
    """Whether a node adds a constant."""
    return node.op in ("Add", "AddV2", "BiasAdd") and any(
        by_name[nd.split(reference)[0]].op == "Const" for reference in node.input
    )


def _redirected(node: Any, redirect: Mapping[str, str]) -> Any:
    """Copy a node that reads what stands in other nodes' places."""
    made = tf.compat.v1.NodeDef()
    made.CopyFrom(node)
    del made.input[:]
    made.input.extend(nd.redirected(reference, redirect) for reference in node.input)
    return made


def _is_depthwise(node: Any, filters: np.ndarray[Any, Any]) -> bool:
    """Whether a grouped convolution is one of single channels, as the old op has it."""
    strides = list(node.attr["strides"].list.i)
    plain = strides[1] == strides[2] and nd.has_plain_window(node)
    return node.op == "Conv2D" and filters.shape[2] == 1 and plain


def _ungroup(
    node: Any,
    filters: np.ndarray[Any, Any],
    groups: int,
    writer: Writer,
    bias: np.ndarray[Any, Any] | None = None,
) -> None:
    """Write the nodes in the place of a grouped convolution, or of it and its bias."""
    dtype = tf.as_dtype(node.attr["T"].type)
    if _is_depthwise(node, filters):
        # Output channels of a group stand together in both.
        each = filters.reshape(*filters.shape[:2], groups, -1)
        by_channel = writer.constant("filters", each, dtype)
        kept = {key: node.attr[key] for key in ("T", "strides", "padding")}
        writer.add("DepthwiseConv2dNative", "", node.input[0], by_channel, **kept)
        return
    axis = writer.constant("axis", np.int32(filters.ndim - 1))
    types = {"T": dtype, "num_split": groups}
    split = writer.add("Split", "groups", axis, node.input[0], **types)
    parts = []
    for index, array in enumerate(np.split(filters, groups, axis=-1)):
        weights = writer.constant(f"filters_{index}", array, dtype)
        source = split if index == 0 else f"{split}:{index}"
        part = writer.copy(node, f"group_{index}", source, weights)
        if bias is not None:
            numbers = np.split(bias, groups)[index]
            vector = writer.constant(f"bias_{index}", numbers, dtype)
            part = writer.add("BiasAdd", f"biased_{index}", part, vector, T=dtype)
        parts.append(part)
    writer.add("ConcatV2", "", *parts, axis, T=dtype, Tidx=tf.int32, N=groups)
