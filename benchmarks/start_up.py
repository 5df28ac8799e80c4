"""How much does ``import persist_callbacks`` add to TensorFlow's and Keras' own import?

    python benchmarks/start_up.py [--rounds 5]

Each import is a process of its own; they take turns; medians of wall time. The last row
is the command without TensorFlow. What the rehearsal of the export takes at train begin
is measured by ``preflight.py``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from rich.console import Console
from rich.table import Table

BASE = "import tensorflow, keras"
CODE = {
    BASE: ["-c", BASE],
    f"{BASE}, persist_callbacks": ["-c", f"{BASE}, persist_callbacks"],
    "... and both callbacks": [
        "-c",
        f"{BASE}\n"
        "from persist_callbacks import PeriodicCheckpoint, FrozenGraphExport\n"
        "import tempfile, os\n"
        "folder = tempfile.mkdtemp()\n"
        "PeriodicCheckpoint(os.path.join(folder, 'run'))\n"
        "FrozenGraphExport(os.path.join(folder, 'model.pb'))\n",
    ],
    "python -m persist_callbacks --help": ["-m", "persist_callbacks", "--help"],
}


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in CODE}
    for _ in range(given.rounds):
        for name, arguments in CODE.items():
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments], check=True, capture_output=True
            )
            taken[name].append(time.perf_counter() - begun)
    base = statistics.median(taken[BASE])
    table = Table("process", "s", "over the first")
    for name, times in taken.items():
        seconds = statistics.median(times)
        table.add_row(name, f"{seconds:.2f}", f"{seconds / base - 1:+.1%}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
