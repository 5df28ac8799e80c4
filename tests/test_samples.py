"""The samples, run as a user runs them: each in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[1] / "samples"


def run(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, SAMPLES / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_at(script: str, line: str, *arguments: object) -> None:
    """Run a script and kill it when it has printed a line."""
    with subprocess.Popen(
        [sys.executable, SAMPLES / script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        for printed in child.stdout:
            if printed.strip() == line:
                os.kill(child.pid, signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def custom_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp("samples") / "custom"
    return run("custom_loop.py", directory, "--epochs=3"), directory


def test_custom_loop_ends_with_the_same_bits(custom_run, tmp_path):
    """A GradientTape loop killed within an epoch and run again ends the same."""
    kill_at("custom_loop.py", "step 1 30", tmp_path / "run", "--epochs=3")
    printed = run("custom_loop.py", tmp_path / "run", "--epochs=3")
    resumed = re.search(r"Resuming from ckpt-\d+ .* step (\d+)", printed)
    assert resumed is not None
    assert 0 < int(resumed[1]) <= 57 + 31
    assert printed.splitlines()[-1] == custom_run[0].splitlines()[-1]
    assert "sha256" in printed.splitlines()[-1]


def test_freeze_a_checkpoint(custom_run, tmp_path):
    """A run's newest checkpoint becomes a PB without the model's code."""
    printed = run("freeze_a_checkpoint.py", custom_run[1], tmp_path / "frozen.pb")
    assert "takes pixels float32[?, 64]" in printed
    assert "gives logits float32[?, 10]" in printed
    assert (tmp_path / "frozen.signature.json").is_file()
