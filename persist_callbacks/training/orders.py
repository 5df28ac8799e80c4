"""What a data set changes in itself at the begin or end of an epoch, as its order.

To end as many epochs again does not bring an order back that was shuffled by a
generator which something else draws from in between, as random flips do. So it is found
out what changes then, and that is saved. What cannot be is made up for by ending the
epochs again, and named.
"""

from __future__ import annotations

import contextlib
import operator
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FunctionType, MethodType, ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import xxhash

from persist_callbacks.training import counted_attributes, order_values, prints
from persist_callbacks.training.randomness import HOLDERS

# An order of two million rows; each checkpoint has it, as a link while it is the same.
_LARGEST = 16_000_000
_MOST_PARTS, _FEW, _DEPTH = 1000, 1000, 2
_PLAIN = (type(None), bool, int, float, str)
# What is put back in other ways, or has no state.
_NOT_LOOKED_AT = (
    np.random.Generator,
    np.random.RandomState,
    FunctionType,
    MethodType,
    ModuleType,
    type,
    keras.Layer,
    keras.Variable,
    tf.Variable,
    *HOLDERS,
)


# How it looked, the record and its arrays.
_Taken = tuple[Any, Any, dict[str, Any]]


@dataclass(frozen=True)
class Order:
    """The values of what a data set changes at epochs' ends.

    Args:
        record: by the paths to them, ready for JSON.
        arrays: those that the record speaks of, by their names.
    """

    record: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)


class Orders:
    """Finds what a data set changes at epochs' ends, takes it and puts it back.

    Args:
        dataset: the user's ``PyDataset``, as the script made it.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = weakref.ref(dataset)
        self._names: set[str] = set()
        self._bases: dict[str, Any] = {}
        # By the names that it was taken for, and by the path.
        self._taken: dict[str, dict[str, _Taken]] = {}
        self._noted: dict[str, Any] | None = None
        self._unsaved: dict[str, str] = {}
        if self._is_told():
            for path, _, value in _attributes(dataset):
                base = order_values.base_of(value, _LARGEST)
                if base is not None:
                    self._bases[path] = base

    def _is_told(self, *hooks: str) -> bool:
        """Whether the data set does something of its own when it is told of epochs."""
        plain, dataset = keras.utils.PyDataset, self._dataset()
        return any(
            getattr(type(dataset), hook, None) not in (None, getattr(plain, hook))
            or hook in vars(dataset)
            for hook in hooks or ("on_epoch_begin", "on_epoch_end")
        )

    @contextlib.contextmanager
    def found_here(self, *hooks: str) -> Iterator[None]:
        """Find what changes within the block.

        Args:
            hooks: those of the data set that are called there, if not all.
        """
        dataset = self._dataset()
        if dataset is None or not self._is_told(*hooks):
            yield
            return
        before = self._looks(dataset)
        yield
        if before is not None:
            self._find(dataset, before)

    def note(self) -> None:
        """Look at the data set, for `find_since_noted`."""
        dataset = self._dataset()
        if dataset is not None and self._is_told():
            self._noted = self._looks(dataset)

    def find_since_noted(self) -> None:
        """Find what an epoch's end has changed that nobody could be there for."""
        dataset, (noted, self._noted) = self._dataset(), (self._noted, None)
        if dataset is not None and noted is not None:
            self._find(dataset, noted)

    def _find(self, dataset: Any, before: dict[str, Any]) -> None:
        after, counted = self._looks(dataset), counted_attributes.take(dataset)
        for path, look in (after or {}).items():
            if path not in counted and not _same(before.get(path), look):
                self._names.add(path)

    def _looks(self, dataset: Any) -> dict[str, Any] | None:
        # Its workers may be changing what is looked at, and whatever an object of the
        # user's answers ends no training.
        try:
            return {
                path: _look(value)
                for path, _, value in _attributes(dataset)
                if path not in self._names
            }
        except Exception:  # noqa: BLE001
            return None

    def take(self, where: str) -> Order:
        """Take the values of what was found to change: of all of it, or of nothing.

        What is shuffled together, as rows and their labels, belongs together.

        Args:
            where: the beginning of the arrays' names.
        """
        dataset, taken = self._dataset(), dict[str, _Taken]()
        last, self._unsaved = self._taken.get(where, {}), {}
        if dataset is None or not self._names:
            return Order()
        packer = order_values.Packer(_LARGEST)
        for path, _, value in _attributes(dataset):
            if path not in self._names:
                continue
            known = last.get(path)
            name = f"{where}/order/{path.replace('.', '/')}"
            try:
                look = _look(value)
                if known is not None and _is_exact(value) and _same(known[0], look):
                    taken[path] = known
                    packer.keep(known[2])
                    continue
                packed = packer.pack(value, self._bases.get(path), name)
            except order_values.NotSaved as error:
                self._unsaved[path] = str(error)
                continue
            except Exception as error:  # noqa: BLE001 - as when it is looked at
                self._unsaved[path] = f"it cannot be read ({error})"
                continue
            taken[path] = (look, *packed)
        if self._unsaved:
            taken.clear()
        self._taken[where] = taken
        return Order(
            {path: record for path, (_, record, _) in taken.items()},
            {
                name: each
                for _, _, held in taken.values()
                for name, each in held.items()
            },
        )

    def put_back(self, order: Order) -> list[str]:
        """Put values back, after as many epochs were ended as there had been.

        All of them or none: rows that are in another order than their labels are worse
        than both in an order of their own.

        Args:
            order: from `take`.

        Returns:
            A sentence for each that could not be put back.
        """
        dataset, left_out = self._dataset(), []
        if dataset is None:
            return []
        there = list(_attributes(dataset))
        here = {path: holder for path, holder, _ in there}
        ready = []
        for path, record in order.record.items():
            self._names.add(path)
            try:
                value = order_values.unpack(
                    record, self._bases.get(path), dict(order.arrays)
                )
                holder = here.get(path) or _holder_of(dataset, path)
                name = path.split(".")[-1]
                held = vars(holder).get(name)
                if _form(held) != _form(value):
                    raise ValueError("it has another length or type now")
                ready.append((holder, name, held, value, record))
            except (
                ValueError,
                TypeError,
                LookupError,
                AttributeError,
                OverflowError,
            ) as error:
                left_out.append(
                    f"{type(dataset).__name__}.{path} is not what it was ({error})"
                )
        if left_out:
            return left_out
        elsewhere = {id(value) for path, _, value in there if path not in order.record}
        for holder, name, held, value, record in ready:
            # What has another name too, that did not change, is not to be written to.
            alone = id(held) not in elsewhere
            setattr(holder, name, _settled(held, value, record) if alone else value)
        return []

    def saved(self) -> set[str]:
        """Name the attributes that are saved, as of the last `take`."""
        paths = [path for taken in self._taken.values() for path in taken]
        return {path.split(".")[0] for path in paths}

    def doubts(self) -> list[str]:
        """Say of what changes at epochs' ends and is not saved what that means."""
        kind = type(self._dataset()).__qualname__
        return [
            f"{kind}.{path} changes at an epoch's end and is not saved, since {why}: "
            "as many epochs are ended again for all that does, which is exact if "
            "nothing else draws from the generator that it is shuffled by"
            for path, why in sorted(self._unsaved.items())
        ]


# By the data set's id, over all that it is given to: one may be equal to another.
_ORDERS: dict[int, Orders] = {}


def of(dataset: Any) -> Orders:
    """Return what finds and saves a data set's order: the same one each time."""
    found = _ORDERS.get(id(dataset))
    if found is None:
        found = _ORDERS[id(dataset)] = Orders(dataset)
        weakref.finalize(dataset, _ORDERS.pop, id(dataset), None)
    return found


def _attributes(
    holder: Any, path: str = "", depth: int = _DEPTH, seen: set[int] | None = None
) -> Iterator[tuple[str, Any, Any]]:
    """Give a data set's attributes, and those of the user's objects that it holds.

    Yields:
        The path to each, what holds it, and its value.
    """
    seen = seen if seen is not None else set()
    seen.add(id(holder))
    for name, value in list(vars(holder).items()):
        inner = f"{path}.{name}" if path else name
        if isinstance(value, _NOT_LOOKED_AT) or _is_generator(value):
            continue
        if isinstance(value, (dict, set)):
            # Labels by their names, or a cache that workers fill: no order.
            continue
        of_user = prints.is_users(type(value).__module__)
        if of_user or isinstance(value, keras.utils.PyDataset):
            if depth > 1 and hasattr(value, "__dict__") and id(value) not in seen:
                yield from _attributes(value, inner, depth - 1, seen)
        else:
            yield inner, holder, value


def _is_generator(value: Any) -> bool:
    # Python's, and functions under way, whose place nobody can tell.
    return hasattr(value, "getstate") or hasattr(value, "gi_frame")


def _holder_of(dataset: Any, path: str) -> Any:
    """Find what an attribute belongs to that is not there yet."""
    holder = dataset
    for name in path.split(".")[:-1]:
        holder = vars(holder)[name]
    return holder


def _look(value: Any, depth: int = _DEPTH) -> Any:
    """Look at a value so that another look tells whether it has changed.

    That of an array is of all that it holds up to what is saved, beyond of some items;
    of a list, which objects it holds; of what is unknown, which object it is.
    """
    if type(value) in _PLAIN:
        return (type(value), repr(value) if isinstance(value, float) else value)
    if type(value) is np.ndarray and not value.dtype.hasobject:
        if value.nbytes <= _LARGEST:
            few: Any = xxhash.xxh3_128_digest(np.ascontiguousarray(value).data)
        else:
            few = id(value), prints.sample(value).content
        return (value.dtype.str, value.shape, few)
    if type(value) is np.ndarray and value.nbytes <= _LARGEST:
        return _Held(tuple(value.reshape(-1).tolist()))
    if type(value) in (list, tuple) and depth:
        if len(value) <= _MOST_PARTS:
            return [_look(part, depth - 1) for part in value]
        return _Held(tuple(value))
    # Of a list's part that workers may fill, no more than that it is there.
    return _Held((value,))


def _form(value: Any) -> Any:
    """Return what an order keeps, however it is mixed; None of a single value."""
    if isinstance(value, np.ndarray):
        return (value.dtype, value.shape)
    return (type(value), len(value)) if isinstance(value, (list, tuple)) else None


class _Held:
    """The very objects that something holds."""

    def __init__(self, items: tuple[Any, ...]) -> None:
        self.items = items

    def is_same(self, other: _Held) -> bool:
        """Whether it holds the same as another."""
        return len(self.items) == len(other.items) and all(
            map(operator.is_, self.items, other.items)
        )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, _Held):
        return isinstance(other, _Held) and one.is_same(other)
    if isinstance(one, list):
        if not isinstance(other, list) or len(one) != len(other):
            return False
        return all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


def _is_exact(value: Any) -> bool:
    """Whether two looks that are the same mean that nothing has changed at all."""
    if type(value) is np.ndarray:
        return not value.dtype.hasobject
    # Of what is deeper inside, a look tells which object it is.
    return type(value) in (list, tuple) and all(type(item) in _PLAIN for item in value)


def _settled(held: Any, value: Any, record: Any) -> Any:
    """Put a value into the containers that hold it, which others may hold too.

    As an array may be one part of another. Workers may be reading it: what is right
    already is left alone.

    Returns:
        What is to be held: the container itself where it could be.
    """
    kind, *rest = record
    if type(held) is not type(value):
        return value
    if isinstance(held, np.ndarray):
        if (held.dtype, held.shape) != (value.dtype, value.shape):
            return value
        if not held.flags.writeable:
            return value
        if not np.array_equal(held, value):
            held[...] = value
        return held
    # Items that were put in another order are themselves, and not written to.
    parts = rest[-1] if kind == "list" else None
    if kind == "split":
        parts = [("array",)] * len(value)
    if isinstance(held, list):
        if parts is not None and len(held) == len(value):
            value = list(map(_settled, held, value, parts))
        if not _same(_Held(tuple(held)), _Held(tuple(value))):
            held[:] = value
        return held
    return value
