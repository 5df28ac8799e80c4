"""The inference graph to and from a ``.meta`` file: a serialised MetaGraphDef."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import tensorflow as tf
from google.protobuf.message import DecodeError

from persist_callbacks.errors import CheckpointDamaged
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import canonical, serialize
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.legacy_calls import as_partitioned_calls
from persist_callbacks.graph.restoring import stored_variables
from persist_callbacks.graph.saver import add_saver
from persist_callbacks.graph.tables import filled_tables, replace_lookups
from persist_callbacks.records import TensorInfo

_SIGNATURE = "serving_default"
_COLLECTION = "persist_callbacks"


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    """What a SignatureDef cannot say: the order of its maps, and the users' names."""

    inputs: list[str]
    outputs: list[str]
    original_names: dict[str, str]


def to_meta(graph: InferenceGraph) -> bytes:
    """Return the bytes of a ``.meta`` that TensorFlow 1 and 2 can import and restore.

    Args:
        graph: the inference graph.

    Returns:
        A serialised MetaGraphDef; equal bytes for equal graphs.
    """
    meta = tf.compat.v1.MetaGraphDef()
    meta.meta_info_def.tensorflow_version = tf.__version__
    meta.meta_info_def.stripped_default_attrs = True
    meta.meta_info_def.tags.append("serve")
    meta.graph_def.CopyFrom(graph.graph_def)
    add_saver(meta)
    signature = meta.signature_def[_SIGNATURE]
    signature.method_name = "tensorflow/serving/predict"
    for info in graph.inputs:
        _put(signature.inputs[info.name], info)
    for info in graph.outputs:
        _put(signature.outputs[info.name], info)
    order = _Order(
        inputs=[info.name for info in graph.inputs],
        outputs=[info.name for info in graph.outputs],
        original_names=dict(sorted(graph.original_names.items())),
    )
    meta.collection_def[_COLLECTION].bytes_list.value.append(msgspec.json.encode(order))
    return serialize(meta)


def from_meta(data: bytes, where: object) -> InferenceGraph:
    """Return the inference graph that a ``.meta`` holds.

    Args:
        data: the file's bytes.
        where: the file, for errors.

    Returns:
        The graph that `to_meta` was given. For a ``.meta`` that is not ours and has
        no signature: no outputs, the placeholders as inputs, and every node.

    Raises:
        CheckpointDamaged: the bytes are no MetaGraphDef.
    """
    meta = tf.compat.v1.MetaGraphDef()
    try:
        meta.ParseFromString(data)
    except DecodeError as error:
        raise _damaged(where, f"{len(data)} bytes that are none") from error
    if not meta.graph_def.node:
        raise _damaged(where, "one without a graph")
    try:
        return _read(meta, where)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        # What no graph has: types that are none, sizes below zero.
        raise _damaged(where, f"one that makes no sense: {error}") from error


def _read(meta: Any, where: object) -> InferenceGraph:
    graph_def = as_partitioned_calls(meta.graph_def)
    signature = meta.signature_def.get(_SIGNATURE)
    order = _order(meta, signature, where)
    by_name = {node.name: node for node in graph_def.node}
    absent = [name for name in [*order.inputs, *order.outputs] if name not in by_name]
    if absent:
        raise _damaged(where, f"a signature that names {absent[0]!r}, not in its graph")
    if signature is None:
        inputs = tuple(_placeholder(by_name[name]) for name in order.inputs)
        outputs: tuple[TensorInfo, ...] = ()
        # Unpruned: only the caller knows which of these nodes are outputs.
        kept = replace_lookups(graph_def, filled_tables(graph_def))
    else:
        inputs = _infos(signature.inputs, order.inputs)
        outputs = _infos(signature.outputs, order.outputs)
        kept = canonical(graph_def, inputs=order.inputs, outputs=order.outputs)
    return InferenceGraph(
        graph_def=kept,
        inputs=inputs,
        outputs=outputs,
        variables=_variables(kept),
        original_names=order.original_names,
        stored=stored_variables(meta, where),
    )


def _order(meta: Any, signature: Any, where: object) -> _Order:
    """Return our own record of the names, or what the graph and signature tell."""
    if _COLLECTION in meta.collection_def and signature is not None:
        values = meta.collection_def[_COLLECTION].bytes_list.value
        try:
            order = msgspec.json.decode(values[0], type=_Order)
        except (IndexError, msgspec.DecodeError) as error:
            raise _damaged(where, f"a {_COLLECTION} record that is not") from error
        known = (set(signature.inputs), set(signature.outputs))
        if (set(order.inputs), set(order.outputs)) != known:
            raise _damaged(where, "a signature that its own record contradicts")
        return order
    if signature is not None:
        names = [
            [kind[key].name.removesuffix(":0") for key in sorted(kind)]
            for kind in (signature.inputs, signature.outputs)
        ]
        return _Order(inputs=names[0], outputs=names[1], original_names={})
    # A Saver's own placeholders stand under the same scope as its file name.
    scope = meta.saver_def.filename_tensor_name.rpartition("/")[0] or "save"
    placeholders = [
        node.name
        for node in meta.graph_def.node
        if node.op in ("Placeholder", "PlaceholderWithDefault")
        and not node.name.startswith(f"{scope}/")
    ]
    return _Order(inputs=placeholders, outputs=[], original_names={})


def _damaged(where: object, found: str) -> CheckpointDamaged:
    return CheckpointDamaged(
        where,
        expected="a MetaGraphDef (.meta) with a graph",
        found=found,
        advice="Use another checkpoint.",
    )


def _put(target: Any, info: TensorInfo) -> None:
    target.name = f"{info.name}:0"
    target.dtype = tf.as_dtype(info.dtype).as_datatype_enum
    target.tensor_shape.CopyFrom(tf.TensorShape(info.shape).as_proto())


def _infos(kind: Any, names: Sequence[str]) -> tuple[TensorInfo, ...]:
    """Return a signature's tensors in the order of their names."""
    by_tensor = {value.name.removesuffix(":0"): value for value in kind.values()}
    return tuple(
        TensorInfo(
            name,
            _sizes(by_tensor[name].tensor_shape),
            tf.as_dtype(by_tensor[name].dtype).name,
        )
        for name in names
    )


def _sizes(proto: Any) -> tuple[int | None, ...] | None:
    shape = tf.TensorShape(proto)
    return None if shape.rank is None else tuple(shape.as_list())


def _placeholder(node: Any) -> TensorInfo:
    dtype = tf.as_dtype(node.attr["dtype"].type).name
    return TensorInfo(node.name, _sizes(nd.stated_shape(node)), dtype)


def _variables(graph_def: Any) -> tuple[TensorInfo, ...]:
    """Return the variables of a graph by checkpoint key, sorted."""
    found = {}
    for node in graph_def.node:
        if node.op in nd.VARIABLES:
            key = nd.variable_key(node)
            found[key] = TensorInfo(
                key,
                _sizes(node.attr["shape"].shape),
                tf.as_dtype(node.attr["dtype"].type).name,
            )
    return tuple(found[key] for key in sorted(found))
