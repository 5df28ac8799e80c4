"""The record of a run, its JSON form, and what of it is refused."""

from __future__ import annotations

import base64
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persist_callbacks.errors import CheckpointDamaged, FormatTooNew
from persist_callbacks.records import Position
from persist_callbacks.training import state as training_state
from persist_callbacks.training.callback_state import CallbackState
from persist_callbacks.training.data_position import DataPosition
from persist_callbacks.training.fit_data import Passed
from persist_callbacks.training.state import TrainingState
from persist_callbacks.training.variables import VariableInfo

COUNTS = st.integers(0, 2**40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
STATES = st.builds(
    TrainingState,
    position=st.builds(Position, COUNTS, COUNTS, COUNTS),
    data=st.builds(
        DataPosition,
        way=st.sampled_from(["iterator", "replay"]),
        drawn=COUNTS,
        passed=st.builds(Passed, COUNTS, COUNTS, COUNTS),
        reason=st.text(),
    ),
    variables=st.lists(
        st.builds(
            VariableInfo,
            key=st.text(),
            role=st.sampled_from(["model", "optimizer", "metric", "seed", "other"]),
            shape=st.lists(COUNTS, max_size=3).map(tuple),
            dtype=st.sampled_from(["float32", "bfloat16", "int64"]),
        ),
        max_size=3,
    ).map(tuple),
    random=st.dictionaries(st.text(), JSON, max_size=3),
    callbacks=st.lists(
        st.builds(
            CallbackState,
            kind=st.text(),
            occurrence=COUNTS,
            state=st.dictionaries(st.text(), JSON, max_size=3),
        ),
        max_size=2,
    ).map(tuple),
    last_logs=st.dictionaries(st.text(), JSON, max_size=3),
    batches_per_epoch=st.none() | COUNTS,
    learnt_batches=st.none() | COUNTS,
    stopped=st.booleans(),
    replaced_at_end=st.lists(st.text()).map(tuple),
)


@given(STATES)
def test_round_trip(state):
    """What is written is read, whatever it holds."""
    assert training_state.from_json(training_state.to_json(state), "x") == state


SIMPLE = TrainingState(
    position=Position(1, 2, 9),
    data=DataPosition("replay", 2, Passed(), "a generator"),
    variables=(),
    random={},
)


def test_readable():
    """A stranger finds the position in the file."""
    read = json.loads(training_state.to_json(SIMPLE))
    assert read["position"] == {"epoch": 1, "batch": 2, "step": 9}
    assert read["version"] == training_state.VERSION


def test_too_new():
    """A newer version's record is refused by version, whatever its fields are."""
    data = json.dumps({"version": training_state.VERSION + 1, "shape": "unknown"})
    with pytest.raises(FormatTooNew, match=r"^ckpt/state: expected version 1 or older"):
        training_state.from_json(data.encode(), "ckpt/state")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda text: text[: len(text) // 2], "truncated"),
        (lambda text: "", "truncated"),
        (lambda text: "[]", "Expected `object`"),
        (
            lambda text: text.replace('"step": 9', '"step": "nine"'),
            r"\$\.position\.step",
        ),
        (
            lambda text: text.replace('"epoch": 1,', ""),
            "missing required field `epoch`",
        ),
        (lambda text: text.replace('"replay"', '"guess"'), r"\$\.data\.way"),
    ],
)
def test_damaged(change, found):
    """Cut short, of a wrong type or with a field gone: one error, by the field."""
    text = change(training_state.to_json(SIMPLE).decode())
    with pytest.raises(
        CheckpointDamaged, match=rf"^ckpt/state: expected a training state.*{found}"
    ):
        training_state.from_json(text.encode(), "ckpt/state")


NOTHING_DRAWN = {"version": 3, "words": base64.b64encode(bytes(4 * 625)).decode()}
RANDOM = {"python": NOTHING_DRAWN, "numpy": None, "tensorflow": None}


@pytest.mark.parametrize("field", ["own", "validation_own"])
@pytest.mark.parametrize(
    "record",
    [
        {},
        {"counted": {}},
        {"generators": ["rng"]},
        {"generators": None},
        {"generators": {"rng": {"$numpy": ["float32"]}}},
        {"generators": {"rng": {"$tensor": "loss/kernel"}}},
        {"generators": {}, "counted": ["n"]},
        {"generators": {}, "counted": {"$float": "1.5"}},
        {"generators": {}, "counted": None},
        {"state": {"$array": ["int32", [2], [1]]}},
    ],
)
def test_a_data_sets_own_state_that_is_none(field, record):
    """Made to be read: found before anything is put back."""
    sound = dataclasses.replace(SIMPLE, random=RANDOM)
    replay = DataPosition("replay", 2, Passed())
    for good in (None, {"state": [1]}, {"generators": {}}):
        data = dataclasses.replace(replay, **{field: good})
        written = training_state.to_json(dataclasses.replace(sound, data=data))
        training_state.load(written, "ckpt/state")
    data = dataclasses.replace(replay, **{field: record})
    written = training_state.to_json(dataclasses.replace(sound, data=data))
    with pytest.raises(CheckpointDamaged, match=rf"ckpt/state: .*data\.{field}: "):
        training_state.load(written, "ckpt/state")


@pytest.mark.parametrize("field", ["order", "validation_order"])
@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [],
        ["plain"],
        ["plain", {"$numpy": ["float32"]}],
        ["other", 1],
        [["plain"], 1],
        ["array", [1, 2]],
        ["array", [{"$array": ["int32", [2], [1, 2]]}, [3]]],
        ["array", {"$tensor": 5}],
        ["numbers", "data/order/rows"],
        ["places", -1, {"$tensor": "data/order/rows"}],
        ["places", {"$tensor": "data/order/rows"}],
        ["split", True, {"$tensor": "data/order/rows"}, 7],
        ["tuple", 5],
        ["list", 5],
        ["list", [["plain"]]],
        ["dict", ["a"], []],
        ["dict", {"a": 1}, [["plain", 1]]],
        ["dict", [["a"]], [["plain", 1]]],
    ],
)
def test_an_order_of_the_data_that_is_none(field, value):
    """Made to be read: found before anything is put back."""
    sound = dataclasses.replace(SIMPLE, random=RANDOM)
    replay = DataPosition("replay", 2, Passed())
    for good in (["plain", 1], ["array", {"$tensor": "data/order/rows"}]):
        data = dataclasses.replace(replay, **{field: {"rows": good}})
        written = training_state.to_json(dataclasses.replace(sound, data=data))
        training_state.load(written, "ckpt/state")
    data = dataclasses.replace(replay, **{field: {"rows": value}})
    written = training_state.to_json(dataclasses.replace(sound, data=data))
    with pytest.raises(CheckpointDamaged, match=rf"ckpt/state: .*data\.{field}: "):
        training_state.load(written, "ckpt/state")


def test_a_state_from_before_orders_were_saved():
    """It is read as one that has none."""
    replay = DataPosition("replay", 2, Passed())
    sound = dataclasses.replace(SIMPLE, random=RANDOM, data=replay)
    text = json.loads(training_state.to_json(sound))
    del text["data"]["order"], text["data"]["validation_order"]
    loaded = training_state.load(json.dumps(text).encode(), "ckpt/state")
    assert loaded == sound
