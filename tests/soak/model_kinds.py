"""Train every kind of model for two steps; export it live, and from its checkpoint.

    python tests/soak/model_kinds.py [--only NAME ...]

A row a kind: operations in the PB, its largest difference from the live model in a
clean graph, and whether ``persist-callbacks freeze`` makes the same bytes of a copy of
the run directory. Ends with 1 if a kind is not as it should be.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "graph"))

import keras
import kinds
import numpy as np
import tensorflow as tf
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table

from persist_callbacks import FrozenGraphExport, PeriodicCheckpoint, load_frozen_graph
from persist_callbacks.cli import commands
from persist_callbacks.errors import UnsupportedGraph
from persist_callbacks.graph.compare import compare, generate
from persist_callbacks.records import TensorInfo

BATCH, STEPS = 8, 2


def batch_for(model: Any, name: str) -> Any:
    """Make up a batch as a model takes it."""
    structure = kinds.EXAMPLES.get(name)
    if structure is None:
        sequential = isinstance(model, keras.Sequential)
        structure = model.inputs[0] if sequential else model.input
    infos = [
        TensorInfo(str(i), (None, *leaf.shape[1:]), tf.as_dtype(leaf.dtype).name)
        for i, leaf in enumerate(keras.tree.flatten(structure))
    ]
    made = generate(infos, batch=BATCH, open_size=16, seed=1)
    return keras.tree.pack_sequence_as(
        structure, [tf.constant(made[info.name]) for info in infos]
    )


def mean_of_squares(_x: Any, _y: Any, y_pred: Any, *_: Any, **__: Any) -> Any:
    """Be a loss for outputs of any structure."""
    leaves = keras.tree.flatten(y_pred)
    return sum(tf.reduce_mean(tf.cast(leaf, "float32") ** 2) for leaf in leaves)


def largest(results: list[Any]) -> float:
    """Say how big the numbers are that a difference is one of."""
    numbers = [each for each in results if tf.as_dtype(each.dtype) != tf.string]
    sizes = [np.abs(np.asarray(each).astype("float64")).max() for each in numbers]
    return float(max(sizes, default=0.0))


def row(name: str, folder: Path) -> tuple[bool, list[str]]:
    """Train, export and freeze one kind."""
    begun = time.monotonic()
    model = kinds.KINDS[name]()
    batch = batch_for(model, name)
    model.compute_loss = mean_of_squares
    model.compile("sgd")
    run, tolerance = folder / "run", kinds.TOLERANCE.get(name, 1e-5)
    model.fit(
        batch,
        batch_size=BATCH,
        epochs=STEPS,
        verbose=0,
        callbacks=[
            PeriodicCheckpoint(run, verbose=0),
            FrozenGraphExport(run / "model.pb", atol=tolerance, rtol=10 * tolerance),
        ],
    )
    frozen = load_frozen_graph(run / "model.pb")
    leaves = [np.asarray(leaf) for leaf in keras.tree.flatten(batch)]
    found = frozen(*leaves)
    found = found if isinstance(found, dict) else {frozen.outputs[0].name: found}
    live = keras.tree.flatten(model(batch, training=False))
    names = [info.name for info in frozen.outputs]
    comparison = compare(
        dict(zip(names, map(np.asarray, live), strict=True)),
        found,
        atol=tolerance,
        rtol=10 * tolerance,
    )
    shutil.copytree(run, folder / "copy")
    (folder / "copy" / "model.pb").unlink()
    again = folder / "again.pb"
    done = CliRunner().invoke(
        commands, ["freeze", str(folder / "copy"), "-o", str(again)]
    )
    same = again.is_file() and again.read_bytes() == (run / "model.pb").read_bytes()
    right = comparison.agrees and same and frozen.signature.comparison is not None
    seconds = f"{time.monotonic() - begun:.1f}"
    folder_says = "equal bytes" if same else f"NO: {done.output.strip()[:80]}"
    return right, [
        name,
        str(frozen.op_count),
        f"{comparison.absolute:.2g}",
        # Two steps on made-up numbers can leave weights that give anything.
        f"{largest(live):.2g}",
        folder_says,
        seconds,
    ]


def refused(kind: Any, folder: Path) -> tuple[bool, list[str]]:
    """See that a kind is refused before its first step."""
    model = kind()
    model.compile("sgd", "mse")
    x = np.zeros([size or BATCH for size in model.inputs[0].shape], "float32")
    try:
        model.fit(
            x,
            np.zeros((len(x), 2)),
            batch_size=BATCH,
            verbose=0,
            callbacks=[FrozenGraphExport(folder / "model.pb")],
        )
        said = "NOT refused"
    except UnsupportedGraph as error:
        said = str(error)
    right = bool(re.search(kinds.REFUSED[kind], said))
    right = right and int(model.optimizer.iterations.numpy()) == 0
    return right, [kind.__name__, "refused", "", "", said[:110], ""]


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="names of kinds")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table("kind", "ops", "difference", "of", "from the folder", "seconds")
    jobs = [(row, name, name) for name in kinds.KINDS]
    jobs += [(refused, kind, kind.__name__) for kind in kinds.REFUSED]
    wrong = []
    for job, argument, name in jobs:
        if given.only and name not in given.only:
            continue
        keras.utils.set_random_seed(1)
        with tempfile.TemporaryDirectory(prefix="kinds-") as folder:
            try:
                right, cells = job(argument, Path(folder))
            except Exception as error:  # noqa: BLE001 - a row of its own
                right, cells = False, [name, "", "", "", f"NO: {error}"[:160], ""]
        table.add_row(*cells)
        wrong += [] if right else [name]
    Console(width=None if sys.stdout.isatty() else 170).print(table)
    sys.stdout.write(f"{table.row_count} kinds, wrong: {', '.join(wrong) or 'none'}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
