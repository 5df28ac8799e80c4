"""PBs in other runtimes, each in a process of its own: the live model's numbers.

Skipped where a runtime is not there; CONTRIBUTING.md says how to get them.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import kinds
import numpy as np
import pytest
import tf1
import zoo

from persist_callbacks import exporting
from persist_callbacks.graph.compare import generate
from persist_callbacks.graph.trace import run_live

SCRIPT = Path(__file__).parents[1] / "clients" / "run_pb.py"
NEEDED = {
    "tensorflow": (),
    "opencv": ("cv2",),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "tf2onnx"),
}
PICTURES = [
    *("cnn", "any_size", "mobilenet", "residual", "separable_cnn"),
    *("squeeze_and_excite", "mlp", "siamese"),
]
SEQUENCES = ["attention", "bidirectional", "lstm", "transformer", "vision_transformer"]
LOADS = {
    "tensorflow": [*PICTURES, *SEQUENCES, "grouped_and_dilated_cnn", "custom_layer"],
    "opencv": PICTURES,
    "openvino": [*PICTURES, *SEQUENCES, "unet", "conv_lstm"],
    "onnxruntime": ["cnn", "transformer"],
}


@pytest.mark.parametrize(
    ("runtime", "kind"),
    [(runtime, kind) for runtime, listed in LOADS.items() for kind in listed],
)
def test_a_pb_elsewhere(runtime: str, kind: str, tmp_path: Path) -> None:
    """Loaded by the runtime's own reader, it gives what the live model gives."""
    interpreter = tf1.python() if runtime == "tensorflow" else sys.executable
    if interpreter is None:
        pytest.skip("no TensorFlow 1.15: TF1_PYTHON names none")
    for module in NEEDED[runtime]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no {module}: it comes with the extra `clients`")
    made = zoo.traced(kinds.KINDS[kind])
    built = exporting.build(made.graph, made.values)
    sample = generate(made.graph.inputs, batch=3, open_size=16, seed=1)
    live = run_live(made.model, made.graph, sample)
    (tmp_path / "model.pb").write_bytes(built.data)
    np.savez(tmp_path / "in.npz", **sample)
    files = [tmp_path / name for name in ("model.pb", "in.npz", "out.npz")]
    done = subprocess.run(
        [interpreter, SCRIPT, runtime, *files, ",".join(made.outputs)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "out.npz") as found:
        for name, expected in live.items():
            array = found[name]
            if expected.ndim == 4 and runtime == "opencv":
                array = array.transpose(0, 2, 3, 1)
            np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-4)
