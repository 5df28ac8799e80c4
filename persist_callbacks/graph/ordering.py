"""Control edges: which of them say where a node is, and which only when it runs.

In a graph without state nothing is left to be ordered. But in branches and loops of
TF1's an op that reads nothing, such as a constant, is there by a control edge alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from typing import Any

import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import in_order

# They report or stop, they compute nothing; they hang on control edges only.
CHECKS = frozenset({"Assert", "PrintV2"})
# What is taken for stateful, and changes nothing that a frozen graph could lack.
_NO_CHANGE = re.compile(
    r"Assert|Print(V2)?|VarHandleOp|ReadVariableOp|Variable(V2)?|VarIsInitializedOp"
    r"|IsVariableInitialized|ResourceGather(Nd)?|VariableShape|TensorArray\w*"
    r"|\w*HashTable(V2)?|LookupTable(Find|Size)(V2)?|PartitionedCall"
)
_ASSIGNS = re.compile(r"Assign\w*VariableOp")
# The frames and branches that something is in, the innermost last.
_Place = tuple[str, ...]


def without_order(graph_def: Any, wanted: Sequence[str]) -> list[Any]:
    """Return nodes that wait for nothing, and so need nothing of what is only checked.

    What waits for a change of a variable or the like does so still, to be refused,
    unless nothing that is wanted is computed of that variable: a layer may draw a seed
    and make no use of it.

    Args:
        graph_def: a GraphDef; not changed.
        wanted: names of nodes.
    """
    nodes = list(graph_def.node)
    if not any(node.input and node.input[-1].startswith("^") for node in nodes):
        return nodes
    by_name = {node.name: node for node in nodes}
    ordered = in_order(nodes, list(by_name))
    places: dict[tuple[str, int], _Place] = {}
    if any(node.op in nd.OLD_CONTROL_FLOW for node in nodes):
        places = _places(ordered)
    changed = _after_changes(ordered, _changes_of_no_use(graph_def, wanted))
    kept = []
    for node in nodes:
        data = [ref for ref in node.input if not ref.startswith("^")]
        if len(data) == len(node.input):
            kept.append(node)
            continue
        made = tf.compat.v1.NodeDef()
        made.CopyFrom(node)
        del made.input[:]
        made.input.extend(data)
        for reference in node.input[len(data) :]:
            name = nd.split(reference)[0]
            # What an assertion is of is where the assertion is.
            while name in by_name and by_name[name].op in CHECKS:
                name = nd.split(by_name[name].input[0])[0]
            if name in changed or (not data and places.get((name, -1))):
                made.input.append(f"^{name}")
        kept.append(made)
    return kept


def changed_variables(graph_def: Any) -> set[str]:
    """Return the checkpoint keys of the variables that a graph itself assigns to.

    Args:
        graph_def: a GraphDef; not changed.
    """
    return set(_assignments(graph_def).values())


def _assignments(graph_def: Any) -> dict[str, str]:
    """Return each assignment to a variable of the graph, and that one's key."""
    variables = {node.name: node for node in graph_def.node if node.op == "VarHandleOp"}
    return {
        node.name: nd.variable_key(variables[node.input[0]])
        for node in graph_def.node
        if _ASSIGNS.fullmatch(node.op) and node.input[0] in variables
    }


def _changes_of_no_use(graph_def: Any, wanted: Sequence[str]) -> set[str]:
    """Return the assignments to variables of which nothing wanted is computed."""
    assignments = _assignments(graph_def)
    if not assignments:
        return set()
    by_name = {node.name: node for node in graph_def.node}
    reached: set[str] = set()
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in reached:
            reached.add(name)
            references = by_name[name].input
            waiting.extend(nd.split(r)[0] for r in references if r[0] != "^")
    # A function may name a variable itself.
    inner = (
        node for function in graph_def.library.function for node in function.node_def
    )
    used = {
        nd.variable_key(node)
        for node in [*(by_name[name] for name in reached), *inner]
        if node.op == "VarHandleOp"
    }
    return {name for name, key in assignments.items() if key not in used}


def _after_changes(ordered: list[Any], passed_over: Collection[str]) -> set[str]:
    """Return the nodes that change some state, and those that come after them."""
    found: set[str] = set()
    for node in ordered:
        sources = {nd.split(reference)[0] for reference in node.input}
        changes = _changes(node.op) and node.name not in passed_over
        if changes or sources & found:
            found.add(node.name)
    return found


def _changes(op: str) -> bool:
    harmless = nd.is_pipeline(op) or nd.draws(op) or _NO_CHANGE.fullmatch(op)
    return nd.has_state(op) and not harmless


def _shared(places: list[_Place]) -> _Place:
    """Return what places have in common from the outermost on."""
    steps = itertools.takewhile(
        lambda step: len(set(step)) == 1, zip(*places, strict=False)
    )
    return tuple(step[0] for step in steps)


def _places(ordered: list[Any]) -> dict[tuple[str, int], _Place]:
    """Return where each result of TF1's control flow is, and at -1 each node."""
    places: dict[tuple[str, int], _Place] = {}

    def of(reference: str) -> _Place:
        name, port = nd.split(reference)
        return places.get((name, port), places.get((name, -1), ()))

    closing = {node.name for node in ordered if "NextIteration" in node.op}
    for node in ordered:
        found = [of(reference) for reference in node.input]
        place = max(found, key=len, default=())
        if node.op in ("Enter", "RefEnter"):
            place = (*place, f"loop {node.attr['frame_name'].s!r}")
        elif node.op == "Exit":
            while place and not place[-1].startswith("loop "):
                place = place[:-1]
            place = place[:-1]
        elif node.op == "Merge" and not closing & {
            nd.split(reference)[0] for reference in node.input
        }:
            place = _shared(found)
        elif node.op in ("Switch", "RefSwitch"):
            for port in (0, 1):
                places[node.name, port] = (*place, f"{node.input[1]} {port}")
        places[node.name, -1] = place
    return places
