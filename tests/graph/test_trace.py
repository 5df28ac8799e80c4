"""trace.py: a live model to its inference graph, with the user's names."""

from __future__ import annotations

import importlib
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from persist_callbacks.errors import (
    ArgumentError,
    ModelNotBuilt,
    TensorNotFound,
    UnsupportedGraph,
)
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import serialize
from persist_callbacks.graph.compare import compare, generate
from persist_callbacks.graph.frozen import from_graph_def
from persist_callbacks.graph.trace import run_live, trace
from persist_callbacks.records import GraphNames, TensorInfo

L = keras.layers


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_frozen_graph_gives_what_the_live_model_gives(kind: str) -> None:
    """For each kind of model, PB and live model agree on two batch sizes."""
    made = zoo.traced(zoo.KINDS[kind])
    frozen = from_graph_def(made.frozen(), made.graph.inputs, made.graph.outputs)
    half = kind == "mixed_precision"
    for batch in (1, 3):
        sample = generate(made.graph.inputs, batch=batch, seed=batch)
        live = run_live(made.model, made.graph, sample)
        found = zoo.by_name(frozen(sample), made.outputs)
        tolerance = 2e-2 if half else 1e-5
        comparison = compare(live, found, atol=tolerance, rtol=tolerance)
        assert comparison.agrees, str(comparison)
        assert all(np.asarray(value).size for value in live.values())


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_same_architecture_gives_same_bytes(kind: str) -> None:
    """Models built before, and the numbers in layer names, leave no trace in the PB."""
    first = zoo.traced(zoo.KINDS[kind])
    for _ in range(3):
        zoo.KINDS[kind]()
    second = zoo.traced(zoo.KINDS[kind])
    # The auto-numbered names of the two models' layers do differ.
    assert first.model.name != second.model.name
    assert serialize(first.graph.graph_def) == serialize(second.graph.graph_def)
    assert first.graph.inputs == second.graph.inputs
    assert first.graph.outputs == second.graph.outputs
    assert serialize(first.frozen()) == serialize(second.frozen())


def test_layer_names_are_put_back() -> None:
    """Tracing leaves the live model's names as they were, also when it fails."""
    keras.Sequential([keras.Input((2,)), L.Dense(1)])
    model = keras.Sequential([keras.Input((2,)), L.Dense(1), L.Dense(1)])
    before = [layer.name for layer in model.layers]
    zoo.traced(model)
    assert [layer.name for layer in model.layers] == before

    def broken(x: Any, **_: Any) -> Any:
        raise RuntimeError("no graph")

    model.layers[0].call = broken
    with pytest.raises(UnsupportedGraph, match=r"RuntimeError.*no graph"):
        trace(model, zoo.canonical_keys(model))
    assert [layer.name for layer in model.layers] == before


def test_keras_internals_that_renaming_needs() -> None:
    """A Keras in which layers cannot be listed or renamed fails here by name."""
    layer = L.Dense(1)
    layer.name = "renamed"
    assert layer.name == "renamed"
    model = keras.Sequential([keras.Input((2,)), layer])
    assert layer in list(model._flatten_layers(include_self=False, recursive=True))
    functional = zoo.cnn()
    history = functional.outputs[0]._keras_history
    assert history.operation.name == "predictions"


class Wrapped(L.Layer):
    """Holds a recurrent layer that only it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = L.GRU(2)

    def build(self, shape: Any) -> None:
        self.inner.build(shape)

    def call(self, x: Any) -> Any:
        return self.inner(x)


def nested_recurrent() -> Any:
    x = keras.Input((5, 3))
    inside = keras.Sequential([keras.Input((5, 3)), L.LSTM(2, use_cudnn=True)])
    return keras.Model(x, [Wrapped()(x), inside(x)])


@pytest.mark.parametrize(
    "build",
    [
        lambda: keras.Sequential([keras.Input((5, 3)), L.LSTM(2)]),
        lambda: keras.Sequential([keras.Input((5, 3)), L.GRU(2)]),
        lambda: keras.Sequential([keras.Input((5, 3)), L.Bidirectional(L.LSTM(2))]),
        nested_recurrent,
    ],
    ids=["lstm", "gru", "bidirectional", "nested"],
)
def test_keras_internals_that_keep_cudnn_out(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a GPU, what only that can run is in no graph, and the layers keep it."""
    # Keras builds with the op that it has a GPU for; here none is asked for one.
    model = build()
    rnn = importlib.import_module("keras.src.backend.tensorflow.rnn")
    monkeypatch.setattr(rnn, "_is_gpu_available", lambda: True)
    spec = tf.TensorSpec([None, 5, 3], tf.float32)
    beside_a_gpu = tf.function(model).get_concrete_function(spec).graph.as_graph_def()
    assert any(node.op.startswith("Cudnn") for node in nd.every_node(beside_a_gpu))
    recurrent = [
        layer
        for layer in model._flatten_layers(recursive=True)
        if hasattr(layer, "use_cudnn")
    ]
    before = [layer.use_cudnn for layer in recurrent]
    made = zoo.traced(model)
    ops = [node.op for node in nd.every_node(made.graph.graph_def)]
    assert not any(op.startswith("Cudnn") for op in ops)
    assert [layer.use_cudnn for layer in recurrent] == before
    # A cuDNN op could not run here.
    run_live(made.model, made.graph, generate(made.graph.inputs))


def test_names_come_from_the_layers() -> None:
    """Input's and the output layer's names become the tensors' names."""
    graph = zoo.traced(zoo.cnn).graph
    assert graph.inputs == (TensorInfo("image", (None, 12, 12, 3), "float32"),)
    assert graph.outputs == (TensorInfo("predictions", (None, 3), "float32"),)
    assert {"image", "predictions"} <= {node.name for node in graph.graph_def.node}


def test_automatic_input_names_get_ours() -> None:
    """Unnamed inputs are input, input_1, ... in order, whatever Keras counted to."""
    left, right = keras.Input((2,)), keras.Input((2,))
    graph = zoo.traced(keras.Model([left, right], L.Add()([left, right]))).graph
    assert [info.name for info in graph.inputs] == ["input", "input_1"]
    assert [info.name for info in graph.outputs] == ["add"]


def test_dict_outputs_bear_their_keys() -> None:
    """A model that returns a dict has outputs by its keys, inputs by theirs."""
    made = zoo.traced(zoo.dicts)
    assert sorted(made.inputs) == ["a", "b"]
    assert made.outputs == ["echo", "memory", "score"]


class Unlike(keras.Model):
    """Takes a dict, and each of its tensors for something else."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = L.Dense(1)

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs["a"]) - 5.0 * inputs["b"]


def test_inputs_in_an_order_of_their_own() -> None:
    """Of an OrderedDict, which Keras does not sort, each has the name of its key."""
    random = np.random.default_rng(0)
    rows = OrderedDict(
        (key, random.standard_normal((3, 1)).astype(np.float32)) for key in "ba"
    )
    model = Unlike()
    model(rows)
    made = zoo.traced(model, specs=rows)
    frozen = from_graph_def(made.frozen(), made.graph.inputs, made.graph.outputs)
    np.testing.assert_allclose(frozen(rows), model(rows), atol=1e-6)
    np.testing.assert_array_equal(frozen(dict(rows)), frozen(rows))
    (live,) = run_live(model, made.graph, rows, specs=rows).values()
    np.testing.assert_allclose(live, model(rows), atol=1e-6)


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        (None, ["lstm", "lstm_1", "lstm_2"]),
        (GraphNames(outputs=tuple("abc")), [*"abc"]),
    ],
)
def test_a_sequential_of_several_outputs(
    names: GraphNames | None, outputs: list[str]
) -> None:
    """They bear the last layer's name with a number, or the names that are given."""
    model = keras.Sequential([keras.Input((5, 3)), L.LSTM(4, return_state=True)])
    made = zoo.traced(model, names)
    assert made.outputs == outputs
    frozen = from_graph_def(made.frozen(), made.graph.inputs, made.graph.outputs)
    sample = generate(made.graph.inputs)
    assert compare(
        run_live(model, made.graph, sample), frozen(sample), atol=1e-5, rtol=1e-4
    ).agrees


@pytest.mark.parametrize(
    ("names", "inputs", "outputs"),
    [
        (GraphNames(outputs=("p",)), ["image"], ["p"]),
        (GraphNames(outputs=("p:0",)), ["image"], ["p"]),
        (GraphNames(inputs={"image": "x"}), ["x"], ["predictions"]),
        (GraphNames(outputs={"predictions": "a/b"}), ["image"], ["a/b"]),
    ],
)
def test_names_are_the_users(
    names: GraphNames, inputs: list[str], outputs: list[str]
) -> None:
    """Names given in order or by the Keras name are the tensors' names exactly."""
    made = zoo.traced(zoo.cnn, names)
    assert (made.inputs, made.outputs) == (inputs, outputs)
    there = {node.name for node in made.frozen().node}
    assert {*inputs, *outputs} <= there


def test_layers_whose_names_no_node_can_bear() -> None:
    """They are traced under the nearest names, keep their own, and the PB loads."""
    x = keras.Input((4,), name="a\\b")
    y = keras.layers.Dense(3, name="größe in m")(x)
    names = ["c\\d", " lead", "_private"]
    outputs = [keras.layers.Dense(2, name=name)(y) for name in names]
    model = keras.Model(x, outputs)
    made = zoo.traced(lambda: model)
    assert [layer.name for layer in model.layers[1:]] == ["größe in m", *names]
    mapped = ["c_d", "lead", "private"]
    assert [info.name for info in made.graph.outputs] == mapped
    originals = {"a_b": "a\\b", **dict(zip(mapped, names, strict=True))}
    assert made.graph.original_names == originals
    frozen = from_graph_def(made.frozen(), made.graph.inputs, made.graph.outputs)
    rows = np.ones((2, 4), np.float32)
    for name, wanted in zip(mapped, model(rows), strict=True):
        np.testing.assert_allclose(frozen(rows)[name], wanted, atol=1e-6)


def test_illegal_names_are_mapped_and_remembered() -> None:
    """A name with a space or umlaut becomes a legal unique one; the user's is kept."""
    x = keras.Input((2,), name="my input")
    model = keras.Model(x, [L.Dense(1)(x), L.Dense(1)(x)])
    graph = zoo.traced(model, GraphNames(outputs=("größe", "gr__e"))).graph
    assert [info.name for info in graph.inputs] == ["my_input"]
    assert [info.name for info in graph.outputs] == ["gr__e", "gr__e_1"]
    assert graph.original_names == {
        "my_input": "my input",
        "gr__e": "größe",
        "gr__e_1": "gr__e",
    }


def test_a_name_that_a_node_has_already_is_the_users() -> None:
    """An output named as an inner node gets the name; the inner node gives way."""
    inner = next(
        node.name
        for node in zoo.traced(zoo.cnn).graph.graph_def.node
        if node.op == "MatMul"
    )
    made = zoo.traced(zoo.cnn, GraphNames(outputs=(inner,)))
    assert made.outputs == [inner]
    frozen = from_graph_def(made.frozen(), made.graph.inputs, made.graph.outputs)
    sample = generate(made.graph.inputs)
    live = run_live(made.model, made.graph, sample)
    np.testing.assert_allclose(frozen(sample), live[inner], atol=1e-6)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (
            GraphNames(outputs=("a", "b")),
            TensorNotFound,
            "1 names, one for each of: pr",
        ),
        (GraphNames(outputs={"x": "a"}), TensorNotFound, "own names: predictions"),
        (GraphNames(inputs=()), TensorNotFound, "inputs: expected 1 names"),
    ],
)
def test_names_that_do_not_fit(
    names: GraphNames, error: type[Exception], message: str
) -> None:
    """Too many names, too few, or an unknown key: refused with what there is."""
    with pytest.raises(error, match=message):
        zoo.traced(zoo.cnn, names)


def test_names_that_keras_tells() -> None:
    """The names of this process are keys too, unless all are a fresh one's."""
    L.Dense(1)
    x = keras.Input((2,))
    y, z = L.Dense(1)(x), L.Dense(3)(x)
    model = keras.Model(x, [y, z])
    first, second = model.output_names
    assert first != "dense"
    told = GraphNames(inputs={x.name: "x"}, outputs={first: "a", second: "b"})
    made = zoo.traced(model, told)
    assert (made.inputs, made.outputs) == (["x"], ["a", "b"])
    fresh = GraphNames(
        inputs={model.layers[0].name: "x"}, outputs={"dense": "a", "dense_1": "b"}
    )
    made = zoo.traced(model, fresh)
    assert (made.inputs, made.outputs) == (["x"], ["a", "b"])
    row = keras.Sequential([keras.Input((2,)), L.Dense(1)])
    assert zoo.traced(row, GraphNames(outputs={row.layers[-1].name: "c"})).outputs == [
        "c"
    ]


def test_two_outputs_of_one_name() -> None:
    """The same name twice is refused, not numbered behind the user's back."""
    with pytest.raises(ArgumentError, match="names that differ"):
        zoo.traced(zoo.nested, GraphNames(outputs=("same", "same")))


def test_unbuilt_model() -> None:
    """A model without variables is refused before anything is traced."""
    model = keras.Sequential([L.Dense(1)])
    with pytest.raises(ModelNotBuilt, match=r"keras\.Input, or call it on a batch"):
        trace(model, {})


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return {"double": self.dense(inputs) * (1.0 if training else 2.0)}


def test_subclassed_model_needs_specs() -> None:
    """A subclassed model says that it needs a sample, and is traced with one."""
    model = Subclassed()
    sample = np.ones((2, 3), np.float32)
    model(sample)
    with pytest.raises(ModelNotBuilt, match="sample of its input"):
        zoo.traced(model)
    made = zoo.traced(model, specs=sample)
    assert made.graph.inputs == (TensorInfo("input", (None, 3), "float32"),)
    assert made.outputs == ["double"]
    frozen = from_graph_def(made.frozen(), made.graph.inputs, made.graph.outputs)
    live = run_live(model, made.graph, {"input": sample})
    np.testing.assert_allclose(frozen(sample), live["double"], atol=1e-6)


def test_a_table_that_cannot_be_constant_is_refused_by_layer() -> None:
    """A lookup within a branch names its layer and the way out."""
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(["a"], [1]), default_value=0
    )

    def look_up(words: Any) -> Any:
        first = tf.equal(words[0, 0], "a")
        return tf.cond(first, lambda: table.lookup(words), lambda: tf.zeros_like(1))

    words = keras.Input((1,), dtype="string", name="words")
    layer = L.Lambda(look_up, output_shape=(1,), dtype="int32", name="vocabulary")
    model = keras.Model(words, layer(words))
    with pytest.raises(UnsupportedGraph, match=r"vocabulary.*lookup table.*pipeline"):
        zoo.traced(model)


def test_stateful_recurrence_is_refused() -> None:
    """A recurrent layer that keeps its state between calls is refused by its node."""
    x = keras.Input(batch_shape=(2, 3, 4))
    model = keras.Model(x, L.LSTM(2, stateful=True, name="memory")(x))
    with pytest.raises(UnsupportedGraph, match=r"memory.*Assign.*stateful=False"):
        zoo.traced(model)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.LSTM(4, dropout=0.2),
        lambda: L.Bidirectional(L.GRU(4, recurrent_dropout=0.2)),
        lambda: L.SimpleRNN(4, dropout=0.2, recurrent_dropout=0.2),
    ],
)
def test_recurrence_with_dropout(layer: Callable[[], Any]) -> None:
    """It draws a mask that it makes no use of, and a graph is frozen all the same."""

    def model() -> keras.Model:
        x = keras.Input((5, 3))
        return keras.Model(x, L.Dense(2)(layer()(x)))

    made = zoo.traced(model)
    fed = np.random.default_rng(0).random((3, 5, 3), dtype=np.float32)
    frozen = from_graph_def(made.frozen(), made.graph.inputs, made.graph.outputs)
    found = frozen(fed)
    np.testing.assert_allclose(found, made.model(fed), rtol=1e-5, atol=1e-6)


def test_python_code_is_refused() -> None:
    """numpy_function cannot leave the process, and says so."""
    x = keras.Input((2,))

    def twice(value: Any) -> Any:
        return tf.ensure_shape(
            tf.numpy_function(lambda v: v * 2, [value], tf.float32), [None, 2]
        )

    model = keras.Model(x, L.Lambda(twice, output_shape=(2,), name="py")(x))
    with pytest.raises(UnsupportedGraph, match=r"PyFunc.*Python code"):
        zoo.traced(model)


def test_variable_that_no_layer_tracks() -> None:
    """A tf.Variable outside the model's own is named, with what to do."""
    stray = tf.Variable([1.0, 2.0], name="stray")
    x = keras.Input((2,))
    model = keras.Model(x, L.Lambda(lambda v: v * stray, output_shape=(2,))(x))
    with pytest.raises(UnsupportedGraph, match=r"stray.*self\.add_weight"):
        zoo.traced(model)


def test_captured_constant_stays() -> None:
    """A big array that a layer closes over becomes a constant of the graph."""
    big = tf.constant(np.arange(4000, dtype=np.float32))
    x = keras.Input((4000,))
    model = keras.Model(x, L.Lambda(lambda v: v * big, output_shape=(4000,))(x))
    made = zoo.traced(model)
    assert made.graph.variables == ()
    frozen = from_graph_def(made.frozen(), made.graph.inputs, made.graph.outputs)
    np.testing.assert_array_equal(frozen(np.ones((1, 4000)))[0], big)


def test_captured_constants_are_named_by_order() -> None:
    """TensorFlow names them by a number that counts over the whole process."""
    tables = [tf.constant(np.full((40, 40), k, np.float32)) for k in range(2)]
    x = keras.Input((40, 40))
    add = [L.Lambda(lambda v, t=t: v + tf.convert_to_tensor(t)) for t in tables]
    model = keras.Model(x, add[1](add[0](x)))
    first, second = (zoo.traced(model).graph.graph_def for _ in range(2))
    assert serialize(first) == serialize(second)
    names = [node.name for node in first.node if node.op == "Const"]
    assert [name.rsplit("/")[-1] for name in names] == ["captured", "captured"]


def test_a_normalization_has_its_variables() -> None:
    """They may be put back after the trace, or be a checkpoint's: no constants then."""
    layer = L.Normalization()
    inner = keras.Sequential([keras.Input((3,)), layer])
    model = keras.Sequential([keras.Input((3,)), inner])
    x = np.arange(12, dtype="float32").reshape(4, 3)
    layer.adapt(x)
    mean, variance = layer.mean, layer.variance
    graph = trace(model, zoo.canonical_keys(model))
    assert [info.name.split("/")[-1] for info in graph.variables] == [
        "mean",
        "variance",
    ]
    assert (layer.mean, layer.variance) == (mean, variance)
    values = zoo.traced(model).values
    assert not any(np.isin(values[graph.variables[0].name], np.asarray(mean)))


def test_a_normalization_that_nothing_calls() -> None:
    """It has no constants yet, nor variables."""
    x = keras.Input((3,))
    model = keras.Model(x, L.Dense(2)(x))
    model.spare = L.Normalization()
    assert len(zoo.traced(lambda: model).graph.variables) == 2


def test_variables_are_keyed_and_sorted() -> None:
    """Only what inference reads is listed, by checkpoint key, one node each."""
    model = zoo.nested()  # calls one inner model twice: its kernel is captured once
    graph = zoo.traced(model).graph
    keys = [info.name for info in graph.variables]
    assert keys == sorted(zoo.canonical_keys(model).values())
    handles = [n for n in graph.graph_def.node if n.op == "VarHandleOp"]
    assert sorted(n.attr["shared_name"].s.decode() for n in handles) == keys


def test_no_name_of_the_process_is_left() -> None:
    """Function names carry a hash of their body, and no counter of the tracer's."""
    graph = zoo.traced(zoo.recurrent).graph
    names = [f.signature.name for f in graph.graph_def.library.function]
    assert len(names) == 6
    assert all(re.fullmatch(r"\w+while_(cond|body)_[0-9a-f]{16}", n) for n in names)
