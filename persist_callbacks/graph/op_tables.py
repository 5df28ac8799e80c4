"""The ops that each runtime has, one file a runtime in ``known_ops``.

A file's first line says where it is from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

NOT_KNOWN = "an op that it does not have"


@cache
def known_ops(runtime: str) -> Mapping[str, frozenset[str]]:
    """Return the op types that a runtime has, and what else its file says of each.

    Args:
        runtime: a file's name in ``known_ops``, without ``.txt``.
    """
    files = resources.files("persist_callbacks.graph") / "known_ops"
    known = {}
    for line in (files / f"{runtime}.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            op, *attributes = line.split()
            known[op] = frozenset(attributes)
    return known
