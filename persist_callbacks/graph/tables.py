"""Lookup tables as constants: a hash that TensorFlow has as an op, and comparisons.

A table's keys are sorted by bucket. A lookup hashes what it is asked for, compares it
with the few keys of its bucket, and takes the value of the one that is equal: exactly
what the table would have given, in ops that hold no state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import in_order
from persist_callbacks.graph.writing import Writer, rewritten

_MAKES = ("HashTableV2", "HashTable", "MutableHashTableV2", "MutableHashTable")
_FILLS = ("InitializeTableV2", "InitializeTable", "LookupTableImportV2")
_FINDS = ("LookupTableFindV2", "LookupTableFind")
# What TF1 makes a table's numbers of: the places of its keys, by Cast of a Range.
_OF_CONSTANTS = frozenset(
    [
        *("Add", "AddV2", "AsString", "Cast", "ConcatV2", "Const", "ExpandDims"),
        *("Identity", "Mul", "Pack", "Range", "Reshape", "Size", "Sub"),
    ]
)
_SIZES = ("LookupTableSizeV2", "LookupTableSize")


@dataclass(frozen=True)
class Table:
    """What a lookup table holds.

    Args:
        keys: integers or strings, one dimension, all different.
        values: of any dtype, one for each key.
    """

    keys: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]

    @property
    def is_plain(self) -> bool:
        """Whether lookups in it can be rewritten."""
        kind = self.keys.dtype.kind
        return kind in "iuOS" and self.keys.shape == self.values.shape


def live_table(handle: Any, reader: Any) -> Table | None:
    """Read a live table; None if it is none, or not of the kind that can be rewritten.

    Args:
        handle: an eager resource tensor.
        reader: a node that looks something up in it.
    """
    if reader.op not in _FINDS:
        return None
    try:
        keys, values = tf.raw_ops.LookupTableExportV2(
            table_handle=handle,
            Tkeys=tf.as_dtype(reader.attr["Tin"].type),
            Tvalues=tf.as_dtype(reader.attr["Tout"].type),
        )
    except tf.errors.OpError:
        return None
    table = Table(keys.numpy(), values.numpy())
    return table if table.is_plain else None


def filled_tables(graph_def: Any) -> dict[str, Table]:
    """Find the tables of a graph that its own initialisers fill from constants.

    Args:
        graph_def: a GraphDef with the initialisers in it.

    Returns:
        By the name of the node that makes the table.
    """
    by_name = {node.name: node for node in graph_def.node}
    found: dict[str, list[Table]] = {}
    for node in graph_def.node:
        if node.op not in _FILLS:
            continue
        table, *sources = (nd.behind_identities(by_name, ref) for ref in node.input[:3])
        if table is None or table.op not in _MAKES:
            continue
        arrays = [_computed(graph_def, source) for source in sources]
        found.setdefault(table.name, []).append(Table(*arrays))
    # One that is filled from a file, or twice, is not known from the graph alone.
    return {
        name: tables[0]
        for name, tables in found.items()
        if len(tables) == 1 and tables[0].is_plain
    }


def replace_lookups(graph_def: Any, tables: Mapping[str, Table]) -> Any:
    """Rewrite what reads tables, each into constants and ops without state.

    Args:
        graph_def: a GraphDef; not changed. Its functions are left as they are.
        tables: tables by the name of the node that stands for each.

    Returns:
        A GraphDef in which nothing but other uses reads those nodes any more.
    """

    def write(node: Any, writer: Writer) -> None:
        table = tables.get(nd.split(node.input[0])[0]) if node.input else None
        if table is not None and node.op in _FINDS:
            _find(node, table, writer)
        elif table is not None and node.op in _SIZES:
            writer.constant("", np.array(len(table.keys), np.int64))

    return rewritten(graph_def, write)


def _computed(graph_def: Any, source: Any) -> np.ndarray[Any, Any]:
    """Return what a node gives that depends on constants alone; else what fits none."""
    unknown = np.zeros((0, 0))
    if source is None:
        return unknown
    if source.op == "Const":
        return nd.constant_value(source)
    needed = in_order(graph_def.node, [source.name])
    if any(node.op not in _OF_CONSTANTS for node in needed):
        return unknown
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(tf.compat.v1.GraphDef(node=needed), name="")
    with tf.compat.v1.Session(graph=graph) as session:
        return np.asarray(session.run(f"{source.name}:0"))


def _find(node: Any, table: Table, writer: Writer) -> None:
    """Write the nodes that stand in a lookup's place."""
    add, constant = writer.add, writer.constant
    wanted, default = node.input[1], node.input[2]
    key_type = tf.as_dtype(node.attr["Tin"].type)
    value_type = tf.as_dtype(node.attr["Tout"].type)
    i64 = tf.int64

    if not len(table.keys):
        # Nothing is found: the default, in the shape of what is looked up.
        shape = add("Shape", "shape", wanted, T=key_type, out_type=tf.int32)
        add("BroadcastTo", "", default, shape, T=value_type, Tidx=tf.int32)
        return

    starts, widest, order = _buckets(table.keys, key_type)
    keys = constant("keys", table.keys[order], key_type)
    values = constant("values", table.values[order], value_type)
    first = constant("first_of_bucket", starts, i64)
    steps = constant("steps", np.arange(widest, dtype=np.int64), i64)
    last = constant("last", np.int64(len(table.keys) - 1), i64)
    zero, one = constant("zero", np.int64(0), i64), constant("one", np.int64(1), i64)
    axis = constant("axis", np.int32(0), tf.int32)
    inner = constant("inner_axis", np.int32(-1), tf.int32)

    def gather(name: str, array: str, at: str, dtype: Any) -> str:
        types = {"Tparams": dtype, "Tindices": i64, "Taxis": tf.int32}
        return add("GatherV2", name, array, at, axis, **types)

    if key_type == tf.string:
        bucket = add(
            "StringToHashBucketFast", "bucket", wanted, num_buckets=len(starts)
        )
    else:
        count = np.asarray(len(starts), key_type.as_numpy_dtype)
        buckets = constant("buckets", count, key_type)
        bucket = add("FloorMod", "remainder", wanted, buckets, T=key_type)
        bucket = add("Cast", "bucket", bucket, SrcT=key_type, DstT=i64)
    start = gather("first", first, bucket, i64)
    start = add("ExpandDims", "first_column", start, inner, T=i64, Tdim=tf.int32)
    at = add("AddV2", "candidates", start, steps, T=i64)
    at = add("Minimum", "within", at, last, T=i64)
    asked = add("ExpandDims", "asked", wanted, inner, T=key_type, Tdim=tf.int32)
    equal = add("Equal", "equal", gather("near", keys, at, key_type), asked, T=key_type)
    # One more than the place of the equal key, 0 where there is none.
    hit = add("Cast", "hit", equal, SrcT=tf.bool, DstT=i64)
    hit = add("Mul", "place", hit, add("AddV2", "places", at, one, T=i64), T=i64)
    hit = add("Max", "found_place", hit, inner, T=i64, Tidx=tf.int32)
    there = add("Greater", "found", hit, zero, T=i64)
    place = add("Maximum", "safe_place", hit, one, T=i64)
    place = add("Sub", "index", place, one, T=i64)
    value = gather("value", values, place, value_type)
    add("SelectV2", "", there, value, default, T=value_type)


def _buckets(keys: Any, dtype: Any) -> tuple[Any, int, Any]:
    """Sort keys by bucket.

    Returns:
        Where each bucket begins, how many keys the fullest has, and the keys' order.
    """
    count = 2 ** int(2 * len(keys) - 1).bit_length()
    if dtype == tf.string:
        bucket = tf.strings.to_hash_bucket_fast(keys, count).numpy()
    else:
        count = min(count, int(np.iinfo(dtype.as_numpy_dtype).max))
        bucket = np.asarray(keys) % np.asarray(count, keys.dtype)
    order = np.argsort(bucket, kind="stable")
    sizes = np.bincount(bucket, minlength=count)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    return starts, int(np.max(sizes)), order
