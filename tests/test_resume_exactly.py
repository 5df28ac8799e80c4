"""A run that is broken off and run again ends like one that never was."""

from __future__ import annotations

import functools
import json
import random
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from loops import (
    CLASSES,
    FEATURES,
    Crash,
    CrashAt,
    data,
    sequential,
    train,
    train_with_crashes,
)
from persist_callbacks import (
    FrozenGraphExport,
    PeriodicCheckpoint,
    load_frozen_graph,
    resume,
)
from persist_callbacks.errors import DataMismatch, ModelNotBuilt
from persist_callbacks.storage.store import Store

pytestmark = pytest.mark.usefixtures("deterministic", "synchronous")


def linear():
    """The least that trains."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def functional():
    """Two inputs, two outputs, SGD with momentum."""
    left = keras.Input((FEATURES,), name="left")
    right = keras.Input((FEATURES,), name="right")
    shared = keras.layers.Dense(8, activation="tanh")
    joined = keras.layers.Concatenate()([shared(left), shared(right)])
    joined = keras.layers.Dropout(0.2)(joined)
    classes = keras.layers.Dense(CLASSES, activation="softmax", name="classes")(joined)
    size = keras.layers.Dense(1, name="size")(joined)
    model = keras.Model([left, right], {"classes": classes, "size": size})
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        loss={"classes": "sparse_categorical_crossentropy", "size": "mse"},
        metrics={"classes": "accuracy"},
    )
    return model


def unbuilt():
    """A Sequential that learns its input's shape from the first batch."""
    model = keras.Sequential(
        [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(CLASSES)]
    )
    model.compile(
        "rmsprop",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def arrays(model, callbacks, *, epochs=4, **more):
    x, y = data()
    return model.fit(
        x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks, **more
    )


def arrays_with_validation(model, callbacks):
    return arrays(model, callbacks, validation_split=0.2)


def two_inputs(model, callbacks):
    x, y = data()
    size = np.abs(x).sum(axis=1, keepdims=True)
    return model.fit(
        [x, x[::-1]],
        {"classes": y, "size": size},
        batch_size=8,
        epochs=4,
        verbose=0,
        validation_data=([x[:9], x[9:18]], {"classes": y[:9], "size": size[:9]}),
        callbacks=callbacks,
    )


def reshuffled(model, callbacks, *, epochs=4):
    dataset = tf.data.Dataset.from_tensor_slices(data()).shuffle(50).batch(8)
    return model.fit(dataset, epochs=epochs, verbose=0, callbacks=callbacks)


def repeated(model, callbacks):
    dataset = tf.data.Dataset.from_tensor_slices(data()).shuffle(50).repeat().batch(8)
    return model.fit(
        dataset, epochs=4, steps_per_epoch=5, verbose=0, callbacks=callbacks
    )


def by_their_length(model, callbacks, *, epochs=4):
    """One iterator would serve all epochs, and is at its end after each."""
    dataset = tf.data.Dataset.from_tensor_slices(data()).shuffle(50).batch(8)
    return model.fit(
        dataset, epochs=epochs, steps_per_epoch=7, verbose=0, callbacks=callbacks
    )


def unknown_length(model, callbacks):
    x, y = data()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(50)
    dataset = dataset.filter(lambda row, label: row[0] > -0.5).batch(8).prefetch(2)
    return model.fit(dataset, epochs=4, verbose=0, callbacks=callbacks)


CASES = {
    "arrays": (sequential, arrays, {"every_steps": 3}),
    "arrays, validation, SGD": (
        lambda: sequential("sgd"),
        arrays_with_validation,
        {"every_steps": 2},
    ),
    "two inputs and outputs": (functional, two_inputs, {"every_steps": 3}),
    "tf.data reshuffled": (sequential, reshuffled, {"every_steps": 3}),
    "tf.data repeated": (sequential, repeated, {"every_steps": 4}),
    "tf.data of unknown length": (sequential, unknown_length, {"every_steps": 3}),
    "unbuilt Sequential": (unbuilt, arrays, {"every_steps": 3}),
    "every epoch": (sequential, arrays, {"every_epochs": 1}),
    "every second": (sequential, reshuffled, {"every_seconds": 1e-6}),
    "no trigger": (sequential, arrays, {}),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_crashes_leave_no_trace(name, tmp_path):
    """Weights, optimizer, seeds and History are equal after two crashes."""
    build, fit, options = CASES[name]
    expected = train(build, fit, None)
    found = train_with_crashes(build, fit, tmp_path / "run", [8, 7], **options)
    assert found == expected


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("fit", [reshuffled, unknown_length, repeated, arrays])
@pytest.mark.parametrize("step", [1, 6, 7, 8, 13])
def test_any_step_is_a_good_one_to_go_on_from(fit, step, tmp_path):
    """The last steps of an epoch too, where shuffle buffers have run empty."""
    expected = _uninterrupted(fit)
    crash = [step + 1]
    found = train_with_crashes(linear, fit, tmp_path / "run", crash, every_steps=step)
    assert found == expected


@functools.cache
def _uninterrupted(fit):
    return train(linear, fit, None)


def test_saving_changes_nothing(tmp_path):
    """A run that is saved at every step ends like one without any callback of ours."""
    expected = train(sequential, arrays_with_validation, None)
    found = train(
        sequential, arrays_with_validation, tmp_path / "run", every_seconds=1e-6
    )
    assert found == expected


@pytest.mark.usefixtures("processes_apart")
def test_callbacks_decide_as_they_would_have(tmp_path):
    """EarlyStopping and ReduceLROnPlateau keep their patience over a crash."""

    def callbacks():
        return [
            keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=10.0),
            keras.callbacks.EarlyStopping(
                "loss", patience=3, min_delta=10.0, restore_best_weights=True
            ),
        ]

    def fit(model, members):
        x, y = data()
        return model.fit(x, y, batch_size=8, epochs=9, verbose=0, callbacks=members)

    expected = train(sequential, fit, None, callbacks=callbacks())
    assert expected.epochs == (0, 1, 2, 3)
    found = train_with_crashes(
        sequential,
        fit,
        tmp_path / "run",
        [9, 6],
        every_steps=3,
        callbacks=callbacks,
    )
    assert found == expected
    # And rerunning what has ended by EarlyStopping trains nothing more.
    again = train(
        sequential, fit, tmp_path / "run", every_steps=3, callbacks=callbacks()
    )
    assert again == expected


class Counter(keras.callbacks.Callback):
    """A user's callback with state of its own and the documented protocol."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(batch)

    def get_state(self):
        return {"batches": self.batches}

    def set_state(self, state):
        self.batches = state["batches"]


def test_a_users_callback_sees_each_batch_once(tmp_path):
    """Batches that are done pass by unseen, and the protocol carries the rest over."""
    counters = []

    def callbacks():
        counters.append(Counter())
        return counters[-1:]

    train(sequential, arrays, None, callbacks=callbacks())
    train_with_crashes(
        sequential, arrays, tmp_path / "run", [10], every_steps=3, callbacks=callbacks
    )
    assert counters[-1].batches == counters[0].batches


@pytest.mark.usefixtures("processes_apart")
@pytest.mark.parametrize(
    ("build", "fit"),
    [
        (sequential, arrays),
        (unbuilt, arrays),
        (unbuilt, reshuffled),
        (linear, by_their_length),
    ],
)
def test_finished_run_trains_nothing_and_goes_on_with_more_epochs(build, fit, tmp_path):
    """A rerun with a larger total ends like a run that had it from the start."""
    two, four = (functools.partial(fit, epochs=total) for total in (2, 4))
    first = train(build, two, tmp_path / "run")
    assert train(build, two, tmp_path / "run") == first
    longer = train(build, four, tmp_path / "run")
    assert longer == train(build, four, None)


class Lasting(keras.metrics.Metric):
    """Counts all rows of a training, and how often it was to begin anew."""

    def __init__(self):
        super().__init__(name="lasting")
        self.rows = self.add_weight(name="rows", initializer="zeros")
        self.average = tf.Variable(0.0, trainable=False)
        self.resets = tf.Variable(0.0, trainable=False)

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.rows.assign_add(tf.cast(tf.shape(y_true)[0], tf.float32))
        self.average.assign(0.9 * self.average + tf.reduce_mean(y_pred**2))

    def result(self):
        return self.rows + self.average + 1000.0 * self.resets

    def reset_state(self):
        self.resets.assign_add(1.0)


@pytest.mark.usefixtures("processes_apart")
@pytest.mark.parametrize("way", ["iterator", "replay"])
@pytest.mark.parametrize("named", [True, False], ids=["built", "unbuilt"])
def test_metrics_that_last_over_epochs(named, way, tmp_path):
    """From an epoch's beginning, of a finished run, and from within an epoch."""

    def measured():
        begins = [keras.Input((FEATURES,))] * named
        model = keras.Sequential([*begins, keras.layers.Dense(CLASSES)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=[Lasting(), "accuracy"])
        return model

    def epochs(total):
        def fit(model, callbacks):
            # It changes what the hooks of an epoch's begin are to leave.
            falls = keras.callbacks.LearningRateScheduler(lambda _, rate: rate * 0.9)
            return arrays(
                model,
                [*callbacks, falls],
                epochs=total,
                validation_split=0.2,
            )

        return fit

    run, options = tmp_path / "run", {"every_steps": 5, "data_state": way}
    expected = train(measured, epochs(4), None)
    # Five batches are an epoch; it is broken off after its first batch, and its third.
    train_with_crashes(measured, epochs(2), run, [6, 3], **options)
    train(measured, epochs(2), run, **options)
    with pytest.raises(Crash):
        train(measured, epochs(4), run, crash_after=6, **options)
    assert train(measured, epochs(4), run, **options) == expected


class LogsRates(keras.callbacks.Callback):
    """Puts into the logs what is no plain number."""

    def on_epoch_end(self, epoch, logs=None):
        rate = self.model.optimizer.learning_rate
        logs["rate"], logs["variable"] = keras.ops.convert_to_numpy(rate), rate


def test_vectors_in_the_history(tmp_path):
    """Of a metric that has a value for each class, and arrays from callbacks."""

    def build():
        model = linear()
        model.compile("adam", "mse", metrics=[keras.metrics.F1Score()])
        return model

    def fit(model, callbacks):
        x, y = data()
        y = keras.utils.to_categorical(y, CLASSES)
        return model.fit(
            *(x, y), batch_size=8, epochs=4, verbose=0, callbacks=callbacks
        )

    def values(history):
        return {name: [np.array(e) for e in each] for name, each in history.items()}

    run = tmp_path / "run"
    expected = train(build, fit, None, callbacks=[LogsRates()])
    found = train_with_crashes(
        build, fit, run, [10, 6], every_steps=3, callbacks=lambda: [LogsRates()]
    )
    assert found.digest == expected.digest
    np.testing.assert_equal(values(found.history), values(expected.history))
    assert isinstance(found.history["f1_score"][0], np.ndarray)
    point = resume(build(), run)
    np.testing.assert_equal(values(point.history), values(expected.history))


@pytest.mark.usefixtures("processes_apart")
def test_going_on_after_averaged_weights(tmp_path):
    """What train end puts into the weights does not leak into further epochs."""

    def averaging():
        return sequential(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9))

    def epochs(total):
        def fit(model, members):
            x, y = data()
            return model.fit(
                x, y, batch_size=8, epochs=total, verbose=0, callbacks=members
            )

        return fit

    ended = train(averaging, epochs(2), tmp_path / "run")
    assert ended == train(averaging, epochs(2), None)
    assert train(averaging, epochs(2), tmp_path / "run") == ended
    longer = train(averaging, epochs(3), tmp_path / "run")
    assert longer == train(averaging, epochs(3), None)


def test_another_process_may_have_built_other_models(tmp_path):
    """Automatic names, which depend on what was built before, do not break a resume."""

    def after_others():
        keras.layers.Dense(2), keras.layers.BatchNormalization(), sequential()
        keras.utils.set_random_seed(3)
        return sequential()

    def with_seed_set_again():
        keras.utils.set_random_seed(3)
        return sequential()

    expected = train(with_seed_set_again, arrays, None)
    with pytest.raises(Crash):
        train(
            with_seed_set_again,
            arrays,
            tmp_path / "run",
            crash_after=9,
            every_steps=3,
        )
    assert train(after_others, arrays, tmp_path / "run", every_steps=3) == expected


def test_moved_directory(tmp_path):
    """A run directory that is moved, its `checkpoint` file gone, is resumed from."""
    expected = train(sequential, arrays, None)
    with pytest.raises(Crash):
        train(sequential, arrays, tmp_path / "run", crash_after=9, every_steps=3)
    (tmp_path / "run" / "checkpoint").unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    found = train(sequential, arrays, tmp_path / "moved", every_steps=3)
    assert found == expected
    resumed = [
        json.loads(line)
        for line in (tmp_path / "moved" / "journal.jsonl").read_text().splitlines()
        if json.loads(line)["event"] == "resumed"
    ]
    assert resumed[-1]["step"] > 0


def test_damaged_newest_checkpoint_is_set_aside(tmp_path):
    """A flipped byte costs the newest checkpoint, and not the run."""
    expected = train(sequential, arrays, None)
    with pytest.raises(Crash):
        train(sequential, arrays, tmp_path / "run", crash_after=16, every_seconds=1e-6)
    newest = Store.open_for_reading(tmp_path / "run").find("latest")
    shard = newest.path / "model.ckpt.data-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0x40
    shard.write_bytes(content)
    assert train(sequential, arrays, tmp_path / "run", every_steps=3) == expected
    aside = [p.name for p in (tmp_path / "run").iterdir() if "damaged" in p.name]
    assert aside == [f"damaged-{newest.path.name}"]


def test_other_batch_size_is_refused_within_an_epoch(tmp_path):
    """A position between two batches means nothing for batches of another size."""

    def smaller(model, members, **more):
        x, y = data()
        return model.fit(
            x, y, batch_size=4, epochs=4, verbose=0, callbacks=members, **more
        )

    options = {"every_seconds": 1e-6, "keep_last": 9}
    with pytest.raises(Crash):
        train(sequential, arrays, tmp_path / "run", crash_after=12, **options)
    before = sorted(p.name for p in (tmp_path / "run").iterdir())
    with pytest.raises(DataMismatch, match=r"7 batches in an epoch.*another directory"):
        train(sequential, smaller, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before

    def as_advised(model, members):
        point = resume(model, tmp_path / "run", checkpoint=7)
        return smaller(model, members, initial_epoch=point.epoch)

    found = train(sequential, as_advised, tmp_path / "other")
    assert found.epochs == (1, 2, 3)
    assert found.iterations == 7 + 3 * 13


def test_fit_again_after_an_exception(tmp_path):
    """The same callback and model train on after a fit that died, as in a notebook."""
    keras.utils.set_random_seed(3)
    model = sequential()
    ours = PeriodicCheckpoint(tmp_path / "run", every_steps=3, verbose=0)
    x, y = data()
    with pytest.raises(Crash):
        model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[ours, CrashAt(9)])
    history = model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[ours])
    assert history.epoch == [0, 1, 2]
    assert ours.resume_point is not None
    assert int(model.optimizer.iterations.numpy()) == 21


class TwoOptimizers(keras.Model):
    """Keeps its optimizers in a list, and a counter in a dict."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(4), keras.layers.Dense(CLASSES)
        self.both = [keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.05, 0.9)]
        self.counts = {"scale": tf.Variable(1.0, trainable=False)}

    def call(self, x):
        return self.second(self.first(x))

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape(persistent=True) as tape:
            loss = self.counts["scale"] * tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(y, self(x), True)
            )
        for layer, optimizer in zip((self.first, self.second), self.both, strict=True):
            weights = layer.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)
        self.counts["scale"].assign(self.counts["scale"] * 1.05)
        return {"loss": loss}


def two_optimizers():
    model = TwoOptimizers()
    model.compile("sgd")
    return model


class Growing(keras.regularizers.Regularizer):
    """Keeps its factor in a variable, which `fading` changes."""

    def __init__(self):
        self.factor = keras.Variable(0.01, trainable=False)

    def __call__(self, weight):
        return self.factor * keras.ops.sum(keras.ops.square(weight))


class Fading(keras.optimizers.schedules.LearningRateSchedule):
    """A rate of its own that falls with each step that asks for it."""

    def __init__(self):
        self.rate = keras.Variable(0.1, trainable=False)

    def __call__(self, step):
        return self.rate


class Moves(keras.callbacks.Callback):
    """Changes what hangs on the model's parts."""

    def on_train_batch_end(self, batch, logs=None):
        factor = self.model.layers[0].kernel_regularizer.factor
        rate = self.model.optimizer._learning_rate.rate
        factor.assign(factor * 1.1)
        rate.assign(rate * 0.95)


class Sum(keras.metrics.Metric):
    """Adds up in a variable that is not Keras'."""

    def __init__(self):
        super().__init__(name="sum")
        self.value = tf.Variable(0.0)

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign_add(tf.reduce_sum(y_pred))

    def result(self):
        return self.value.value()

    def reset_state(self):
        self.value.assign(0.0)


def own_objects():
    layer = keras.layers.Dense(CLASSES, kernel_regularizer=Growing())
    model = keras.Sequential([keras.Input((FEATURES,)), layer])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(Fading()), loss, metrics=[Sum()])
    return model


def moving(model, callbacks):
    return arrays(model, [*callbacks[:-1], Moves(), callbacks[-1]])


class Augmenting(keras.utils.PyDataset):
    """Draws by a layer, by seeds and by a generator, and counts its batches."""

    def __init__(self):
        super().__init__()
        self.x, self.y = data()
        self.noise = keras.Sequential([keras.layers.GaussianNoise(0.3, seed=3)])
        self.seeds = keras.random.SeedGenerator(5)
        self.generator = tf.random.Generator.from_seed(4)
        self.count = 0

    def __len__(self):
        return 7

    def __getitem__(self, index):
        self.count += 1
        rows = slice(index * 8, index * 8 + 8)
        x = self.noise(self.x[rows], training=True)
        x += keras.random.normal(x.shape, stddev=0.3, seed=self.seeds)
        x += 0.3 * self.generator.normal(x.shape) + 0.01 * self.count
        return x.numpy(), self.y[rows]


def augmenting(model, callbacks):
    return model.fit(
        Augmenting(), epochs=4, verbose=0, callbacks=callbacks, shuffle=False
    )


def from_generator(model, callbacks):
    """Rows by Python code that draws from NumPy's global generator."""

    def generate():
        for row, label in zip(*data(), strict=True):
            yield row + np.random.normal(size=FEATURES).astype("float32"), label

    spec = (tf.TensorSpec((FEATURES,), tf.float32), tf.TensorSpec((), tf.int32))
    dataset = tf.data.Dataset.from_generator(generate, output_signature=spec).batch(8)
    return model.fit(dataset, epochs=4, verbose=0, callbacks=callbacks)


class InTurn(keras.utils.PyDataset):
    """Draws nothing at random."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        x, y = data()
        return x[index * 8 : index * 8 + 8], y[index * 8 : index * 8 + 8]


class Jitters(keras.callbacks.Callback):
    """Draws a rate for each step."""

    def __init__(self, *draws):
        super().__init__()
        self.draws = draws

    def on_train_batch_begin(self, batch, logs=None):
        rate = 0.05 * sum(draw() for draw in self.draws)
        self.model.optimizer.learning_rate.assign(rate)


def jittering(model, callbacks, *, draws=(random.random, np.random.rand), **more):
    callbacks = [*callbacks[:-1], Jitters(*draws), callbacks[-1]]
    return model.fit(InTurn(), epochs=4, verbose=0, callbacks=callbacks, **more)


class SaysThatItIsBuilt(keras.Model):
    """Marked as built by its shape, as Keras warns, before its layers are."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(8, activation="relu")
        self.drop = keras.layers.Dropout(0.3)
        self.second = keras.layers.Dense(CLASSES)

    def call(self, x, training=False):
        return self.second(self.drop(self.first(x), training=training))


def says_that_it_is_built():
    model = SaysThatItIsBuilt()
    model.build((None, FEATURES))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.filterwarnings("ignore:`build..` was called on layer:UserWarning")
@pytest.mark.parametrize(
    ("build", "fit"),
    [
        (two_optimizers, arrays),
        (own_objects, moving),
        (linear, from_generator),
        (linear, augmenting),
        (unbuilt, functools.partial(jittering, shuffle=False)),
        # The order of the batches is drawn by Python's generator then.
        (linear, functools.partial(jittering, draws=[np.random.rand])),
        (says_that_it_is_built, arrays),
    ],
)
def test_what_is_not_where_keras_would_have_it(build, fit, tmp_path):
    """Optimizers and variables in containers and objects; Python's part in the data."""
    expected = train(build, fit, None)
    found = train_with_crashes(build, fit, tmp_path / "run", [10, 6], every_steps=3)
    assert found == expected


class Adversaries(keras.Model):
    """Two networks with an optimizer each and no call, as Keras' examples have them."""

    def __init__(self):
        super().__init__()
        self.critic, self.maker = (
            keras.Sequential([keras.Input((size,)), keras.layers.Dense(width)])
            for size, width in ((FEATURES, 1), (2, FEATURES))
        )
        self.both = [keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.05, 0.9)]
        self.seeds = keras.random.SeedGenerator(7)

    def train_step(self, batch):
        real, _ = batch
        with tf.GradientTape(persistent=True) as tape:
            made = self.maker(keras.random.normal((8, 2), seed=self.seeds))
            fooled = tf.reduce_mean(self.critic(made))
            caught = fooled - tf.reduce_mean(tf.tanh(self.critic(real)))
            missed = -fooled
        weights = self.critic.trainable_variables
        self.both[0].apply(tape.gradient(caught, weights), weights)
        weights = self.maker.trainable_variables
        self.both[1].apply(tape.gradient(missed, weights), weights)
        return {"caught": caught}


def adversaries():
    model = Adversaries()
    model.compile()
    return model


class Slows(keras.callbacks.Callback):
    """Lowers the rates of a model's own optimizers as an epoch begins."""

    def on_epoch_begin(self, epoch, logs=None):
        for optimizer in self.model.both:
            optimizer.learning_rate.assign(0.5 * optimizer.learning_rate)


@pytest.mark.usefixtures("processes_apart")
@pytest.mark.parametrize("build", [adversaries, two_optimizers])
def test_optimizers_that_a_step_alone_can_build(build, tmp_path):
    """From an epoch's beginning by replay, where none can be rehearsed; at the end."""

    def epochs(total):
        def fit(model, callbacks):
            return arrays(model, [*callbacks, Slows()], epochs=total)

        return fit

    run, options = tmp_path / "run", {"every_epochs": 1, "data_state": "replay"}
    expected = train(build, epochs(4), None)
    first = train_with_crashes(build, epochs(2), run, [10], **options)
    assert train(build, epochs(2), run, **options) == first
    assert train(build, epochs(4), run, **options) == expected


class Eager(keras.Model):
    """Has layers that only a step builds, which runs Python."""

    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(1)

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.layer(batch[0]) ** 2)
        weights = self.layer.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": float(loss)}


@pytest.mark.usefixtures("processes_apart")
def test_a_finished_run_whose_model_nothing_can_build(tmp_path):
    """It is not left with the weights that it began with; more epochs it may have."""

    def eager():
        model = Eager()
        model.compile("adam", run_eagerly=True)
        return model

    two, three = (functools.partial(arrays, epochs=total) for total in (2, 3))
    train(eager, two, tmp_path / "run")
    with pytest.raises(ModelNotBuilt, match=r"finished, found Eager .* Begin its"):
        train(eager, two, tmp_path / "run")
    assert train(eager, three, tmp_path / "run") == train(eager, three, None)


class Drops(keras.Model):
    """Is built by its first call, and holds a seed."""

    def __init__(self):
        super().__init__()
        self.drop = keras.layers.Dropout(0.3)
        self.layer = keras.layers.Dense(CLASSES)

    def call(self, x, training=False):
        return self.layer(self.drop(x, training=training))


def shapeless(model, callbacks):
    """As a generator's batches of which nothing but the dtypes was told."""
    x, y = data()
    batches = [(x[at : at + 8], y[at : at + 8]) for at in range(0, 40, 8)]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_types=(tf.float32, tf.int64)
    )
    return model.fit(dataset, epochs=3, verbose=0, callbacks=callbacks)


@pytest.mark.usefixtures("processes_apart")
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.filterwarnings("ignore:The checkpoints carry no graph")
def test_data_whose_shapes_do_not_build_the_model(tmp_path):
    """A message of ours says what to do about it, and that is enough."""

    def drops(*, called=False):
        model = Drops()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"], run_eagerly=True)
        if called:
            model(data()[0][:1])
        return model

    with pytest.raises(ModelNotBuilt, match=r"it cannot be built: .* Call the model"):
        train_with_crashes(drops, shapeless, tmp_path / "run", [8], every_epochs=1)
    called = functools.partial(drops, called=True)
    expected = train(called, shapeless, None)
    run = tmp_path / "called"
    found = train_with_crashes(called, shapeless, run, [8], every_epochs=1)
    assert found == expected


def beside_one_without_an_end(model, callbacks):
    """The shorter data begin anew within an epoch, and are left in a round's midst."""
    whole = tf.data.Dataset.from_tensor_slices(data())
    pairs = tf.data.Dataset.zip(
        (whole.shuffle(50), whole.take(20).shuffle(20).repeat())
    )
    rows = pairs.map(lambda one, other: (one[0] + 0.1 * other[0], one[1])).batch(8)
    return model.fit(rows, epochs=4, verbose=0, callbacks=callbacks)


@pytest.mark.parametrize("way", ["iterator", "replay"])
def test_data_that_never_end_within_data_that_do(way, tmp_path):
    """How many seeds they took is found out by going through the data again."""
    fit = beside_one_without_an_end
    expected = train(linear, fit, None)
    found = train_with_crashes(
        linear, fit, tmp_path / "run", [10, 6], every_steps=3, data_state=way
    )
    assert found == expected


class Rebuilds(keras.callbacks.Callback):
    """Makes the train function anew, as one does who unfreezes a layer."""

    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self._rebuild)

    def _rebuild(self, *_, **__):
        self.model.make_train_function(force=True)


@pytest.mark.parametrize("built", [True, False])
def test_a_normalization_that_is_adapted_to_other_data_by_now(built, tmp_path):
    """It goes on with the run's numbers: in training, and in the PB at its end."""
    x, _ = data()
    adapt_to = iter([x, x, 3 * x + 5])

    def normalizing():
        layer = keras.layers.Normalization()
        layer.adapt(next(adapt_to))
        first = [keras.Input((FEATURES,))] if built else []
        model = keras.Sequential([*first, layer, keras.layers.Dense(CLASSES)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        return model

    def exporting(model, callbacks):
        export = FrozenGraphExport(tmp_path / "model.pb")
        history = arrays(model, [*callbacks, export], epochs=2)
        found = load_frozen_graph(tmp_path / "model.pb")(x)
        return SimpleNamespace(
            epoch=history.epoch, history={**history.history, "found": found.tolist()}
        )

    undisturbed = train(normalizing, exporting, None)
    again = train_with_crashes(
        normalizing, exporting, tmp_path / "run", [10], every_steps=3
    )
    assert again == undisturbed


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin"])
def test_a_train_function_that_is_made_anew(hook, tmp_path):
    """Saves go on, and a resume does not train what is done."""
    expected = train(linear, arrays, None, callbacks=[Rebuilds(hook)])
    found = train_with_crashes(
        linear,
        arrays,
        tmp_path / "run",
        [10, 5],
        callbacks=lambda: [Rebuilds(hook)],
        every_steps=3,
    )
    assert found == expected
    store = Store.open_for_reading(tmp_path / "run")
    assert store.find("latest").record.position.step == 28


def test_a_run_that_died_before_it_began(tmp_path):
    """What it leaves is no run yet, and in nobody's way."""
    run = tmp_path / "run"
    run.mkdir()
    for name in (".lock", ".tmp-run.json-0123abcd", "log.csv", "best.weights.h5"):
        (run / name).touch()
    train(linear, arrays, run)
    assert len(Store.open_for_reading(run).checkpoints()) == 1


def test_a_loop_of_fits_over_one_data_set(tmp_path):
    """Replayed or not, each sees what it would have seen without us."""

    def loop(directory):
        keras.utils.set_random_seed(3)
        model = linear()
        dataset = tf.data.Dataset.from_tensor_slices(data()).shuffle(50).batch(8)
        for epoch in range(3):
            ours = []
            if directory is not None:
                ours = [PeriodicCheckpoint(directory, data_state="replay", verbose=0)]
            model.fit(
                dataset,
                initial_epoch=epoch,
                epochs=epoch + 1,
                verbose=0,
                callbacks=ours,
            )
        return [weights.numpy().tolist() for weights in model.weights]

    assert loop(tmp_path / "run") == loop(None)


@pytest.mark.parametrize("way", ["iterator", "replay"])
def test_one_data_set_gone_through_anew_within_an_epoch(way, tmp_path):
    """A replay alone finds its seeds moved on, by this very process, and says so."""

    def cell(dataset, directory, crash_after=None):
        keras.utils.set_random_seed(3)
        model = linear()
        ours = PeriodicCheckpoint(directory, every_steps=1, data_state=way, verbose=0)
        members = [ours, CrashAt(crash_after)]
        with ours:
            history = model.fit(dataset, epochs=3, verbose=0, callbacks=members)
        return history.history, ours.resume_point

    def fresh():
        keras.utils.set_random_seed(3)
        return tf.data.Dataset.from_tensor_slices(data()).shuffle(50).batch(8)

    expected, _ = cell(fresh(), tmp_path / "other")
    dataset = fresh()
    with pytest.raises(Crash):
        cell(dataset, tmp_path / "run", crash_after=11)
    found, point = cell(dataset, tmp_path / "run")
    told = [each for each in point.report.not_restored if "order of the data" in each]
    assert (found == expected) == (not told) == (way == "iterator")


def test_other_data_than_the_iterators_are_refused(tmp_path):
    """In our own words, not in TensorFlow's."""
    with pytest.raises(Crash):
        train(linear, reshuffled, tmp_path / "run", crash_after=10, every_steps=3)
    with pytest.raises(DataMismatch, match="whose iterator's state") as refused:
        train(linear, arrays, tmp_path / "run")
    # What it quotes of TensorFlow's ends with a sentence, and begins with one.
    assert re.search(r"another: \w.*::\w+\. Give fit", str(refused.value))
