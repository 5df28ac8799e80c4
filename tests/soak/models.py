"""Small models of a few hundred weights, one for each thing that training can hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

FEATURES, CLASSES, BATCH = 6, 3, 8

LOSS = "sparse_categorical_crossentropy"


def plain(optimizer: Any = "adam", **compiling: Any) -> keras.Model:
    """Two dense layers, without anything that draws or averages."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,), name="features"),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(CLASSES, activation="softmax", name="classes"),
        ]
    )
    model.compile(optimizer, LOSS, metrics=["accuracy"], **compiling)
    return model


def seeded(optimizer: Any = "adam", **compiling: Any) -> keras.Model:
    """Batch normalisation and dropout: moving averages and a seed of its own."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,), name="features"),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(CLASSES, activation="softmax", name="classes"),
        ]
    )
    model.compile(optimizer, LOSS, metrics=["accuracy"], **compiling)
    return model


def with_optimizer(make: Callable[[], Any]) -> Callable[[], keras.Model]:
    """Make a builder of the seeded model with an optimizer."""
    return lambda: seeded(make())


def compiled_with(**compiling: Any) -> Callable[[], keras.Model]:
    """Make a builder of the seeded model with arguments for ``compile``."""
    return lambda: seeded(**compiling)


def many_seeds() -> keras.Model:
    """Each layer that draws, with a seed and without."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,), name="features"),
            keras.layers.GaussianNoise(0.1, seed=11),
            keras.layers.Dense(8, activation="selu"),
            keras.layers.AlphaDropout(0.2),
            keras.layers.GaussianDropout(0.2),
            keras.layers.Reshape((4, 2)),
            keras.layers.SpatialDropout1D(0.2, seed=12),
            keras.layers.Flatten(),
            keras.layers.ActivityRegularization(l2=1e-3),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def batch_averages() -> keras.Model:
    """Moving averages in two places, one of them renormalised by group."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,), name="features"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(momentum=0.5, center=False),
            keras.layers.SpectralNormalization(keras.layers.Dense(8)),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def stateful_rnn() -> keras.Model:
    """A recurrent state that goes on from batch to batch, with recurrent dropout."""
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(BATCH, 3, 2), name="sequence"),
            keras.layers.LSTM(4, stateful=True, dropout=0.1, recurrent_dropout=0.1),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile("adam", LOSS)
    return model


def attention() -> keras.Model:
    """An embedding (sparse updates) and attention with dropout."""
    tokens = keras.Input((FEATURES,), dtype="int32", name="tokens")
    embedded = keras.layers.Embedding(12, 4)(tokens)
    attended = keras.layers.MultiHeadAttention(2, 2, dropout=0.2)(embedded, embedded)
    pooled = keras.layers.GlobalAveragePooling1D()(attended)
    classes = keras.layers.Dense(CLASSES, activation="softmax")(pooled)
    model = keras.Model(tokens, classes)
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def mixed_precision() -> keras.Model:
    """Half floats under a loss scale that grows every few steps."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,), name="features"),
            keras.layers.Dense(8, activation="relu", dtype="mixed_float16"),
            keras.layers.Dropout(0.2, dtype="mixed_float16"),
            keras.layers.Dense(CLASSES, activation="softmax", dtype="float32"),
        ]
    )
    scaled = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=2.0**10, dynamic_growth_steps=5
    )
    model.compile(scaled, LOSS, metrics=["accuracy"])
    return model


class Subclassed(keras.Model):
    """Layers as attributes, and a draw from Keras' global generator in the call."""

    def __init__(self) -> None:
        super().__init__()
        self.first = keras.layers.Dense(8, activation="relu")
        self.drop = keras.layers.Dropout(0.2)
        self.second = keras.layers.Dense(CLASSES, activation="softmax")

    def call(self, inputs: Any, training: bool = False) -> Any:
        hidden = self.drop(self.first(inputs), training=training)
        return self.second(hidden)


class DrawsUnseeded(Subclassed):
    """Noise from Keras' global generator, which belongs to no layer."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            inputs = inputs + 0.1 * keras.random.normal(keras.ops.shape(inputs))
        return super().call(inputs, training=training)


def subclassed() -> keras.Model:
    """Build a subclassed model before fit, on one batch."""
    model = Subclassed()
    model(np.zeros((1, FEATURES), "float32"))
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def subclassed_unbuilt() -> keras.Model:
    """Leave a subclassed model to be built by fit's first batch."""
    model = Subclassed()
    model.compile("rmsprop", LOSS, metrics=["accuracy"])
    return model


def draws_unseeded() -> keras.Model:
    """Build a model that draws from Keras' global generator."""
    model = DrawsUnseeded()
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def unbuilt_sequential() -> keras.Model:
    """Leave out the Input, so that there is no variable before the first batch."""
    model = keras.Sequential(
        [
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


class TwoOptimizers(keras.Model):
    """A train step of its own: two halves, an optimizer each, and a step counter."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = keras.layers.Dense(8, activation="tanh")
        self.head = keras.layers.Dense(CLASSES)
        self.drop = keras.layers.Dropout(0.2)
        self.mean_loss = keras.metrics.Mean("loss")
        # Keras does not know of it: training changes it all the same.
        self.taken = tf.Variable(0, dtype=tf.int64, trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.head(self.drop(self.encoder(inputs), training=training))

    def compile(self, optimizer: Any, other: Any) -> None:
        super().compile(optimizer)
        self.other = other

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            logits = self(x, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            loss = tf.reduce_mean(losses)
            # The step number takes part, so that losing it would show.
            loss *= 1.0 + 0.01 * tf.cast(self.taken, tf.float32)
        for optimizer, layer in (
            (self.optimizer, self.encoder),
            (self.other, self.head),
        ):
            weights = layer.trainable_variables
            gradients = tape.gradient(loss, [weight.value for weight in weights])
            optimizer.apply(gradients, weights)
        self.taken.assign_add(1)
        self.mean_loss.update_state(loss)
        return {"loss": self.mean_loss.result()}

    @property
    def metrics(self) -> list[Any]:
        return [self.mean_loss]


def two_optimizers() -> keras.Model:
    """Build it and its two optimizers before fit, as a GAN's script does."""
    model = TwoOptimizers()
    model(np.zeros((1, FEATURES), "float32"))
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.1, momentum=0.9))
    return model


def two_optimizers_unbuilt() -> keras.Model:
    """Leave all of it to the first step."""
    model = TwoOptimizers()
    model.compile(keras.optimizers.Adam(0.01), keras.optimizers.RMSprop(0.01))
    return model


class Average:
    """A plain object that Keras does not look into: a model of averages, and a mean."""

    def __init__(self, source: Any, shadow: Any) -> None:
        self.source, self.shadow = source, shadow
        self.apart = {"mean": keras.metrics.Mean()}

    def update(self, distance: Any) -> None:
        """Move the averages by a step, and count how far they were away."""
        for mean, weight in zip(self.shadow.weights, self.source.weights, strict=True):
            mean.assign(0.9 * mean + 0.1 * weight)
        self.apart["mean"].update_state(distance)


class MeanTeacher(keras.Model):
    """Learns from averages of its own weights, which a plain object keeps."""

    def __init__(self, shape: tuple[keras.KerasTensor, ...]) -> None:
        super().__init__()
        self.student, shadow = (
            keras.Sequential(
                [
                    *shape,
                    keras.layers.Dense(8, activation="relu"),
                    keras.layers.BatchNormalization(),
                    keras.layers.Dense(CLASSES, activation="softmax"),
                ]
            )
            for _ in range(2)
        )
        self.average = Average(self.student, shadow)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.student(inputs, training=training)

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        taught = self.average.shadow(x, training=True)
        with tf.GradientTape() as tape:
            found = self(x, training=True)
            distance = tf.reduce_mean(tf.square(found - taught))
            loss = self.compute_loss(x, y, found) + distance
        weights = self.trainable_variables
        self.optimizer.apply(
            tape.gradient(loss, [weight.value for weight in weights]), weights
        )
        self.average.update(distance)
        # Over the whole run: nothing begins it anew.
        return {"loss": loss, "apart": self.average.apart["mean"].result()}


def mean_teacher() -> keras.Model:
    """Build the model and its averages before fit."""
    model = MeanTeacher((keras.Input((FEATURES,)),))
    model.compile("adam", LOSS)
    return model


def mean_teacher_unbuilt() -> keras.Model:
    """Leave the averages, too, to be built by the first step."""
    model = MeanTeacher(())
    model.compile("adam", LOSS)
    return model


def frozen_layers() -> keras.Model:
    """Train the head on a base that does not change, its averages included."""
    base = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
        ]
    )
    base.trainable = False
    model = keras.Sequential([base, keras.layers.Dense(CLASSES, activation="softmax")])
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def shared_layers() -> keras.Model:
    """Use one layer twice and end in two outputs."""
    left = keras.Input((FEATURES,), name="left")
    right = keras.Input((FEATURES,), name="right")
    shared = keras.layers.Dense(8, activation="tanh")
    joined = keras.layers.Concatenate()([shared(left), shared(right)])
    joined = keras.layers.Dropout(0.2)(joined)
    classes = keras.layers.Dense(CLASSES, activation="softmax", name="classes")(joined)
    size = keras.layers.Dense(1, name="size")(joined)
    model = keras.Model(
        {"left": left, "right": right}, {"classes": classes, "size": size}
    )
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        loss={"classes": LOSS, "size": "mse"},
        metrics={"classes": ["accuracy"], "size": ["mae"]},
    )
    return model


def nested() -> keras.Model:
    """Put a functional model into a sequential one into a functional one."""
    inner_input = keras.Input((8,))
    hidden = keras.layers.Dropout(0.2)(keras.layers.Dense(8)(inner_input))
    inner = keras.Model(inner_input, keras.layers.Add()([inner_input, hidden]))
    middle = keras.Sequential([keras.layers.Dense(8, activation="relu"), inner, inner])
    features = keras.Input((FEATURES,), name="features")
    classes = keras.layers.Dense(CLASSES, activation="softmax")(middle(features))
    model = keras.Model(features, classes)
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def more_metrics() -> keras.Model:
    """Metrics with accumulators of several shapes, and a weighted one."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,), name="features"),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(
        "nadam",
        "binary_crossentropy",
        metrics=[keras.metrics.AUC(num_thresholds=20), keras.metrics.Precision()],
        weighted_metrics=["accuracy"],
    )
    return model


def ragged() -> keras.Model:
    """Take rows of unequal length."""
    model = RaggedMean()
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


class RaggedMean(keras.Model):
    """Averages each row of a ragged batch, then one dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = keras.layers.Dense(CLASSES, activation="softmax")

    def call(self, inputs: Any) -> Any:
        dense = inputs.to_tensor() if hasattr(inputs, "to_tensor") else inputs
        mean = tf.reduce_mean(dense, axis=1, keepdims=True)
        return self.head(tf.concat([mean, mean**2], axis=1))


def sparse() -> keras.Model:
    """Take sparse rows."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,), sparse=True, name="features"),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile("adam", LOSS, metrics=["accuracy"])
    return model


def mirrored() -> keras.Model:
    """Build and compile under a MirroredStrategy over two logical devices."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        return seeded(keras.optimizers.Adam(0.01))


def mirrored_subclassed() -> keras.Model:
    """Likewise one that does not know what it takes."""
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        return subclassed_unbuilt()


def diverging() -> keras.Model:
    """Grow out of float32 within some twenty steps."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(12.0), "mse")
    return model
