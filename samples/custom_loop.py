"""A training loop of one's own, with `GradientTape`, that survives a crash.

The pattern: `resume` puts model, optimizer and seeds back and says where the loop
stands; the hooks of a `keras.callbacks.CallbackList` let `PeriodicCheckpoint` save; and
each epoch's data depends on the epoch's number alone, so that a loop which begins in
the middle of an epoch sees what it would have seen.

    python samples/custom_loop.py runs/custom
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from persist_callbacks import PeriodicCheckpoint, resume
from persist_callbacks.errors import CheckpointNotFound

BATCH = 32


def build_model() -> keras.Model:
    """Make the network, with an optimizer to restore into."""
    model = keras.Sequential(
        [
            keras.Input((64,), name="pixels"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, name="logits"),
        ]
    )
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    return model


def batches(epoch: int) -> tf.data.Dataset:
    """Give an epoch's batches: the same for the same epoch, whenever it is asked."""
    images, labels = load_digits(return_X_y=True)
    data = tf.data.Dataset.from_tensor_slices(
        ((images / 16.0).astype("float32"), labels)
    )
    return data.shuffle(len(labels), seed=epoch).batch(BATCH)


def main() -> None:
    """Train, from wherever the run directory says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run_directory", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()

    keras.utils.set_random_seed(20)
    tf.config.experimental.enable_op_determinism()
    model = build_model()
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def train_step(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        return loss

    start_epoch = start_batch = 0
    try:
        point = resume(model, arguments.run_directory)
        start_epoch, start_batch = point.epoch, point.batch
    except CheckpointNotFound:
        pass  # The first run: there is nothing to go on from.

    callbacks = keras.callbacks.CallbackList(
        [PeriodicCheckpoint(arguments.run_directory, every_steps=10)],
        model=model,
        epochs=arguments.epochs,
    )
    callbacks.on_train_begin()
    for epoch in range(start_epoch, arguments.epochs):
        callbacks.on_epoch_begin(epoch)
        losses = []
        for batch, (images, labels) in enumerate(batches(epoch)):
            if epoch == start_epoch and batch < start_batch:
                continue
            callbacks.on_train_batch_begin(batch)
            loss = train_step(images, labels)
            losses.append(float(loss))
            callbacks.on_train_batch_end(batch, {"loss": loss})
            print(f"step {epoch} {batch}", flush=True)
        callbacks.on_epoch_end(epoch, {"loss": np.mean(losses)})
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}")
    callbacks.on_train_end()

    digest = hashlib.sha256()
    for variable in [*model.variables, *model.optimizer.variables]:
        digest.update(np.asarray(variable).tobytes())
    print(f"weights and optimizer: sha256 {digest.hexdigest()[:16]}")


if __name__ == "__main__":
    main()
