"""How much longer does a whole ``fit`` take with checkpoints, and what memory?

    python benchmarks/fit_overhead.py [--seconds 300] [--turn 1] [--megabytes 100]
                                      [--rounds 1] [--ways NAME ...]

Each way is a process of its own, and one of them trains at a time: they take turns of
``--turn`` seconds, in another order each time, so that whatever slows the machine slows
all. A turn goes on while a checkpoint is in flight, and what a process waits for the
others is taken out of its clock, the budget keeper's too. All train the same number of
steps. The way without checkpoints is there twice: how far its two times lie apart is
the noise.

Printed: wall time as a ratio to the run without, what the budget keeper
reported of itself, and the peak of resident memory over that of the run without, in
bytes and in copies of the state. Medians where there are several rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from rich.console import Console
from rich.table import Table

from persist_callbacks.storage import durable

WAYS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "none again": None,
    "no trigger": {},
    "every_steps=1, max_overhead=0.01": {"every_steps": 1, "max_overhead": 0.01},
    "every_steps=50": {"every_steps": 50},
}
WITHOUT = [way for way, options in WAYS.items() if options is None]
BATCH, WIDTH, BATCHES = 32, 1000, 50
# Of the run that tells how many steps the time is good for.
TRIED = 150


class Turns:
    """The child's side of taking turns, and a clock that stands still in between."""

    def __init__(self, pipe: Any, seconds: float, directory: Path) -> None:
        self._pipe, self._seconds, self._directory = pipe, seconds, directory
        self._waited, self._ends = 0.0, 0.0
        self.ended = 0.0
        self._real = time.monotonic
        # The library looks at this clock too, and must not see the others' turns.
        time.monotonic = self.now

    def now(self) -> float:
        """Return the seconds of this process's own turns."""
        return self._real() - self._waited

    def begin(self) -> None:
        """Wait for the first turn."""
        self._hand_over()

    def after_step(self) -> None:
        """Let the others go on if the time is up and nothing is being written."""
        if self._real() >= self._ends and not self._saving():
            self._hand_over()

    def _saving(self) -> bool:
        return any(
            durable.is_leftover(path.name) for path in self._directory.glob(".*")
        )

    def _hand_over(self) -> None:
        began = self._real()
        self._pipe.send(None)
        self._pipe.recv()
        now = self._real()
        self._waited += now - began
        self._ends = now + self._seconds


def train(way: str, given: argparse.Namespace, steps: int, pipe: Any) -> None:
    """Fit in turns, for a number of steps, and send what it took."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        directory = Path(folder) / "run"
        turns = Turns(pipe, given.turn, directory)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            found = fit(WAYS[way], given.megabytes, steps, turns, directory)
    lines = [line for line in said.getvalue().splitlines() if "they took" in line]
    found["said"] = lines[0].split("they took")[1].strip() if lines else ""
    found["saves"] = lines[0].split()[0] if lines else "0"
    pipe.send(found)


def fit(
    options: dict[str, Any] | None,
    megabytes: float,
    steps: int,
    turns: Turns,
    directory: Path,
) -> dict[str, Any]:
    """Fit with a callback of these options, or without; seconds, bytes and steps."""
    import keras
    import numpy as np
    import tensorflow as tf

    from persist_callbacks import PeriodicCheckpoint

    keras.utils.set_random_seed(1)
    count = max(1, round(megabytes * 1e6 / 4 / WIDTH**2 / 3))
    layers = [keras.layers.Dense(WIDTH, "relu") for _ in range(count)]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(1)])
    # So slow a rate keeps the numbers finite: of others no checkpoint is made.
    model.compile(keras.optimizers.Adam(1e-6), "mse")
    x = np.random.default_rng(1).random((BATCHES * BATCH, WIDTH), dtype="float32")
    model.fit(x[:BATCH], x[:BATCH, :1], verbose=0)
    size = sum(
        variable.numpy().nbytes
        for variable in [*model.variables, *model.optimizer.variables]
    )

    class Turning(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            turns.after_step()

    class Ending(keras.callbacks.Callback):
        def on_train_end(self, logs: Any = None) -> None:
            turns.ended = turns.now()

    # Before the library's own callback: what that one begins is not to be seen at once.
    members: list[Any] = [Turning()]
    if options is not None:
        members.append(PeriodicCheckpoint(directory, **options))
    members.append(Ending())
    data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(BATCH).repeat()
    turns.begin()
    begun = turns.now()
    model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=members)
    wall = turns.ended - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"wall": wall, "peak": peak, "size": size}


def take_turns(
    ways: list[str], given: argparse.Namespace, steps: int, draw: random.Random
) -> dict[str, dict[str, Any]]:
    """Train all ways side by side, one at a time; what each sent at its end."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    for way in ways:
        pipes[way], theirs = context.Pipe()
        context.Process(target=train, args=(way, given, steps, theirs)).start()
        theirs.close()
    for pipe in pipes.values():
        pipe.recv()
    found: dict[str, dict[str, Any]] = {}
    while len(found) < len(ways):
        waiting = [way for way in ways if way not in found]
        draw.shuffle(waiting)
        for way in waiting:
            pipes[way].send(None)
            if (answer := pipes[way].recv()) is not None:
                found[way] = answer
    return found


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of each way")
    parser.add_argument("--turn", type=float, default=1.0, help="seconds")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), help="beside none")
    given = parser.parse_args()
    draw = random.Random(1)
    # A short run tells how many steps the time is good for.
    rate = take_turns(["none"], given, TRIED, draw)["none"]
    steps = max(1, round(TRIED * given.seconds / rate["wall"]))
    names = [way for way in WAYS if way in (*WITHOUT, *(given.ways or WAYS))]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in names}
    for _ in range(given.rounds):
        for way, result in take_turns(names, given, steps, draw).items():
            found[way].append(result)
            print(way, result, flush=True)
    table = Table(
        "way", "s", "over none", "saves", "reported", "peak over none", "copies"
    )
    # Of two runs of the same thing, neither is the one to compare with.
    base = list(zip(*(found[each] for each in WITHOUT), strict=True))
    walls = [statistics.mean(each["wall"] for each in pair) for pair in base]
    peaks = [statistics.mean(each["peak"] for each in pair) for pair in base]
    for way, runs in found.items():
        ratio = statistics.median(
            a["wall"] / b for a, b in zip(runs, walls, strict=True)
        )
        peak = statistics.median(
            a["peak"] - b for a, b in zip(runs, peaks, strict=True)
        )
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
