"""The same weights give the same file: in two processes, whatever orders their sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "clients" / "export_pb.py"


@pytest.mark.parametrize("kind", ["unet", "transformer", "lstm"])
def test_two_processes_write_the_same_bytes(kind: str, tmp_path: Path) -> None:
    """Their hashes are seeded otherwise, and they compute with other threads."""
    running = []
    for number in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": number,
            "TF_NUM_INTRAOP_THREADS": number,
        }
        command = [sys.executable, SCRIPT, kind, tmp_path / number]
        running.append(subprocess.Popen(command, env=environment, stderr=-1))
    for process in running:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said[-2000:]
    for name in ("plain.pb", "model.pb"):
        one, other = ((tmp_path / number / name).read_bytes() for number in "12")
        assert one == other
