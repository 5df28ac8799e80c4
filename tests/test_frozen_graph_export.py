"""FrozenGraphExport: one verified PB at train end, of the weights that were meant."""

from __future__ import annotations

import contextlib
import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from loops import CLASSES, FEATURES, data
from persist_callbacks import (
    FrozenGraphExport,
    PeriodicCheckpoint,
    freeze,
    frozen_graph_export,
    load_frozen_graph,
)
from persist_callbacks.errors import (
    ArgumentError,
    DirectoryNotWritable,
    InputMismatch,
    ModelNotBuilt,
    PersistWarning,
    UnsupportedGraph,
    VerificationFailed,
)
from persist_callbacks.graph.frozen import FrozenGraph


def linear(optimizer="sgd", *, known=True):
    """The least that trains; without an Input it learns its shape from the data."""
    layers = [keras.layers.Dense(CLASSES, activation="softmax", name="classes")]
    if known:
        layers.insert(0, keras.Input((FEATURES,), name="features"))
    model = keras.Sequential(layers)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


def two_by_two():
    """Two inputs, two outputs."""
    left = keras.Input((FEATURES,), name="left")
    right = keras.Input((FEATURES,), name="right")
    joined = keras.layers.Subtract()([left, keras.layers.Rescaling(2.0)(right)])
    classes = keras.layers.Dense(CLASSES, activation="softmax", name="classes")(joined)
    size = keras.layers.Dense(1, name="size")(joined)
    model = keras.Model([left, right], [classes, size])
    model.compile("sgd", ["sparse_categorical_crossentropy", "mse"])
    return model


def fit(model, *callbacks, epochs=1):
    x, y = data()
    target = y
    if len(getattr(model, "inputs", None) or ()) == 2:
        x, target = [x, x[::-1]], [y, np.abs(x).sum(axis=1)]
    return model.fit(
        x, target, batch_size=25, epochs=epochs, verbose=0, callbacks=callbacks
    )


def assert_same(frozen, model, x):
    """The PB gives what the live model gives, for each output."""
    live = keras.tree.flatten(model(x, training=False))
    found = frozen.predict(x)
    found = list(found.values()) if isinstance(found, dict) else [found]
    assert len(found) == len(live)
    for one, other in zip(found, live, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-5, atol=1e-6)


def names(infos):
    return [info.name for info in infos]


@pytest.mark.parametrize(
    ("build", "options", "inputs", "outputs"),
    [
        (linear, {}, ["features"], ["classes"]),
        (linear, {"outputs": ["predictions"]}, ["features"], ["predictions"]),
        (linear, {"inputs": "x", "outputs": "y"}, ["x"], ["y"]),
        (
            two_by_two,
            {"outputs": ["kind", "amount"], "inputs": ["a", "b"]},
            ["a", "b"],
            ["kind", "amount"],
        ),
        (
            two_by_two,
            {"outputs": {"size": "amount"}, "inputs": {"right": "b"}},
            ["left", "b"],
            ["classes", "amount"],
        ),
    ],
)
def test_names(build, options, inputs, outputs, tmp_path):
    """Tensors bear the user's names, else the layers', in the model's order."""
    model = build()
    export = FrozenGraphExport(tmp_path / "model.pb", **options)
    fit(model, export)
    x, _ = data()
    x = [x, x[::-1]] if build is two_by_two else x
    frozen = load_frozen_graph(tmp_path / "model.pb")
    assert (names(frozen.inputs), names(frozen.outputs)) == (inputs, outputs)
    assert_same(frozen, model, x)
    assert export.frozen_graph.path == tmp_path / "model.pb"
    assert names(export.inference_graph.outputs) == outputs


def test_signature(tmp_path, capsys):
    """What stands beside the PB, and what is said of it."""
    path = tmp_path / "deep" / "down" / "model.pb"
    export = FrozenGraphExport(path, outputs=["class scores"], atol=1e-4, rtol=1e-3)
    fit(linear(), export)
    signature = json.loads((path.parent / "model.signature.json").read_text())
    assert signature["inputs"] == [
        {
            "name": "features",
            "shape": [None, FEATURES],
            "dtype": "float32",
            "original": None,
        }
    ]
    (output,) = signature["outputs"]
    # A graph cannot hold a space.
    assert (output["name"], output["original"]) == ("class_scores", "class scores")
    assert output["shape"] == [None, CLASSES]
    assert signature["size"] == path.stat().st_size
    assert signature["op_count"] == export.frozen_graph.op_count
    comparison = signature["comparison"]
    assert (comparison["atol"], comparison["rtol"]) == (1e-4, 1e-3)
    assert comparison["outputs"][0]["name"] == "class_scores"
    assert comparison["outputs"][0]["absolute"] < 1e-5
    printed = capsys.readouterr().out
    assert printed.startswith(f"Frozen graph written to {path}: ")
    assert "features float32[?, 6] -> class_scores float32[?, 3], largest" in printed


class Scripted(keras.callbacks.Callback):
    """Puts given values into the logs of the epochs."""

    def __init__(self, *values):
        super().__init__()
        self._values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = self._values[epoch]


class WeightsAt(keras.callbacks.Callback):
    """Remembers the weights that each epoch has ended with."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


def test_best(tmp_path):
    """which="best" writes the best epoch's weights and leaves the model as it was."""
    run, seen = tmp_path / "run", WeightsAt()
    model = linear()
    fit(
        model,
        FrozenGraphExport(run / "model.pb", which="best"),
        Scripted(0.5, 0.25, 0.75, 0.6),
        seen,
        PeriodicCheckpoint(
            run, every_epochs=1, keep_last=1, monitor="score", mode="min", verbose=0
        ),
        epochs=4,
    )
    for left, right in zip(model.get_weights(), seen.weights[-1], strict=True):
        np.testing.assert_array_equal(left, right)
    x, _ = data()
    last = model(x).numpy()
    model.set_weights(seen.weights[1])
    frozen = load_frozen_graph(run / "model.pb")
    assert_same(frozen, model, x)
    assert np.abs(frozen(x) - last).max() > 1e-4


def test_best_needs_a_checkpoint_beside_it(tmp_path):
    """Without a PeriodicCheckpoint nobody knows a best epoch: said before step 1."""
    model = linear()
    with pytest.raises(ArgumentError, match="which: expected a PeriodicCheckpoint"):
        fit(model, FrozenGraphExport(tmp_path / "model.pb", which="best"))
    assert int(model.optimizer.iterations.numpy()) == 0


def test_best_needs_a_monitor(tmp_path):
    """A run without scores has no best checkpoint; said before the first step."""
    model = linear()
    with pytest.raises(ArgumentError, match="a PeriodicCheckpoint with monitor="):
        fit(
            model,
            PeriodicCheckpoint(tmp_path / "run", verbose=0),
            FrozenGraphExport(tmp_path / "model.pb", which="best"),
        )
    assert int(model.optimizer.iterations.numpy()) == 0


@pytest.mark.parametrize("ours_first", [True, False])
def test_restored_best_weights(ours_first, tmp_path):
    """What EarlyStopping puts back at train end is exported, whatever the order."""
    export = FrozenGraphExport(tmp_path / "model.pb")
    stop = keras.callbacks.EarlyStopping(
        "score", mode="min", patience=1, restore_best_weights=True
    )
    others = [Scripted(0.25, 0.5, 0.75), stop, seen := WeightsAt()]
    model = linear()
    fit(model, *([export, *others] if ours_first else [*others, export]), epochs=3)
    assert len(seen.weights) == 2
    for one, other in zip(model.get_weights(), seen.weights[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert_same(load_frozen_graph(tmp_path / "model.pb"), model, data()[0])


def test_averaged_weights(tmp_path):
    """An optimizer's averages, which Keras puts in at train end, are exported."""
    model = linear(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5))
    fit(model, seen := WeightsAt(), FrozenGraphExport(tmp_path / "model.pb"), epochs=2)
    assert np.abs(model.get_weights()[0] - seen.weights[-1][0]).max() > 1e-4
    assert_same(load_frozen_graph(tmp_path / "model.pb"), model, data()[0])


def test_unbuilt_sequential(tmp_path):
    """A model without Input is traced and rehearsed at its first step."""
    model = linear(known=False)
    fit(model, FrozenGraphExport(tmp_path / "model.pb", inputs=["x"]))
    frozen = load_frozen_graph(tmp_path / "model.pb")
    assert [str(info) for info in frozen.inputs] == ["x float32[?, 6]"]
    assert_same(frozen, model, data()[0])


class Pair(keras.Model):
    """A subclassed model that takes a dict, which no list or tensor stands for."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(CLASSES, activation="softmax")

    def call(self, inputs):
        return self.dense(inputs["left"] - 2.0 * inputs["right"])


def test_unbuilt_model_of_data_that_tell_no_shape(tmp_path):
    """Run eagerly it would be trained, and nobody knows what the graph takes."""
    x, y = data()
    rows = tf.data.Dataset.from_generator(
        lambda: iter([(x, y)]), output_types=(tf.float32, tf.int64)
    )
    model = linear(known=False)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    export = FrozenGraphExport(tmp_path / "m.pb")
    with pytest.raises(ModelNotBuilt, match=r"m\.pb: .* batches of .*Input\(\.\.\.\)"):
        model.fit(rows, verbose=0, shuffle=False, callbacks=[export])


@pytest.mark.parametrize("built", [False, True])
def test_subclassed_model_with_a_dict_of_inputs(built, tmp_path):
    """What it takes is known from the data, and the comparison hands it a dict."""
    x, y = data()
    inputs = {"left": x, "right": x[::-1].copy()}
    model = Pair()
    model.compile("sgd", "sparse_categorical_crossentropy")
    if built:
        model(inputs)
    path = tmp_path / "model.pb"
    model.fit(inputs, y, batch_size=25, verbose=0, callbacks=[FrozenGraphExport(path)])
    frozen = load_frozen_graph(path)
    assert names(frozen.inputs) == ["left", "right"]
    assert frozen.signature.comparison is not None
    assert_same(frozen, model, inputs)


class Volatile(keras.layers.Layer):
    """Adds what Python holds: a graph keeps what it was when it was traced."""

    offset = 0.0

    def call(self, inputs):
        return inputs + Volatile.offset


@pytest.fixture
def steady():
    yield
    Volatile.offset = 0.0


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("verify", [True, False])
def test_a_graph_that_differs_from_the_model(verify, tmp_path):
    """It is refused by how far it is off, and the older PB stays; unless unverified."""
    path = tmp_path / "model.pb"
    fit(linear(), FrozenGraphExport(path))
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}

    def change(epoch, logs):
        Volatile.offset = 1.0

    drift = keras.callbacks.LambdaCallback(on_epoch_end=change)
    model = keras.Sequential([keras.Input((FEATURES,)), Volatile()])
    model.add(keras.layers.Dense(CLASSES, activation="softmax", name="dense"))
    model.compile("sgd", "sparse_categorical_crossentropy")
    export = FrozenGraphExport(path, verify=verify)
    x, y = data()
    options = {"batch_size": 25, "verbose": 0, "callbacks": [export, drift]}
    if verify:
        with pytest.raises(VerificationFailed) as raised:
            model.fit(x, y, **options)
        message = str(raised.value)
        assert message.startswith(f"{path}: expected outputs like the live model's")
        assert "dense: differs, largest difference" in message
        after = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
        assert after == before
    else:
        model.fit(x, y, **options)
        assert path.read_bytes() != before["model.pb"]
        assert load_frozen_graph(path).signature.comparison is None


def of_large_numbers():
    """Pictures of 16 bits, as they come, and batch norms that do nothing as yet."""
    x = keras.Input((16, 16, 2))
    y = keras.layers.BatchNormalization()(Volatile()(x))
    for _ in range(3):
        y = keras.layers.Conv2D(16, 3, padding="same")(y)
        y = keras.layers.ReLU()(keras.layers.BatchNormalization()(y))
    random = np.random.default_rng(0)
    rows = random.integers(0, 2**16, (4, 16, 16, 2)).astype("float32")
    return keras.Model(x, keras.layers.Conv2D(3, 1)(y)), rows


def of_half_precision():
    """Layer norms, whose float32 numbers are rounded to one of two neighbours."""
    x = keras.Input((32, 64))
    y = Volatile()(x)
    for _ in range(3):
        normed = keras.layers.LayerNormalization(dtype="mixed_float16")(y)
        y = y + keras.layers.Dense(64, "relu", dtype="mixed_float16")(normed)
    rows = np.random.default_rng(0).normal(size=(32, 32, 64)).astype("float32")
    return keras.Model(x, keras.layers.Dense(8, dtype="float32")(y)), rows


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize(
    ("build", "offset"), [(of_large_numbers, 1000.0), (of_half_precision, 0.1)]
)
def test_what_differs_by_rounding(build, offset, tmp_path):
    """It is written, beside large numbers too; what is off by more is refused."""
    keras.utils.set_random_seed(1)
    model, rows = build()
    export = FrozenGraphExport(tmp_path / "model.pb", sample=rows)
    export.set_model(model)
    comparison = export.export().signature.comparison
    largest = np.abs(np.asarray(model(rows))).max()
    (output,) = comparison.outputs
    assert output.absolute < comparison.of_largest * largest
    Volatile.offset = offset
    with pytest.raises(VerificationFailed, match="of the largest"):
        export.export()


@pytest.mark.skipif(
    not hasattr(keras.layers, "RandomHue"), reason="needs Keras' RandomHue"
)
def test_seeds_that_are_drawn_for_nothing(tmp_path):
    """A layer that does nothing at inference is exported, and draws as without us."""
    x, y = data()

    def train(*callbacks):
        keras.utils.set_random_seed(2)
        pictures = keras.Input((2, 1, 3), name="pictures")
        drawn = keras.layers.RandomHue(0.5, value_range=(-3, 3), seed=1)(pictures)
        flat = keras.layers.Flatten()(drawn)
        model = keras.Model(pictures, keras.layers.Dense(CLASSES)(flat))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
        shaped = x.reshape(-1, 2, 1, 3)
        model.fit(shaped, y, batch_size=25, epochs=2, verbose=0, callbacks=callbacks)
        return [variable.numpy() for variable in model.variables]

    path = tmp_path / "model.pb"
    for one, other in zip(train(FrozenGraphExport(path)), train(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert load_frozen_graph(path).signature.comparison is not None


def test_random_numbers_at_inference(tmp_path):
    """A layer that draws them anew each time cannot be exported: said before step 1."""

    class Drawing(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seeds = keras.random.SeedGenerator(1)

        def call(self, inputs):
            noise = keras.random.normal(keras.ops.shape(inputs), seed=self.seeds)
            return inputs + noise

    model = keras.Sequential([keras.Input((FEATURES,)), Drawing()])
    model.add(keras.layers.Dense(CLASSES))
    model.compile("sgd", "mse")
    with pytest.raises(
        UnsupportedGraph, match=r"drawing.*variable that inference chan"
    ):
        fit(model, FrozenGraphExport(tmp_path / "model.pb"))
    assert int(model.optimizer.iterations.numpy()) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("folder", "a folder"),
        ("taken/model.pb", ".*taken is a file"),
        ("pipe", "a device or a pipe"),
        ("piped.pb", "a device or a pipe"),
        (f"{'x' * 300}.pb", "File name too long"),
        (f"new/{'x' * 245}.pb", "File name too long"),
    ],
    ids=["folder", "below a file", "pipe", "signature", "too long", "signature's"],
)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_path_that_cannot_be_written(name, found, tmp_path):
    """Said before the first step, by the path and what is there."""
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "folder").mkdir()
    pipes = [tmp_path / "pipe", tmp_path / "piped.signature.json"]
    for pipe in pipes:
        os.mkfifo(pipe)
    model = linear()
    with pytest.raises(DirectoryNotWritable, match=f": expected .*found {found}"):
        fit(model, FrozenGraphExport(tmp_path / name))
    assert int(model.optimizer.iterations.numpy()) == 0
    assert (tmp_path / "taken").read_text() == "mine"
    assert all(pipe.is_fifo() for pipe in pipes)


def test_the_longest_name_that_there_is(tmp_path):
    """One of 240 bytes leaves its signature's 255, and nothing for a passing name."""
    path = tmp_path / f"{'é' * 120}.pb"
    fit(linear(), FrozenGraphExport(path))
    assert load_frozen_graph(path).signature is not None
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["array", "list", "dict", "dict of old names"])
def test_sample(kind, tmp_path):
    """The comparison is made on the user's own batch, however the model takes it."""
    x, _ = data(4)
    options = {}
    if kind == "array":
        model, sample = linear(), x
    else:
        model, sample = two_by_two(), [x, x[::-1]]
        options = {"inputs": {"left": "a b"}}
        if kind == "dict":
            sample = {"a b": x, "right": x}
        elif kind == "dict of old names":
            sample = {"left": x, "right": x}
    path = tmp_path / "model.pb"
    fit(model, FrozenGraphExport(path, sample=sample, **options))
    assert load_frozen_graph(path).signature.comparison is not None


class Deep(keras.Model):
    """Takes inputs within inputs, and does not know them before it is called."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(2), keras.layers.Dense(2)

    def call(self, inputs, training=False):
        return self.first(inputs["b"]["c"]) - self.second(inputs["a"][1])


@pytest.mark.parametrize("known", [True, False])
def test_sample_of_inputs_within_inputs(known, tmp_path):
    """Each array is handed to the input that stands at its place."""
    sample = {
        "b": {"c": np.ones((2, 3), "float32")},
        "a": [np.zeros((2, 5), "float32"), np.ones((2, 4), "float32")],
    }
    model = Deep()
    if known:
        inputs = keras.tree.map_structure(lambda x: keras.Input(x.shape[1:]), sample)
        model = keras.Model(inputs, model(inputs))
    model(sample)
    export = FrozenGraphExport(tmp_path / "model.pb", sample=sample)
    export.set_model(model)
    frozen = export.export()
    assert frozen.signature.comparison is not None
    assert [info.shape[1] for info in frozen.inputs] == [5, 4, 3]
    other = FrozenGraphExport(tmp_path / "model.pb", sample={"b": sample["b"]})
    other.set_model(model)
    if known:
        with pytest.raises(InputMismatch, match="expected each of these once"):
            other.export()


def test_sample_that_the_model_does_not_take(tmp_path):
    """A sample of a wrong shape is an error before the first step."""
    model = linear()
    sample = np.zeros((4, FEATURES + 1), "float32")
    with pytest.raises(InputMismatch, match=r"features: expected .*\[\?, 6\], found"):
        fit(model, FrozenGraphExport(tmp_path / "model.pb", sample=sample))
    assert int(model.optimizer.iterations.numpy()) == 0


class Kind(keras.layers.Layer):
    """A row of a table for the first number, which tells what kind each row is of."""

    def build(self, shape):
        self.table = self.add_weight(shape=(5, 2), name="table")

    def call(self, x):
        table = tf.convert_to_tensor(self.table)
        return tf.gather(table, tf.cast(x[:, 0], tf.int32) - 10)


@pytest.mark.parametrize("given", ["a sample", "rows", "nothing"])
def test_a_category_among_numbers(given, tmp_path):
    """No made-up number is one; a sample is, and so are rows of the training data."""
    x, y = data(20)
    x[:, 0] = 10 + np.arange(20) % 5
    inputs = keras.Input((FEATURES,), name="features")
    joined = keras.layers.Concatenate()([inputs, Kind()(inputs)])
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, name="classes")(joined))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    export = FrozenGraphExport(
        tmp_path / "m.pb", sample=x if "sample" in given else None
    )
    export.set_model(model)

    def write():
        if given == "rows":
            model.fit(x, y, verbose=0, callbacks=[export])
        else:
            export.export()

    with pytest.warns(PersistWarning) as told:
        write()
    said = "\n".join(str(each.message) for each in told)
    assert "whose values it does not take: indices" in said
    assert ("no made-up input suits both" in said) == (given == "nothing")
    frozen = load_frozen_graph(tmp_path / "m.pb")
    assert (frozen.signature.comparison is None) == (given == "nothing")
    assert_same(frozen, model, x)


def test_open_sizes(tmp_path):
    """A model that takes no small picture is compared on a bigger one."""
    inputs = keras.Input((None, None, 1), name="picture")
    values = inputs
    for _ in range(4):
        values = keras.layers.Conv2D(1, 3, strides=2)(values)
    values = keras.layers.GlobalAveragePooling2D()(values)
    model = keras.Model(inputs, keras.layers.Dense(1)(values))
    model.compile("sgd", "mse")
    x = np.random.default_rng(1).standard_normal((4, 40, 40, 1)).astype("float32")
    path = tmp_path / "model.pb"
    model.fit(x, np.zeros(4), verbose=0, callbacks=[FrozenGraphExport(path)])
    frozen = load_frozen_graph(path)
    assert frozen.signature.comparison is not None
    assert_same(frozen, model, x)


MOST = 2**31 - 1


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("which", "first", "'last' or 'best'"),
        ("atol", -1.0, "a number of 0 or more"),
        ("rtol", "small", "a number of 0 or more"),
        ("atol", float("nan"), "a number of 0 or more"),
        ("atol", float("inf"), "a number of 0 or more"),
        ("rtol", True, "a number of 0 or more"),
        ("verify", "no", "True or False"),
        ("verify", None, "True or False"),
        ("sample", 3, "a batch of inputs: an array, a list or a dict"),
        ("sample", "x", "a batch of inputs: an array, a list or a dict"),
        ("outputs", [""], "names, each a string that is not empty"),
        ("inputs", [1], "names, each a string that is not empty"),
        ("inputs", 3, "names, each a string that is not empty"),
        ("inputs", "", "names, each a string that is not empty"),
        ("inputs", {"a": 3}, "names, each a string that is not empty"),
        ("outputs", ["a", "a"], "each name once"),
        ("outputs", {"a": "c", "b": "c"}, "each name once"),
        ("target", "onnx", "'portable' or 'tensorflow'"),
        ("batch_size", 0, f"a positive number of rows, at most {MOST}, or None"),
        ("batch_size", MOST + 1, f"a positive number of rows, at most {MOST}, or None"),
    ],
)
def test_arguments_are_refused_by_name(argument, value, expected, tmp_path):
    """A value that an argument cannot have is an error at construction."""
    with pytest.raises(ArgumentError) as raised:
        FrozenGraphExport(tmp_path / "model.pb", **{argument: value})
    assert str(raised.value).startswith(
        f"{argument}: expected {expected}, found {value!r}. "
    )


def test_freezing_the_checkpoint_gives_the_same_bytes(tmp_path):
    """The PB of freeze, which has no model code, is the one that training wrote."""
    run = tmp_path / "run"
    x, y = data()
    model = two_by_two()
    options = {"outputs": ["kind", "amount"], "inputs": ["a", "b"]}
    model.fit(
        [x, x[::-1]],
        [y, np.abs(x).sum(axis=1)],
        verbose=0,
        callbacks=[
            PeriodicCheckpoint(run, verbose=0),
            FrozenGraphExport(run / "model.pb", **options),
        ],
    )
    shutil.copytree(run, tmp_path / "copy")
    freeze(tmp_path / "copy", tmp_path / "again.pb")
    assert (tmp_path / "again.pb").read_bytes() == (run / "model.pb").read_bytes()


@pytest.mark.usefixtures("processes_apart")
def test_rerun_of_a_finished_run_exports_again(tmp_path):
    """Nothing is trained, and the PB that was lost is there again, bit by bit."""
    run = tmp_path / "run"

    def go():
        model = linear("adam")
        export = FrozenGraphExport(run / "model.pb")
        fit(model, PeriodicCheckpoint(run, verbose=0), export)
        return (run / "model.pb").read_bytes()

    first = go()
    (run / "model.pb").unlink()
    (run / "model.signature.json").unlink()
    assert go() == first


class Batches(keras.utils.PyDataset):
    """Notes each batch that it is asked for, and draws noise for it."""

    def __init__(self, x, y, workers):
        super().__init__(workers=workers)
        self._x, self._y = x, y
        self._random = np.random.default_rng(3)
        self.asked = []

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.asked.append(index)
        noise = self._random.standard_normal(()) if self.workers == 1 else 0.0
        rows = slice(25 * index, 25 * (index + 1))
        return self._x[rows] + np.float32(noise), self._y[rows]


@pytest.mark.parametrize(
    "kind", ["arrays", "data set", "generator", "PyDataset", "PyDataset of threads"]
)
def test_compared_on_rows_of_the_training_data(kind, tmp_path, monkeypatch):
    """Before the first step and at the end; training draws what it drew without us."""
    x, y = data()
    seen = []

    def recorded(model, graph, arrays, **options):
        seen.append(arrays["features"])
        return whole(model, graph, arrays, **options)

    whole = frozen_graph_export.run_live
    monkeypatch.setattr(frozen_graph_export, "run_live", recorded)

    asked = []

    def train(*callbacks):
        keras.utils.set_random_seed(4)
        model = linear()
        if kind.startswith("PyDataset"):
            batches = Batches(x, y, workers=2 if "threads" in kind else 1)
            model.fit(batches, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
            asked.append(sorted(batches.asked))
        elif kind == "arrays":
            model.fit(x, y, batch_size=25, epochs=2, verbose=0, callbacks=callbacks)
        elif kind == "data set":
            batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(50).batch(25)
            model.fit(batches, epochs=2, verbose=0, callbacks=callbacks)
        else:
            drawn = ((x[i : i + 25], y[i : i + 25]) for i in range(0, 100, 25))
            model.fit(
                drawn, steps_per_epoch=2, epochs=2, verbose=0, callbacks=callbacks
            )
        return model.get_weights()

    without = train()
    assert seen == []
    for one, other in zip(
        train(FrozenGraphExport(tmp_path / "m.pb")), without, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert len(seen) == 2
    if kind.startswith("PyDataset"):
        # It is asked for nothing more, so there is nothing before the first step.
        assert asked[0] == asked[1]
        made_up, rows = seen
        assert len(made_up) == 4
        if keras.__version__.startswith("3.7."):
            # Its batches pass nothing where they can be seen.
            np.testing.assert_array_equal(rows, made_up)
            return
        assert rows.shape == (8, FEATURES)
        assert np.ptp(rows - x[:8]) < 1e-6
        return
    for arrays in seen:
        np.testing.assert_array_equal(arrays, x[:8])


@pytest.mark.parametrize("kind", ["arrays", "data set", "generator", "replicas"])
def test_no_more_rows_at_once_than_training_has(kind, tmp_path, monkeypatch):
    """Who trains with one may have no memory for two."""
    x, y = (each[:4] for each in data())
    seen = []

    def counted(graph, *arrays, **named):
        seen.append(len(arrays[0]["features"]))
        return whole(graph, *arrays, **named)

    whole = FrozenGraph.__call__
    monkeypatch.setattr(FrozenGraph, "__call__", counted)
    export = FrozenGraphExport(tmp_path / "m.pb")
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(4).batch(1)
    if kind == "arrays":
        linear().fit(x, y, batch_size=1, verbose=0, callbacks=[export])
    elif kind == "data set":
        linear().fit(batches, verbose=0, callbacks=[export])
    elif kind == "generator":
        drawn = ((x[i : i + 1], y[i : i + 1]) for i in range(4))
        linear().fit(drawn, steps_per_epoch=2, verbose=0, callbacks=[export])
    else:
        with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
            model = linear()
        model.fit(batches, verbose=0, callbacks=[export])
    # Tried out and compared, before the first step and at the end.
    assert seen == [1] * 4


@pytest.mark.filterwarnings("error")
def test_a_model_that_takes_one_row(tmp_path):
    """It is compared on one that is made up, where none of several are."""
    x = keras.Input((3,), name="x")
    y = keras.layers.Lambda(lambda v: tf.squeeze(v, 0), output_shape=(3,), name="y")(x)
    model = keras.Model(x, y)
    export = FrozenGraphExport(tmp_path / "m.pb")
    export.set_model(model)
    assert export.export().signature.comparison is not None


@pytest.mark.parametrize("in_fit", [False, True])
def test_as_many_rows_as_channels(in_fit, tmp_path):
    """Keras adds one number a row as a bias then; the PB is right, and is written."""
    pictures = keras.Input((3, 2, 3), name="pictures")
    channels = 8 if in_fit else 4
    y = keras.layers.Conv2D(channels, 3, padding="same")(pictures)
    gate = keras.layers.Conv2D(1, 1)(keras.layers.GlobalMaxPooling2D(keepdims=True)(y))
    model = keras.Model(pictures, keras.layers.Conv2D(2, 3, padding="same")(y + gate))
    model.compile("sgd", "mse")
    path = tmp_path / "model.pb"
    export = FrozenGraphExport(path)
    x = np.random.default_rng(0).standard_normal((18, 3, 2, 3)).astype("float32")
    export.set_model(model)

    def write():
        if in_fit:
            model.fit(x, np.zeros((18, 3, 2, 2)), verbose=0, callbacks=[export])
        else:
            export.export()

    with pytest.warns(PersistWarning, match=f"and not for {channels}: a layer takes"):
        write()
    assert_same(load_frozen_graph(path), model, x)


def test_a_layer_that_is_otherwise_in_predict(tmp_path):
    """Resizing rounds whole numbers when it is called, and not in `predict`."""
    pictures = keras.Input((None, None, 1), dtype="uint8", name="pictures")
    values = keras.layers.Resizing(6, 6)(pictures)
    model = keras.Model(pictures, keras.layers.Dense(1)(values))
    model.compile("sgd", "mse")
    x = np.random.default_rng(1).integers(0, 255, (8, 9, 9, 1)).astype("uint8")
    assert np.abs(model(x) - model.predict(x, verbose=0)).max() > 1e-3
    path = tmp_path / "model.pb"
    model.fit(x, np.zeros((8, 6, 6, 1)), verbose=0, callbacks=[FrozenGraphExport(path)])
    np.testing.assert_allclose(
        load_frozen_graph(path)(x), model.predict(x, verbose=0), atol=1e-4
    )


def test_target_and_batch_size(tmp_path):
    """The PB takes that many rows, and is compared on rows fitted to it."""
    path = tmp_path / "model.pb"
    export = FrozenGraphExport(path, target="tensorflow", batch_size=3)
    model = linear()
    fit(model, export)
    frozen = load_frozen_graph(path)
    assert [info.shape[0] for info in (*frozen.inputs, *frozen.outputs)] == [3, 3]
    assert frozen.signature.comparison is not None
    assert_same(frozen, model, np.ones((3, *model.inputs[0].shape[1:]), "float32"))


@pytest.mark.parametrize("inside", [False, True])
def test_a_model_of_replicas(inside, tmp_path):
    """Trained under MirroredStrategy; its checkpoints can be frozen too."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    pb, run = tmp_path / "model.pb", tmp_path / "run"
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((FEATURES,), name="features"),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(CLASSES, activation="softmax"),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy")
    with strategy.scope() if inside else contextlib.nullcontext():
        fit(model, PeriodicCheckpoint(run, verbose=0), FrozenGraphExport(pb))
    x, _ = data()
    assert_same(load_frozen_graph(pb), model, x)
    freeze(run, tmp_path / "frozen.pb")
    assert_same(load_frozen_graph(tmp_path / "frozen.pb"), model, x)
