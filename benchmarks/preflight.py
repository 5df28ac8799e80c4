"""What share of a training's start does the rehearsal of the export take?

    python benchmarks/preflight.py [--only NAME ...] [--runs 3]

Each run is a process of its own. Start-up is from the call of ``fit`` to the end of the
first step, which is when TensorFlow has traced and compiled the training step; the
rehearsal is what `FrozenGraphExport` does of it: trace, freeze, simplify, reload, run,
compare with the live model on rows of the data. The first epoch is made of 100 steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

STEPS = 100


def build(name: str) -> Any:
    import keras

    layers = keras.layers
    if name == "small: MLP":
        parts = [keras.Input((64,)), layers.Dense(128, "relu"), layers.Dense(10)]
        return keras.Sequential(parts)
    if name == "medium: LSTM":
        x = keras.Input((32, 16))
        y = layers.LSTM(32)(layers.LSTM(32, return_sequences=True)(x))
        return keras.Model(x, layers.Dense(4)(y))
    if name == "medium: MobileNetV2":
        return keras.applications.MobileNetV2((64, 64, 3), weights=None)
    if name == "large: ResNet50":
        return keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3))
    x = keras.Input((16, 768))
    y = x
    for _ in range(12):
        y = layers.LayerNormalization()(y + layers.MultiHeadAttention(12, 64)(y, y))
        z = layers.Dense(768)(layers.Dense(3072, "gelu")(y))
        y = layers.LayerNormalization()(y + z)
    return keras.Model(x, layers.Dense(4)(layers.GlobalAveragePooling1D()(y)))


NAMES = (
    "small: MLP",
    "medium: LSTM",
    "medium: MobileNetV2",
    "large: ResNet50",
    "large: transformer of 85 million",
)


def train(name: str) -> dict[str, float]:
    """Train two steps with the export, timing its parts; give seconds."""
    import keras
    import numpy as np

    from persist_callbacks import FrozenGraphExport

    class Timed(FrozenGraphExport):
        seconds = 0.0

        def on_train_begin(self, logs: Any = None) -> None:
            before = time.perf_counter()
            super().on_train_begin(logs)
            self.seconds = time.perf_counter() - before

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.ends: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.ends.append(time.perf_counter())

    model = build(name)
    shape = (8 * 6, *model.inputs[0].shape[1:])
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    y = np.zeros((len(x), *model.outputs[0].shape[1:]), "float32")
    model.compile("adam", "mse")
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        export = Timed(Path(folder) / "model.pb", atol=1e-3, rtol=1e-3)
        begun = time.perf_counter()
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[export, clock])
    step = statistics.median(np.diff(clock.ends))
    return {
        "preflight": export.seconds,
        "start": clock.ends[0] - begun - export.seconds,
        "epoch": clock.ends[0] - begun - export.seconds + (STEPS - 1) * float(step),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="parts of names")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        print(json.dumps(train(given.train)))
        return 0
    print(f"{'model':34} {'preflight':>10} {'start-up':>10} {'of start':>9} of epoch")
    for name in NAMES:
        if given.only and not any(part in name for part in given.only):
            continue
        found = []
        for _ in range(given.runs):
            done = subprocess.run(
                [sys.executable, __file__, "--train", name],
                check=True,
                capture_output=True,
                text=True,
                timeout=600,
            )
            found.append(json.loads(done.stdout.splitlines()[-1]))
        middle = {key: statistics.median(run[key] for run in found) for key in found[0]}
        preflight, start = middle["preflight"], middle["start"]
        print(
            f"{name:34} {preflight:8.2f} s {start:8.2f} s {preflight / start:8.0%} "
            f"{preflight / middle['epoch']:8.1%}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
