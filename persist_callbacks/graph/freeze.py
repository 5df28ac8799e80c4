"""Variables to constants: our own surgery on the graph and on the functions it calls.

TensorFlow's converter lowers loops, renames inputs and outputs, and lets what it does
not know pass. Here every op that touches a variable is one that we know, or a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.errors import (
    ArchitectureMismatch,
    CheckpointDamaged,
    TensorNotFound,
    UnsupportedGraph,
)
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import canonical, in_order
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.names import without_port
from persist_callbacks.graph.rewriting import Rewriter

# protobuf's own limit; the graph's nodes need some of it beside the values.
_MAX_BYTES = 2**31 - 1 - 2**20


def freeze(
    graph: InferenceGraph,
    values: Mapping[str, np.ndarray[Any, Any]],
    *,
    outputs: Sequence[str] | None = None,
) -> Any:
    """Return the graph with each variable a constant.

    Args:
        graph: the inference graph.
        values: an array for each of the graph's variables, by checkpoint key.
        outputs: nodes whose results are wanted; None for the graph's own outputs.

    Returns:
        A GraphDef, canonical; its inputs are the graph's, all of them.

    Raises:
        TensorNotFound: an output is not in the graph.
        CheckpointDamaged: a variable has no value.
        ArchitectureMismatch: a value has another shape or dtype than its variable.
        UnsupportedGraph: something in the graph cannot be a constant, or is too big.
    """
    wanted = resolve_outputs(graph, outputs)
    rewriter = _rewritten(graph, wanted)
    needed = {key for key, _ in rewriter.constants}
    _check_values(graph, values, needed)
    for key, node in rewriter.constants:
        dtype = tf.as_dtype(node.attr["dtype"].type)
        array = _in_dtype(values[key], dtype)
        node.attr["value"].tensor.CopyFrom(nd.tensor_proto(array, dtype))
    return _finished(graph, rewriter, wanted)


def check_freezable(graph: InferenceGraph) -> None:
    """Refuse a graph that `freeze` would refuse, without any values.

    Args:
        graph: the inference graph.

    Raises:
        UnsupportedGraph: something in the graph cannot be a constant.
    """
    _rewritten(graph, [info.name for info in graph.outputs])


def resolve_outputs(graph: InferenceGraph, outputs: Sequence[str] | None) -> list[str]:
    """Return the nodes that are wanted as outputs.

    Args:
        graph: the inference graph.
        outputs: names, with or without ``:0``; None for the graph's own.

    Raises:
        TensorNotFound: a name is not in the graph, or the graph does not say any.
    """
    if outputs is None:
        outputs = [info.name for info in graph.outputs]
    named = [info.name for info in graph.outputs]
    read = {nd.split(ref)[0] for node in graph.graph_def.node for ref in node.input}
    candidates = named or [
        node.name for node in graph.graph_def.node if node.name not in read
    ]
    listed = ", ".join(candidates[:20])
    if not outputs:
        raise TensorNotFound(
            "outputs",
            expected="names of outputs, as the graph does not say which they are",
            found="none",
            advice=f"Name them; nodes that nothing reads: {listed}.",
        )
    by_user = {original: name for name, original in graph.original_names.items()}
    there = {node.name for node in graph.graph_def.node}
    wanted = []
    for output in outputs:
        name = without_port(output)
        name = name if name in there else by_user.get(name, name)
        if name not in there:
            raise TensorNotFound(
                output,
                expected=f"an output of the graph: {listed}",
                found=f"no node of that name among {len(there)}",
                advice="Name one of these, or any node of the graph.",
            )
        wanted.append(name)
    return wanted


def _rewritten(graph: InferenceGraph, wanted: Sequence[str]) -> Rewriter:
    """Rewrite what the outputs need; the constants have no values yet."""
    rewriter = Rewriter(graph)
    rewriter.rewrite(in_order(graph.graph_def.node, wanted))
    return rewriter


def _finished(graph: InferenceGraph, rewriter: Rewriter, wanted: Sequence[str]) -> Any:
    """Put the rewritten nodes and functions in one GraphDef, with every input."""
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph.graph_def.versions)
    result.node.extend(rewriter.nodes)
    present = {node.name for node in rewriter.nodes}
    inputs = [info.name for info in graph.inputs]
    for node in graph.graph_def.node:
        if node.name in inputs and node.name not in present:
            result.node.add().CopyFrom(node)
    result.library.function.extend(rewriter.functions.values())
    return canonical(result, inputs=inputs, outputs=wanted)


def _check_values(
    graph: InferenceGraph, values: Mapping[str, Any], needed: set[str]
) -> None:
    """Refuse values that are missing, of another shape or dtype, or too big a PB."""
    missing = sorted(needed - set(values))
    if missing:
        raise CheckpointDamaged(
            missing[0],
            expected=f"a value for each of {len(needed)} variables",
            found=f"none for {len(missing)} of them: {', '.join(missing[:5])}",
            advice="Freeze a checkpoint that was written with this graph.",
        )
    infos = {info.name: info for info in graph.variables}
    for key in sorted(needed & set(infos)):
        info, array = infos[key], np.asarray(values[key])
        fits = info.shape is None or (
            len(info.shape) == array.ndim
            and all(
                want in (None, have)
                for want, have in zip(info.shape, array.shape, strict=True)
            )
        )
        dtype = tf.as_dtype(info.dtype)
        if not fits or (dtype != tf.string and tf.as_dtype(array.dtype) != dtype):
            raise ArchitectureMismatch(
                key,
                expected=f"{info}",
                found=f"{tf.as_dtype(array.dtype).name}{list(array.shape)}",
                advice="The values belong to another model than the graph.",
            )
    size = sum(np.asarray(values[key]).nbytes for key in needed)
    if size > _MAX_BYTES:
        raise UnsupportedGraph(
            "graph",
            expected="constants of less than 2 GiB together, protobuf's limit for a PB",
            found=f"{size} bytes",
            advice="Export in float16 or bfloat16, or serve the checkpoint itself.",
        )


def _in_dtype(value: Any, dtype: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(value)
    return array if dtype == tf.string else array.astype(dtype.as_numpy_dtype)
