"""The checks that every commit passes: README's commands, linter, types."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_readme_has_the_two_commands_that_ci_runs():
    """`.ci/run` finds both commands by their marks, each one line of shell."""
    readme = (ROOT / "README.md").read_text()
    for name in ("demonstration", "tests"):
        block = re.search(rf"<!-- command: {name} -->\n```sh\n(.*)\n```\n", readme)
        assert block is not None, name
        assert block[1].startswith("pip install -e '.[")


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "-p", "persist_callbacks"],
    ],
    ids=" ".join,
)
def test_checker_finds_nothing(command):
    """Linter, formatter and type checker are content with the tree."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
