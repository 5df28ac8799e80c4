"""What a TF1 Saver's own nodes say of where a checkpoint keeps each variable.

A Saver may call a variable otherwise than the graph does, and one tensor may be kept
whole that the graph holds in parts. Only its restore nodes tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from persist_callbacks.errors import CheckpointDamaged
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import in_order
from persist_callbacks.graph.inference import Stored

_ASSIGNS = ("Assign", "AssignVariableOp")
# What stands between what is read and what is assigned: TF1 puts them there.
_PASSES_ON = ("Identity", "Reshape")


def stored_variables(meta: Any, where: object) -> dict[str, Stored]:
    """Find where a MetaGraphDef's Saver restores each variable from.

    Args:
        meta: a MetaGraphDef.
        where: its file, for errors.

    Returns:
        By `nodes.variable_key`, those that are not kept whole under that very key.

    Raises:
        CheckpointDamaged: the Saver names a part of a tensor in no known way.
    """
    by_name = {node.name: node for node in meta.graph_def.node}
    root = meta.saver_def.restore_op_name
    stored: dict[str, Stored] = {}
    for node in in_order(meta.graph_def.node, [root] if root in by_name else []):
        if node.op not in _ASSIGNS or len(node.input) < 2:
            continue
        variable = by_name.get(nd.split(node.input[0])[0])
        if variable is None or variable.op not in nd.VARIABLES:
            continue
        read = _read(by_name, node.input[1])
        if read is None:
            continue
        tensor, part = read
        key = nd.variable_key(variable)
        found = Stored(tensor, _ranges(part, where))
        if found != Stored(key):
            stored[key] = found
    return stored


def _read(by_name: dict[str, Any], reference: str) -> tuple[str, str] | None:
    """Follow a value back to what reads it; return the tensor's name and the part."""
    name, port = nd.split(reference)
    node = by_name.get(name)
    while node is not None and node.op in _PASSES_ON:
        name, port = nd.split(node.input[0])
        node = by_name.get(name)
    if node is None:
        return None
    if node.op == "RestoreV2":
        names = list(_texts(by_name, node.input[1]))
        parts = list(_texts(by_name, node.input[2]))
    elif node.op in ("Restore", "RestoreSlice"):
        names = list(_texts(by_name, node.input[1]))
        sliced = node.op == "RestoreSlice"
        parts = list(_texts(by_name, node.input[2])) if sliced else [""]
    else:
        return None
    if port >= min(len(names), len(parts)):
        return None
    return names[port], parts[port]


def _texts(by_name: dict[str, Any], reference: str) -> Iterator[str]:
    node = by_name.get(nd.split(reference)[0])
    if node is not None and node.op == "Const":
        for value in nd.constant_value(node).reshape(-1):
            yield bytes(value).decode()


def _ranges(text: str, where: object) -> tuple[tuple[int, int] | None, ...]:
    """Read a part as a Saver writes it: ``10 4 0,5:-``, sizes and then ranges.

    Returns:
        Start and stop for each dimension, None for a whole one; empty for the whole.
    """
    if not text:
        return ()
    *_, ranges = text.split(" ")
    found: list[tuple[int, int] | None] = []
    for each in ranges.split(":"):
        hit = re.fullmatch(r"(\d+),(\d+)", each)
        if hit is None and each != "-":
            raise CheckpointDamaged(
                where,
                expected="parts of tensors such as '10 4 0,5:-'",
                found=repr(text),
                advice="Use another checkpoint.",
            )
        start = int(hit.group(1)) if hit else 0
        found.append((start, start + int(hit.group(2))) if hit else None)
    return tuple(found)
