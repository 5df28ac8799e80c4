"""Which nodes of a stranger's graph may be the outputs that are wanted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import in_order

_LOSSES = ("SparseSoftmaxCrossEntropyWithLogits", "SoftmaxCrossEntropyWithLogits")
# What they read is what a model is used for: it goes on to nothing but a loss or a
# choice of the best, and that to a look whether it is right.
_ENDS = (*_LOSSES, "ArgMax", "Equal", "TopKV2", "InTopKV2")
# Training's own, and what only reports, saves or checks.
_NOT_RESULTS = ("Assign", "Apply", "Save", "Restore", "Summary", "Assert", "Print")
_NO_VALUE = ("NoOp", "Const", "Switch", "Merge", "Shape", "Exit")
# How scopes of gradients and checks begin, and what each scope of a metric has.
_NOT_RESULTS_SCOPES = ("gradients", "assert_", "Assert")
_OF_A_METRIC = "/update_op"


def likely_outputs(graph_def: Any, inputs: Iterable[str]) -> list[str]:
    """Name the nodes that may be a graph's results, the likeliest first.

    Results come from inputs and go into nothing but training: losses, gradients,
    updates, summaries and savers.

    Args:
        graph_def: a GraphDef, of a script that trains perhaps.
        inputs: its placeholders.
    """
    ordered = in_order(graph_def.node, [node.name for node in graph_def.node])
    by_name = {node.name: node for node in ordered}
    given = {name for name in inputs if name in by_name}
    given |= {node.name for node in ordered if nd.gives_data(node.op)}
    # A flag that has a default makes no result of what depends on it alone.
    with_default = {
        name for name in given if by_name[name].op == "PlaceholderWithDefault"
    }
    reached = _reached(ordered, given - with_default or given)
    compared = _compared_with_what_is_fed(ordered, by_name)
    losses = _reached(
        ordered, [*compared, *(n.name for n in ordered if n.op in _LOSSES)]
    )
    in_loops = _reached(
        ordered, [n.name for n in ordered if "Enter" in n.op], until="Exit"
    )
    metrics = tuple(
        name.removesuffix("update_op")
        for name in by_name
        if name.endswith(_OF_A_METRIC)
    )
    results = {
        node.name
        for node in ordered
        if reached[node.name]
        and node.name not in given
        and not in_loops[node.name]
        and _computes(node)
        and not node.name.startswith(metrics)
    }
    goes_on: set[str] = set()
    for node in ordered:
        if node.name in results and node.op not in _ENDS:
            sources = {nd.split(reference)[0] for reference in node.input}
            goes_on |= sources - {compared.get(node.name)}
    places = {node.name: place for place, node in enumerate(ordered)}
    # A loss needs more inputs, its labels, than what is wanted beside it; by an
    # iterator, all come of one.
    return sorted(
        results - goes_on,
        key=lambda name: (len(reached[name]), bool(losses[name]), -places[name]),
    )


def _reached(
    ordered: list[Any], roots: Collection[str], until: str = ""
) -> dict[str, set[str]]:
    """Return by node which of the roots it depends on, loops followed around.

    Args:
        ordered: nodes, each after what it reads but for where loops close.
        roots: names of nodes.
        until: op type that nothing passes.
    """
    found = {node.name: {node.name} & set(roots) for node in ordered}
    changed = True
    while changed:
        changed = False
        for node in ordered:
            if until and node.op == until:
                continue
            for reference in node.input:
                if not reference.startswith("^"):
                    more = found.get(nd.split(reference)[0], set()) - found[node.name]
                    changed = changed or bool(more)
                    found[node.name] |= more
    return found


def _compared_with_what_is_fed(
    ordered: list[Any], by_name: Mapping[str, Any]
) -> dict[str, str]:
    """Return the differences that a squared loss is of, and what each finds fault with.

    Of its two sides one is computed of variables, and the other is not. So are no two
    sides of a norm's.
    """
    found = {}
    for node in ordered:
        difference: Any = node
        if node.op in ("Square", "Pow"):
            difference = by_name.get(nd.split(node.input[0])[0], node)
        if difference.op != "SquaredDifference" and (
            difference is node or difference.op != "Sub"
        ):
            continue
        sides = [nd.split(reference)[0] for reference in difference.input[:2]]
        learned = [
            side
            for side in sides
            if any(each.op in nd.VARIABLES for each in in_order(ordered, [side]))
        ]
        if len(learned) == 1:
            found[difference.name] = learned[0]
    return found


def _computes(node: Any) -> bool:
    """Whether a node computes something of a forward pass."""
    if node.op in _NO_VALUE or any(word in node.op for word in _NOT_RESULTS):
        return False
    parts = node.name.split("/")
    return not any(part.startswith(_NOT_RESULTS_SCOPES) for part in parts)
