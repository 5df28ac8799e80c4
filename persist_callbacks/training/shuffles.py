"""The seeds that a ``tf.data`` pipeline takes: which parts, when, and how often.

A data set that reshuffles holds a generator of seeds, and each of its iterators takes a
pair from it. At the top of a pipeline that happens when an iterator over it is made;
below another shuffle it happens when that one is first drawn from, and below a
``repeat`` once more for each round. In which order the third epoch goes through the
data depends on how many pairs were taken before.

What is used here of data sets has no public name, and neither have the names that parts
have in an iterator's state; ``tests/training/test_shuffles.py`` fails by name when a
version moves them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from persist_callbacks.training import pipeline

_KINDS = ("ShuffleDataset", "RandomDataset")
# What an iterator's state calls its parts: the path before the name of each value.
_PATH = re.compile(rb"Iterator::Root([\w:\[\]]*)@@")
_INSIDE_CACHE = b"::MemoryCacheImpl"
_MARKS = (b"::Shuffle", b"::ShuffleAndRepeat", b"::Random:epoch_num_random_samples")
# While it is filled, the first is missing in some versions.
_CACHE = (b"::MemoryCache", b"::MemoryCacheImpl")


@dataclass(frozen=True)
class Holder:
    """A part of a pipeline that holds a generator of seeds.

    Args:
        dataset: the part.
        at_once: whether making an iterator over the whole takes a pair.
        made: iterators over it, each of which takes a pair, that there are once one
            over the whole is drawn to its end; None if that never comes.
        drawn: how many of them are drawn from.
        cached: whether it is drawn from once, and kept in memory then.
        comes_back: whether the iterator drops it, and maybe takes it up again, while
            there is more to draw.
    """

    dataset: Any
    at_once: bool = True
    made: int | None = 1
    drawn: int | None = 1
    cached: bool = False
    comes_back: bool = False


class Seeds:
    """The generators of seeds within a pipeline.

    Args:
        dataset: a ``tf.data.Dataset``; anything else has none that could be found.
    """

    def __init__(self, dataset: Any) -> None:
        self.holders = list(_holders(dataset, Holder(dataset)))
        self._is_finite = (
            isinstance(dataset, tf.data.Dataset) and int(dataset.cardinality()) >= 0
        )
        # Shuffles that nobody can reach: a function has them from elsewhere.
        self.hidden = any(_captures_datasets(part) for part in pipeline.parts(dataset))

    @property
    def reshuffles(self) -> bool:
        """Whether each epoch comes in another order."""
        return any(
            getattr(each.dataset, "_reshuffle_each_iteration", None) is not False
            for each in self.holders
        )

    @property
    def fills_cache(self) -> bool:
        """Whether an order is kept in memory from the first epoch on."""
        return any(each.cached and each.made is not None for each in self.holders)

    @property
    def must_be_drawn(self) -> bool:
        """Whether only going through the data tells what an iterator over them takes.

        A ``repeat`` without an end, beside something that ends, is left in the midst of
        some round.
        """
        return self._is_finite and any(
            each.made is None and not each.cached for each in self.holders
        )

    @property
    def come_back(self) -> bool:
        """Whether a state may lack a part that is needed later: see `is_whole`."""
        return any(holder.comes_back for holder in self.holders)

    def catch_up(self, iterators: int) -> None:
        """Take the seeds that iterators take as they are drawn to their end.

        Those that each takes when it is made are not among them.

        Args:
            iterators: how many.
        """
        for holder in self.holders:
            if holder.made is not None and not holder.cached:
                for _ in range(iterators * (holder.made - holder.at_once)):
                    iter(holder.dataset)

    def shares(self, other: Seeds) -> bool:
        """Whether some generator is in another pipeline too.

        Args:
            other: the seeds of that one.
        """
        return not {id(each.dataset) for each in self.holders}.isdisjoint(
            id(each.dataset) for each in other.holders
        )

    def late(self) -> list[Any]:
        """List the parts that take seeds once, when an iterator is first drawn from."""
        return [
            holder.dataset
            for holder in self.holders
            if not (holder.at_once or holder.comes_back)
        ]

    def is_whole(self, state: Any) -> bool:
        """Whether the state of an iterator holds all parts that come back.

        At the end of a round of ``repeat``, batching lets go of what it has drawn to
        its end, and with it of where its generator was.

        Args:
            state: from `pipeline.iterator_state`.
        """
        serialized = tf.io.serialize_tensor(state).numpy()
        paths = set(_PATH.findall(serialized))
        shuffles = [
            path
            for path in paths
            if path.endswith(_MARKS) and _INSIDE_CACHE not in path
        ]
        caches = [path for path in paths if path.endswith(_CACHE)]
        cached = len({id(each.dataset) for each in self.holders if each.cached})
        free = sum(not holder.cached for holder in self.holders)
        return len(shuffles) >= free and len(caches) >= bool(cached)


def _holders(dataset: Any, here: Holder) -> Iterator[Holder]:
    if not isinstance(dataset, tf.data.Dataset):
        return
    kind = type(dataset).__name__.strip("_")
    here = dataclasses.replace(here, dataset=dataset)
    if kind in _KINDS:
        yield here
    inputs = dataset._inputs()
    first, others = here, here
    if kind == "ShuffleDataset":
        # It fills its buffer when it is first drawn from.
        first = others = dataclasses.replace(here, at_once=False, made=here.drawn)
    elif kind == "RepeatDataset" and int(dataset._count) != 1:
        first = _repeated(here, inputs[0], int(dataset._count))
    elif kind == "ConcatenateDataset":
        others = dataclasses.replace(
            here, at_once=False, made=here.drawn, comes_back=True
        )
    elif kind == "CacheDataset" and not dataset._filename.numpy():
        # A state has what is cached while there is more to draw from the cache.
        first = dataclasses.replace(here, cached=True, comes_back=True)
    for number, source in enumerate(inputs):
        yield from _holders(source, others if number else first)


def _repeated(here: Holder, source: Any, count: int) -> Holder:
    here = dataclasses.replace(here, comes_back=True)
    if count < 0 or here.made is None or here.drawn is None:
        return dataclasses.replace(here, made=None, drawn=None)
    # After the last round, one more iterator is made and not drawn from; but not by the
    # one op that TensorFlow makes of a shuffle and the repeat above it.
    rounds = count + (type(source).__name__.strip("_") != "ShuffleDataset")
    undrawn = here.made - here.drawn
    return dataclasses.replace(
        here, made=here.drawn * rounds + undrawn, drawn=here.drawn * count
    )


def _captures_datasets(part: Any) -> bool:
    return any(
        captured.dtype == tf.variant
        for wrapper in part._functions()
        for captured in wrapper.function.captured_inputs
    )
