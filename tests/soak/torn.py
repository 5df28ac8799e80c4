"""Hold what was captured while training goes on, and look for values that have changed.

    python tests/soak/torn.py [--only PATTERN ...] [--steps 50]

For every combination of model, optimizer and data in the matrix: references to all
variables are taken after some steps, with copies beside them, and compared after as
many further steps as were asked for. Ends with 1 if a value differs.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from persist_callbacks.training import variables
from persist_callbacks.training.references import References
from soak.combinations import COMBINATIONS, Combination

DEVICES = 2


class Holder(keras.callbacks.Callback):
    """Takes references once and never lets go of them.

    Args:
        at: training steps before they are taken.
    """

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at, self.seen = at, 0
        self.held: dict[str, Any] = {}
        self.copies: dict[str, np.ndarray] = {}

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += 1
        if self.seen == self._at:
            self.held = References(variables.collect(self.model)).take().open()
            self.copies = {key: np.array(value) for key, value in self.held.items()}

    def torn(self) -> list[str]:
        """Name the values that are not what they were."""
        return [
            key
            for key, value in self.held.items()
            if np.asarray(value).tobytes() != self.copies[key].tobytes()
        ]

    def moved(self) -> int:
        """Count the variables that training has changed meanwhile."""
        now = References(variables.collect(self.model)).take().open()
        return sum(
            np.asarray(now[key]).tobytes() != copy.tobytes()
            for key, copy in self.copies.items()
            if key in now
        )


def hold(combination: Combination, steps: int) -> Holder:
    """Train a combination for as long as it takes, holding on from its third step."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    holder = Holder(3)
    with tempfile.TemporaryDirectory(prefix="torn-") as folder:
        model = combination.build()
        fits = 0
        while holder.seen < steps + 3 and fits < 20:
            files = Path(folder) / str(fits)
            files.mkdir()
            combination.fit(model, [*combination.callbacks(files), holder])
            fits += 1
    return holder


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=["*"])
    parser.add_argument("--steps", type=int, default=50)
    given = parser.parse_args()
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * DEVICES,
    )
    console = Console(width=120)
    table = Table("combination", "held for steps", "tensors", "changed since", "torn")
    tensors = torn = 0
    for name, combination in COMBINATIONS.items():
        if not any(fnmatch.fnmatch(name, part) for part in given.only):
            continue
        if missing := combination.missing():
            table.add_row(name, f"needs {', '.join(missing)}")
            continue
        holder = hold(combination, given.steps)
        bad = holder.torn()
        tensors, torn = tensors + len(holder.held), torn + len(bad)
        row = (holder.seen - 3, len(holder.held), holder.moved(), ", ".join(bad) or 0)
        table.add_row(name, *map(str, row))
        console.print(name, *row)
    console.print(table)
    console.print(f"{torn} of {tensors} tensors torn.")
    return 1 if torn else 0


if __name__ == "__main__":
    sys.exit(main())
