"""The ops that each runtime has, one file a runtime in ``known_ops``.

A file's first line says where it is from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources

NOT_KNOWN = "an op that it does not have"

Attributes = Mapping[str, frozenset[str]]


@cache
def known_ops(runtime: str) -> Mapping[str, Attributes]:
    """Return the op types that a runtime has, and what else its file says of each.

    Args:
        runtime: a file's name in ``known_ops``, without ``.txt``.
    """
    files = resources.files("persist_callbacks.graph") / "known_ops"
    lines = (files / f"{runtime}.txt").read_text("utf-8").splitlines()
    return parsed(line for line in lines if line and not line.startswith("#"))


def parsed(lines: Iterable[str]) -> dict[str, Attributes]:
    """Return op types with their attributes, and what dtypes each of these may name.

    Args:
        lines: such as ``ArgMax T=float32,int32 Tidx=int32,int64 output_type``.

    Returns:
        No dtypes for an attribute that may name any, or that names none.
    """
    known: dict[str, Attributes] = {}
    for line in lines:
        op, *attributes = line.split()
        pairs = [attribute.partition("=")[::2] for attribute in attributes]
        known[op] = {
            key: frozenset(dtypes.split(",") if dtypes else ()) for key, dtypes in pairs
        }
    return known
