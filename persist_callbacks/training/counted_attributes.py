"""Which of its attributes a data set counts in as it is asked for batches.

They are read off the source of ``__getitem__`` and of the methods that it calls: what
is added to there is carried from batch to batch. What is only set there, as the index
of the last batch, is not.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any


def take(dataset: Any) -> dict[str, int | float]:
    """Take the numbers that a data set counts in.

    Args:
        dataset: the user's ``PyDataset``.

    Returns:
        The values by the attributes' names; none of a class without source.
    """
    held, kind = vars(dataset), dataset.__class__
    return {
        name: held[name]
        for name in _counted_by(kind)
        if type(held.get(name)) in (int, float)
    }


@functools.cache
def _counted_by(kind: type) -> tuple[str, ...]:
    found: set[str] = set()
    methods = ["__getitem__"]
    # It grows as methods are found that others call.
    for method in methods:
        for node, own in _nodes_of(getattr(kind, method, None)):
            if isinstance(node, ast.Call):
                called = _attribute(node.func, own)
                methods += [called] if called and called not in methods else []
            elif isinstance(node, ast.AugAssign):
                found.add(_attribute(node.target, own))
            elif isinstance(node, ast.Assign):
                read = {_attribute(part, own) for part in ast.walk(node.value)}
                found |= read & {_attribute(each, own) for each in node.targets}
    return tuple(sorted(found - {""}))


def _nodes_of(function: Any) -> Iterator[tuple[ast.AST, str]]:
    """Give the parts of a method's source, each with the name of its first argument."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return
    for definition in tree.body[:1]:
        if isinstance(definition, ast.FunctionDef) and definition.args.args:
            own = definition.args.args[0].arg
            yield from ((node, own) for node in ast.walk(definition))


def _attribute(node: ast.AST, own: str) -> str:
    """Return the attribute of the object itself that is named; "" for anything else."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == own else ""
    return ""
