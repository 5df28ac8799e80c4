"""PBs in other runtimes, each in a process of its own, since a reader may crash.

Skipped where a runtime is not there; CONTRIBUTING.md says how to get them.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf1
import zoo

from persist_callbacks import exporting
from persist_callbacks.graph.compare import generate
from persist_callbacks.graph.runtimes import Verdict, judge
from persist_callbacks.graph.trace import run_live

CLIENTS = Path(__file__).parents[1] / "clients"
NEEDED = {
    "tensorflow": (),
    "opencv": ("cv2",),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "tf2onnx"),
}
# How the table of runtimes calls them.
NAMES = {
    "tensorflow": "TensorFlow 1.15",
    "opencv": "OpenCV 4 and 5",
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
}


def interpreter_of(runtime: str) -> str:
    """A Python that has a runtime; skips where there is none."""
    interpreter = tf1.python() if runtime == "tensorflow" else sys.executable
    if interpreter is None:
        pytest.skip("no TensorFlow 1.15: TF1_PYTHON names none")
    for module in NEEDED[runtime]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no {module}: it comes with the extra `clients`")
    return interpreter


def said_of(runtime: str, graph_def: Any) -> Verdict:
    """What the table says of a graph and a runtime."""
    (verdict,) = (each for each in judge(graph_def) if each.runtime == NAMES[runtime])
    return verdict


def said_of_pb(runtime: str, built: exporting.BuiltGraph) -> Verdict:
    """What the table says of a PB and a runtime."""
    return said_of(runtime, tf.compat.v1.GraphDef.FromString(built.data))


def run(
    runtime: str, data: bytes, sample: Mapping[str, Any], outputs: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run a PB by a runtime's own reader; what it gives is in ``out.npz`` then.

    Volumes are given to OpenCV as NCDHW; pictures the client turns itself.
    """
    if runtime == "opencv":
        sample = {
            name: np.moveaxis(array, -1, 1) if array.ndim == 5 else array
            for name, array in sample.items()
        }
    (folder / "model.pb").write_bytes(data)
    np.savez(folder / "in.npz", **sample)
    files = [folder / name for name in ("model.pb", "in.npz", "out.npz")]
    return subprocess.run(
        [interpreter_of(runtime), CLIENTS / "run_pb.py", runtime, *files, outputs],
        capture_output=True,
        text=True,
        timeout=240,
    )


def run_pb(
    runtime: str, built: exporting.BuiltGraph, sample: Any, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Do the same for what was exported."""
    outputs = ",".join(info.name for info in built.frozen.outputs)
    return run(runtime, built.data, sample, outputs, folder)


def check(
    runtime: str,
    model: Callable[[], keras.Model],
    folder: Path,
    *,
    rows: int = 3,
    batch_size: int | None = None,
    near: float = 1e-4,
) -> None:
    """A PB loads where the table says so, and gives the live model's numbers.

    Args:
        runtime: one of `NAMES`.
        model: makes the model.
        folder: for the files.
        rows: how many it is given.
        batch_size: as for an export.
        near: the absolute tolerance.
    """
    interpreter_of(runtime)
    made = zoo.traced(model)
    built = exporting.build(made.graph, made.values, batch_size=batch_size)
    verdict = said_of_pb(runtime, built)
    assert verdict.loads, verdict
    sample = generate(made.graph.inputs, batch=rows, open_size=16, seed=1)
    live = run_live(made.model, made.graph, sample)
    done = run_pb(runtime, built, sample, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(folder / "out.npz") as found:
        for name, expected in live.items():
            array = found[name]
            if expected.ndim > 3 and runtime == "opencv":
                array = np.moveaxis(array, 1, -1)
            np.testing.assert_allclose(array, expected, rtol=1e-4, atol=near)


def is_given(
    runtime: str, graph_def: Any, data: bytes, fed: Any, folder: Path, near: float
) -> bool:
    """Whether a runtime gives TensorFlow's ``y`` of ``x``.

    Args:
        runtime: one of `NAMES`.
        graph_def: the graph.
        data: its bytes; to import it writes all defaults into it.
        fed: what ``x`` is.
        folder: for the files.
        near: the tolerance.
    """
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.import_graph_def(graph_def, name="")
        live = session.run("y:0", {"x:0": fed})
    if run(runtime, data, {"x": fed}, "y", folder).returncode != 0:
        return False
    with np.load(folder / "out.npz") as found:
        array = found["y"]
    if runtime == "opencv" and array.ndim > 3:
        array = np.moveaxis(array, 1, -1)
    live = live.astype(np.float32) if live.dtype == tf.bfloat16 else live
    return array.shape == live.shape and np.allclose(array, live, near, near)
