"""Variables to constants: our own surgery on the graph and on the functions it calls.

TensorFlow's converter lowers loops, renames inputs and outputs, and lets what it does
not know pass. Here every op that touches a variable is one that we know, or a refusal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.errors import (
    ArchitectureMismatch,
    ArgumentError,
    CheckpointDamaged,
    TensorNotFound,
    UnsupportedGraph,
)
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.candidates import likely_outputs
from persist_callbacks.graph.canonical import canonical, in_order
from persist_callbacks.graph.cutting import refuse_pipelines
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.names import without_port
from persist_callbacks.graph.ordering import without_order
from persist_callbacks.graph.rewriting import Rewriter

# Candidates that an error lists.
_LISTED = 12
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
    own = {id(node) for node in rewriter.nodes}
    keys = {node.name: key for key, node in rewriter.constants if id(node) in own}
    result = _finished(graph, rewriter, wanted)
    # Last, so that nothing copies the values.
    for node in result.node:
        if node.name in keys:
            _fill(node, values[keys[node.name]])
    return result


def check_freezable(graph: InferenceGraph) -> None:
    """Refuse a graph that `freeze` would refuse, without any values.

    Args:
        graph: the inference graph.

    Raises:
        UnsupportedGraph: something in the graph cannot be a constant.
    """
    _rewritten(graph, [info.name for info in graph.outputs])


def check_size(graph: InferenceGraph) -> None:
    """Refuse a graph whose variables no PB can hold, without any values.

    Args:
        graph: the inference graph.

    Raises:
        UnsupportedGraph: its outputs need more bytes than that.
    """
    needed = set(needed_variables(graph, [info.name for info in graph.outputs]))
    size = 0
    for info in graph.variables:
        if info.name in needed and info.shape is not None and None not in info.shape:
            count = tf.TensorShape(info.shape).num_elements() or 0
            size += count * tf.as_dtype(info.dtype).size
    _refuse_too_big(size)


def needed_variables(graph: InferenceGraph, outputs: Sequence[str]) -> list[str]:
    """Return the keys of those variables that outputs depend on, sorted.

    Args:
        graph: the inference graph; one that trains has many more.
        outputs: nodes that are wanted.

    Raises:
        UnsupportedGraph: something in the graph cannot be a constant.
    """
    return sorted({key for key, _ in _rewritten(graph, outputs).constants})


def take_defaults(graph: InferenceGraph, keep: Sequence[str]) -> InferenceGraph:
    """Let inputs that have a default take it, such as a flag for training.

    Args:
        graph: the inference graph; not changed.
        keep: names of inputs that stay inputs.
    """
    graph_def = tf.compat.v1.GraphDef()
    graph_def.CopyFrom(graph.graph_def)
    taken = set()
    for node in graph_def.node:
        if node.op == "PlaceholderWithDefault" and node.name not in keep:
            taken.add(node.name)
            dtype = tf.as_dtype(node.attr["dtype"].type)
            node.CopyFrom(nd.make_node("Identity", node.name, node.input, T=dtype))
    if not taken:
        return graph
    inputs = tuple(info for info in graph.inputs if info.name not in taken)
    return dataclasses.replace(graph, graph_def=graph_def, inputs=inputs)


def resolve_outputs(graph: InferenceGraph, outputs: Sequence[str] | None) -> list[str]:
    """Return the nodes that are wanted as outputs.

    Args:
        graph: the inference graph.
        outputs: names, with or without ``:0``; None for the graph's own.

    Returns:
        Each once, in the order in which they are named first.

    Raises:
        ArgumentError: the names are no list of strings.
        TensorNotFound: a name is not in the graph, or gives no tensor, or the graph
            does not say any.
    """
    if outputs is None:
        outputs = [info.name for info in graph.outputs]
    check_names("outputs", outputs)
    by_name = {node.name: node for node in graph.graph_def.node}
    if not outputs:
        raise TensorNotFound(
            "outputs",
            expected="names of outputs, as the graph does not say which they are",
            found="none",
            advice=f"Name some; likely ones are: {_candidates(graph)}.",
        )
    by_user = {original: name for name, original in graph.original_names.items()}
    wanted = []
    for output in outputs:
        name = without_port(output)
        name = name if name in by_name else by_user.get(name, name)
        if name not in by_name:
            raise TensorNotFound(
                output,
                expected=f"an output of the graph: {_candidates(graph)}",
                found=f"no node of that name among {len(by_name)}",
                advice="Name one of these, or any node of the graph.",
            )
        if nd.gives_nothing(by_name[name]):
            raise TensorNotFound(
                output,
                expected=f"an output of the graph: {_candidates(graph)}",
                found=f"a {by_name[name].op} of that name, which gives no tensor",
                advice="Name one of these, or another node of the graph.",
            )
        wanted.append(name)
    return list(dict.fromkeys(wanted))


def check_names(argument: str, names: Any) -> None:
    """Refuse what is no list of names, such as a name alone.

    Args:
        argument: what it was given as.
        names: None for none.

    Raises:
        ArgumentError: it is something else.
    """
    if names is None:
        return
    is_list = isinstance(names, Sequence) and not isinstance(names, str | bytes)
    if not is_list or not all(isinstance(each, str) for each in names):
        raise ArgumentError(
            argument,
            expected='a list of names, such as ["predictions"]',
            found=repr(names),
            advice="Give the names of nodes, also where it is only one.",
        )


def _candidates(graph: InferenceGraph) -> str:
    """List a graph's outputs; of a graph that says none, what they may be."""
    if graph.outputs:
        return ", ".join(info.name for info in graph.outputs)
    types = {node.name: node.op for node in graph.graph_def.node}
    names = likely_outputs(graph.graph_def, [info.name for info in graph.inputs])
    listed = [f"{name} ({types[name]})" for name in names[:_LISTED]]
    return ", ".join(listed) or "none that depends on an input"


def _rewritten(graph: InferenceGraph, wanted: Sequence[str]) -> Rewriter:
    """Rewrite what the outputs need; the constants have no values yet."""
    rewriter = Rewriter(graph)
    needed = in_order(without_order(graph.graph_def, wanted), wanted)
    refuse_pipelines(needed)
    rewriter.rewrite(needed)
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
    _refuse_too_big(sum(np.asarray(values[key]).nbytes for key in needed))


def _refuse_too_big(size: int) -> None:
    if size > _MAX_BYTES:
        raise UnsupportedGraph(
            "graph",
            expected="constants of less than 2 GiB together, protobuf's limit for a PB",
            found=f"{size} bytes",
            advice="Export in float16 or bfloat16, or serve the checkpoint itself.",
        )


def _fill(node: Any, value: Any) -> None:
    """Give a Const its value."""
    dtype = tf.as_dtype(node.attr["dtype"].type)
    array = np.asarray(value)
    if dtype != tf.string:
        array = array.astype(dtype.as_numpy_dtype, copy=False)
    node.attr["value"].tensor.CopyFrom(nd.tensor_proto(array, dtype))
