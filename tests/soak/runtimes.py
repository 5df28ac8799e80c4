"""Export well-known networks, and run each PB in every runtime that is here.

    python tests/soak/runtimes.py [--family NAME ...] [--all] [--runtime NAME ...]

A row a network: operations before and after, the largest number that it gives, and for
each runtime the largest difference from the live model, or what stands in the way. Each
cell is a process of its own, since a reader may crash. ``--all`` takes every member of
each family, not the smallest alone; ``--plain`` asks the runtimes to read the graphs as
they are before any rewriting. ``TF1_PYTHON`` and ``OPENCV4_PYTHON`` name interpreters
that have TensorFlow 1.15 and OpenCV 4; ``--family kinds`` takes the small models of the
tests. A cell that fails, where ``inspect --runtimes`` has told so before, shows the op
in brackets. Ends with 1 if any other fails or differs by more than 1e-4; where numbers
are of some thousands and more, by that share of the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "graph"))

import kinds
import networks
import numpy as np
import tf1
from rich.console import Console
from rich.table import Table

CLIENTS = Path(__file__).resolve().parents[1] / "clients"
LIMIT = 1e-4
# Of larger numbers float32 has no four places after the point.
LARGE = 1e3
TIMEOUT = 900
FACTS = ("before", "after", "largest")
# How the table of runtimes calls them, where it does not by the same words.
SAID = {
    "TF 1.15": "TensorFlow 1.15",
    "OpenCV 4": "OpenCV 4 and 5",
    "OpenCV 5": "OpenCV 4 and 5",
    "ONNX": "ONNX Runtime",
}


def interpreters() -> dict[str, tuple[str, str | None]]:
    """Give for each runtime its name in ``run_pb.py``, and a Python that has it."""
    here = sys.executable
    return {
        "TF 2": ("tensorflow", here),
        "TF 1.15": ("tensorflow", tf1.python()),
        "OpenCV 4": ("opencv", os.environ.get("OPENCV4_PYTHON")),
        "OpenCV 5": ("opencv", os.environ.get("OPENCV5_PYTHON", here)),
        "OpenVINO": ("openvino", here),
        "ONNX": ("onnxruntime", here),
    }


def run(interpreter: str, *arguments: object) -> str | None:
    """Run a script; return None if it went well, else why not."""
    try:
        done = subprocess.run(
            [interpreter, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return f"no end in {TIMEOUT} s"
    if done.returncode < 0:
        return f"crashes: {signal.Signals(-done.returncode).name}"
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return "fails: " + " ".join(lines[-3:])[-400:]
    return None


def difference(folder: Path, expected: Any) -> float:
    """Compare results with the live model's, whichever layout they came in."""
    worst = 0.0
    with np.load(folder / "found.npz") as found:
        for name in expected.files:
            live, array = expected[name], found[name]
            if live.ndim == 4 and array.shape != live.shape:
                array = array.transpose(0, 2, 3, 1)
            if array.shape != live.shape:
                return float("inf")
            largest = float(np.abs(live).max(initial=0.0))
            share = largest if largest > LARGE else 1.0
            worst = max(worst, float(np.abs(array - live).max()) / share)
    return worst


def cell(folder: Path, runtime: str, plain: bool) -> tuple[bool | None, str]:
    """Run a PB in one runtime; whether it agrees (None: not here), and what to show."""
    name, interpreter = interpreters()[runtime]
    if interpreter is None:
        return None, "not here"
    facts = json.loads((folder / "facts.json").read_text())
    files = ["plain.pb" if plain else "model.pb", "in.npz", "found.npz"]
    failure = run(
        interpreter,
        CLIENTS / "run_pb.py",
        name,
        *(folder / file for file in files),
        ",".join(facts["outputs"]),
    )
    named = [] if plain else facts["obstacles"].get(SAID.get(runtime, runtime), [])
    right, shown = False, failure
    if failure is None:
        with np.load(folder / "out.npz") as expected:
            gap = difference(folder, expected)
        right, shown = gap <= LIMIT, f"{gap:.1e}"
    if named and right:
        return False, f"{shown}, though the table names {named[0]}"
    return right or bool(named), f"[{named[0]}]" if named else str(shown)


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", nargs="+", help="some families, or networks")
    parser.add_argument("--all", action="store_true", help="every member")
    parser.add_argument("--runtime", nargs="+", choices=list(interpreters()))
    parser.add_argument("--plain", action="store_true", help="nothing rewritten")
    parser.add_argument("--json", type=Path, help="write the cells here too")
    parser.add_argument("--keep", type=Path, help="folder for the PBs; used again")
    given = parser.parse_args()
    families = networks.names(every=given.all)
    if given.family == ["kinds"]:
        families = {"kinds": sorted(kinds.KINDS)}
    wanted = [
        network
        for family, listed in families.items()
        for network in listed
        if given.family is None or family in given.family or network in given.family
    ]
    runtimes = given.runtime or list(interpreters())
    table = Table("network", "ops", "largest", *runtimes)
    cells: dict[str, Any] = {}
    wrong = []
    with tempfile.TemporaryDirectory(prefix="runtimes-") as temporary:
        for network in wanted:
            folder = (given.keep or Path(temporary)) / network
            begun = time.monotonic()
            if not (folder / "facts.json").is_file():
                failure = run(sys.executable, CLIENTS / "export_pb.py", network, folder)
                if failure is not None:
                    wrong.append(f"{network}: {failure}")
                    table.add_row(network, failure)
                    continue
            facts = json.loads((folder / "facts.json").read_text())
            row = {}
            for runtime in runtimes:
                right, shown = cell(folder, runtime, given.plain)
                row[runtime] = shown
                if right is False:
                    wrong.append(f"{network} in {runtime}: {shown}")
            cells[network] = row | {key: facts[key] for key in FACTS}
            table.add_row(
                network,
                f"{facts['before']} > {facts['after']}",
                f"{facts['largest']:.2g}",
                *(shown[:24] for shown in row.values()),
            )
            seconds = time.monotonic() - begun
            sys.stdout.write(f"{network} ({seconds:.0f} s): {row}\n")
            sys.stdout.flush()
            if given.json:
                given.json.write_text(json.dumps(cells, indent=1))
    Console(width=None if sys.stdout.isatty() else 170).print(table)
    sys.stdout.write("\n".join(["wrong:", *wrong] if wrong else ["all agree"]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
