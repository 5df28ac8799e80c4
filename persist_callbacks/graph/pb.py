"""The bytes of a PB, and what a file is that is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from persist_callbacks.errors import NotAFrozenGraph
from persist_callbacks.graph import nodes as nd

ADVICE = "Give the path of a PB that FrozenGraphExport or freeze() wrote."


def read(path: Path) -> tuple[Any, bytes]:
    """Read a PB; return its GraphDef and bytes.

    Args:
        path: the file.

    Raises:
        NotAFrozenGraph: the file is something else; it says what.
    """

    def refusal(found: str, advice: str = ADVICE) -> NotAFrozenGraph:
        expected = "a frozen graph (.pb)"
        return NotAFrozenGraph(path, expected=expected, found=found, advice=advice)

    if path.is_dir():
        raise refusal("a folder", "Give the .pb file itself.")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise refusal("no file") from error
    except OSError as error:
        raise refusal(f"a file that cannot be read ({error.strerror})") from error
    if not data:
        raise refusal("an empty file")
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(data)
        if any(node.op and node.name for node in graph_def.node):
            return graph_def, data
        found = "bytes that hold no graph"
    except DecodeError:
        found = f"{len(data)} bytes that are no GraphDef"
    # Only now: a graph's own first bytes may be a line break and this sign too.
    if data.lstrip()[:1] == b"<":
        raise refusal("HTML or XML text", "The download failed: fetch the file again.")
    if _is_saved_model(data):
        raise refusal(
            "a SavedModel's saved_model.pb, whose weights lie in other files",
            "Load the folder with tf.saved_model.load, or export the model as a PB.",
        )
    raise refusal(found)


def _is_saved_model(data: bytes) -> bool:
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(data)
    except DecodeError:
        return False
    return any(meta.graph_def.node for meta in model.meta_graphs)


def refuse_state(graph_def: Any, where: str) -> None:
    """Refuse a graph whose numbers are not all inside it.

    Args:
        graph_def: a GraphDef.
        where: the file, for the error.

    Raises:
        NotAFrozenGraph: a node is a variable, a table or another resource, or does
            more than arithmetic: it would read or write files, or run Python.
    """
    for node in nd.every_node(graph_def):
        if nd.reaches_out(node):
            raise NotAFrozenGraph(
                where,
                expected="a graph that computes, and no more",
                found=f"{node.name!r} ({node.op}), which reaches out of it",
                advice="Do not run this file unless you know who made it.",
            )
        if nd.keeps_state(node):
            raise NotAFrozenGraph(
                where,
                expected="a graph of constants",
                found=f"{node.name!r} ({node.op}), whose value lies elsewhere",
                advice="Freeze it: persist_callbacks.freeze(checkpoint, path).",
            )
