"""tables.py: a lookup in constants gives what the table gave, for whatever is asked."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from persist_callbacks.errors import UnsupportedGraph
from persist_callbacks.graph.capture import to_inference_graph
from persist_callbacks.graph.freeze import check_freezable, freeze
from persist_callbacks.graph.frozen import count_ops, from_graph_def

WORDS = np.array([f"w{i}".encode() for i in range(3000)] + ["größe".encode(), b""])
LONGS = np.unique(np.random.default_rng(1).integers(-(2**62), 2**62, 3000))
SHORTS = np.arange(-40, 40, 3).astype(np.int32)


def frozen_lookup(table: Any, dtype: tf.DType) -> Any:
    """A function that looks up in a table, frozen."""
    concrete = tf.function(lambda x: [table.lookup(x)]).get_concrete_function(
        tf.TensorSpec(None, dtype)
    )
    graph = to_inference_graph(
        concrete, {}, inputs=("x",), outputs=("y",), originals={}
    )
    check_freezable(graph)
    frozen = freeze(graph, {})
    assert not [op for op in count_ops(frozen) if "Table" in op]
    return from_graph_def(frozen, graph.inputs, graph.outputs)


@pytest.mark.parametrize(
    ("keys", "values", "default"),
    [
        (WORDS, np.arange(len(WORDS)), -1),
        (WORDS[:1], np.array([5]), 0),
        (WORDS[:7], np.linspace(-1, 1, 7).astype(np.float32), np.float32("nan")),
        (WORDS[:200], np.array([f"v{i}" for i in range(200)]), "none"),
        (LONGS, np.arange(len(LONGS)), 7),
        (LONGS[:50], np.array([f"v{i}" for i in range(50)]), ""),
        (SHORTS, np.arange(len(SHORTS), dtype=np.int32), np.int32(-9)),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (4, 3), (0, 2)])
def test_every_key_and_others(
    keys: Any, values: Any, default: Any, shape: tuple[int, ...]
) -> None:
    """Each key, and what is none, in any shape: the table's own answer."""
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.constant(values)),
        default,
    )
    run = frozen_lookup(table, table.key_dtype)
    strange = [b"no", b"w", b"W1"] if keys.dtype.kind == "S" else [1, -1, 99]
    asked = np.concatenate([keys, np.array(strange).astype(keys.dtype)])
    if shape:
        random = np.random.default_rng(0)
        asked = random.choice(asked, shape)
    else:
        assert len(np.unique(asked)) >= len(keys) + 1
    expected = table.lookup(tf.constant(asked)).numpy()
    np.testing.assert_array_equal(
        run(asked.astype(object) if asked.dtype.kind == "S" else asked), expected
    )


@pytest.mark.parametrize("full", [True, False])
def test_a_table_that_was_filled_while_the_program_ran(full: bool) -> None:
    """Such as adapt() fills; an empty one gives the default for all."""
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    if full:
        table.insert(tf.constant(["a", "b"]), tf.constant([4, 5], tf.int64))
    run = frozen_lookup(table, tf.string)
    asked = np.array([["a", "b", "c"]], dtype=object)
    np.testing.assert_array_equal(run(asked), table.lookup(tf.constant(asked)))


def test_values_that_are_vectors_are_refused() -> None:
    """A table of rows is an embedding, and says that it is a table."""
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, [0.0, 0.0])
    table.insert(tf.constant(["a"]), tf.constant([[1.0, 2.0]]))
    with pytest.raises(UnsupportedGraph, match="a lookup table"):
        frozen_lookup(table, tf.string)


TEXT = np.array([["a b c"], ["Zz, b  c!"], [""], ["b " * 12]], dtype=object)
L = keras.layers


def adapted(layer: Any, data: Any) -> Any:
    layer.adapt(data)
    return layer


@pytest.mark.parametrize(
    ("make", "asked"),
    [
        (lambda: L.StringLookup(vocabulary=["a", "b"]), [["a"], ["zz"], [""]]),
        (lambda: L.StringLookup(vocabulary=["a"], invert=True), [[0], [1], [2]]),
        (
            lambda: adapted(
                L.StringLookup(num_oov_indices=3, output_mode="multi_hot"),
                np.array([["a"], ["b"]]),
            ),
            [["a"], ["x"], ["y"], ["z"]],
        ),
        (
            lambda: L.IntegerLookup(vocabulary=[3, -9, 2**60], output_mode="one_hot"),
            [[3], [2**60], [-9], [0]],
        ),
        *(
            (
                lambda options=options: adapted(
                    L.TextVectorization(10, **options), np.array(["a b c", "b c d"])
                ),
                TEXT,
            )
            for options in (
                {},
                {"output_mode": "tf_idf", "ngrams": 2},
                {"output_mode": "multi_hot", "pad_to_max_tokens": True},
                {"output_mode": "count"},
                {"output_sequence_length": 5},
                {"split": "character", "standardize": "lower"},
            )
        ),
    ],
)
def test_layers_with_a_vocabulary(make: Any, asked: Any) -> None:
    """Keras' lookup layers inside of a model give in the PB what they give live."""
    layer, asked = make(), np.asarray(asked)
    dtype = "int64" if asked.dtype.kind == "i" else "string"
    asked = asked.astype("int64" if dtype == "int64" else object)
    x = keras.Input((1,), dtype=dtype, name="x")
    made = zoo.traced(keras.Model(x, layer(x)))
    frozen = from_graph_def(made.frozen(), made.graph.inputs, made.graph.outputs)
    live = np.asarray(made.model(tf.constant(asked, dtype)))
    assert live.size
    np.testing.assert_array_equal(frozen(asked), live)
