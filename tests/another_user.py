"""Another user than a superuser, and a folder that any user may use."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def as_another_user() -> Iterator[None]:
    """Lose the rights that a superuser has; others have none to begin with."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(mine)


@contextlib.contextmanager
def folder_for_all() -> Iterator[Path]:
    """Make a folder where any user may look and write, unlike in one of pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)
