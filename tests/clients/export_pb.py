"""Export one network as a user would, beside its plain frozen graph.

    python export_pb.py NETWORK FOLDER [--without PASS ...]

NETWORK is one of `networks`, or of the small `kinds`. FOLDER is given ``plain.pb``
(variables made constants, no more), ``model.pb``, ``in.npz``, ``out.npz`` (what the
live model gives) and ``facts.json``. A process of its own, so that it can be asked
twice whether it makes the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "graph"))

import kinds
import networks
import numpy as np
import tensorflow as tf
import zoo

from persist_callbacks import tracing
from persist_callbacks.graph.canonical import serialize
from persist_callbacks.graph.compare import generate
from persist_callbacks.graph.freeze import freeze
from persist_callbacks.graph.frozen import count_ops
from persist_callbacks.graph.runtimes import judge
from persist_callbacks.graph.simplify import PASSES, simplify
from persist_callbacks.graph.trace import run_live
from persist_callbacks.records import GraphNames
from persist_callbacks.training import variables


def traced(name: str) -> tuple[zoo.Traced, dict[str, np.ndarray[Any, Any]]]:
    """Build and trace a network; return it and a batch by input name."""
    if name in kinds.KINDS:
        small = zoo.traced(kinds.KINDS[name], specs=kinds.EXAMPLES.get(name))
        return small, generate(small.graph.inputs, batch=2, open_size=16, seed=1)
    model, batch = networks.build(name)
    graph = tracing.trace_live(model, GraphNames(), specs=None)
    values = {item.info.key: item.variable.numpy() for item in variables.collect(model)}
    made = zoo.Traced(model, graph, values)
    return made, dict(zip(made.inputs, batch.values(), strict=True))


class Export:
    """A network, traced and frozen, that can be simplified more than once.

    Args:
        name: of the network.
    """

    def __init__(self, name: str) -> None:
        self.made, self.arrays = traced(name)
        self.plain = freeze(self.made.graph, self.made.values)
        self.live = run_live(self.made.model, self.made.graph, self.arrays)

    def write(self, folder: Path, without: Collection[str] = ()) -> dict[str, Any]:
        """Write the files into a folder; return the facts.

        Args:
            folder: made if it is not there.
            without: passes to leave out.
        """
        folder.mkdir(parents=True, exist_ok=True)
        made, plain = self.made, self.plain
        begun = time.monotonic()
        simple = simplify(
            plain, inputs=made.inputs, outputs=made.outputs, without=without
        )
        seconds = time.monotonic() - begun
        (folder / "plain.pb").write_bytes(serialize(plain))
        (folder / "model.pb").write_bytes(serialize(simple))
        np.savez(folder / "in.npz", **self.arrays)
        np.savez(folder / "out.npz", **self.live)
        ops = count_ops(simple)
        facts = {
            "outputs": made.outputs,
            "before": sum(count_ops(plain).values()),
            "after": sum(ops.values()),
            "largest": max(float(np.abs(each).max()) for each in self.live.values()),
            "ops": ops,
            "obstacles": {
                verdict.runtime: [str(obstacle) for obstacle in verdict.obstacles]
                for verdict in judge(simple)
            },
            "seconds": seconds,
            "tensorflow": tf.__version__,
        }
        (folder / "facts.json").write_text(json.dumps(facts, indent=1))
        return facts


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--without", nargs="+", default=[], choices=list(PASSES))
    given = parser.parse_args()
    Export(given.network).write(given.folder, given.without)


if __name__ == "__main__":
    main()
