"""A few of the kills of `tests/soak/kill_everywhere.py`, which does all of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "soak" / "kill_everywhere.py"


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")
def test_kills_spread_over_a_run_leave_no_trace(tmp_path: Path) -> None:
    """Verified after each, and the rerun ends with the same bits."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--spread", "60", "--work", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    points = re.search(r"(\d+) points, (\d+) verified and resumed", done.stdout)
    assert points is not None
    assert int(points[1]) == int(points[2]) >= 4
