"""Values come back from JSON with the types and bits that they had."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from persist_callbacks.errors import ArgumentError
from persist_callbacks.training import json_values

NUMBERS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.floats(width=32).map(np.float32)
    | st.floats().map(np.float64)
    | st.floats(width=16).map(np.float16)
    | st.integers(-(2**63), 2**63 - 1).map(np.int64)
    | st.integers(0, 255).map(np.uint8)
    | st.booleans().map(np.bool_)
)
KEYS = st.text().filter(lambda key: not key.startswith("$"))
VALUES = st.recursive(
    NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(one, other):
    """Equal in type, structure and bits; NaN is like NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.generic):
        return one.tobytes() == other.tobytes() or (one != one and other != other)
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return one == other


@given(VALUES)
def test_round_trip(value):
    """Through the very text that lies on disk."""
    encoded = json_values.encode(value, where="state")
    text = json.dumps(encoded, allow_nan=False)
    assert same(json_values.decode(json.loads(text)), value)


@given(st.lists(st.floats(), max_size=5), st.lists(st.integers(0, 9), max_size=5))
def test_arrays_go_to_the_checkpoint(floats, integers):
    """Arrays are named by their place, and found by that name."""
    value = {"best": [np.array(floats), (np.array(integers, "int8"), 3)], "n": 1}
    arrays = {}
    encoded = json_values.encode(value, where="callbacks/X/0", arrays=arrays)
    names = ["callbacks/X/0/best/0", "callbacks/X/0/best/1/0"]
    assert list(arrays) == names
    assert json_values.array_names(json.loads(json.dumps(encoded))) == names
    found = json_values.decode(encoded, arrays)
    assert found["best"][0] is value["best"][0]
    assert found["best"][1][0] is value["best"][1][0]
    assert found["best"][1][1] == 3


@pytest.mark.parametrize("value", [tf.constant(1.5), np.array(2, "int32")])
def test_single_numbers_are_no_arrays_where_none_are_allowed(value):
    """A loss that is still a tensor goes into JSON as its number."""
    found = json_values.decode(json_values.encode(value, where="logs"))
    assert found == np.asarray(value)[()]
    assert found.dtype == np.asarray(value).dtype


@pytest.mark.parametrize(
    "value",
    [
        object(),
        b"bytes",
        {1: "a key that is no string"},
        {"$float": "nan"},
        {"$own": 1},
        {1, 2},
        1j,
        np.complex64(1),
        [lambda: None],
        np.array(["text"]),
    ],
    # Not as they print themselves, which is an address for some.
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_refused(value):
    """By the place where it was found, and what it was."""
    with pytest.raises(
        ArgumentError, match=r"^state/x.*expected numbers, strings"
    ) as e:
        json_values.encode({"x": value}, where="state")
    assert "Keep to what JSON can hold; of a callback, see to its get_state()." in str(
        e.value
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint32", "bool"])
def test_arrays_are_written_out_where_no_tensors_go_along(dtype):
    """A metric's vector in the logs comes back with its bits, shape and dtype."""
    value = np.array([[0.1, 1.0], [2.5, 0.0]]).astype(dtype)
    found = json_values.decode(json_values.encode(value, where="logs/f1"))
    assert found.dtype == value.dtype
    assert found.tobytes() == value.tobytes()
    assert found.shape == value.shape
