"""NodeDefs: how to read them, build them, and what TensorFlow's registry says of them.

The op registry has no public name; it is touched in `op_definition` alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

RESOURCE: int = tf.resource.as_datatype_enum

# What may be computed in another order; half precision would lose by it.
REORDERED = tuple(dtype.as_datatype_enum for dtype in (tf.float32, tf.float64))

# Attributes that name the functions which a node calls.
BRANCHES = {
    "While": ("cond", "body"),
    "StatelessWhile": ("cond", "body"),
    "If": ("then_branch", "else_branch"),
    "StatelessIf": ("then_branch", "else_branch"),
    "Case": ("branches",),
    "StatelessCase": ("branches",),
    "PartitionedCall": ("f",),
    "StatefulPartitionedCall": ("f",),
}
WITHOUT_STATE = {
    "While": "StatelessWhile",
    "If": "StatelessIf",
    "Case": "StatelessCase",
    "StatefulPartitionedCall": "PartitionedCall",
}
# TF1's loops and branches; there a control edge decides whether a node runs at all.
OLD_CONTROL_FLOW = frozenset(
    {"Switch", "Merge", "Enter", "Exit", "NextIteration", "RefSwitch", "RefEnter"}
)

# What holds a variable: TF2's, and the two of TF1.
VARIABLES = ("VarHandleOp", "Variable", "VariableV2")

# Digits of a port: more than any node has outputs.
_LONGEST_PORT = 10

# Files, Python, other processes: what arithmetic needs none of.
_OUTSIDE = re.compile(
    r"(Read|Write)File|MatchingFiles|(Eager)?PyFunc(Stateless)?|ImmutableConst"
    r"|FixedUnigramCandidateSampler|(En|De)codeProto(V2)?|Debug(Identity|Nan|Numeric).*"
    r"|Save(V2|Slices)?|Restore(V2|Slice)?|MergeV2Checkpoints|LoadAndRemapMatrix"
    r"|GenerateVocabRemapping|.*Reader(V2)?|.*Dataset(V\d)?|RemoteCall|_?(Host)?(Send|Recv)"
)
_DRAWS = re.compile(
    r"Random\w*|\w*TruncatedNormal|Multinomial|\w*RandomBinomial|\w*CandidateSampler"
)
_PIPELINE = re.compile(r"\w*Iterator\w*|\w*Dataset(V\d)?|\w*Queue\w*")
# The last step of a pipeline that is in the graph.
_GIVES_DATA = re.compile(r"IteratorGetNext(Sync)?|QueueDequeue(Many|UpTo)?(V2)?")


@cache
def op_definition(op: str) -> Any:
    """Return the OpDef that this TensorFlow knows for an op type, None if it has none.

    Args:
        op: the type, such as ``MatMul``.
    """
    return op_def_registry.get(op)


def has_state(op: str) -> bool:
    """Whether the op type has effects or memory; an unknown one is taken to."""
    definition = op_definition(op)
    return definition is None or bool(definition.is_stateful)


def keeps_state(node: Any) -> bool:
    """Whether a node is, makes or reads a variable, table, queue or other resource.

    Args:
        node: a NodeDef of a type that the registry knows; another one is passed over.
    """
    if node.op == "Placeholder":
        return bool(node.attr["dtype"].type == RESOURCE)
    if node.op.startswith("TensorArray"):
        # TF1's loops collect their results in one, which lasts for one run.
        return False
    definition = op_definition(node.op)
    if definition is None:
        return False
    return any(
        argument.type == RESOURCE
        or (argument.is_ref and node.op not in OLD_CONTROL_FLOW)
        for argument in [*definition.input_arg, *definition.output_arg]
    )


def reaches_out(node: Any) -> bool:
    """Whether running a node reads or writes files, or runs Python.

    Args:
        node: a NodeDef.
    """
    if node.op == "PrintV2" and "output_stream" in node.attr:
        return bool(node.attr["output_stream"].s.startswith(b"file:"))
    return _OUTSIDE.fullmatch(node.op) is not None


def draws(op: str) -> bool:
    """Whether an op type gives other numbers in each run.

    Args:
        op: the type.
    """
    return _DRAWS.fullmatch(op) is not None and has_state(op)


def variable_key(node: Any) -> str:
    """Return a variable node's checkpoint key: its shared name, or else its own.

    Args:
        node: a VarHandleOp or one of TF1's variables; not changed.
    """
    # Asking for an attribute that is not there would make an empty one.
    if "shared_name" in node.attr and node.attr["shared_name"].s:
        return str(node.attr["shared_name"].s.decode())
    return str(node.name)


def split(reference: str) -> tuple[str, int]:
    """Split an input into its node and that node's output; -1 for a control edge.

    Args:
        reference: ``node``, ``node:1`` or ``^node`` in a graph, ``argument`` or
            ``node:result:1`` in a function.
    """
    if reference.startswith("^"):
        return reference[1:], -1
    name, *port = reference.split(":")
    # What is no number is no port either: TensorFlow says so when it imports it.
    is_port = port and port[-1].isdecimal() and len(port[-1]) < _LONGEST_PORT
    return name, int(port[-1]) if is_port else 0


def redirected(reference: str, redirect: Mapping[str, str]) -> str:
    """Follow an input to what stands in its node's place.

    Args:
        reference: as in a graph: ``node``, ``node:1`` or ``^node``.
        redirect: node to the reference that takes the place of its first output.
    """
    name, port = split(reference)
    while port == 0 and name in redirect:
        reference = redirect[name]
        name, port = split(reference)
    while port < 0 and name in redirect:
        name = split(redirect[name])[0]
        reference = f"^{name}"
    return reference


def behind_identities(by_name: Mapping[str, Any], reference: str) -> Any:
    """Return the node that computes an input; None where it is not among those given.

    Args:
        by_name: a graph's nodes.
        reference: as in a graph: ``node``, ``node:1`` or ``^node``.
    """
    node = by_name.get(split(reference)[0])
    while node is not None and node.op == "Identity":
        node = by_name.get(split(node.input[0])[0])
    return node


def renamed(reference: str, names: Mapping[str, str]) -> str:
    """Return an input by its node's new name.

    Args:
        reference: as in a graph: ``node``, ``node:1`` or ``^node``.
        names: node to its new name.
    """
    name, port = split(reference)
    if name not in names:
        return reference
    name = names[name]
    return f"^{name}" if port < 0 else f"{name}:{port}" if port else name


def count_reads(nodes: Iterable[Any]) -> Counter[str]:
    """Count how often each node is read, control edges included.

    Args:
        nodes: a graph's NodeDefs.

    Returns:
        By the name of the node that is read; 0 for any that is not there.
    """
    return Counter(split(reference)[0] for node in nodes for reference in node.input)


def readers(nodes: Iterable[Any]) -> dict[str, list[Any]]:
    """List which nodes read each one, once for each input, control edges included.

    Args:
        nodes: a graph's NodeDefs.

    Returns:
        By the name of the node that is read; those that nothing reads are not there.
    """
    found: dict[str, list[Any]] = {}
    for node in nodes:
        for reference in node.input:
            found.setdefault(split(reference)[0], []).append(node)
    return found


def gives_data(op: str) -> bool:
    """Whether an op type is where a graph that reads its own data gets them.

    Args:
        op: the type.
    """
    return _GIVES_DATA.fullmatch(op) is not None


def is_pipeline(op: str) -> bool:
    """Whether an op type is a data set's, an iterator's or a queue's.

    Args:
        op: the type.
    """
    return _PIPELINE.fullmatch(op) is not None


def gives_nothing(node: Any) -> bool:
    """Whether a node has no output, such as one that only orders others.

    Args:
        node: a NodeDef; one of an unknown type is taken to have some.
    """
    definition = op_definition(node.op)
    if definition is None:
        return False
    return not any(
        node.attr[argument.type_list_attr].list.type
        if argument.type_list_attr in node.attr
        else not argument.type_list_attr
        for argument in definition.output_arg
    )


def has_plain_window(node: Any) -> bool:
    """Whether a convolution has no dilation, and no padding but the two with names.

    Args:
        node: a NodeDef with padding, and dilations perhaps.
    """
    return not is_dilated(node) and node.attr["padding"].s in (b"SAME", b"VALID")


def is_dilated(node: Any) -> bool:
    """Whether a convolution's filter has gaps.

    Args:
        node: a NodeDef, with dilations perhaps.
    """
    dilations = list(node.attr["dilations"].list.i) if "dilations" in node.attr else []
    return not set(dilations) <= {1}


def has_channels_last(node: Any) -> bool:
    """Whether an op on pictures takes them as NHWC, as it does unless it says else.

    Args:
        node: a NodeDef; of volumes, that is NDHWC.
    """
    last = (b"NHWC", b"NDHWC")
    return "data_format" not in node.attr or node.attr["data_format"].s in last


def every_node(graph_def: Any) -> Iterator[Any]:
    """Yield each node of a graph, then those of its functions.

    Args:
        graph_def: a GraphDef.
    """
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def function_attributes(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield each function that a node calls: attribute and its NameAttrList."""
    for attribute in sorted(node.attr):
        value = node.attr[attribute]
        if value.HasField("func"):
            yield attribute, value.func
        for called in value.list.func:
            yield attribute, called


def make_node(op: str, name: str, inputs: Iterable[str] = (), **attrs: Any) -> Any:
    """Build a NodeDef.

    Args:
        op: the type.
        name: the node's name.
        inputs: references to other nodes' outputs.
        attrs: attribute values: AttrValue, or dtype, int, float, bool, bytes,
            TensorShape, or a list of dtypes or of ints.
    """
    node = tf.compat.v1.NodeDef(op=op, name=name, input=list(inputs))
    for key, value in attrs.items():
        node.attr[key].CopyFrom(attribute(value))
    return node


def attribute(value: Any) -> Any:
    """Return the AttrValue of a Python value, dtype, shape, list of dtypes or ints."""
    made = tf.compat.v1.AttrValue()
    if isinstance(value, tf.compat.v1.AttrValue):
        made.CopyFrom(value)
    elif isinstance(value, tf.DType):
        made.type = value.as_datatype_enum
    elif isinstance(value, tf.TensorShape):
        made.shape.CopyFrom(value.as_proto())
    elif isinstance(value, bool):
        made.b = value
    elif isinstance(value, int):
        made.i = value
    elif isinstance(value, float):
        made.f = value
    elif isinstance(value, bytes):
        made.s = value
    elif value and all(isinstance(each, int) for each in value):
        made.list.i.extend(value)
    else:
        made.list.type.extend(dtype.as_datatype_enum for dtype in value)
    return made


def constant(name: str, value: np.ndarray[Any, Any], dtype: tf.DType) -> Any:
    """Build a Const node whose numbers lie where other readers look for them.

    Args:
        name: the node's name.
        value: an array that has the dtype already; any shape.
        dtype: TensorFlow's dtype.
    """
    node = make_node("Const", name, dtype=dtype)
    node.attr["value"].tensor.CopyFrom(tensor_proto(value, dtype))
    return node


def tensor_proto(value: np.ndarray[Any, Any], dtype: tf.DType) -> Any:
    """Return the TensorProto of an array, as TensorFlow's own Python writes it.

    Several numbers are little-endian bytes in ``tensor_content``; a single one stands
    in the list of its dtype, such as ``int_val``. OpenCV's reader takes an axis from
    there without a look, and weights from nowhere but the bytes.
    """
    if dtype == tf.string or value.size == 1:
        return tf.make_tensor_proto(value, dtype, shape=value.shape)
    proto = tf.make_tensor_proto(0, tf.int32)
    proto.Clear()
    proto.dtype = dtype.as_datatype_enum
    proto.tensor_shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    array = np.ascontiguousarray(value)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    proto.tensor_content = array.tobytes()
    return proto


def constant_value(node: Any) -> np.ndarray[Any, Any]:
    """Return the array that a Const node holds."""
    return np.asarray(tf.make_ndarray(node.attr["value"].tensor))


def constant_shape(node: Any) -> tf.TensorShape:
    """Return the shape of what a Const holds; of any other node an unknown one."""
    # Asking for an attribute that is not there would make an empty one.
    if node.op != "Const":
        return tf.TensorShape(None)
    return tf.TensorShape(node.attr["value"].tensor.tensor_shape)


def stated_shape(node: Any) -> tf.TensorShape:
    """Return the shape that a Placeholder says it has; one that says none has any."""
    if "shape" not in node.attr or not node.attr["shape"].HasField("shape"):
        return tf.TensorShape(None)
    return tf.TensorShape(node.attr["shape"].shape)


def empty_like(graph_def: Any) -> Any:
    """Return a GraphDef without nodes, with another's versions and functions."""
    made = tf.compat.v1.GraphDef()
    made.versions.CopyFrom(graph_def.versions)
    if graph_def.HasField("library"):
        made.library.CopyFrom(graph_def.library)
    return made
