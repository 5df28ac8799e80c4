"""Which of its attributes a data set counts in as it is asked for batches.

They are read off the source of ``__getitem__`` and of the methods that it calls: what
is added to there, or to an item of it, is carried from batch to batch. What is only set
there, as the index of the last batch or an item of a cache, is not.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

# What is larger takes its time to turn into JSON, once an epoch.
_MOST_ITEMS, _MOST_IN_ARRAY = 1000, 10_000
_PLAIN = (type(None), bool, int, float, str)


class _Counting(NamedTuple):
    """Names of the attributes that a class counts in.

    Args:
        numbers: those that are added to.
        holders: those that have items which are added to.
        carried: those of the latter whose items are not set there as well, as those of
            a buffer are that each batch fills anew.
    """

    numbers: tuple[str, ...]
    holders: tuple[str, ...]
    carried: tuple[str, ...]


def take(dataset: Any) -> dict[str, Any]:
    """Take what a data set counts in: numbers, and small containers of such.

    Args:
        dataset: the user's ``PyDataset``.

    Returns:
        The values by the attributes' names, those of containers as copies, of a dict
        as a tuple of its items; none of a class without source.
    """
    held, counting = vars(dataset), _counted_by(dataset.__class__)
    found: dict[str, Any] = {
        name: held[name]
        for name in counting.numbers
        if type(held.get(name)) in (int, float)
    }
    for name in counting.holders:
        copied = _copy_of(held.get(name))
        if copied is not None:
            found[name] = copied
    return found


def put_back(dataset: Any, values: Mapping[str, Any]) -> list[str]:
    """Put back what a data set has counted.

    Args:
        dataset: the user's ``PyDataset``.
        values: from `take`.

    Returns:
        The names of the attributes that are not counted in as they were.
    """
    counting = take(dataset)
    return [
        name
        for name, value in values.items()
        if name not in counting or not _put(dataset, name, value)
    ]


def not_taken(dataset: Any) -> set[str]:
    """Name what a data set counts in that `take` leaves out, as a large array."""
    carried = _counted_by(dataset.__class__).carried
    return {name for name in carried if _copy_of(vars(dataset).get(name)) is None}


def _copy_of(value: Any) -> Any:
    """Copy a small container of plain values; None of anything else."""
    if type(value) is np.ndarray:
        small = value.ndim > 0 and value.size <= _MOST_IN_ARRAY
        return value.copy() if small and _is_numeric(value.dtype) else None
    if not isinstance(value, (list, dict)) or len(value) > _MOST_ITEMS:
        return None
    # At once, since workers may be adding to it.
    copied = list(value) if isinstance(value, list) else tuple(value.items())
    parts = itertools.chain(*copied) if isinstance(copied, tuple) else copied
    return copied if all(map(_is_plain, parts)) else None


def _is_plain(value: Any) -> bool:
    """Whether JSON holds an item exactly; one that is an array may be a whole batch."""
    if isinstance(value, np.generic):
        return _is_numeric(value.dtype)
    return type(value) in _PLAIN


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def _put(dataset: Any, name: str, value: Any) -> bool:
    """Put a value back: into a container itself, which others may hold too."""
    held = vars(dataset)[name]
    if isinstance(held, np.ndarray):
        same = isinstance(value, np.ndarray) and value.dtype == held.dtype
        if same and value.shape == held.shape:
            held[...] = value
            return True
    elif isinstance(held, list):
        if isinstance(value, list):
            held[:] = value
            return True
    elif isinstance(held, dict):
        try:
            items = dict(value)
        except (TypeError, ValueError):
            return False
        held.clear()
        held.update(items)
        return True
    elif isinstance(value, (int, float)):
        setattr(dataset, name, value)
        return True
    return False


@functools.cache
def _counted_by(kind: type) -> _Counting:
    # Each by attributes themselves, and by items of them.
    added, replaced = (set[str](), set[str]()), (set[str](), set[str]())
    methods = ["__getitem__"]
    # It grows as methods are found that others call.
    for method in methods:
        for node, own in _nodes_of(getattr(kind, method, None)):
            if isinstance(node, ast.Call):
                called = _attribute(node.func, own)
                methods += [called] if called and called not in methods else []
                if getattr(node.func, "attr", "") == "at" and node.args:
                    # As ``np.add.at`` does, which counts an index that comes twice.
                    added[True].add(_attribute(node.args[0], own))
            elif isinstance(node, ast.AugAssign):
                name, by_item = _target(node.target, own)
                added[by_item].add(name)
            elif isinstance(node, ast.Assign):
                read = _read(node.value, own), _read_to_compute(node.value, own)
                for name, by_item in (_target(each, own) for each in node.targets):
                    (added if name in read[by_item] else replaced)[by_item].add(name)
    # What is made anew there has no items from before.
    holders = added[True] - replaced[False] - {""}
    return _Counting(
        tuple(sorted(added[False] - {""})),
        tuple(sorted(holders)),
        tuple(sorted(holders - replaced[True])),
    )


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


def _read(node: ast.AST, own: str) -> set[str]:
    return {_attribute(part, own) for part in ast.walk(node)}


def _read_to_compute(node: ast.AST, own: str) -> set[str]:
    """Return what is read for a sum or the like; an item that is looked up is not."""
    sums = [part for part in ast.walk(node) if isinstance(part, ast.BinOp)]
    return set().union(*(_read(each, own) for each in sums))


def _target(node: ast.AST, own: str) -> tuple[str, bool]:
    """Return the attribute that is changed, and whether by an item of it."""
    by_item = isinstance(node, ast.Subscript)
    while isinstance(node, ast.Subscript):
        node = node.value
    return _attribute(node, own), by_item


def _attribute(node: ast.AST, own: str) -> str:
    """Return the attribute of the object itself that is named; "" for anything else."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == own else ""
    return ""
