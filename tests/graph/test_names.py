"""names.py: legal, unique, independent of the process."""

from __future__ import annotations

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from persist_callbacks.graph.names import legal, make_legal
from persist_callbacks.layer_names import renumber


@given(st.text(max_size=20))
def test_every_text_becomes_a_name_that_tensorflow_takes(text: str) -> None:
    """Whatever the user writes, a node can bear what comes of it."""
    name = legal(text)
    with tf.Graph().as_default():
        graph_def = tf.compat.v1.GraphDef()
        graph_def.node.add(name=name, op="NoOp")
        tf.import_graph_def(graph_def, name="")
    assert legal(name) == name


@given(st.lists(st.text(alphabet="a ä_1", max_size=4), max_size=6))
def test_legal_names_are_unique(names: list[str]) -> None:
    """Names that fall together are numbered apart, and the originals are kept."""
    originals: dict[str, str] = {}
    answers = make_legal(names, set(), originals)
    assert len(set(answers)) == len(names)
    assert [originals.get(answer, answer) for answer in answers] == names


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("dense_7", "dense"), ("dense_9", "dense")], ["dense", "dense_1"]),
        # Listed last first: the number tells which was built first.
        ([("dense_9", "dense"), ("dense_7", "dense")], ["dense_1", "dense"]),
        ([("dense", "dense"), ("head", "dense")], ["dense", "head"]),
        ([("dense_3", "dense"), ("dense_3", "dense")], ["dense", "dense"]),
        # A Dropout that the user called "dense" keeps the name.
        ([("dense_4", "dense"), ("dense", "dropout")], ["dense_1", "dense"]),
        (
            [("forward_lstm_5", "lstm"), ("backward_lstm_5", "lstm")],
            ["forward_lstm", "backward_lstm"],
        ),
        ([("lstm_10", "lstm"), ("lstm_9", "lstm")], ["lstm_1", "lstm"]),
    ],
)
def test_renumbering(pairs: list[tuple[str, str]], expected: list[str]) -> None:
    """Automatic names get a fresh process' numbers; the user's stay."""
    assert renumber(pairs) == expected
