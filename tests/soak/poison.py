"""Put a NaN into the weights at random steps, under each policy, and tell what came.

python tests/soak/poison.py [--seed 1]
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from loops import data, sequential
from persist_callbacks import PeriodicCheckpoint
from persist_callbacks.errors import PersistWarning, PoisonedWeights
from persist_callbacks.storage.store import Store

EPOCHS, BATCHES = 6, 7
TIMES = 4


def poison(at: int) -> keras.callbacks.Callback:
    """Make a callback that spoils a weight after a step, once."""
    callback, done = keras.callbacks.Callback(), itertools.count(1)

    def after(batch: int, logs: Any = None) -> None:
        if next(done) == at:
            kernel = callback.model.layers[0].kernel
            kernel.assign(np.full(kernel.shape, math.nan, "float32"))

    callback.on_train_batch_end = after
    return callback


def train(policy: str, at: int, run: Path) -> tuple[str, ...]:
    """Train with one policy; give a row of the table."""
    keras.utils.set_random_seed(3)
    model, (x, y) = sequential(), data()
    ours = PeriodicCheckpoint(
        run,
        every_steps=4,
        monitor="loss",
        on_nan=policy,
        rollback_learning_rate=0.5,
        verbose=0,
    )
    ended = "to the end"
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always", PersistWarning)
        try:
            model.fit(
                x,
                y,
                batch_size=8,
                epochs=EPOCHS,
                verbose=0,
                callbacks=[poison(at), ours],
            )
        except PoisonedWeights as error:
            ended = f"stopped: {error.found}"
    store = Store.open_for_reading(run)
    events = store.journal()
    found = [event["step"] for event in events if event["event"] == "poisoned"]
    latest = store.find("latest").record
    best = store.find("best").record
    weights = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    return (
        policy,
        str(at),
        str(found[0]),
        latest.name,
        f"{best.name} ({best.score.value:.4f})",
        ended,
        "finite" if np.isfinite(weights).all() else "NaN",
        f"{float(model.optimizer.learning_rate):.2g}",
    )


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    chance = random.Random(parser.parse_args().seed)
    steps = sorted(chance.sample(range(9, EPOCHS * BATCHES), TIMES))
    table = Table(
        "on_nan",
        "NaN after step",
        "found before step",
        "latest",
        "best (loss)",
        "training",
        "weights then",
        "rate then",
    )
    with tempfile.TemporaryDirectory(prefix="poison-") as folder:
        for policy in ("skip", "stop", "rollback"):
            for at in steps:
                table.add_row(*train(policy, at, Path(folder) / f"{policy}-{at}"))
    Console(width=None if sys.stdout.isatty() else 150).print(table)


if __name__ == "__main__":
    main()
