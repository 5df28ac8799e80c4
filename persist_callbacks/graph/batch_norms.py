"""Batch norms as in training: by the moments of the batch that they are given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import in_order

# What stands between a variance and the root of it, and leaves it what it is.
_BEFORE_ROOT = ("Add", "AddV2", "Cast", "Identity", "Maximum", "Reshape", "Squeeze")
_NO_CHANGE = ("Cast", "Identity", "StopGradient")


def norms_by_batch(nodes: Collection[Any]) -> list[str]:
    """Name the nodes that normalize by the batch that they are given.

    Those in branches of TF1's are passed over, which may be those of the training.

    Args:
        nodes: a frozen graph's NodeDefs.
    """
    by_name = {node.name: node for node in nodes}
    found = [
        node.name
        for node in nodes
        if _is_fused(node) or (node.op == "Rsqrt" and _is_of_batch(node, by_name))
    ]
    after_switch: set[str] = set()
    for node in in_order(nodes, found):
        sources = {nd.split(reference)[0] for reference in node.input}
        if node.op == "Switch" or sources & after_switch:
            after_switch.add(node.name)
    return [name for name in found if name not in after_switch]


def _is_fused(node: Any) -> bool:
    return node.op.startswith("FusedBatchNorm") and (
        "is_training" not in node.attr or bool(node.attr["is_training"].b)
    )


def _is_of_batch(root: Any, by_name: Mapping[str, Any]) -> bool:
    """Whether a root is of a variance over the first dimension of what is fed."""
    waiting, seen = [root.input[0]], set()
    while waiting:
        name = nd.split(waiting.pop())[0]
        node = by_name.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op in _BEFORE_ROOT:
            waiting.extend(node.input)
        elif _is_variance(node, by_name):
            # One of weights alone, as some norm them, is the same for every batch.
            made_of = in_order(by_name.values(), [name])
            return any(each.op == "Placeholder" for each in made_of)
    return False


def _is_variance(node: Any, by_name: Mapping[str, Any]) -> bool:
    """Whether a node is a mean over axis 0 of squared differences from such a mean."""
    axes = _mean_over(node, by_name)
    squared = by_name.get(nd.split(node.input[0])[0]) if axes else None
    if 0 not in axes or squared is None or squared.op != "SquaredDifference":
        return False
    source, mean = squared.input[0], by_name.get(nd.split(squared.input[1])[0])
    while mean is not None and mean.op in _NO_CHANGE:
        mean = by_name.get(nd.split(mean.input[0])[0])
    if mean is None or _mean_over(mean, by_name) != axes:
        return False
    return bool(mean.input[0] == source)


def _mean_over(node: Any, by_name: Mapping[str, Any]) -> set[int]:
    """Return the axes that a node takes the mean over; none if it is no such one."""
    axes = by_name.get(nd.split(node.input[1])[0]) if node.op == "Mean" else None
    if axes is None or axes.op != "Const":
        return set()
    return set(np.ravel(nd.constant_value(axes)).tolist())
