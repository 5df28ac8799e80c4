"""Layer norms: what is scaled is the difference from the mean, taken once.

Keras writes ``x * s + (b - m * s)``, of which ``(x - m) * s + b`` has fewer operations
on whole tensors, and less to lose where a mean is far from 0. That is also the form
that other runtimes know for one op of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.writing import Writer

_SUMS = ("Add", "AddV2")


@dataclass(frozen=True)
class _Norm:
    """A norm's parts, as references.

    Args:
        source: what is normalised.
        mean: what is subtracted from it.
        scales: what the difference is multiplied by, one after the other.
        shift: a constant that is added then, None for none.
    """

    source: str
    mean: str
    scales: tuple[str, ...]
    shift: str | None


def differences_from_means(graph_def: Any) -> Any:
    """Scale the difference from a mean, in place of both by themselves, to rounding.

    The squared difference that the variance is of is made of the same difference.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    reads = nd.count_reads(graph_def.node)
    norms = {
        node.name: norm
        for node in graph_def.node
        if (norm := _norm(node, by_name, reads)) is not None
    }
    if not norms:
        return graph_def
    taken = set(by_name)
    differences: dict[tuple[str, str], str] = {}
    result = nd.empty_like(graph_def)
    for name, norm in norms.items():
        writer = Writer(name, taken)
        types = {"T": tf.as_dtype(by_name[name].attr["T"].type)}
        pair = (norm.source, norm.mean)
        if pair not in differences:
            differences[pair] = writer.add("Sub", "difference", *pair, **types)
        last = differences[pair]
        for number, scale in enumerate(norm.scales, 1):
            ends = norm.shift is None and number == len(norm.scales)
            last = writer.add("Mul", "" if ends else "scaled", last, scale, **types)
        if norm.shift is not None:
            writer.add("AddV2", "", last, norm.shift, **types)
        result.node.extend(writer.made)
    for node in graph_def.node:
        if node.name in norms:
            continue
        pair = (node.input[0], node.input[1]) if len(node.input) > 1 else ("", "")
        shared = differences.get(pair) or differences.get(pair[::-1])
        if node.op == "SquaredDifference" and shared is not None:
            dtype = tf.as_dtype(node.attr["T"].type)
            result.node.append(nd.make_node("Square", node.name, [shared], T=dtype))
        else:
            result.node.add().CopyFrom(node)
    return result


def _norm(
    node: Any, by_name: Mapping[str, Any], reads: Mapping[str, int]
) -> _Norm | None:
    """Match the sum that ends a norm, one way round or the other."""
    if node.op not in _SUMS or node.attr["T"].type not in nd.REORDERED:
        return None
    for one, other in (node.input[:2], tuple(node.input[:2])[::-1]):
        product = by_name[nd.split(one)[0]]
        if product.op != "Mul" or reads[product.name] != 1:
            continue
        for source, scale in (product.input[:2], tuple(product.input[:2])[::-1]):
            rest = _shifted(other, scale, by_name, reads)
            if rest is not None and rest[0] != source:
                scales = _scales(scale, by_name, reads)
                return _Norm(source, rest[0], scales, rest[1])
    return None


def _shifted(
    reference: str, scale: str, by_name: Mapping[str, Any], reads: Mapping[str, int]
) -> tuple[str, str | None] | None:
    """Return the mean and the constant of ``constant - mean * scale``."""
    node = by_name[nd.split(reference)[0]]
    if reads[node.name] != 1 or len(node.input) not in (1, 2):
        return None

    def of_product(inner: str, negated: bool) -> str | None:
        """Return what is multiplied by the scale, itself negated or not."""
        product = by_name[nd.split(inner)[0]]
        if product.op != "Mul" or scale not in product.input:
            return None
        if reads[product.name] != 1 or len(product.input) != 2:
            return None
        place = 1 - list(product.input).index(scale)
        mean = str(product.input[place])
        if not negated:
            return mean
        sign = by_name[nd.split(mean)[0]]
        return str(sign.input[0]) if sign.op == "Neg" else None

    if (mean := of_product(reference, negated=True)) is not None:
        return mean, None
    if node.op == "Neg":
        mean = of_product(node.input[0], negated=False)
        return None if mean is None else (mean, None)
    if len(node.input) != 2:
        return None
    one, other = node.input
    ops = [by_name[nd.split(each)[0]].op for each in (one, other)]
    if node.op == "Sub" and ops[0] == "Const":
        mean = of_product(other, negated=False)
        return None if mean is None else (mean, one)
    if node.op in _SUMS and "Const" in ops:
        constant, inner = (one, other) if ops[0] == "Const" else (other, one)
        mean = of_product(inner, negated=True)
        return None if mean is None else (mean, constant)
    return None


def _scales(
    scale: str, by_name: Mapping[str, Any], reads: Mapping[str, int]
) -> tuple[str, ...]:
    """Part a scale that is a product with a constant, which comes last then."""
    product = by_name[nd.split(scale)[0]]
    if product.op != "Mul" or reads[product.name] != 2:
        return (scale,)
    one, other = product.input
    ops = [by_name[nd.split(each)[0]].op for each in (one, other)]
    if ops.count("Const") != 1:
        return (scale,)
    return (other, one) if ops[0] == "Const" else (one, other)
