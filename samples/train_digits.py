"""Train a small CNN on scikit-learn's digits: an ordinary Keras script.

The two callbacks are all that makes it survive a crash and export a PB. Kill it at any
instant and run the same command again: it goes on where it was.

    python samples/train_digits.py runs/digits
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from persist_callbacks import FrozenGraphExport, PeriodicCheckpoint

HELD_OUT = 360


def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Load the digits, split into those to train on and those held out."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype("float32").reshape(-1, 8, 8, 1)
    train = images[:-HELD_OUT], labels[:-HELD_OUT]
    held_out = images[-HELD_OUT:], labels[-HELD_OUT:]
    return train, held_out


def build_model() -> keras.Model:
    """Make and compile the network."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    """Train, and say how good the model is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run_directory", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument(
        "--print-steps",
        action="store_true",
        help="print every step in place of a progress bar, for a program that watches",
    )
    arguments = parser.parse_args()

    # With these two, two runs of this script end with the same bits.
    keras.utils.set_random_seed(20)
    tf.config.experimental.enable_op_determinism()

    train, held_out = digits()
    model = build_model()
    callbacks = [
        PeriodicCheckpoint(arguments.run_directory, every_steps=10),
        FrozenGraphExport(arguments.run_directory / "model.pb", outputs=["scores"]),
        keras.callbacks.ReduceLROnPlateau(patience=1),
    ]
    if arguments.print_steps:
        callbacks.append(PrintSteps())
    model.fit(
        *train,
        batch_size=32,
        epochs=arguments.epochs,
        validation_split=0.1,
        callbacks=callbacks,
        verbose=0 if arguments.print_steps else 1,
    )

    scores = model.predict(held_out[0], verbose=0)
    np.save(arguments.run_directory / "live_scores.npy", scores)
    accuracy = np.mean(scores.argmax(axis=1) == held_out[1])
    print(f"Accuracy of the live model on {HELD_OUT} held-out digits: {accuracy:.4f}")


class PrintSteps(keras.callbacks.Callback):
    """Print a line a step."""

    def on_train_batch_end(self, batch, logs=None):
        """Print how many steps are done, over all epochs."""
        print(f"step {int(self.model.optimizer.iterations.numpy())}", flush=True)


if __name__ == "__main__":
    main()
