"""What a ``tf.data`` pipeline is made of: variables, buffers, randomness, iterators.

A data set tells of its parts in attributes without public names; they are touched here
alone, and ``tests/training/test_pipeline.py`` fails by name when a version moves them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# Elements of a variable that may be a generator's state, and not a layer's weights.
_LARGEST_STATE = 16
_OF_GENERATORS = (
    *("Rng", "StatefulRandom", "StatefulStandard", "StatefulTruncated"),
    *("StatefulUniform", "NonDeterministicInts"),
)
_PYTHON_OPS = frozenset({"PyFunc", "EagerPyFunc", "PyFuncStateless"})


@dataclass(frozen=True)
class Buffered:
    """How much of the data the state of an iterator holds when its buffers are full.

    Args:
        size: bytes; None if a buffer's elements are of unknown size.
        elements: how many; None where a buffer holds an unknown number of them.
    """

    size: int | None
    elements: int | None


def captured_variables(dataset: Any) -> list[Any]:
    """List the small variables that functions of a pipeline have captured.

    In the order in which they were captured, which is that of the code: a graph's own
    list of them comes by where they lie in memory, otherwise in each process.
    """
    found: dict[int, Any] = {}
    for part in parts(dataset):
        for graph in _graphs(part):
            places = {id(given): at for at, (given, _) in enumerate(graph.captures)}
            ordered = sorted(
                graph.variables,
                key=lambda each: (places.get(id(each.handle), len(places)), each.name),
            )
            for variable in ordered:
                if variable.shape.num_elements() <= _LARGEST_STATE:
                    found.setdefault(id(variable), variable)
    return list(found.values())


def buffered(dataset: Any) -> Buffered:
    """Estimate how much of the data the state of an iterator holds.

    Shuffle buffers, caches in memory, and what is held while its parts are handed out.

    Args:
        dataset: a ``tf.data.Dataset``.
    """
    sizes: list[int | None] = []
    counts: list[int | None] = []
    for part in parts(dataset):
        for source, elements in _held(part):
            each = _bytes_of(source.element_spec)
            counts.append(elements)
            sizes.append(None if each is None or elements is None else each * elements)
    return Buffered(_sum(sizes), _sum(counts))


def runs_functions(dataset: Any) -> bool:
    """Whether a step of a pipeline computes its elements by a function, as a map."""
    return any(part._functions() for part in parts(dataset))


def cache_files(dataset: Any, *, at_once: bool = False) -> list[str]:
    """List the files that a pipeline caches in, as the user named them.

    Args:
        dataset: a ``tf.data.Dataset``; anything else has none.
        at_once: only those that the first batch is drawn from, whatever there is, and
            no source that may come later or never.
    """
    found = []
    for part in parts(dataset):
        if at_once and len(part._inputs()) > 1:
            break
        if _kind(part) == "CacheDataset":
            found.append(os.fsdecode(part._filename.numpy()))
    return [name for name in found if name]


def writes_snapshots(dataset: Any) -> bool:
    """Whether a part of a pipeline, or of one that a function makes, is a snapshot."""
    if any(_kind(part).endswith("SnapshotDataset") for part in parts(dataset)):
        return True
    return any(op.startswith("SnapshotDataset") for op in _inner_ops(dataset))


def draws_unseeded(dataset: Any) -> list[str]:
    """Name what a pipeline draws at random without a seed, so that no run repeats it.

    Without ``tf.random.set_seed`` an op that has no seed of its own takes another one
    in each process; both halves of its seed are zero then.
    """
    found = []
    for part in parts(dataset):
        name = _kind(part).removesuffix("Dataset").lower()
        seeds = [getattr(part, each, None) for each in ("_seed", "_seed2")]
        if not any(seed is None or int(seed) for seed in seeds):
            found.append(name)
        for graph in _graphs(part):
            found += [
                f"{operation.type} in {name}"
                for operation in graph.get_operations()
                if operation.op_def.is_stateful and _seeds_of(operation) == (0, 0)
            ]
    return found


def draws_from_generators(dataset: Any) -> bool:
    """Whether functions of a pipeline draw from ``tf.random.Generator`` objects."""
    return any(
        operation.type.startswith(_OF_GENERATORS)
        for part in parts(dataset)
        for graph in _graphs(part)
        for operation in graph.get_operations()
    )


def reshuffles(dataset: Any) -> bool:
    """Whether each iterator over a pipeline goes through it in another order."""
    return any(
        _kind(part) == "ShuffleDataset"
        and getattr(part, "_reshuffle_each_iteration", None) is not False
        for part in parts(dataset)
    )


def calls_python(dataset: Any) -> bool:
    """Whether Python code makes or changes the elements, at any depth."""
    return any(op in _PYTHON_OPS for op in _inner_ops(dataset))


def _inner_ops(dataset: Any) -> Iterator[str]:
    """Give the types of all ops in a pipeline's functions, at any depth."""
    for part in parts(dataset):
        for graph in _graphs(part):
            yield from (node.op for node in nodes_of(graph.as_graph_def()))


def nodes_of(definition: Any) -> Iterator[Any]:
    """Give the NodeDefs of a GraphDef, and of the functions that it calls."""
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def


def iterator_state(iterator: Any, *, strictly: bool = False) -> Any:
    """Serialise an iterator.

    ``tf.train.Checkpoint(iterator=...)`` does the same and writes a file of its own;
    this gives the tensor, which goes into our bundle. The resource has no public name.

    Args:
        iterator: an iterator over a ``tf.data.Dataset``.
        strictly: refuse a pipeline with ops whose state is not part of an iterator's,
            whatever policy its options set.
    """
    policy = tf.data.experimental.ExternalStatePolicy
    return tf.raw_ops.SerializeIterator(
        resource_handle=iterator._iterator_resource,
        external_state_policy=(policy.FAIL if strictly else policy.IGNORE).value,
    )


def set_iterator_state(iterator: Any, state: Any) -> None:
    """Put an iterator, and the seeds that its data set holds, back to a state.

    Args:
        iterator: over the same data set in this process, or over one made alike.
        state: from `iterator_state`.
    """
    iterator._restore_from_tensors({"_STATE": state})


def repeatable_parts(dataset: Any) -> list[Any]:
    """List those steps of a pipeline that give the same whenever they are asked.

    Nothing in or before them shuffles, draws at random, keeps elements or runs Python.

    Args:
        dataset: a ``tf.data.Dataset``; it is followed to where it has several sources.

    Returns:
        Data sets, the last step of the pipeline first.
    """
    found = []
    while True:
        if all(_repeats(part) for part in parts(dataset)):
            found.append(dataset)
        sources = dataset._inputs()
        if len(sources) != 1:
            return found
        dataset = sources[0]


def batch_rows(dataset: Any) -> int | None:
    """Return how many rows the last step that batches makes one; None if none does.

    ``_batch_size`` of such a step has no public name.

    Args:
        dataset: what ``fit`` draws from.
    """
    for part in parts(dataset):
        if getattr(part, "_batch_size", None) is not None:
            return int(part._batch_size)
    return None


def _repeats(part: Any) -> bool:
    kind = _kind(part)
    return kind not in ("ShuffleDataset", "CacheDataset", "RandomDataset") and not any(
        graph.variables
        or any(operation.op_def.is_stateful for operation in graph.get_operations())
        for graph in _graphs(part)
    )


def parts(dataset: Any) -> Iterator[Any]:
    """Give a pipeline's parts, the last step of it first; none of anything else."""
    waiting = [dataset]
    while waiting:
        current = waiting.pop()
        # A DistributedDataset tells neither; its pipelines are replayed as they are.
        if isinstance(current, tf.data.Dataset):
            yield current
            waiting.extend(current._inputs())


def _kind(part: Any) -> str:
    return type(part).__name__.strip("_")


def _graphs(part: Any) -> Iterator[Any]:
    for wrapper in part._functions():
        yield wrapper.function.graph


def _held(part: Any) -> Iterator[tuple[Any, int | None]]:
    """Give the data sets whose elements a part's iterator holds, and how many."""
    kind = _kind(part)
    if kind == "ShuffleDataset":
        size = int(part._buffer_size)
        known = int(part.cardinality())
        # An unknown or endless input fills any buffer; a negative size means all of it.
        if size < 0 or 0 <= known < size:
            size = known
        yield part, size if size >= 0 else None
    elif kind == "CacheDataset" and not part._filename.numpy():
        known = int(part.cardinality())
        yield part, known if known >= 0 else None
    elif kind == "FlatMapDataset":
        for source in part._inputs():
            # What it hands out is held by it and by the prefetch before it.
            yield source, 2


def _bytes_of(spec: Any) -> int | None:
    total = 0
    for leaf in tf.nest.flatten(spec):
        if not isinstance(leaf, tf.TensorSpec) or not leaf.shape.is_fully_defined():
            return None
        if not leaf.dtype.size:
            return None
        total += leaf.dtype.size * math.prod(leaf.shape)
    return total


def _sum(numbers: list[int | None]) -> int | None:
    """Add up; None where one is not known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _seeds_of(operation: Any) -> tuple[int, int] | None:
    attributes = operation.node_def.attr
    if "seed" not in attributes or "seed2" not in attributes:
        return None
    return attributes["seed"].i, attributes["seed2"].i
