"""The nodes and records by which a TF1 Saver restores a graph's variables."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import variable_pb2

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.names import unique


def add_saver(meta: Any) -> None:
    """Give a MetaGraphDef what TF1 restores variables with.

    Reading, assigning and initialising nodes for each VarHandleOp, save and restore
    nodes, the SaverDef that names them, and the ``variables`` collections. Tensors in
    the checkpoint go by each variable's ``shared_name``.

    Args:
        meta: a MetaGraphDef with a graph; changed.
    """
    handles = [node for node in meta.graph_def.node if node.op == "VarHandleOp"]
    handles.sort(key=lambda node: bytes(node.attr["shared_name"].s))
    scopes = {node.name.split("/")[0] for node in meta.graph_def.node}
    scope = unique("save", scopes)
    add = _Adder(meta.graph_def)
    filename = add("Const", f"{scope}/Const", dtype=tf.string)
    filename.attr["value"].tensor.CopyFrom(
        nd.tensor_proto(np.array(b"model"), tf.string)
    )
    keys = [bytes(node.attr["shared_name"].s) for node in handles]
    dtypes = [tf.as_dtype(node.attr["dtype"].type) for node in handles]
    reads = [_variable_nodes(add, meta, node) for node in handles]
    _save_nodes(add, scope, keys, dtypes, reads)
    assigns = _restore_nodes(add, scope, keys, dtypes, handles)
    add("NoOp", f"{scope}/restore_all", [f"^{name}" for name in assigns])
    saver = meta.saver_def
    saver.filename_tensor_name = f"{scope}/Const:0"
    saver.save_tensor_name = f"{scope}/control_dependency:0"
    saver.restore_op_name = f"{scope}/restore_all"
    saver.max_to_keep = 5
    saver.keep_checkpoint_every_n_hours = 10000.0
    saver.version = tf.compat.v1.train.SaverDef.V2


class _Adder:
    """Adds nodes to a graph under names that nothing else in it has."""

    def __init__(self, graph_def: Any) -> None:
        self._graph_def = graph_def
        self._taken = {node.name for node in graph_def.node}

    def __call__(self, op: str, name: str, inputs: Any = (), **attrs: Any) -> Any:
        name = unique(name, self._taken)
        self._taken.add(name)
        node = self._graph_def.node.add()
        node.CopyFrom(nd.make_node(op, name, inputs, **attrs))
        return node


def _variable_nodes(add: _Adder, meta: Any, handle: Any) -> str:
    """Add a variable's read and its initialiser to zeros; return the read's name."""
    dtype = tf.as_dtype(handle.attr["dtype"].type)
    sizes = [dim.size for dim in handle.attr["shape"].shape.dim]
    base = f"{handle.name}/Initializer/zeros"
    dims = add("Const", f"{base}/shape_as_tensor", dtype=tf.int32)
    dims.attr["value"].tensor.CopyFrom(
        nd.tensor_proto(np.array(sizes, np.int32), tf.int32)
    )
    zero = add("Const", f"{base}/Const", dtype=dtype)
    nothing = (
        np.array(b"") if dtype == tf.string else np.zeros((), dtype.as_numpy_dtype)
    )
    zero.attr["value"].tensor.CopyFrom(nd.tensor_proto(nothing, dtype))
    zeros = add("Fill", base, [dims.name, zero.name], T=dtype)
    assign = add(
        "AssignVariableOp",
        f"{handle.name}/Assign",
        [handle.name, zeros.name],
        dtype=dtype,
    )
    read = add(
        "ReadVariableOp",
        f"{handle.name}/Read/ReadVariableOp",
        [handle.name],
        dtype=dtype,
    )
    record = variable_pb2.VariableDef(
        variable_name=f"{handle.name}:0",
        initial_value_name=f"{zeros.name}:0",
        initializer_name=assign.name,
        snapshot_name=f"{read.name}:0",
        is_resource=True,
        trainable=True,
    )
    for collection in ("variables", "trainable_variables"):
        values = meta.collection_def[collection].bytes_list.value
        values.append(record.SerializeToString(deterministic=True))
    return str(read.name)


def _save_nodes(
    add: _Adder, scope: str, keys: list[bytes], dtypes: list[Any], reads: list[str]
) -> None:
    names, slices = _keys_and_slices(add, f"{scope}/SaveV2", keys)
    if keys:
        add(
            "SaveV2",
            f"{scope}/SaveV2",
            [f"{scope}/Const", names, slices, *reads],
            dtypes=dtypes,
        )
    after = [f"^{scope}/SaveV2"] if keys else []
    add(
        "Identity",
        f"{scope}/control_dependency",
        [f"{scope}/Const", *after],
        T=tf.string,
    )


def _restore_nodes(
    add: _Adder, scope: str, keys: list[bytes], dtypes: list[Any], handles: list[Any]
) -> list[str]:
    """Add RestoreV2 and an assignment for each variable; return the latters' names."""
    if not keys:
        return []
    names, slices = _keys_and_slices(add, f"{scope}/RestoreV2", keys)
    restore = add(
        "RestoreV2",
        f"{scope}/RestoreV2",
        [f"{scope}/Const", names, slices],
        dtypes=dtypes,
    )
    assigns = []
    for index, (handle, dtype) in enumerate(zip(handles, dtypes, strict=True)):
        value = restore.name if index == 0 else f"{restore.name}:{index}"
        assign = add(
            "AssignVariableOp",
            f"{scope}/AssignVariableOp_{index}",
            [handle.name, value],
            dtype=dtype,
        )
        assigns.append(str(assign.name))
    return assigns


def _keys_and_slices(add: _Adder, stem: str, keys: list[bytes]) -> tuple[str, str]:
    """Add the constants that SaveV2 and RestoreV2 read their tensors' names from."""
    arrays = {"tensor_names": keys, "shape_and_slices": [b""] * len(keys)}
    names = []
    for name, values in arrays.items():
        node = add("Const", f"{stem}/{name}", dtype=tf.string)
        array = np.array(values, dtype=object)
        node.attr["value"].tensor.CopyFrom(nd.tensor_proto(array, tf.string))
        names.append(str(node.name))
    return names[0], names[1]
