"""How much longer does a whole ``fit`` take with checkpoints, and what memory?

    python benchmarks/fit_overhead.py [--seconds 300] [--rounds 3] [--megabytes 100]
                                      [--ways NAME ...]

Each run is a process of its own: without checkpoints, with no trigger given, and with
``every_steps=1, max_overhead=0.01``; they take turns. All train the same number of
steps. Printed: wall time of ``fit`` as a ratio to the run without of the same round,
what the budget keeper reported of itself, and the peak of resident memory over that of
the run without, in bytes and in copies of the state.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from rich.console import Console
from rich.table import Table

WAYS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "no trigger": {},
    "every_steps=1, max_overhead=0.01": {"every_steps": 1, "max_overhead": 0.01},
    "every_steps=50": {"every_steps": 50},
}
BATCH, WIDTH = 32, 1000


def train(way: str, megabytes: float, steps: int, seconds: float) -> None:
    """Fit, for a number of steps or else for some seconds, and print what it took."""
    import keras
    import numpy as np

    from persist_callbacks import PeriodicCheckpoint

    keras.utils.set_random_seed(1)
    count = max(1, round(megabytes * 1e6 / 4 / WIDTH**2 / 3))
    layers = [keras.layers.Dense(WIDTH, "relu") for _ in range(count)]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(1)])
    # So slow a rate keeps the numbers finite: of others no checkpoint is made.
    model.compile(keras.optimizers.Adam(1e-6), "mse")
    x = np.random.default_rng(1).random((50 * BATCH, WIDTH), dtype="float32")
    model.fit(x[:BATCH], x[:BATCH, :1], verbose=0)
    size = sum(
        variable.numpy().nbytes
        for variable in [*model.variables, *model.optimizer.variables]
    )

    class Length(keras.callbacks.Callback):
        seen = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seen += 1
            if not steps and time.perf_counter() - begun > seconds:
                self.model.stop_training = True

    length = Length()
    options = WAYS[way]
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        members: list[Any] = [length]
        if options is not None:
            members.append(PeriodicCheckpoint(Path(folder) / "run", **options))
        begun = time.perf_counter()
        model.fit(
            x,
            x[:, :1],
            batch_size=BATCH,
            epochs=max(1, steps // 50) if steps else 10**6,
            verbose=0,
            callbacks=members,
        )
        wall = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"wall": wall, "steps": length.seen, "peak": peak, "size": size}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def run(way: str, given: argparse.Namespace, steps: int) -> dict[str, Any]:
    """Fit in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--steps", str(steps)]
    command += ["--seconds", str(given.seconds), "--megabytes", str(given.megabytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.strip().splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    said = [line for line in lines if "they took" in line]
    found["said"] = said[0].split("they took")[1].strip() if said else ""
    found["saves"] = said[0].split()[0] if said else "0"
    return found


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), help="beside none")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        train(given.way, given.megabytes, given.steps, given.seconds)
        return
    # A short run tells how many steps the time is good for.
    wanted, given.seconds = given.seconds, min(given.seconds, 20.0)
    rate = run("none", given, 0)
    steps = max(50, int(rate["steps"] * wanted / rate["wall"]) // 50 * 50)
    names = [way for way in WAYS if way in ("none", *(given.ways or WAYS))]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in names}
    for number in range(given.rounds):
        # In another order each time: the machine may be warming up.
        first = number % len(names)
        for way in [*names[first:], *names[:first]]:
            found[way].append(run(way, given, steps))
            print(way, found[way][-1], flush=True)
    table = Table(
        "way", "s", "over none", "saves", "reported", "peak over none", "copies"
    )
    for way, runs in found.items():
        pairs = list(zip(runs, found["none"], strict=True))
        ratio = statistics.median(a["wall"] / b["wall"] for a, b in pairs)
        peak = statistics.median(a["peak"] - b["peak"] for a, b in pairs)
        table.add_row(
            way, f"{statistics.median(a['wall'] for a in runs):.1f}",
            f"{ratio - 1:+.2%}", runs[-1]["saves"], runs[-1]["said"],
            f"{peak / 1e6:.0f} MB", f"{peak / runs[0]['size']:.2f}",
        )  # fmt: skip
    console = Console(width=130)
    console.print(f"{steps} steps, a state of {runs[0]['size'] / 1e6:.0f} MB")
    console.print(table)


if __name__ == "__main__":
    main()
