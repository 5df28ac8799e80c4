"""The script that the tests of signals start, stop and start again.

python tests/interrupted_script.py RUN_DIRECTORY [--option VALUE ...]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import tensorflow as tf

from persist_callbacks import FrozenGraphExport, PeriodicCheckpoint

EPOCHS, BATCHES, VALIDATION_BATCHES = 4, 6, 3


class Marks(keras.callbacks.Callback):
    """Prints where training is, and takes its time there."""

    def __init__(self, pace):
        super().__init__()
        self._pace = pace

    def on_train_begin(self, logs=None):
        print("train begins", flush=True)

    def on_train_batch_end(self, batch, logs=None):
        print("step", int(self.model.optimizer.iterations.numpy()), flush=True)
        time.sleep(self._pace)

    def on_test_batch_end(self, batch, logs=None):
        print("validation step", batch, flush=True)
        time.sleep(self._pace)

    def on_epoch_end(self, epoch, logs=None):
        print("epoch ends", epoch, flush=True)
        time.sleep(self._pace)


def main() -> None:
    """Train, and write what came of it beside the run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--unsaved", action="store_true")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--options", type=json.loads, default={})
    given = parser.parse_args()
    keras.utils.set_random_seed(3)
    tf.config.experimental.enable_op_determinism()
    random = np.random.default_rng(5)
    x = random.standard_normal((BATCHES * 8, 6)).astype("float32")
    y = (x.sum(axis=1) > 0).astype("int32")
    rows = tf.data.Dataset.from_tensor_slices((x, y))
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=50),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=0.5),
        Marks(given.pace),
    ]
    if not given.unsaved:
        callbacks.append(PeriodicCheckpoint(given.run, **given.options))
    if given.export:
        callbacks.append(FrozenGraphExport(given.run / "model.pb"))
    history = model.fit(
        rows.shuffle(48).batch(8),
        epochs=EPOCHS,
        validation_data=rows.shuffle(48).take(24).batch(8),
        callbacks=callbacks,
        verbose=given.verbose,
    )
    digest = hashlib.sha256()
    for variable in [*model.variables, *model.optimizer.variables]:
        digest.update(np.asarray(variable).tobytes())
    outcome = {"digest": digest.hexdigest(), "history": history.history}
    given.run.mkdir(exist_ok=True)
    (given.run / "outcome.json").write_text(json.dumps(outcome, default=float))
    print("ended", flush=True)


if __name__ == "__main__":
    main()
    sys.exit(0)
