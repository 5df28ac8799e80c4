"""One form for a graph: only what its outputs need, ordered and named by structure.

Two graphs that compute the same by the same nodes come out byte for byte equal,
whatever order, function names or debug fields they came with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf
import xxhash

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.names import unique


def canonical(graph_def: Any, *, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """Return the graph pruned, in topological order, without what is not computation.

    Args:
        graph_def: a GraphDef; not changed.
        inputs: nodes that stay even where no output needs them.
        outputs: nodes that are wanted.

    Returns:
        A new GraphDef.
    """
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph_def.versions)
    for node in in_order(graph_def.node, [*inputs, *outputs]):
        result.node.add().CopyFrom(_bare(node))
    _take_functions(result, graph_def.library)
    return result


def serialize(message: Any) -> bytes:
    """Return a protobuf's bytes, the same for equal messages (maps sorted)."""
    return bytes(message.SerializeToString(deterministic=True))


def in_order(nodes: Iterable[Any], wanted: Iterable[str]) -> list[Any]:
    """Return the nodes that the wanted ones need, each after all that it reads.

    The order follows the wanted nodes and their inputs alone, not the order that the
    nodes come in. A loop of TF1's (Merge and NextIteration) is cut where it closes.

    Args:
        nodes: NodeDefs of a graph or of a function's body.
        wanted: names of nodes; those that are not among the nodes are passed over.
    """
    by_name = {node.name: node for node in nodes}
    ordered: list[Any] = []
    seen: set[str] = set()
    for root in wanted:
        stack = [(root, False)]
        while stack:
            name, inputs_done = stack.pop()
            if inputs_done:
                ordered.append(by_name[name])
            elif name not in seen and name in by_name:
                seen.add(name)
                stack.append((name, True))
                needs = [nd.split(reference)[0] for reference in by_name[name].input]
                stack.extend((need, False) for need in reversed(needs))
    return ordered


def function_roots(function: Any) -> list[str]:
    """Return the nodes that a function's results and effects come from."""
    results = [
        function.ret[argument.name] for argument in function.signature.output_arg
    ]
    effects = [function.control_ret[name] for name in sorted(function.control_ret)]
    return [nd.split(reference)[0] for reference in [*results, *effects]]


def _bare(node: Any) -> Any:
    """Copy a node without its device, debug, internal and default-valued attributes."""
    bare = tf.compat.v1.NodeDef()
    bare.name, bare.op = node.name, node.op
    # Control edges come last by TensorFlow's own rule; among them there is no order.
    data = [reference for reference in node.input if not reference.startswith("^")]
    control = {reference for reference in node.input if reference.startswith("^")}
    bare.input.extend([*data, *sorted(control)])
    definition = nd.op_definition(node.op)
    defaults = {}
    if definition is not None:
        defaults = {
            attr.name: attr.default_value
            for attr in definition.attr
            if attr.HasField("default_value")
        }
    for key in sorted(node.attr):
        value = node.attr[key]
        # `_lower_using_switch_merge` is among those left out: While stays While.
        # A call's config describes the machine that traced it.
        if key.startswith("_") or key == "config_proto":
            continue
        if key in defaults and value == defaults[key]:
            continue
        bare.attr[key].CopyFrom(value)
    return bare


def _take_functions(result: Any, library: Any) -> None:
    """Move the functions that are called into the result, under names of their own.

    A name is the caller's and a hash of the body: TensorFlow 2 keeps one table of
    functions for the whole process, where two models' loops must not collide.
    """
    by_name = {function.signature.name: function for function in library.function}
    renamed: dict[str, str] = {}

    def rename_calls(node: Any) -> None:
        for attr, called in nd.function_attributes(node):
            if called.name in by_name:
                called.name = take(called.name, f"{node.name}_{attr}")
                called.attr.clear()

    def take(old: str, caller: str) -> str:
        if old not in renamed:
            made = type(library)().function.add()
            _copy_function(by_name[old], made)
            made.signature.name = ""
            for node in made.node_def:
                rename_calls(node)
            digest = xxhash.xxh3_64_hexdigest(serialize(made))
            renamed[old] = unique(f"{_identifier(caller)}_{digest}", renamed.values())
            made.signature.name = renamed[old]
            result.library.function.append(made)
        return renamed[old]

    for node in result.node:
        rename_calls(node)


def _identifier(name: str) -> str:
    """Return a name with only the characters that a function's name may have."""
    return re.sub(r"\W", "_", name)


def _copy_function(function: Any, made: Any) -> None:
    """Copy a function: its signature, its live nodes in order, its results.

    Arguments and results are named by position; TensorFlow puts its own counters there.
    """
    made.signature.CopyFrom(function.signature)
    made.signature.ClearField("description")
    body = in_order(function.node_def, function_roots(function))
    taken = {node.name for node in body}
    arguments: dict[str, str] = {}
    for index, argument in enumerate(made.signature.input_arg):
        arguments[argument.name] = unique(f"argument_{index}", taken)
        argument.name = arguments[argument.name]
    for index, argument in enumerate(made.signature.output_arg):
        reference = function.ret[argument.name]
        argument.name = f"result_{index}"
        made.ret[argument.name] = arguments.get(reference, reference)
    for argument in [*made.signature.input_arg, *made.signature.output_arg]:
        argument.ClearField("handle_data")
        argument.ClearField("experimental_full_type")
    for node in body:
        bare = _bare(node)
        references = [arguments.get(ref, ref) for ref in bare.input]
        del bare.input[:]
        bare.input.extend(references)
        made.node_def.add().CopyFrom(bare)
    for name, reference in function.control_ret.items():
        made.control_ret[name] = reference
