"""A spread of the exactness matrix by its own command: child processes and SIGKILL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MATRIX = Path(__file__).parent / "soak" / "matrix.py"
# What an exception within one process cannot show, or needs a process of its own for.
SPREAD = (
    "arrays, shuffled, replayed",
    "tf.data shuffled, then cached",
    "stateful augmentation",
    "PyDataset augments",
    "MirroredStrategy, arrays",
    "MirroredStrategy, in its scope",
    "several, ours last",
)


def test_killed_and_run_again(tmp_path):
    """Weights, optimizer, metrics, History, callbacks and files, to the bit."""
    done = subprocess.run(
        [
            sys.executable,
            str(MATRIX),
            *("--exactly", *SPREAD),
            *("--json", str(tmp_path / "results.json")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert [result["name"] for result in results] == list(SPREAD)
    for result in results:
        if result["skipped"]:
            assert result["skipped"] == "without Keras 3.10"
            continue
        assert not result["differs"]
        assert len(result["killed_at"]) == len(result["resumed_at"]) == 1
