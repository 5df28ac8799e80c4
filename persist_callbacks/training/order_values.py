"""What a data set goes through its items by, as JSON and arrays, and back.

An order of rows is an array or a list of numbers. A list of names or of objects that
was shuffled is kept as the places that its items had in it as the script made it: the
rerun makes it too, and nothing of the items themselves is saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from persist_callbacks.training import json_values

# More numbers than this are tensors of the checkpoint, fewer are text.
_MOST_INLINE = 100
_MOST_PARTS, _MOST_PLAIN = 1000, 1000
# What an item takes as text, about, and the time to write it.
_TEXT = 100
_PLAIN = (type(None), bool, int, float, str)
_MUTABLE = frozenset([list, dict, set, bytearray, np.ndarray])
_KINDS = {
    "plain": 1,
    "array": 1,
    "numbers": 1,
    "scalars": 1,
    "places": 2,
    "split": 3,
    "tuple": 1,
    "list": 1,
}


class NotSaved(Exception):
    """A value that is not saved; the text says why."""


class Packer:
    """Packs values, as long as there is room for them.

    Args:
        room: bytes of arrays that there is room for.
    """

    def __init__(self, room: int) -> None:
        self._room = self._left = room
        self._arrays: dict[str, Any] = {}

    def pack(self, value: Any, base: Any, where: str) -> tuple[Any, dict[str, Any]]:
        """Pack a value.

        Args:
            value: of a data set.
            base: what `base_of` gave for it before it was shuffled; None if nothing.
            where: the beginning of the names of its arrays.

        Returns:
            A record for JSON, and the arrays that it speaks of by their names: copies.

        Raises:
            NotSaved: it is too large, or of an unknown kind.
        """
        self._arrays, before = {}, self._left
        try:
            return self._pack(value, base, where), self._arrays
        except (NotSaved, RecursionError) as error:
            self._left = before
            if isinstance(error, NotSaved):
                raise
            raise NotSaved("it holds itself") from error

    def keep(self, arrays: dict[str, Any]) -> None:
        """Take the room for what was packed before and is the same."""
        self._left -= sum(array.nbytes for array in arrays.values())

    def _pack(self, value: Any, base: Any, where: str) -> Any:
        kind = type(value)
        if _is_plain(value) or (
            isinstance(value, np.generic) and is_numeric(value.dtype)
        ):
            return ["plain", self._text([value], where)[0]]
        if kind is np.ndarray and is_numeric(value.dtype):
            return ["array", self._put(value, where)]
        if kind is np.ndarray:
            return self._by_places(value, base, where)
        if kind is tuple:
            return ["tuple", self._pack(list(value), base, where)]
        if kind is not list:
            raise NotSaved(f"it is a {kind.__name__}")
        return self._pack_list(value, base, where)

    def _pack_list(self, value: list[Any], base: Any, where: str) -> Any:
        kinds, many = set(map(type, value)), len(value) > _MOST_INLINE
        if many and len(kinds) == 1:
            (kind,) = kinds
            if kind is int or (
                issubclass(kind, np.generic) and is_numeric(np.dtype(kind))
            ):
                array = self._array_of(value, np.int64 if kind is int else kind)
                named = "numbers" if kind is int else "scalars"
                return [named, self._put(array, where)]
        if len(value) <= _MOST_PLAIN and all(map(_is_plain, value)):
            return ["plain", self._text(value, where)]
        if kinds == {np.ndarray} or (many and kinds == {list}):
            return self._split(value, kinds == {list}, where)
        if kinds & _MUTABLE:
            # They may have changed themselves, in the places that they had.
            raise NotSaved("it holds what may change by itself")
        return self._by_places(value, base, where)

    def _split(self, value: list[Any], are_lists: bool, where: str) -> Any:
        """Pack rows of numbers, as those of each batch or class, end to end."""
        if are_lists:
            if not all(type(item) is int for part in value for item in part):
                raise NotSaved("it holds other than numbers")
            value = [self._array_of(part, np.int64) for part in value]
        first = value[0].dtype
        for part in value:
            if part.ndim != 1 or part.dtype != first or not is_numeric(first):
                if len(value) > _MOST_PARTS:
                    raise NotSaved("it holds other than rows of numbers")
                return ["list", self._parts(value, where)]
        self._require(sum(part.nbytes for part in value))
        lengths = np.array([len(part) for part in value], np.int64)
        flat = self._put(np.concatenate(value), where)
        return ["split", are_lists, flat, self._put(lengths, f"{where}/lengths")]

    def _array_of(self, value: list[Any], kind: Any) -> Any:
        self._require(len(value) * np.dtype(kind).itemsize)
        try:
            return np.array(value, kind)
        except OverflowError as error:
            raise NotSaved("its numbers are larger than 64 bits") from error

    def _parts(self, values: Iterable[Any], where: str) -> list[Any]:
        # What is within something else has no base of its own.
        return [
            self._pack(part, None, f"{where}/{number}")
            for number, part in enumerate(values)
        ]

    def _by_places(self, value: Any, base: Any, where: str) -> Any:
        """Pack a sequence by the places that its items have in another."""
        array = isinstance(value, np.ndarray)
        if base is None or (
            array and (value.ndim != 1 or value.dtype.kind not in "USO")
        ):
            raise NotSaved("it holds other than numbers")
        self._require(4 * len(value))
        places = {_same(item): place for place, item in enumerate(_items(base))}
        try:
            found = [places[_same(item)] for item in _items(value)]
        except KeyError:
            raise NotSaved("it holds other items than it had") from None
        return ["places", len(base), self._put(np.array(found, np.int32), where)]

    def _put(self, array: Any, where: str) -> Any:
        self._require(array.nbytes)
        self._left -= array.nbytes
        if array.ndim and array.size > _MOST_INLINE:
            self._arrays[where] = np.array(array, order="C")
            return json_values.encode(array, where=where, arrays={})
        # An array without dimensions is none in JSON.
        flat = json_values.encode(array.reshape(-1), where=where)
        return [flat, list(array.shape)]

    def _text(self, items: list[Any], where: str) -> Any:
        self._require(_TEXT * len(items))
        self._left -= _TEXT * len(items)
        try:
            return json_values.encode(items, where=where)
        except (ValueError, TypeError) as error:
            raise NotSaved("JSON does not hold it") from error

    def _require(self, size: int) -> None:
        if size > self._left:
            raise NotSaved(f"it is larger than the {self._room // 10**6} MB for it")


def unpack(record: Any, base: Any, arrays: dict[str, Any]) -> Any:
    """Unpack a value.

    Args:
        record: from `Packer.pack`.
        base: as for that.
        arrays: those that the record speaks of.

    Returns:
        The value, made anew.

    Raises:
        ValueError, TypeError, LookupError, AttributeError, OverflowError: it was made
            of another data set, or by hand.
    """
    kind, *rest = record
    if kind == "plain":
        return json_values.decode(rest[0])
    if kind == "array":
        return _array(rest[0], arrays)
    if kind == "numbers":
        return _array(rest[0], arrays).tolist()
    if kind == "scalars":
        return list(_array(rest[0], arrays))
    if kind == "split":
        flat, lengths = (_array(each, arrays) for each in rest[1:])
        if lengths.sum() != len(flat) or lengths.min() < 0:
            raise ValueError("rows of other lengths")
        rows = np.split(flat, np.cumsum(lengths)[:-1])
        return [row.tolist() for row in rows] if rest[0] else rows
    if kind == "tuple":
        return tuple(unpack(rest[0], base, arrays))
    if kind == "list":
        return [unpack(part, None, arrays) for part in rest[0]]
    length, found = rest[0], _array(rest[1], arrays)
    if kind != "places" or base is None or len(base) != length:
        raise ValueError("another sequence than it was")
    if found.size and not 0 <= found.min() <= found.max() < length:
        raise IndexError("a place that there is not")
    if isinstance(base, np.ndarray):
        return base[found]
    return [base[place] for place in found.tolist()]


def check(record: Any) -> None:
    """See that a record is one, as far as that is seen without its arrays.

    Args:
        record: as decoded from JSON.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(record, list) or not record or not isinstance(record[0], str):
        raise ValueError("no record of a value")
    kind, *rest = record
    if len(rest) != _KINDS.get(kind):
        raise ValueError(f"a value of the kind {kind!r}")
    if kind in ("array", "numbers", "scalars", "places", "split"):
        for array in rest[1:] or rest:
            _check_array(array)
    if kind == "places" and (type(rest[0]) is not int or rest[0] < 0):
        raise ValueError(f"a length of {rest[0]!r}")
    if kind == "tuple":
        check(rest[0])
    if kind == "list":
        if not isinstance(rest[-1], list):
            raise ValueError("parts that are no list")
        for part in rest[-1]:
            check(part)


def base_of(value: Any, largest: int) -> Any:
    """Keep what a sequence holds as long as it is in the order that it was made in.

    Args:
        value: of a data set.
        largest: bytes of places that are saved of one.

    Returns:
        Its items for `Packer.pack`; None where its places are not what is saved.
    """
    if type(value) in (list, tuple) and len(value) <= largest // 4:
        return tuple(value)
    if type(value) is np.ndarray and value.ndim == 1 and value.nbytes <= largest:
        return None if is_numeric(value.dtype) else value.copy()
    return None


def is_numeric(dtype: np.dtype[Any]) -> bool:
    """Whether an array of a type goes into a checkpoint as it is."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.isnative


def _check_array(value: Any) -> None:
    if isinstance(value, list):
        flat, shape = value
        value = json_values.decode(flat)
        if not isinstance(value, np.ndarray):
            raise ValueError("an array that is none")
        value.reshape(shape)
    elif not json_values.array_names(value):
        raise ValueError("an array that is none")


def _array(value: Any, arrays: dict[str, Any]) -> Any:
    if isinstance(value, list):
        flat, shape = value
        return json_values.decode(flat).reshape(shape)
    found = json_values.decode(value, arrays)
    # A tensor of the checkpoint is not to be written to.
    return np.array(found)


def _is_plain(value: Any) -> bool:
    """Whether JSON holds a value: numbers of 64 bits, and text that is text."""
    if type(value) is int:
        return -(2**63) <= value < 2**63
    if type(value) is str:
        # The name of a file may have bytes that are none.
        return value.isascii() or value.encode(errors="replace").decode() == value
    return type(value) in _PLAIN


def _items(sequence: Any) -> Sequence[Any]:
    items: Sequence[Any] = sequence
    return list(sequence.tolist()) if isinstance(sequence, np.ndarray) else items


def _same(item: Any) -> Any:
    """Return what equal items have in common; others than plain ones by themselves."""
    is_value = type(item) in (*_PLAIN, bytes, np.str_, np.bytes_)
    return (type(item), item) if is_value else id(item)
