"""Show the system calls of one save, as strace sees them.

    python tests/soak/trace_of_a_save.py

Needs strace. Trains a few steps with a save in them, and prints what was done below the
run directory from the staging of the second checkpoint to the staging of the third.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_CALLS = "openat,write,pwrite64,fsync,rename,renameat,renameat2,mkdir,unlinkat,rmdir"
_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
import pytest
from loops import data, save_at_once, sequential
from persist_callbacks import PeriodicCheckpoint
x, y = data()
ours = PeriodicCheckpoint(sys.argv[1], every_steps=2, keep_last=1, verbose=0)
with pytest.MonkeyPatch.context() as patch:
    save_at_once(patch)
    sequential().fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[ours])
"""


def main() -> None:
    """Run by the command line."""
    tests = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        run, log = Path(folder) / "run", Path(folder) / "trace"
        subprocess.run(
            [
                *("strace", "-f", "-y", "-s", "0", "-o", log, "-e", f"trace={_CALLS}"),
                *(sys.executable, "-c", _SCRIPT, run, tests),
            ],
            check=True,
        )
        lines = [
            line.split(None, 1)[1].replace(f"{run}/", "")
            for line in log.read_text().splitlines()
            if str(run) in line and "O_RDONLY" not in line
        ]
    staged = [
        at for at, line in enumerate(lines) if re.search(r"mkdir.*staged.*= 0", line)
    ]
    before = ""
    for line in lines[staged[1] : staged[2]]:
        short = re.sub(r"-[0-9a-f]{8}\b", "", line)
        # One write of many says as much.
        if short.split(",")[0] != before.split(",")[0]:
            sys.stdout.write(short + "\n")
        before = short


if __name__ == "__main__":
    main()
