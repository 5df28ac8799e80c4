"""Parts of tensors, said so that every reader takes the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.shapes import inferred_shapes
from persist_callbacks.graph.writing import Writer, rewritten

_PICTURE = 4


@dataclass(frozen=True)
class _Bound:
    """From where to where a part goes in one dimension.

    Args:
        begin: the first; counted from the end if negative, as `end` is.
        end: the first that it does not take.
        step: from one that it takes to the next.
        from_first: whether it begins where the dimension does, whatever `begin` is.
        to_last: whether it ends there.
        is_one: whether it takes one only, and leaves out the dimension.
    """

    begin: int = 0
    end: int = 0
    step: int = 1
    from_first: bool = True
    to_last: bool = True
    is_one: bool = False


def spell_out_slices(graph_def: Any) -> Any:
    """Say from where to where a part goes, of each dimension of a picture.

    OpenCV's reader takes the places of fewer for those of its own order.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    suspects = [node for node in graph_def.node if node.op == "StridedSlice"]
    if not suspects:
        return graph_def
    shapes = inferred_shapes(graph_def, [node.input[0] for node in suspects])

    def write(node: Any, writer: Writer) -> None:
        if node.op != "StridedSlice":
            return
        shape = shapes[node.input[0]]
        bounds = _bounds(node, shape.rank, by_name)
        if any(bound.is_one for bound in bounds):
            return
        if shape.rank == _PICTURE and not _says_all(node, bounds, by_name):
            _write(node, "", bounds, writer)

    return rewritten(graph_def, write)


def keep_dimensions(graph_def: Any) -> Any:
    """Take parts with all of their dimensions, and leave out by a Reshape what is one.

    OpenCV's reader leaves out none because a part says so. The last of several, which
    ends where it takes nothing to be, is counted from the first on; not in every graph,
    since tf2onnx knows a recurrent layer by such a part.

    Args:
        graph_def: a GraphDef; not changed.
    """
    by_name = {node.name: node for node in graph_def.node}
    suspects = {
        node.name: node
        for node in graph_def.node
        if node.op == "StridedSlice"
        and _places(node, "shrink_axis_mask")
        and tf.as_dtype(node.attr["T"].type).is_floating
    }
    if not suspects:
        return graph_def
    sources = [node.input[0] for node in suspects.values()]
    shapes = inferred_shapes(graph_def, [*sources, *suspects])

    def write(node: Any, writer: Writer) -> None:
        if node.name not in suspects or not shapes[node.name].rank:
            return
        given = shapes[node.input[0]]
        bounds = _bounds(node, given.rank, by_name)
        sizes = [-1 if size is None else size for size in shapes[node.name]]
        if not bounds or sizes.count(-1) > 1:
            return
        each = [_kept(bound, size) for bound, size in zip(bounds, given, strict=True)]
        kept = [bound for bound in each if bound is not None]
        if len(kept) < len(bounds):
            return
        part = _write(node, "part", kept, writer)
        shape = writer.constant("sizes", np.array(sizes, np.int32))
        writer.add("Reshape", "", part, shape, T=node.attr["T"], Tshape=tf.int32)

    return rewritten(graph_def, write)


def _places(node: Any, mask: str) -> list[int]:
    """Return which places a slice's mask speaks of."""
    bits = node.attr[mask].i if mask in node.attr else 0
    return [place for place in range(bits.bit_length()) if bits >> place & 1]


def _says_all(node: Any, bounds: Sequence[_Bound], by_name: Mapping[str, Any]) -> bool:
    """Whether a slice speaks of all dimensions, one by one."""
    if not bounds or _places(node, "ellipsis_mask"):
        return not bounds
    begin = nd.constant_value(by_name[nd.split(node.input[1])[0]])
    return int(begin.size) == len(bounds)


def _bounds(node: Any, rank: int | None, by_name: Mapping[str, Any]) -> list[_Bound]:
    """Return a slice's bounds in each dimension of what it is of.

    None where they are computed, or it adds a dimension.
    """
    constants = [by_name[nd.split(reference)[0]] for reference in node.input[1:4]]
    if rank is None or any(each.op != "Const" for each in constants):
        return []
    if _places(node, "new_axis_mask"):
        return []
    numbers = [nd.constant_value(each).reshape(-1).tolist() for each in constants]
    first, last, ones = (
        _places(node, mask) for mask in ("begin_mask", "end_mask", "shrink_axis_mask")
    )
    bounds = [
        _Bound(begin, end, step, place in first, place in last, place in ones)
        for place, (begin, end, step) in enumerate(zip(*numbers, strict=True))
    ]
    # What is left out, or stands for several, is taken whole.
    several = _places(node, "ellipsis_mask")
    at = several[0] if several else len(bounds)
    rest = rank - len(bounds) + len(several)
    bounds[at : at + len(several)] = [_Bound()] * rest
    return bounds


def _kept(bound: _Bound, size: int | None) -> _Bound | None:
    """Return a bound that leaves out no dimension; None where it is not known."""
    if not bound.is_one:
        return bound
    begin = bound.begin
    if begin == -1 and size is not None:
        begin = size - 1
    return None if begin < 0 else _Bound(begin, begin + 1, 1, False, False)


def _write(node: Any, part: str, bounds: Sequence[_Bound], writer: Writer) -> str:
    """Write a slice like another, with these bounds."""
    dtype = tf.as_dtype(node.attr["Index"].type)
    begins, ends = ([getattr(b, key) for b in bounds] for key in ("begin", "end"))
    numbers = {"begin": begins, "end": ends, "strides": [b.step for b in bounds]}
    names = [
        writer.constant(
            f"{part}/{key}" if part else key,
            np.array(each, dtype.as_numpy_dtype),
            dtype,
        )
        for key, each in numbers.items()
    ]
    name = writer.copy(node, part, node.input[0], *names)
    masks = {
        "begin_mask": [bound.from_first for bound in bounds],
        "end_mask": [bound.to_last for bound in bounds],
        "shrink_axis_mask": [bound.is_one for bound in bounds],
        "ellipsis_mask": [],
    }
    for key, said in masks.items():
        writer.made[-1].attr[key].i = sum(1 << at for at, yes in enumerate(said) if yes)
    return name
