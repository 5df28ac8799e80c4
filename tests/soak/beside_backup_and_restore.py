"""Kill ten scenarios and run them again, by ours and by Keras' BackupAndRestore.

    python tests/soak/beside_backup_and_restore.py [--seed 1]

It counts how many end identical to a run that was not interrupted: in everything, and
in the weights and the number of steps alone.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from soak.runs import Result, examine, preload

SCENARIOS = (
    "arrays, not shuffled, nothing random",
    "arrays, not shuffled",
    "arrays, shuffled",
    "validation_split",
    "tf.data reshuffled",
    "tf.data repeated",
    "Python generator",
    "EarlyStopping",
    "ReduceLROnPlateau",
    "schedule, exponential",
)
WAYS = {
    "PeriodicCheckpoint": "ours",
    'BackupAndRestore("epoch")': "backup-epoch",
    "BackupAndRestore(3)": "backup-batches",
}


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    preload()
    jobs = [(name, by) for name in SCENARIOS for by in WAYS.values()]
    context = multiprocessing.get_context("fork")
    with (
        tempfile.TemporaryDirectory(prefix="beside-") as folder,
        concurrent.futures.ProcessPoolExecutor(2, context) as pool,
    ):
        running = {
            (name, by): pool.submit(
                examine,
                name,
                Path(folder) / f"{number:02d}",
                by=by,
                seed=given.seed,
            )
            for number, (name, by) in enumerate(jobs)
        }
        results = {job: future.result() for job, future in running.items()}
    table = Table("scenario", "killed at", *WAYS)
    for name in SCENARIOS:
        found = [results[name, by] for by in WAYS.values()]
        killed = " | ".join("; ".join(result.killed_at) for result in found)
        table.add_row(name, killed, *map(_verdict, found))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for way, by in WAYS.items():
        found = [results[name, by] for name in SCENARIOS]
        console.print(
            f"{way}: {sum(result.identical for result in found)} of {len(found)} "
            f"identical in everything, {sum(map(_same_weights, found))} in weights, "
            f"optimizer and number of steps.",
            markup=False,
        )


def _same_weights(result: Result) -> bool:
    fields = {"model variables", "optimizer variables", "iterations", "failed", "kill"}
    return not fields & set(result.differs)


def _verdict(result: Result) -> str:
    if result.identical:
        return "identical"
    steps = result.differs.get("iterations")
    if steps is not None:
        return f"{steps[1][0]} steps, not {steps[0][0]}"
    return "other " + ", ".join(result.differs)


if __name__ == "__main__":
    main()
