"""How long does a resumed ``fit`` take to its first new step, against a cold start?

    python benchmarks/time_to_first_step.py [--runs 5] [--batches 10000]

Each row is a process of its own, the rows take turns. The clock runs from the call of
``fit`` to the end of the first step that had not been done before.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

BATCH, FEATURES = 32, 32
# Kind of data, and PeriodicCheckpoint's data_state.
WAYS = {
    "tf.data, iterator state": ("dataset", "iterator"),
    "tf.data, replay": ("dataset", "replay"),
    "Python generator, replay": ("generator", "auto"),
}


def train(kind: str, data_state: str, run: Path, batches: int, stop: bool) -> float:
    """Train to the checkpoint and die, or to the first new step; give its seconds."""
    import keras
    import numpy as np
    import tensorflow as tf

    from persist_callbacks import PeriodicCheckpoint

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if stop and (batch < batches or batch % 50 or not saved()):
                return
            sys.stdout.write(json.dumps(time.monotonic() - begun))
            sys.stdout.flush()
            os._exit(0)

    def saved() -> bool:
        return any(run.glob("ckpt-*"))

    def generate() -> Iterator[Any]:
        random = np.random.default_rng(1)
        while True:
            x = random.standard_normal((BATCH, FEATURES), dtype="float32")
            yield x, x[:, :1]

    def dataset() -> Any:
        x = np.random.default_rng(1).standard_normal((4096, FEATURES), dtype="float32")
        rows = tf.data.Dataset.from_tensor_slices((x, x[:, :1]))
        return rows.shuffle(1000).repeat().batch(BATCH).prefetch(2)

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    data = generate() if kind == "generator" else dataset()
    ours = PeriodicCheckpoint(
        run, every_steps=batches, data_state=data_state, verbose=0
    )
    begun = time.monotonic()
    options = {"steps_per_epoch": 2 * batches, "epochs": 1, "verbose": 0}
    model.fit(data, callbacks=[ours, Clock()], **options)
    raise AssertionError("training has ended before the clock did")


def child(kind: str, data_state: str, run: Path, batches: int, *, stop: bool) -> float:
    """Run `train` in a new interpreter."""
    command = [sys.executable, __file__, "--batches", str(batches)]
    command += ["--child", kind, data_state, str(run), str(int(stop))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def main() -> None:
    """Run by the command line."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        kind, data_state, run, stop = given.child
        train(kind, data_state, Path(run), given.batches, stop == "1")
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, (kind, data_state) in WAYS.items():
            child(kind, data_state, folder / name, given.batches, stop=True)
        for _ in range(given.runs):
            for name, (kind, data_state) in WAYS.items():
                for case, source in (("cold", None), ("resumed", folder / name)):
                    run = folder / "run"
                    if source is not None:
                        shutil.copytree(source, run)
                    took = child(kind, data_state, run, given.batches, stop=False)
                    shutil.rmtree(run)
                    seconds.setdefault(f"{name}: {case}", []).append(took)
    table = Table("fit to first new step", "median s", "least", "most", "times cold")
    for name in WAYS:
        cold = statistics.median(seconds[f"{name}: cold"])
        for case in ("cold", "resumed"):
            found = seconds[f"{name}: {case}"]
            median = statistics.median(found)
            table.add_row(
                f"{name}: {case}",
                *(f"{each:.2f}" for each in (median, min(found), max(found))),
                f"{median / cold:.2f}",
            )
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(f"Resumed at batch {given.batches}, {given.runs} runs each.")
    console.print(table)


if __name__ == "__main__":
    main()
