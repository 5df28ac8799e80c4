"""Control edges: which of them say where a node is, and which only when it runs.

In a graph without state nothing is left to be ordered. But in branches and loops of
TF1's an op that reads nothing, such as a constant, is there by a control edge alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
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
    r"|Ref(Enter|Exit|Identity|Merge|NextIteration|Select|Switch)"
)
_ASSIGNS = re.compile(r"Assign\w*VariableOp")
# What hands a variable on, so that it can be assigned to.
_HANDS_ON = re.compile(r"Identity|(Ref)?(Enter|Switch)|RefIdentity")
# What the choice of a branch is made of where a flag chooses, as training or not.
_OF_FLAGS = re.compile(r"Placeholder(WithDefault)?|Const|Identity|Switch|Logical\w+")
# The frames and branches that something is in, the innermost last.
_Place = tuple[str, ...]


def without_order(graph_def: Any, wanted: Sequence[str]) -> list[Any]:
    """Return nodes that wait for nothing, and so need nothing of what is only checked.

    What waits for a change of a variable or the like does so still, to be refused,
    unless nothing that is wanted is computed of that variable: a layer may draw a seed
    and make no use of it. Nor does a change count in a branch that a flag chooses: in
    training's, a batch norm of TF1's moves its averages.

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
    passed_over = _changes_of_no_use(graph_def, wanted)
    passed_over |= _in_branches_by_flags(nodes, places)
    changed = _after_changes(ordered, passed_over)
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
    return set().union(*_assignments(graph_def).values())


def _assignments(graph_def: Any) -> dict[str, set[str]]:
    """Return each assignment to variables of the graph, and those ones' keys."""
    assigns = {node.op for node in graph_def.node if _assigned(node.op)}
    if not assigns:
        return {}
    keys: dict[str, str] = {}
    found: dict[str, set[str]] = {}
    for node in in_order(graph_def.node, [node.name for node in graph_def.node]):
        if node.op in nd.VARIABLES:
            keys[node.name] = nd.variable_key(node)
            continue
        first = nd.split(node.input[0])[0] if node.input else ""
        # An assignment gives the variable, to be assigned to once more.
        if first in keys and (node.op in assigns or _HANDS_ON.fullmatch(node.op)):
            keys[node.name] = keys[first]
        if node.op in assigns:
            # Fewer inputs than its type has are for TensorFlow to refuse.
            places = [place for place in _assigned(node.op) if place < len(node.input)]
            sources = [nd.split(node.input[place])[0] for place in places]
            if all(source in keys for source in sources):
                found[node.name] = {keys[source] for source in sources}
    return found


def _assigned(op: str) -> list[int]:
    """Return which inputs of an op type are variables that it assigns to."""
    if _ASSIGNS.fullmatch(op):
        return [0]
    definition = nd.op_definition(op)
    if definition is None or not _changes(op):
        return []
    # TF1's variables are handed in by reference, and not to be read.
    inputs = enumerate(definition.input_arg)
    return [place for place, argument in inputs if argument.is_ref]


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
        if node.op in nd.VARIABLES
    }
    return {name for name, keys in assignments.items() if not keys & used}


def _in_branches_by_flags(
    nodes: Sequence[Any], places: Mapping[tuple[str, int], _Place]
) -> set[str]:
    """Return the assignments in a branch of TF1's that a flag alone chooses."""
    behind: dict[str, set[str]] = {}
    for node in nodes:
        for step in places.get((node.name, -1), ()):
            if not step.startswith("loop ") and _assigned(node.op):
                choice = nd.split(step.rpartition(" ")[0])[0]
                behind.setdefault(choice, set()).add(node.name)
    found: set[str] = set()
    for choice, assignments in behind.items():
        if all(_OF_FLAGS.fullmatch(each.op) for each in in_order(nodes, [choice])):
            found |= assignments
    return found


def _after_changes(ordered: list[Any], passed_over: Collection[str]) -> set[str]:
    """Return the nodes that change some state, and those that come after them."""
    found: set[str] = set()
    for node in ordered:
        sources = {nd.split(reference)[0] for reference in node.input}
        changes = _changes(node.op) and node.name not in passed_over
        if changes or sources & found:
            found.add(node.name)
    return found


@cache
def _changes(op: str) -> bool:
    if nd.is_pipeline(op) or nd.draws(op) or _NO_CHANGE.fullmatch(op):
        return False
    definition = nd.op_definition(op)
    # What changes a variable of TF1's own kind is not said to have state.
    return nd.has_state(op) or any(each.is_ref for each in definition.input_arg)


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
