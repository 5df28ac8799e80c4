"""Leave out each pass over the graph in turn, and see what fails or grows.

    python tests/soak/passes.py [--pass NAME ...] [--network NAME ...]

A row a pass: which networks a runtime no longer reads or computes as the live model
does, and how many operations more there are where all still do. ``TF1_PYTHON`` and
``OPENCV4_PYTHON`` name interpreters as for ``runtimes.py``. Ends with 1 if there is a
pass that nothing misses.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import runtimes
from rich.console import Console
from rich.table import Table

from persist_callbacks.graph.simplify import PASSES

# Few and small, and each pass has something to do in one of them.
NETWORKS = [
    *("cnn", "grouped_and_dilated_cnn", "separable_cnn", "unet_transposed"),
    *("unet_upsampling", "picture_preprocessing", "transformer", "DenseNet121"),
    *("ConvNeXtTiny"),
]
# What no network shows, and the test that does.
ELSEWHERE = {
    "name_outputs": "an inner node asked for by name, in tests/graph/test_simplify.py",
}


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pass", nargs="+", dest="passes", choices=list(PASSES))
    parser.add_argument("--network", nargs="+", default=NETWORKS)
    parser.add_argument("--runtime", nargs="+", choices=list(runtimes.interpreters()))
    given = parser.parse_args()
    table = Table("left out", "what fails", "operations")
    needless = []
    with tempfile.TemporaryDirectory(prefix="passes-") as temporary:
        before = {
            network: export(network, Path(temporary) / "all" / network)
            for network in given.network
        }
        for name in given.passes or PASSES:
            failed, more = [], []
            for network in given.network:
                folder = Path(temporary) / name / network
                after = export(network, folder, "--without", name)
                if isinstance(after, str):
                    failed.append(f"{network}: export {after}")
                    continue
                same = (folder / "model.pb").read_bytes() == (
                    Path(temporary) / "all" / network / "model.pb"
                ).read_bytes()
                if same:
                    continue
                if after != before[network]:
                    more.append(f"{network} {before[network]} > {after}")
                failed += fails(folder, network, given.runtime)
            if name in ELSEWHERE:
                failed.append(ELSEWHERE[name])
            table.add_row(name, "\n".join(failed) or "-", "\n".join(more) or "-")
            sys.stdout.write(f"{name}: {failed} {more}\n")
            sys.stdout.flush()
            needless += [] if failed or more else [name]
    Console(width=None if sys.stdout.isatty() else 170).print(table)
    sys.stdout.write(f"needed by nothing: {', '.join(needless) or 'none'}\n")
    return 1 if needless else 0


def export(network: str, folder: Path, *options: str) -> int | str:
    """Export a network; return its number of operations, or why it cannot be."""
    failure = runtimes.run(
        sys.executable,
        runtimes.CLIENTS / "export_pb.py",
        network,
        folder,
        *options,
    )
    if failure is not None:
        return failure[-160:]
    return int(json.loads((folder / "facts.json").read_text())["after"])


def fails(folder: Path, network: str, wanted: list[str] | None) -> list[str]:
    """Run a PB in each runtime; say which do not give the live model's numbers."""
    found = []
    for runtime in wanted or runtimes.interpreters():
        right, shown = runtimes.cell(folder, runtime, plain=False)
        if right is False or shown.startswith("["):
            found.append(f"{network} in {runtime}: {shown[-100:]}")
    return found


if __name__ == "__main__":
    sys.exit(main())
