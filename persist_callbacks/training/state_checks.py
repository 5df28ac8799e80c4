"""What the types of a training state's fields do not say: that its values make sense.

A file that was damaged is found by its checksum. These checks are for one that was made
to be read: whatever it holds, restoring it raises no error but ours.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from persist_callbacks.training import json_values, order_values

if TYPE_CHECKING:
    from persist_callbacks.training.state import TrainingState

# Words of a Mersenne Twister; Python's state has the position for one more.
_TWISTER = 624
_LARGEST = 2**63 - 1
_SEEDS = ("python", "numpy", "tensorflow")


def check(state: TrainingState) -> None:
    """Look at every field of a state that its type leaves open.

    Args:
        state: as decoded from JSON.

    Raises:
        ValueError: a value cannot be restored; it names the field.
    """
    position, data = state.position, state.data
    _require_counts(
        epoch=position.epoch,
        batch=position.batch,
        step=position.step,
        drawn=data.drawn,
        variables=data.variables,
        batches_per_epoch=state.batches_per_epoch,
        learnt_batches=state.learnt_batches,
        epochs=state.epochs,
        iterators=data.passed.iterators,
        epochs_ended=data.passed.epochs,
        validation_iterators=data.passed.validation_iterators,
        iterators_drawn=data.passed.drawn,
        validation_drawn=data.passed.validation_drawn,
        redrawn=data.redrawn,
    )
    keys = [info.key for info in state.variables]
    if len(set(keys)) < len(keys):
        raise ValueError("variables: a key that is there twice")
    for info in state.variables:
        if min(info.shape, default=0) < 0 or math.prod(info.shape) > _LARGEST:
            raise ValueError(f"variables: shape {info.shape} of {info.key}")
    for name in state.replaced_at_end:
        if name not in keys:
            raise ValueError(f"replaced_at_end: {name!r} is no variable")
    _check_random(state.random, "random")
    if data.random is not None:
        _check_random(data.random, "data.random")
    _check_own(data.own, "data.own")
    _check_own(data.validation_own, "data.validation_own")
    _check_order(data.order, "data.order")
    _check_order(data.validation_order, "data.validation_order")
    _require_values(state.last_logs, "last_logs", arrays=False)
    for saved in state.callbacks:
        _require_values(saved.state, f"callbacks: {saved.kind}", arrays=True)
        if saved.kind == "History":
            names = json_values.array_names(saved.state)
            _check_history(json_values.decode(saved.state, dict.fromkeys(names)))


def _require_counts(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and not 0 <= number <= _LARGEST:
            raise ValueError(f"{name}: {number}")


def _require_values(value: Any, name: str, *, arrays: bool) -> None:
    """Decode what `json_values.encode` made, as a restore will, with arrays or not."""
    try:
        names = json_values.array_names(value)
        if not all(isinstance(each, str) for each in names):
            raise ValueError("the name of an array is no text")
        if names and not arrays:
            raise ValueError(f"an array, {names[0]!r}, where there is none")
        json_values.decode(value, dict.fromkeys(names))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error
    except (OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"{name}: {type(error).__name__}") from error


def _check_own(record: Mapping[str, Any] | None, name: str) -> None:
    """Look at the record of a data set's own state, see `python_data`."""
    if record is None:
        return
    _require_values(record, name, arrays=False)
    if "state" in record:
        return
    if not isinstance(record.get("generators"), dict):
        raise ValueError(f"{name}: no record of generators")
    # An older version has left it out.
    if not isinstance(json_values.decode(record.get("counted", {})), dict):
        raise ValueError(f"{name}: no record of what was counted")


def _check_order(record: Mapping[str, Any], name: str) -> None:
    """Look at the record of what a data set changes at epochs' ends, see `orders`."""
    _require_values(record, name, arrays=True)
    for path, value in record.items():
        try:
            order_values.check(value)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{name}: {path}: {error}") from error


def _check_history(history: Any) -> None:
    values = history.get("history")
    if not isinstance(values, dict) or not isinstance(history.get("epoch"), list):
        raise ValueError("callbacks: a History without its lists")
    if not all(isinstance(each, list) for each in values.values()):
        raise ValueError("callbacks: a History whose values are no lists")


def _check_random(record: Mapping[str, Any], name: str) -> None:
    for kind in _SEEDS:
        if kind not in record or not isinstance(record[kind], dict | None):
            raise ValueError(f"{name}: no record of {kind}")
    if record["python"] is None:
        raise ValueError(f"{name}.python: none")
    _check_twister(record["python"], f"{name}.python")
    if record["tensorflow"] is not None:
        _check_twister(record["tensorflow"], f"{name}.tensorflow")
        _require_number(record["tensorflow"].get("seed"), f"{name}.tensorflow: seed")
    numpy = record["numpy"]
    if numpy is not None:
        _require_words(numpy.get("words"), _TWISTER, f"{name}.numpy")
        if numpy.get("has_gauss") not in (0, 1):
            raise ValueError(f"{name}.numpy: has_gauss {numpy.get('has_gauss')!r}")
        _require_position(numpy.get("position"), f"{name}.numpy")
        _require_number(numpy.get("gauss"), f"{name}.numpy: gauss", float)


def _check_twister(record: Mapping[str, Any], name: str) -> None:
    if record.get("version") != 3:
        raise ValueError(f"{name}: version {record.get('version')!r}")
    words = _require_words(record.get("words"), _TWISTER + 1, name)
    _require_position(int(words[-1]), name)
    if record.get("gauss") is not None:
        _require_number(record["gauss"], f"{name}: gauss", float)


def _require_words(text: Any, count: int, name: str) -> Any:
    if not isinstance(text, str):
        raise ValueError(f"{name}: words that are no text")
    words = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if words.size != 4 * count:
        raise ValueError(f"{name}: {words.size} bytes of words")
    return words.view("<u4")


def _require_position(number: Any, name: str) -> None:
    if type(number) is not int or not 0 <= number <= _TWISTER:
        raise ValueError(f"{name}: position {number!r}")


def _require_number(number: Any, name: str, kind: type = int) -> None:
    if type(number) not in (int, kind) or abs(number) > _LARGEST:
        raise ValueError(f"{name} {number!r}")
