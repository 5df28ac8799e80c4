"""Calls as TensorFlow 1's ``Defun`` makes them: ops of the functions' own names.

Whatever else reads a graph here knows calls by ``PartitionedCall`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from persist_callbacks.graph import nodes as nd


def as_partitioned_calls(graph_def: Any) -> Any:
    """Call each of a graph's own functions by the op that is for that.

    Args:
        graph_def: a GraphDef; not changed.

    Returns:
        A GraphDef; the given one if it has no such calls.
    """
    # One whose types each call gives anew is left, to be refused.
    signatures = {
        function.signature.name: function.signature
        for function in graph_def.library.function
        if not function.signature.attr
        and nd.op_definition(function.signature.name) is None
    }
    if not any(node.op in signatures for node in nd.every_node(graph_def)):
        return graph_def
    result = nd.empty_like(graph_def)
    result.node.extend(graph_def.node)
    for node in result.node:
        if node.op in signatures:
            _call(node, signatures[node.op])
    for function in result.library.function:
        called = {
            node.name: signatures[node.op]
            for node in function.node_def
            if node.op in signatures
        }
        for node in function.node_def:
            references = [_by_place(reference, called) for reference in node.input]
            del node.input[:]
            node.input.extend(references)
            if node.name in called:
                _call(node, called[node.name])
        for name, reference in list(function.ret.items()):
            function.ret[name] = _by_place(reference, called)
    return result


def _call(node: Any, signature: Any) -> None:
    """Make a node that is named by its function a call of that function."""
    op = "StatefulPartitionedCall" if signature.is_stateful else "PartitionedCall"
    made = nd.make_node(op, node.name, node.input)
    for attribute, arguments in (
        ("Tin", signature.input_arg),
        ("Tout", signature.output_arg),
    ):
        types = [argument.type for argument in arguments]
        made.attr[attribute].list.type.extend(types)
    made.attr["f"].func.name = signature.name
    node.CopyFrom(made)


def _by_place(reference: str, called: Mapping[str, Any]) -> str:
    """Return a function's reference to a call's result, by the place that it has.

    Args:
        reference: ``argument``, ``node:result:index`` or ``^node``.
        called: the signatures by the calls' names.
    """
    name, *rest = reference.split(":")
    if name not in called or len(rest) != 2:
        return reference
    results = [argument.name for argument in called[name].output_arg]
    return f"{name}:output:{results.index(rest[0])}"
