"""How far training had come is known after any end of the process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from persist_callbacks.storage import progress
from persist_callbacks.storage.progress import NAME, ProgressFile

KILLED = """
import os, signal, sys
from pathlib import Path
from persist_callbacks.storage.progress import ProgressFile
file = ProgressFile(Path(sys.argv[1]))
file.note(41)
file.note(42)
file.note(43)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_survives_a_kill(tmp_path):
    """The last one that was to be noted at once."""
    before = time.time()
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -9
    found = progress.read(tmp_path)
    assert found.step == 43
    assert before <= found.at <= time.time()


def test_after_it_is_closed(tmp_path):
    """The last one stays, and nothing is written any more."""
    file = ProgressFile(tmp_path)
    file.note(1)
    file.note(3)
    assert progress.read(tmp_path).step == 3
    file.close()
    file.close()
    file.note(4)
    assert progress.read(tmp_path).step == 3


@pytest.mark.parametrize("damage", ["none", "empty", "cut", "flipped"])
def test_what_is_not_sound_says_nothing(tmp_path, damage):
    """It decides nothing, and it breaks nothing."""
    if damage != "none":
        file = ProgressFile(tmp_path)
        file.note(5)
        file.close()
        path = tmp_path / NAME
        data = bytearray(path.read_bytes())
        if damage == "flipped":
            data[9] ^= 1
        keep = {"empty": 0, "cut": len(data) - 1}.get(damage, len(data))
        path.write_bytes(data[:keep])
        os.sync()
    assert progress.read(tmp_path) is None
