"""Train a model that no PB can hold, and see it refused before the first step.

    python tests/soak/over_two_gigabytes.py [--gigabytes 2.2]

In float32 a model a little over protobuf's limit must be refused when training begins,
by name and with what to do, in seconds and without a second copy of its weights. The
same model with half the weights must be exported. Needs about 12 GB of memory. Ends
with 1 if either is not so.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np

from persist_callbacks import FrozenGraphExport
from persist_callbacks.errors import UnsupportedGraph

WIDTH = 4096


def model_of(gigabytes: float) -> Any:
    """Make a model whose weights take so many bytes, in several variables."""
    ids = keras.Input((4,), dtype="int32", name="ids")
    rows = int(gigabytes * 1e9 / 4 / WIDTH / 3)
    # Zeros cost no time to draw.
    parts = [keras.layers.Embedding(rows, WIDTH, "zeros")(ids) for _ in range(3)]
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Concatenate()(parts))
    model = keras.Model(ids, keras.layers.Dense(2)(x))
    for layer in model.layers:
        # Training them is not what is looked at.
        layer.trainable = not isinstance(layer, keras.layers.Embedding)
    model.compile("sgd", "mse")
    return model


class Begin(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells when the callbacks' train begin is about to be, and how it went."""

    at = 0.0
    memory = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Note time and memory; comes first."""
        self.at, self.memory = time.monotonic(), peak()


def peak() -> float:
    """Give the largest memory of this process so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def train(gigabytes: float, path: Path) -> tuple[str, float, float, int]:
    """Train two steps; give what was said, seconds, GB more, and steps trained."""
    model, begin, said = model_of(gigabytes), Begin(), ""
    x = np.zeros((8, 4), np.int32)
    try:
        model.fit(
            x,
            np.zeros((8, 2), np.float32),
            batch_size=4,
            verbose=0,
            callbacks=[begin, FrozenGraphExport(path)],
        )
    except UnsupportedGraph as error:
        said = str(error)
    seconds, more = time.monotonic() - begin.at, peak() - begin.memory
    return said, seconds, more, int(model.optimizer.iterations.numpy())


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.2)
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pb"
        for size in (given.gigabytes, given.gigabytes / 2):
            said, seconds, more, steps = train(size, path)
            sys.stdout.write(
                f"{size:.1f} GB: {said or f'{path.stat().st_size} bytes written'}\n"
                f"  {seconds:.1f} s, {more:.1f} GB more at most, {steps} steps\n"
            )
            if size > 2**31 / 1e9:
                right = "2 GiB" in said and "float16" in said and steps == 0
                right = right and not path.exists() and more < size / 10
            else:
                right = not said and path.exists()
            failed += not right
            keras.utils.clear_session(free_memory=True)
    sys.stdout.write("as it should be\n" if not failed else "NOT as it should be\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
