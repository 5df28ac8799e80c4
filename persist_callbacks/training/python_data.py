"""The state of a ``PyDataset``: by two methods of its own, or by its generators.

A data set with ``get_state() -> dict`` and ``set_state(dict)`` is put back by them, as
a callback is. Of any other, the random generators that it holds are put back, those of
Keras layers that it augments by among them, and what it counts in; what it changes at
epochs' ends, as its order, is for `orders`. What others change in it, as a callback
that makes it harder, is not.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Iterator
from types import FunctionType, ModuleType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from persist_callbacks.training import counted_attributes, json_values, prints
from persist_callbacks.training.randomness import HOLDERS
from persist_callbacks.training.variables import layers_of

# How deep generators are looked for: data set, its augmenter, that one's list of steps.
_DEPTH, _LONGEST = 3, 100
_WHERE = "data"
# The words that these of NumPy's generators make at a time.
_MT19937, _PHILOX = 624, 4


def has_protocol(dataset: Any) -> bool:
    """Whether a data set keeps its state itself."""
    return hasattr(dataset, "get_state") and hasattr(dataset, "set_state")


def capture(dataset: Any) -> dict[str, Any]:
    """Take a data set's state, as it is when an iterator over it is made.

    Args:
        dataset: the user's ``PyDataset``.

    Returns:
        A JSON-ready record for `restore`.

    Raises:
        ArgumentError: its ``get_state()`` gives what JSON cannot hold.
    """
    if has_protocol(dataset):
        where = f"{type(dataset).__name__}.get_state()"
        return {"state": json_values.encode(dataset.get_state(), where=where)}
    record = {
        "generators": {
            path: json_values.encode(_state_of(generator), where=f"{_WHERE}/{path}")
            for path, generator in generators(dataset)
        }
    }
    counted = counted_attributes.take(dataset)
    return {**record, "counted": json_values.encode(counted, where=_WHERE)}


def restore(dataset: Any, record: dict[str, Any]) -> list[str]:
    """Put a data set's state back.

    Args:
        dataset: the user's ``PyDataset``.
        record: from `capture`.

    Returns:
        A sentence for each part that could not be put back.
    """
    name = type(dataset).__name__
    if "state" in record:
        if not has_protocol(dataset):
            return [f"{name} has no set_state() any more"]
        dataset.set_state(json_values.decode(copy.deepcopy(record["state"])))
        return []
    left_out = []
    here = dict(generators(dataset))
    for path, saved in record["generators"].items():
        values = json_values.decode(saved)
        generator = here.pop(path, None)
        if generator is None or not _set_state(generator, values):
            left_out.append(f"{name} has not the generator {path} that it had")
    # An older version took none.
    counted = json_values.decode(record.get("counted", {}))
    return left_out + [
        f"{name} does not count in {attribute} any more"
        for attribute in counted_attributes.put_back(dataset, counted)
    ]


def put_back_shared(dataset: Any, record: dict[str, Any], other: Any) -> None:
    """Put back the generators of a data set that another one has too.

    Args:
        dataset: a data set.
        record: from `capture` of it.
        other: the other one.
    """
    theirs = {id(generator) for _, generator in generators(other)}
    shared = {path for path, each in generators(dataset) if id(each) in theirs}
    saved = record.get("generators", {})
    restore(dataset, {"generators": {k: v for k, v in saved.items() if k in shared}})


class ForgottenChanges:
    """Finds what changes in a data set without the two methods, and is not put back.

    From when it was told of an epoch's end until the callbacks were, nobody but others
    changes it. What changes at other times too, as an order or a cache does, is its
    own; of that, what it counts in is found if it is not put back.

    Args:
        dataset: the user's ``PyDataset``, as training begins.
        saved: gives the ids of the variables that are saved with the model.
        in_order: names the attributes that are saved as the order of the data.
    """

    def __init__(
        self,
        dataset: Any,
        saved: Callable[[], Collection[int]],
        in_order: Callable[[], set[str]] = set,
    ) -> None:
        self._dataset = dataset
        self._in_order = in_order
        self._saved = saved
        self._own: set[str] = set()
        self._by_others: set[str] = set()
        self._lost: set[str] = set()
        self._named: set[str] = set()
        self._put_back = tuple(f"{path}." for path, _ in generators(dataset))
        self._then = self._prints()

    def own_part_ends(self) -> None:
        """Note what has changed as it was drawn from and told of epochs."""
        changed = self._changed()
        self._own |= changed
        self._lost |= changed & counted_attributes.not_taken(self._dataset)

    def others_part_ends(self) -> None:
        """Note what has changed since."""
        # What was not there may have been looked up, as a list of all labels.
        there = {
            path.split("/")[0]
            for path, part in self._then.items()
            if part.content is not None
        }
        self._by_others |= self._changed() & there

    def found(self) -> list[str]:
        """Name such attributes, each once and never again."""
        fresh = (self._by_others - self._own) | self._lost
        fresh -= self._named
        if fresh:
            fresh -= counted_attributes.take(self._dataset).keys() | self._in_order()
        self._named |= fresh
        return [f"{type(self._dataset).__qualname__}.{name}" for name in sorted(fresh)]

    def _changed(self) -> set[str]:
        before, self._then = self._then, self._prints()
        if not (changed := prints.changed(before, self._then)):
            return set()
        if any(part.variable is not None for part in before.values()):
            # To list them takes its time.
            changed = prints.changed(before, self._then, self._saved())
        return set(changed)

    def _prints(self) -> dict[str, prints.Print]:
        found = {
            path: part
            for path, part in prints.take(self._dataset).items()
            if not f"{path.replace('/', '.')}.".startswith(self._put_back)
        }
        for name, value in list(vars(self._dataset).items()):
            # Of a large array, as an order of all rows, a print has the shape alone.
            # What is mapped to a file is not read.
            part = found.get(name)
            if part is None or type(value) is not np.ndarray:
                continue
            if part.content == value.shape:
                found[name] = prints.sample(value)
        if getattr(self._dataset, "use_multiprocessing", False):
            # Its own part is done elsewhere: a cache is filled here by others alone.
            return {path: part for path, part in found.items() if "/" not in path}
        return found


def generators(dataset: Any) -> Iterator[tuple[str, Any]]:
    """Find the random generators that an object holds, with the paths to them."""
    yield from _generators_in(dataset, "", _DEPTH, set())


def _generators_in(
    value: Any, path: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, Any]]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (np.random.Generator, np.random.RandomState, random.Random)):
        # The operating system's randomness has no state.
        if not isinstance(value, random.SystemRandom):
            yield path, value
        return
    if isinstance(value, HOLDERS):
        yield path, value
        return
    if isinstance(value, keras.Layer):
        found = _seeds_in(value)
        # Those of a network that is being trained are saved with it.
        if not value.trainable_weights and not getattr(value, "compiled", False):
            fresh = [seeds for seeds in found if id(seeds) not in seen]
            yield from ((f"{path}.seeds.{n}", each) for n, each in enumerate(fresh))
        seen.update(map(id, found))
    if depth == 0 or isinstance(value, (type, ModuleType, FunctionType)):
        return
    parts: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        # A long one is of labels, not of parts.
        pairs = list(value.items()) if len(value) <= _LONGEST else []
        parts = [(key, item) for key, item in pairs if isinstance(key, str)]
    elif isinstance(value, (list, tuple)) and len(value) <= _LONGEST:
        parts = list(enumerate(value))
    elif hasattr(value, "__dict__"):
        parts = list(vars(value).items())
    for name, part in parts:
        inner = f"{path}.{name}" if path else str(name)
        yield from _generators_in(part, inner, depth - 1, seen)


def _seeds_in(layer: Any) -> list[Any]:
    """List what a layer, and those that it is made of, draw random numbers by."""
    found = {}
    for part in (layer, *layers_of(layer)):
        for value in vars(part).values():
            held = value if isinstance(value, (list, tuple)) else [value]
            seeds = (each for each in held if isinstance(each, HOLDERS))
            found.update({id(each): each for each in seeds})
    return list(found.values())


def _state_of(generator: Any) -> Any:
    if isinstance(generator, HOLDERS):
        return np.asarray(generator.state)
    if isinstance(generator, np.random.Generator):
        return _words(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _words(generator.get_state(legacy=False))
    return generator.getstate()


def _set_state(generator: Any, values: Any) -> bool:
    """Set a generator's state; False if the state is one of another kind."""
    try:
        if isinstance(generator, HOLDERS):
            generator.state.assign(values)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = _numpy_state(values)
        elif isinstance(generator, np.random.RandomState):
            generator.set_state(_numpy_state(values))
        else:
            generator.setstate(values)
    except (
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        OverflowError,
        tf.errors.OpError,
    ):
        return False
    return True


def _numpy_state(values: Any) -> dict[str, Any]:
    """Read a state of NumPy's: older versions crash by one that they cannot take.

    Raises:
        TypeError: it is no dict.
        ValueError: it goes on beyond its own end.
    """
    state = _unwords(values)
    if not isinstance(state, dict):
        raise TypeError(f"a state that is {type(state).__name__}")
    name, place, last = state.get("bit_generator"), 0, 0
    if name == "MT19937":
        place, last = state["state"]["pos"], _MT19937
    elif name == "Philox":
        place, last = state["buffer_pos"], _PHILOX
    if not 0 <= place <= last:
        raise ValueError(f"{name}: position {place}")
    return state


def _words(state: Any) -> Any:
    """Write integers in hex: not every JSON reader keeps more than 64 bits of one."""
    if isinstance(state, dict):
        return {name: _words(value) for name, value in state.items()}
    if isinstance(state, int) and not isinstance(state, bool):
        return hex(state)
    return state


def _unwords(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _unwords(value) for name, value in state.items()}
    if isinstance(state, str) and state.startswith("0x"):
        return int(state, 16)
    return state
