"""How long does one run of a PB take, plain and simplified, in each runtime?

    python benchmarks/pb_latency.py [--network NAME ...] [--calls 60]

Batch 1. The PBs lie in one process and take turns call by call, in another order each
time, so that what slows the machine slows all. The plain one is there twice: how far
its two times lie apart is the noise. A cell is the medians in milliseconds, plain and
simplified, the median of each turn's ratio, and the noise. A reader that does not take
the plain one is timed with the simplified one alone. Ends with 1 if the simplified one
is slower by more than ``--share`` and the noise in any cell.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np

CLIENTS = Path(__file__).resolve().parents[1] / "tests" / "clients"
NETWORKS = [
    *("MobileNetV2", "EfficientNetB0", "ResNet50", "DenseNet121", "ConvNeXtTiny"),
    *("unet_transposed", "unet_upsampling", "transformer_encoder", "stacked_lstm"),
]
Run = Callable[[], Any]


def in_tensorflow(path: Path, arrays: dict[str, Any], outputs: list[str]) -> Run:
    import tensorflow as tf

    graph_def = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    session = tf.compat.v1.Session(graph=graph)
    feeds = [f"{name}:0" for name in arrays]
    run = session.make_callable([f"{name}:0" for name in outputs], feeds)
    return lambda: run(*arrays.values())


def in_opencv(path: Path, arrays: dict[str, Any], outputs: list[str]) -> Run:
    import cv2

    net = cv2.dnn.readNetFromTensorflow(str(path))
    blobs = {
        name: np.ascontiguousarray(a.transpose(0, 3, 1, 2)) if a.ndim == 4 else a
        for name, a in arrays.items()
    }

    def run() -> Any:
        for name, blob in blobs.items():
            net.setInput(blob, name)
        return net.forward()

    return run


def in_openvino(path: Path, arrays: dict[str, Any], outputs: list[str]) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape({f"{name}:0": list(a.shape) for name, a in arrays.items()})
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", settings)
    fed = {f"{name}:0": array for name, array in arrays.items()}
    return lambda: compiled(fed)


RUNTIMES = {"TF 2": in_tensorflow, "OpenCV": in_opencv, "OpenVINO": in_openvino}


def measure(runtime: str, folder: Path, names: list[str], calls: int) -> Any:
    """Time PBs in turns; the milliseconds of each."""
    with np.load(folder / "in.npz") as loaded:
        arrays = {name: loaded[name][:1] for name in loaded.files}
    outputs = json.loads((folder / "facts.json").read_text())["outputs"]
    runs = [RUNTIMES[runtime](folder / name, arrays, outputs) for name in names]
    taken: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    shuffled = random.Random(1)
    for call in range(calls + 5):
        shuffled.shuffle(order)
        for place in order:
            begun = time.perf_counter()
            runs[place]()
            if call >= 5:
                taken[place].append(1000 * (time.perf_counter() - begun))
    return taken


def child(*arguments: object) -> Any:
    """Measure in a process of its own, since a reader may crash."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


def row(network: str, folder: Path, calls: int) -> tuple[list[str], float]:
    """Export a network and time it; cells, and the worst ratio beyond the noise."""
    if not (folder / "facts.json").is_file():
        script = CLIENTS / "export_pb.py"
        subprocess.run([sys.executable, script, network, folder], check=True)
    cells, worst = [network], 0.0
    for runtime in RUNTIMES:
        found = child(runtime, folder, calls, "plain.pb", "model.pb", "plain.pb")
        if found is not None:
            turns = list(zip(*found, strict=True))
            ratio = statistics.median(2 * b / (a + c) for a, b, c in turns)
            noise = abs(statistics.median(c / a for a, _, c in turns) - 1)
            plain = statistics.median([*found[0], *found[2]])
            simple = statistics.median(found[1])
            cells.append(f"{plain:.2f} > {simple:.2f} ({ratio:.3f}, +-{noise:.3f})")
            worst = max(worst, ratio - noise)
            continue
        alone = child(runtime, folder, calls, "model.pb")
        shown = "-" if alone is None else f"{statistics.median(alone[0]):.2f}"
        cells.append(f"not read > {shown}")
    return cells, worst


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        runtime, folder, calls, *names = sys.argv[2:]
        sys.stdout.write(json.dumps(measure(runtime, Path(folder), names, int(calls))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", default=NETWORKS)
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--keep", type=Path, help="folder for the PBs; used again")
    given = parser.parse_args()
    worst = 0.0
    print("| network |", " | ".join(RUNTIMES), "|")
    print("|---" * (1 + len(RUNTIMES)) + "|")
    with tempfile.TemporaryDirectory(prefix="latency-") as temporary:
        for network in given.network:
            folder = (given.keep or Path(temporary)) / network
            cells, ratio = row(network, folder, given.calls)
            worst = max(worst, ratio)
            print("|", " | ".join(cells), "|", flush=True)
    print(f"largest ratio less noise {worst:.3f}")
    return 1 if worst > 1 + given.share else 0


if __name__ == "__main__":
    sys.exit(main())
