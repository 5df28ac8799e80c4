"""What does a save cost training: the time it is held, and the slower steps after it?

    python benchmarks/save_cost.py [--sizes 1 30 300] [--rounds 5] [--kinds ...]

In one process the ways to save take turns, each in a ``fit`` of its own on the same
model: `PeriodicCheckpoint`, Keras' BackupAndRestore, ModelCheckpoint and, where it is
installed, OrbaxCheckpoint, `tf.train.CheckpointManager`, and none. Two figures a save:

- held: seconds for which the train thread is in the code of who saves;
- total: how much longer the steps from one save to the next take than if all were like
  the last third of them, which nobody slows down any more. Against another fit it would
  be measured within what two fits differ by, some 100 ms a second here; "none" tells
  what is left of such noise.

As ratios to M, one copy of the state from memory to memory that is warm. Medians over
saves and rounds. The state is the model's and Adam's variables.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from persist_callbacks import PeriodicCheckpoint, saving

KINDS = ("plain", "xla", "small variables", "embedding", "frozen")
BATCH, WIDTH = 32, 1000


class Many(keras.layers.Layer):
    """A layer of many small weights: what counts is how many there are."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self._parts = [
            self.add_weight(shape=(width, width), name=f"part_{number}")
            for number in range(count)
        ]

    def call(self, x: Any) -> Any:
        return x @ (tf.add_n([tf.convert_to_tensor(p) for p in self._parts]) * 0.01)


def build(kind: str, megabytes: float) -> tuple[keras.Model, np.ndarray]:
    """Make a compiled model whose state has some size, and rows for it."""
    width = WIDTH
    # Three times its weights: Adam has two variables for each.
    weights = megabytes * 1e6 / 4 / 3
    if kind == "embedding":
        rows = max(10, int(weights / 64))
        layers: list[Any] = [
            keras.Input((16,), dtype="int32"),
            keras.layers.Embedding(rows, 64),
            keras.layers.Flatten(),
        ]
        x = np.random.default_rng(1).integers(0, rows, (BATCH, 16))
    elif kind == "small variables":
        layers = [keras.Input((64,)), Many(max(1, round(weights / 64**2)), 64)]
        x = np.random.default_rng(1).random((BATCH, 64), dtype="float32")
    else:
        if kind == "frozen":
            # Nine tenths of the state are a backbone that has no optimizer variables.
            weights = megabytes * 1e6 / 4
        width = min(width, max(8, int(weights**0.5)))
        count = max(1, round(weights / (width * width)))
        frozen = round(0.9 * count) if kind == "frozen" else 0
        layers = [keras.Input((width,))]
        for number in range(count - 2 * (frozen > 0) * (count - frozen) // 3):
            layers.append(keras.layers.Dense(width, trainable=number >= frozen))
        x = np.random.default_rng(1).random((BATCH, width), dtype="float32")
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    # So slow a rate keeps the numbers finite: of others no checkpoint is made.
    model.compile(keras.optimizers.Adam(1e-7), "mse", jit_compile=kind == "xla")
    return model, x


class Manager(keras.callbacks.Callback):
    """TensorFlow's own, from the train thread."""

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__()
        self._folder, self._every, self._seen = folder, every, 0

    def on_train_begin(self, logs: Any = None) -> None:
        checkpoint = tf.train.Checkpoint(
            model=self.model, optimizer=self.model.optimizer
        )
        self._manager = tf.train.CheckpointManager(checkpoint, str(self._folder), 2)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._seen += 1
        if self._seen % self._every == 0:
            self._manager.save()


def ways(every: int) -> dict[str, Callable[[Path], list[Any]]]:
    """Name the ways to save, and how their callbacks are made."""
    found: dict[str, Callable[[Path], list[Any]]] = {
        "none": lambda folder: [],
        "PeriodicCheckpoint": lambda folder: [
            PeriodicCheckpoint(folder / "run", every_steps=every, verbose=0)
        ],
        "CheckpointManager": lambda folder: [Manager(folder, every)],
        "BackupAndRestore": lambda folder: [
            keras.callbacks.BackupAndRestore(str(folder), save_freq=every)
        ],
        "ModelCheckpoint": lambda folder: [
            keras.callbacks.ModelCheckpoint(
                str(folder / "m.weights.h5"), save_freq=every, save_weights_only=True
            )
        ],
    }
    if hasattr(keras.callbacks, "OrbaxCheckpoint"):
        try:
            import orbax.checkpoint  # noqa: F401

            found["OrbaxCheckpoint"] = lambda folder: [
                keras.callbacks.OrbaxCheckpoint(str(folder), save_freq=every)
            ]
        except ImportError:
            pass
    return found


class Steps(keras.callbacks.Callback):
    """Notes when each step ends; first in the list, so before who saves."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.ends.append(time.perf_counter())


def timed(owner: Any, name: str, into: list[float]) -> None:
    """Note how long each call of a method takes that is at all long."""
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return real(*args, **kwargs)
        finally:
            into.append(time.perf_counter() - begun)

    setattr(owner, name, call)


def measure(
    kind: str,
    megabytes: float,
    way: str,
    make: Any,
    every: int,
    saves: int,
    where: Path | None = None,
) -> tuple[list[float], list[float]]:
    """Fit once; give the seconds held by each save, and all lengths of steps."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    model, x = build(kind, megabytes)
    rows = np.repeat(x, every * (saves + 1), axis=0)
    held: list[float] = []
    steps = Steps()
    with tempfile.TemporaryDirectory(prefix="save-cost-", dir=where) as folder:
        callbacks = make(Path(folder))
        real = saving.Saver.save
        if way == "PeriodicCheckpoint":
            timed(saving.Saver, "save", held)
        elif callbacks:
            timed(callbacks[0], "on_train_batch_end", held)
        try:
            model.fit(
                rows,
                np.zeros((len(rows), 1), "float32"),
                batch_size=BATCH,
                verbose=0,
                callbacks=[steps, *callbacks],
            )
        finally:
            saving.Saver.save = real
        shutil.rmtree(folder, ignore_errors=True)
    if way == "PeriodicCheckpoint":
        held = held[:saves]
    else:
        held = held[every - 1 :: every][:saves]
    return held, list(np.diff(steps.ends))


def size_and_copy(kind: str, megabytes: float) -> tuple[float, int, float]:
    """Give the state's megabytes, its variables, and the seconds of one warm copy."""
    model, x = build(kind, megabytes)
    model.train_on_batch(x, np.zeros((BATCH, 1), "float32"))
    variables = [*model.variables, *model.optimizer.variables]
    values = [np.asarray(variable.numpy()) for variable in variables]
    copies = [value.copy() for value in values]
    times = []
    for _ in range(9):
        begun = time.perf_counter()
        for copy, value in zip(copies, values, strict=True):
            np.copyto(copy, value)
        times.append(time.perf_counter() - begun)
    return sum(v.nbytes for v in values) / 1e6, len(values), statistics.median(times)


def over_the_rest(window: list[float]) -> float:
    """Tell how much longer steps took than if all had been like the last third."""
    quiet = statistics.median(window[-(len(window) // 3) :])
    return sum(window) - len(window) * quiet


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 30, 300])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every", type=int, default=30, help="steps between saves")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--ways", nargs="+", help="some of them; none is always there")
    parser.add_argument(
        "--folder", type=Path, help="where to; in memory, a disk's share is left out"
    )
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    table = Table("model", "way", "held ms", "held / M", "total ms", "total / M")
    results = []
    for kind in given.kinds:
        for megabytes in given.sizes:
            size, count, copy = size_and_copy(kind, megabytes)
            title = f"{kind}, {size:.0f} MB in {count}, M {copy * 1e3:.2f} ms"
            chosen = ways(given.every)
            if given.ways:
                chosen = {n: m for n, m in chosen.items() if n in {"none", *given.ways}}
            held: dict[str, list[float]] = {way: [] for way in chosen}
            total: dict[str, list[float]] = {way: [] for way in chosen}
            for number in range(given.rounds):
                # A disk that gives out its speed by a budget is slow for who comes
                # after one that has used it up.
                for way in random.Random(number).sample(list(chosen), len(chosen)):
                    found, steps = measure(
                        kind,
                        megabytes,
                        way,
                        chosen[way],
                        given.every,
                        given.saves,
                        given.folder,
                    )
                    held[way] += found
                    # The first save's windows hold what is done once.
                    windows = [
                        steps[begin : begin + given.every]
                        for begin in range(2 * given.every - 1, len(steps), given.every)
                        if begin + given.every <= len(steps)
                    ]
                    total[way] += [over_the_rest(window) for window in windows]
            for way in chosen:
                h = statistics.median(held[way] or [0.0])
                t = statistics.median(total[way])
                table.add_row(
                    title, way, f"{h * 1e3:.2f}", f"{h / copy:.3f}",
                    f"{t * 1e3:.0f}", f"{t / copy:.1f}",
                )  # fmt: skip
                results.append(
                    {"kind": kind, "megabytes": size, "variables": count, "way": way,
                     "copy": copy, "held": h, "total": t}
                )  # fmt: skip
                title = ""
    Console(width=120).print(table)
    if given.json:
        given.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
