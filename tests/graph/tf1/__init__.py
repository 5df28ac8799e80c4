"""Where a TensorFlow 1 can be found, for the tests that ask it itself."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
FOLDERS = HERE / "folders"
_MADE_HERE = HERE.parents[2] / ".tf1" / "bin" / "python"


@functools.cache
def python() -> str | None:
    """Return a Python that has TensorFlow 1.15, None where there is none.

    ``TF1_PYTHON`` names one; else ``.tf1`` in the checkout is a virtual environment
    of Python 3.7 with it.
    """
    path = os.environ.get("TF1_PYTHON") or str(_MADE_HERE)
    if not Path(path).is_file():
        return None
    asked = subprocess.run(
        [path, "-c", "import tensorflow; print(tensorflow.__version__)"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return path if asked.stdout.strip().startswith("1.15") else None
