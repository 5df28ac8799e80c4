"""What we write is read by TensorFlow's own readers, with none of our code."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from loops import CLASSES, FEATURES, data, sequential
from persist_callbacks import PeriodicCheckpoint


def functional(optimizer):
    """Two inputs that share a layer, two outputs, seeds and averages."""
    left = keras.Input((FEATURES,), name="left")
    right = keras.Input((FEATURES,), name="right")
    shared = keras.layers.Dense(4, activation="tanh", name="shared")
    joined = keras.layers.Concatenate()([shared(left), shared(right)])
    joined = keras.layers.Dropout(0.2)(keras.layers.BatchNormalization()(joined))
    classes = keras.layers.Dense(CLASSES, activation="softmax", name="classes")(joined)
    size = keras.layers.Dense(1, name="size")(joined)
    model = keras.Model([left, right], [classes, size])
    model.compile(optimizer, ["sparse_categorical_crossentropy", "mse"])
    return model


class Subclassed(keras.Model):
    """Layers as attributes and in a list, which know their inputs from data alone."""

    def __init__(self):
        super().__init__()
        self.hidden = [keras.layers.Dense(8, activation="relu") for _ in range(2)]
        self.norm = keras.layers.BatchNormalization()
        self.drop = keras.layers.Dropout(0.3)
        self.last = keras.layers.Dense(CLASSES, activation="softmax")

    def call(self, inputs, training=False):
        for layer in self.hidden:
            inputs = layer(inputs)
        return self.last(self.drop(self.norm(inputs), training=training))


def subclassed(optimizer):
    model = Subclassed()
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model(np.zeros((1, FEATURES), "float32"))
    return model


MODELS = {
    "Sequential": sequential,
    "Functional": functional,
    "subclassed": subclassed,
}
OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(0.01),
    "SGD": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
}


def inputs_of(kind):
    x, _ = data()
    return [x, x[::-1].copy()] if kind == "Functional" else x


@functools.cache
def trained(kind, optimizer):
    """A small fit's run directory and model."""
    run = Path(tempfile.mkdtemp(prefix="stock-readers-")) / "run"
    keras.utils.set_random_seed(3)
    model = MODELS[kind](OPTIMIZERS[optimizer]())
    _, y = data()
    target = [y, np.abs(data()[0]).sum(axis=1)] if kind == "Functional" else y
    model.fit(
        inputs_of(kind),
        target,
        batch_size=25,
        epochs=2,
        verbose=0,
        callbacks=[PeriodicCheckpoint(run, every_epochs=1, verbose=0)],
    )
    return run, model


def bits(variables):
    """Each variable's value as bytes."""
    return [variable.numpy().tobytes() for variable in variables]


def everything(model):
    """All that TensorFlow tracks: not the state of Dropout's seeds (keras#19796)."""
    variables = [*model.variables, *model.optimizer.variables]
    return [each for each in variables if "seed_generator" not in each.path]


def test_latest_checkpoint_is_the_newest():
    """TensorFlow finds the newest checkpoint, by a path relative to the directory."""
    run, _ = trained("Sequential", "Adam")
    newest = run / "ckpt-000000004" / "model.ckpt"
    assert tf.train.latest_checkpoint(str(run)) == str(newest)
    state = tf.train.get_checkpoint_state(str(run))
    assert [Path(path).parent.name for path in state.all_model_checkpoint_paths] == [
        "ckpt-000000002",
        "ckpt-000000004",
    ]
    assert str(run) not in (run / "checkpoint").read_text()


def test_load_checkpoint_lists_readable_keys():
    """Keys are the variables' own paths, and the values the live ones."""
    run, model = trained("Sequential", "Adam")
    reader = tf.train.load_checkpoint(str(run))
    shapes = reader.get_variable_to_shape_map()
    layers = {
        "dense/kernel": [6, 8],
        "dense/bias": [8],
        "batch_normalization/gamma": [8],
        "batch_normalization/beta": [8],
        "batch_normalization/moving_mean": [8],
        "batch_normalization/moving_variance": [8],
        "classes/kernel": [8, 3],
        "classes/bias": [3],
    }
    trainable = [key for key in layers if "moving" not in key]
    slots = {
        f"adam/{key}/{slot}": layers[key]
        for key in trainable
        for slot in ("momentum", "velocity")
    }
    assert layers.items() <= shapes.items()
    assert slots.items() <= shapes.items()
    others = sorted(shapes.keys() - layers.keys() - slots.keys())
    for key in list(others):
        # What object-based restore reads: second names of the same bytes.
        if key.endswith("/.ATTRIBUTES/VARIABLE_VALUE"):
            others.remove(key)
            own = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
            value = reader.get_tensor(own)
            assert reader.get_tensor(key).tobytes() == value.tobytes()
    assert [k for k in others if not k.startswith(("metrics/", "random/"))] == [
        "_CHECKPOINTABLE_OBJECT_GRAPH",
        "adam/iteration",
        "adam/learning_rate",
        "data/iterator",
        "dropout/seed_generator/seed_generator_state",
        "save_counter",
    ]
    kernel = reader.get_tensor("dense/kernel")
    assert kernel.tobytes() == model.layers[0].kernel.numpy().tobytes()
    assert reader.get_tensor("adam/iteration") == 4


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
def test_object_based_restore(kind, optimizer):
    """tf.train.Checkpoint puts the same bits back into a model made anew."""
    run, model = trained(kind, optimizer)
    keras.utils.set_random_seed(4)
    fresh = MODELS[kind](OPTIMIZERS[optimizer]())
    fresh.optimizer.build(fresh.trainable_variables)
    assert bits(everything(fresh)) != bits(everything(model))
    checkpoint = tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer)
    prefix = tf.train.latest_checkpoint(str(run))
    checkpoint.restore(prefix).assert_existing_objects_matched()
    assert bits(everything(fresh)) == bits(everything(model))
    assert int(fresh.optimizer.iterations.numpy()) == 4
    x = inputs_of(kind)
    for one, other in zip(
        tf.nest.flatten(model.predict_on_batch(x)),
        tf.nest.flatten(fresh.predict_on_batch(x)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


TF1 = """
import sys
import numpy as np
import tensorflow as tf
run, wanted, *arrays = sys.argv[1:]
tf1 = tf.compat.v1
tf1.disable_eager_execution()
prefix = tf1.train.latest_checkpoint(run)
with tf1.Session(graph=tf.Graph()) as session:
    saver = tf1.train.import_meta_graph(prefix + ".meta", clear_devices=True)
    saver.restore(session, prefix)
    signature = dict(pair.split("=") for pair in arrays)
    feed = {f"{name}:0": np.load(path) for name, path in signature.items()}
    np.save(wanted, session.run("classes:0", feed))
assert "persist_callbacks" not in sys.modules
"""


def test_a_tf1_script_runs_the_meta(tmp_path):
    """A Saver from the .meta restores it; its output is the live model's."""
    run, model = trained("Functional", "Adam")
    feeds = []
    for name, value in zip(["left", "right"], inputs_of("Functional"), strict=True):
        np.save(tmp_path / f"{name}.npy", value)
        feeds.append(f"{name}={tmp_path / name}.npy")
    script = [sys.executable, "-c", TF1, str(run), str(tmp_path / "out.npy"), *feeds]
    done = subprocess.run(
        script,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    live = model(inputs_of("Functional"), training=False)[0]
    found = np.load(tmp_path / "out.npy")
    np.testing.assert_allclose(found, live.numpy(), rtol=1e-5, atol=1e-6)


def test_a_subclassed_model_has_a_graph_beside_it():
    """What it takes is known from the data, so its checkpoints can be frozen too."""
    from persist_callbacks import freeze

    run, model = trained("subclassed", "Adam")
    frozen = freeze(run, run.parent / "model.pb")
    x = inputs_of("subclassed")
    np.testing.assert_allclose(
        frozen(x), model(x, training=False).numpy(), rtol=1e-5, atol=1e-6
    )
