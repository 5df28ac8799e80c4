"""Graphs that are fed in their midst: the step after a pipeline becomes an input."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from persist_callbacks.errors import TensorNotFound, UnsupportedGraph
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import in_order
from persist_callbacks.graph.frozen import info_of
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.names import unique, without_port
from persist_callbacks.records import TensorInfo

# What a node is called of which some results are fed and others are not.
_UNCUT = "/uncut"
_Tensor = tuple[str, int]


def cut_at(graph: InferenceGraph, inputs: Sequence[str] | None) -> InferenceGraph:
    """Make inputs of tensors that are none, such as what an iterator gives.

    Args:
        graph: the inference graph; not changed.
        inputs: names of tensors, with or without ``:0``; those that are inputs already
            are passed over.

    Returns:
        A graph with further inputs. One that a node gives beside its first is called
        ``node_1``, and ``node:1`` is its original name.

    Raises:
        TensorNotFound: there is no such node, or it has no such output, or one of
            neither numbers nor text.
        UnsupportedGraph: this TensorFlow does not know what leads there.
    """
    known = {info.name for info in graph.inputs} | set(graph.original_names.values())
    by_name = {node.name: node for node in graph.graph_def.node}
    cuts = {}
    for name in map(without_port, inputs or ()):
        tensor = nd.split(name)
        if name in known:
            continue
        if tensor[0] not in by_name or tensor[1] < 0:
            listed = ", ".join(_data_of(graph.graph_def.node) or sorted(known))
            raise TensorNotFound(
                name,
                expected=f"an input of the graph: {listed or 'it has none'}",
                found=f"no input or node of that name among {len(by_name)}",
                advice="Name one of these, or a node that shall be one.",
            )
        cuts[tensor] = name
    if not cuts:
        return graph
    described = _described(
        graph.graph_def,
        cuts,
        as_what="an input",
        advice="Name what gives the model its data, an iterator's next.",
    )
    taken = set(by_name)
    fed: dict[_Tensor, TensorInfo] = {}
    moved: dict[str, str] = {}
    originals = dict(graph.original_names)
    for (node, port), info in described.items():
        name = node
        if port:
            name = unique(f"{node}_{port}", taken)
            originals[name] = cuts[node, port]
        else:
            moved[node] = unique(f"{node}{_UNCUT}", taken)
        taken |= {name, moved.get(node, node)}
        fed[node, port] = dataclasses.replace(info, name=name)
    result = nd.empty_like(graph.graph_def)
    for original in graph.graph_def.node:
        made = result.node.add()
        made.CopyFrom(original)
        made.name = moved.get(original.name, original.name)
        del made.input[:]
        made.input.extend(_led(ref, fed, moved) for ref in original.input)
    result.node.extend(_placeholder(info) for info in fed.values())
    return dataclasses.replace(
        graph,
        graph_def=result,
        inputs=(*graph.inputs, *fed.values()),
        original_names=originals,
    )


def feed_as_placeholders(graph_def: Any, inputs: Sequence[TensorInfo]) -> Any:
    """Make each input a Placeholder: what is fed is then read by its readers alone.

    A foreign graph may be fed at any node, and one with a default has one to lose.

    Args:
        graph_def: a frozen GraphDef; not changed.
        inputs: nodes that are fed; one whose further results are read stays as it is.
    """
    others = {
        name
        for node in graph_def.node
        for name, port in map(nd.split, node.input)
        if port > 0
    }
    by_name = {info.name: info for info in inputs if info.name not in others}
    if all(n.op == "Placeholder" for n in graph_def.node if n.name in by_name):
        return graph_def
    result = nd.empty_like(graph_def)
    for node in graph_def.node:
        info = by_name.get(node.name)
        if info is None or node.op == "Placeholder":
            result.node.append(node)
        else:
            result.node.append(_placeholder(info))
    return result


def _described(
    graph_def: Any, cuts: Mapping[_Tensor, str], *, as_what: str, advice: str
) -> dict[_Tensor, TensorInfo]:
    """Return shapes and dtypes of tensors, by what leads to them alone."""
    before = nd.empty_like(graph_def)
    before.node.extend(in_order(graph_def.node, [node for node, _ in cuts]))
    for each in before.node:
        # It may want to lie beside a node that is not among these.
        each.attr.pop("_class", None)
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.import_graph_def(before, name="")
    except (ValueError, tf.errors.OpError) as error:
        raise UnsupportedGraph(
            ", ".join(cuts.values()),
            expected=f"{as_what} that this TensorFlow can tell shape and dtype of",
            found=str(error).split("\n")[0][:300],
            advice="Load the library that registers the op first.",
        ) from error
    found = {}
    for (node, port), name in cuts.items():
        outputs = graph.get_operation_by_name(node).outputs
        tensor = outputs[port] if 0 <= port < len(outputs) else None
        if tensor is None or tensor.dtype in (tf.resource, tf.variant):
            raise TensorNotFound(
                name,
                expected=f"a tensor of numbers or text, to be {as_what}",
                found=f"output {port} of a node with {len(outputs)}"
                if tensor is None
                else f"a {tensor.dtype.name}",
                advice=advice,
            )
        found[node, port] = dataclasses.replace(info_of(tensor), name=name)
    return found


def _placeholder(info: TensorInfo) -> Any:
    shape, dtype = tf.TensorShape(info.shape), tf.as_dtype(info.dtype)
    return nd.make_node("Placeholder", info.name, dtype=dtype, shape=shape)


def _led(
    reference: str, fed: Mapping[_Tensor, TensorInfo], moved: Mapping[str, str]
) -> str:
    """Return an input by its new name, or what is fed in its place."""
    node, port = nd.split(reference)
    if port < 0:
        # To wait for what is fed is to wait for nothing.
        first = next((info.name for key, info in fed.items() if key[0] == node), node)
        return f"^{first}"
    info = fed.get((node, port))
    return nd.renamed(reference, moved) if info is None else info.name


def with_ports(
    graph: InferenceGraph, outputs: Sequence[str] | None
) -> tuple[InferenceGraph, Sequence[str] | None]:
    """Give a node to each output that is not a node's first.

    Args:
        graph: the inference graph; not changed.
        outputs: names of tensors; None for the graph's own.

    Returns:
        A graph with further nodes, ``node_1`` for ``node:1``, and the outputs by their
        nodes' names.

    Raises:
        TensorNotFound: a node has no such output, or one of neither numbers nor text.
    """
    taken = {node.name for node in graph.graph_def.node}
    known = set(graph.original_names.values())
    ports = {
        tensor: name
        for name in outputs or ()
        if (tensor := nd.split(name))[1] > 0 and tensor[0] in taken
        if name not in known
    }
    if outputs is None or not ports:
        return graph, outputs
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph.graph_def)
    originals = dict(graph.original_names)
    new: dict[str, str] = {}
    described = _described(
        graph.graph_def,
        ports,
        as_what="an output",
        advice="Name the node alone for its first one, or another node.",
    )
    for (node, port), info in described.items():
        name = unique(f"{node}_{port}", taken)
        taken.add(name)
        new[ports[node, port]], originals[name] = name, ports[node, port]
        dtype = tf.as_dtype(info.dtype)
        result.node.append(nd.make_node("Identity", name, [f"{node}:{port}"], T=dtype))
    changed = dataclasses.replace(graph, graph_def=result, original_names=originals)
    return changed, [new.get(name, name) for name in outputs]


def refuse_pipelines(nodes: Sequence[Any]) -> None:
    """Refuse a graph that reads its data itself, and name what it reads of them.

    Args:
        nodes: those that the outputs need.

    Raises:
        UnsupportedGraph: there is such a node.
    """
    read = _data_of(nodes)
    if not read:
        return
    names = ", ".join(f'"{name}"' for name in read)
    raise UnsupportedGraph(
        read[0],
        expected="a graph that is fed what it reads",
        found=f"a step of the training data's pipeline, which gives {', '.join(read)}",
        advice=f"Name it as an input, beside those that were named: inputs=[{names}] "
        f"(--inputs {','.join(read)}).",
    )


def _data_of(nodes: Sequence[Any]) -> list[str]:
    """Name the tensors of a pipeline that are read, in the order of their readers."""
    sources = {node.name for node in nodes if nd.gives_data(node.op)}
    found: dict[str, None] = {}
    for node in nodes:
        for reference in node.input:
            name, port = nd.split(reference)
            if name in sources and port >= 0:
                shown = name.partition(_UNCUT)[0]
                found[f"{shown}:{port}" if port else shown] = None
    return list(found)
