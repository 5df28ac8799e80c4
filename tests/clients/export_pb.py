"""Export one network as a user would, beside its plain frozen graph.

    python export_pb.py NETWORK FOLDER

FOLDER is given ``plain.pb`` (variables made constants, no more), ``model.pb``,
``in.npz``, ``out.npz`` (what the live model gives) and ``facts.json``. A process of its
own, so that it can be asked twice whether it makes the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import networks
import numpy as np
import tensorflow as tf

from persist_callbacks import exporting, tracing
from persist_callbacks.graph.freeze import freeze
from persist_callbacks.graph.frozen import count_ops
from persist_callbacks.graph.trace import run_live
from persist_callbacks.records import GraphNames
from persist_callbacks.training import variables


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    model, batch = networks.build(given.network)
    graph = tracing.trace_live(model, GraphNames(), specs=None)
    names = [info.name for info in graph.inputs]
    arrays = dict(zip(names, batch.values(), strict=True))
    values = {item.info.key: item.variable.numpy() for item in variables.collect(model)}
    plain = freeze(graph, values)
    begun = time.monotonic()
    built = exporting.build(graph, values)
    seconds = time.monotonic() - begun
    (given.folder / "plain.pb").write_bytes(plain.SerializeToString(deterministic=True))
    (given.folder / "model.pb").write_bytes(built.data)
    np.savez(given.folder / "in.npz", **arrays)
    live = run_live(model, graph, arrays)
    np.savez(given.folder / "out.npz", **live)
    facts = {
        "outputs": [info.name for info in graph.outputs],
        "before": sum(count_ops(plain).values()),
        "after": sum(built.frozen.ops.values()),
        "largest": max(float(np.abs(each).max()) for each in live.values()),
        "ops": built.frozen.ops,
        "seconds": seconds,
        "tensorflow": tf.__version__,
    }
    (given.folder / "facts.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
