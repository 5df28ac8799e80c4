"""Leave out each pass over the graph in turn, and see what fails or grows.

    python tests/soak/passes.py [--pass NAME ...] [--network NAME ...]
                                [--runtime NAME ...]

A row a pass: which networks a runtime no longer reads or computes as the live model
does, and how many operations more there are where all still do. A network is traced
once, and simplified again without each pass. ``TF1_PYTHON`` and ``OPENCV4_PYTHON`` name
interpreters as for ``runtimes.py``. Ends with 1 if there is a pass that nothing misses,
or a network that fails with all of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import runtimes
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(runtimes.CLIENTS))

import export_pb

from persist_callbacks.graph.simplify import PASSES

# Few and small, and each pass has something to do in one of them.
NETWORKS = [
    *("cnn", "grouped_and_dilated_cnn", "separable_cnn", "unet_transposed", "growing"),
    *("unet_upsampling", "picture_preprocessing", "transformer", "outputs_on_the_way"),
    *("prelu_and_quotients", "parts_of_pictures", "DenseNet121", "ConvNeXtTiny"),
    *("quantized", "generator", "patch_transformer", "volumes_first"),
]
# What no network shows, and the test that does.
ELSEWHERE = {
    "name_outputs": "an inner node asked for by name, in tests/graph/test_simplify.py",
    "signs_by_quotients": "an argmax, in tests/graph/test_layers_elsewhere.py",
}


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pass", nargs="+", dest="passes", choices=list(PASSES))
    parser.add_argument("--network", nargs="+", default=NETWORKS)
    parser.add_argument("--runtime", nargs="+", choices=list(runtimes.interpreters()))
    given = parser.parse_args()
    passes = given.passes or list(PASSES)
    failed: dict[str, list[str]] = {name: [] for name in passes}
    more: dict[str, list[str]] = {name: [] for name in passes}
    for name in set(passes) & set(ELSEWHERE):
        failed[name].append(ELSEWHERE[name])
    whole: list[str] = []
    for network in given.network:
        with tempfile.TemporaryDirectory(prefix="passes-") as folder:
            one = Network(network, Path(folder))
            whole += one.fails((), given.runtime, beforehand=False)
            for name in passes:
                failed[name] += one.fails((name,), given.runtime, beforehand=True)
                more[name] += one.grows(name)
                sys.stdout.write(f"{network} without {name}: {failed[name][-1:]}\n")
                sys.stdout.flush()
    table = Table("left out", "what fails", "operations")
    for name in passes:
        shown = ("\n".join(each) or "-" for each in (failed[name], more[name]))
        table.add_row(name, *shown)
    Console(width=None if sys.stdout.isatty() else 170).print(table)
    needless = [name for name in passes if not failed[name] and not more[name]]
    sys.stdout.write(f"needed by nothing: {', '.join(needless) or 'none'}\n")
    sys.stdout.write(f"failing with all: {', '.join(whole) or 'none'}\n")
    return 1 if needless or whole else 0


class Network:
    """A network, traced once.

    Args:
        name: one of those that `export_pb` knows.
        folder: for the PBs.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.export = export_pb.Export(name)
        self.bytes: dict[tuple[str, ...], bytes] = {}
        self.ops: dict[tuple[str, ...], int] = {}
        self.refused: set[str] = set()

    def fails(
        self, without: tuple[str, ...], wanted: list[str] | None, *, beforehand: bool
    ) -> list[str]:
        """Name the runtimes that do not give the live model's numbers.

        Args:
            without: passes to leave out.
            wanted: runtimes; None for all.
            beforehand: whether one that is named beforehand as not reading it counts.
        """
        folder = self.folder / ("-".join(without) or "all")
        try:
            facts = self.export.write(folder, without)
        except Exception as error:  # noqa: BLE001 - whatever a missing pass leads to
            return [f"{self.name}: {type(error).__name__} {str(error)[:120]}"]
        self.bytes[without] = (folder / "model.pb").read_bytes()
        self.ops[without] = facts["after"]
        if without and self.bytes[without] == self.bytes.get(()):
            return []
        found = []
        for runtime in wanted or runtimes.interpreters():
            right, shown = runtimes.cell(folder, runtime, plain=False)
            named = shown.startswith("[")
            # What stands in the way of the whole one is no pass's doing.
            known = named and runtime in self.refused
            if not without and named:
                self.refused.add(runtime)
            if right is False or (named and beforehand and not known):
                found.append(f"{self.name} in {runtime}: {shown[-100:]}")
        return found

    def grows(self, name: str) -> list[str]:
        """Tell how many operations more there are without a pass."""
        before, after = self.ops.get(()), self.ops.get((name,), 0)
        same = before is None or after == before
        return [] if same else [f"{self.name} {before} > {after}"]


if __name__ == "__main__":
    sys.exit(main())
