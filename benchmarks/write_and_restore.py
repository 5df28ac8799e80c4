"""How fast are checkpoints written and read, beside a plain file and TensorFlow's ops?

    python benchmarks/write_and_restore.py [--megabytes 300] [--rounds 5]

Rows of the first table write the same tensors and make them durable by the same syncs;
then without any. Those of the second bring the bytes of one checkpoint back, from the
system's cache. They take turns; medians. The third counts the bytes that a further
checkpoint writes when a part of the state does not change.
"""

from __future__ import annotations

import argparse
import functools
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

from persist_callbacks import PeriodicCheckpoint, resume
from persist_callbacks.storage import bundle

WIDTH = 1000


def sync(folder: Path) -> None:
    """Make all files of a folder durable, and their names."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def plain(folder: Path, tensors: dict[str, Any]) -> None:
    """Write the bytes to a file and nothing else."""
    with open(folder / "plain", "wb", buffering=0) as file:
        for value in tensors.values():
            file.write(memoryview(np.asarray(value)).cast("B"))


def save_v2(folder: Path, tensors: dict[str, Any]) -> None:
    """Write a CKPT by TensorFlow's own kernel."""
    tf.raw_ops.SaveV2(
        prefix=str(folder / "model.ckpt"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


def ours(folder: Path, tensors: dict[str, Any]) -> None:
    """Write a CKPT by ours."""
    bundle.write(folder / "model.ckpt", dict(tensors))


def put(write: Any, folder: Path, tensors: dict[str, Any], durable: bool) -> None:
    """Write, and make it last."""
    write(folder, tensors)
    if durable:
        sync(folder)


def in_turn(ways: dict[str, Any], number: int) -> list[tuple[str, Any]]:
    """Give the ways in another order in each round.

    A disk that gives out its speed by a budget is slow for who comes after one that
    has used it up.
    """
    return random.Random(number).sample(list(ways.items()), len(ways))


def timed(act: Callable[[], Any]) -> tuple[float, float]:
    """Give wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - wall, time.process_time() - processor


def show(
    title: str, rows: dict[str, list[tuple[float, float]]], size: int, base: str
) -> None:
    """Print a table of medians."""
    table = Table("way", "ms", "GB/s", f"time / {base}", "processor ms", title=title)
    middle = {
        name: tuple(statistics.median(column) for column in zip(*times, strict=True))
        for name, times in rows.items()
    }
    for name, (wall, processor) in middle.items():
        table.add_row(
            name, f"{wall * 1e3:.0f}", f"{size / wall / 1e9:.2f}",
            f"{wall / middle[base][0]:.2f}", f"{processor * 1e3:.0f}",
        )  # fmt: skip
    Console(width=100).print(table)


def model_of(megabytes: float, frozen: float = 0.0) -> keras.Model:
    """Make a compiled model whose state with Adam's variables has some size."""
    count = max(1, round(megabytes * 1e6 / 4 / WIDTH**2 / (3 - 2 * frozen)))
    layers = [
        keras.layers.Dense(WIDTH, trainable=number >= frozen * count)
        for number in range(count)
    ]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def fit(model: keras.Model, run: Path, epochs: int) -> None:
    """Train two steps an epoch, a checkpoint at each epoch's end."""
    x = np.zeros((64, WIDTH), "float32")
    saver = PeriodicCheckpoint(run, every_epochs=1, keep_last=9, verbose=0)
    model.fit(x, x[:, :1], batch_size=32, epochs=epochs, verbose=0, callbacks=[saver])


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    count = max(1, round(given.megabytes / 4))
    tensors = {
        f"t{number:04d}": tf.random.normal((WIDTH, WIDTH)) for number in range(count)
    }
    size = 4 * WIDTH * WIDTH * count
    writers = {"plain": plain, "SaveV2": save_v2, "ours": ours}
    with tempfile.TemporaryDirectory(prefix="write-") as temporary:
        for title, durable in (("written, and durable", True), ("written", False)):
            rows: dict[str, list[tuple[float, float]]] = {name: [] for name in writers}
            for number in range(given.rounds):
                for name, write in in_turn(writers, number):
                    folder = Path(temporary) / f"{name}-{number}"
                    folder.mkdir()
                    rows[name].append(
                        timed(functools.partial(put, write, folder, tensors, durable))
                    )
                    shutil.rmtree(folder)
            show(title, rows, size, "plain")
        run = Path(temporary) / "run"
        model = model_of(given.megabytes)
        fit(model, run, 1)
        (folder,) = run.glob("ckpt-*")
        files = list(folder.iterdir())
        size = sum(path.stat().st_size for path in files)
        restore = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        readers: dict[str, Callable[[], Any]] = {
            "plain": lambda: [path.read_bytes() for path in files],
            "tf.train.Checkpoint": lambda: restore.read(str(folder / "model.ckpt")),
            "resume": lambda: resume(model, run),
        }
        rows = {name: [] for name in readers}
        for number in range(given.rounds):
            for name, read in in_turn(readers, number):
                rows[name].append(timed(read))
        show("brought back", rows, size, "plain")
        table = Table("frozen", "whole", "written by each", "share", title="bytes")
        # Adam has two variables for each weight that is trained, and none for others.
        for what, frozen in {
            "nothing": 0.0,
            "half of the weights": 0.5,
            "90 % of the weights": 0.9,
            "90 % of the state": 2.7 / 2.8,
        }.items():
            run = Path(temporary) / f"frozen-{frozen}"
            fit(model_of(given.megabytes, frozen), run, 4)
            found = sorted(run.glob("ckpt-*"))
            seen: set[int] = set()
            written = []
            for folder in found:
                fresh = [
                    status
                    for status in (path.stat() for path in folder.iterdir())
                    if status.st_ino not in seen
                ]
                written.append(sum(status.st_size for status in fresh))
                seen |= {status.st_ino for status in fresh}
            further = statistics.median(written[1:])
            table.add_row(
                what, f"{written[0]:,}",
                ", ".join(f"{each:,}" for each in written[1:]),
                f"{further / written[0]:.1%}",
            )  # fmt: skip
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
