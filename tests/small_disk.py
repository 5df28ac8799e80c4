"""A disk of a few megabytes to be filled up: a real file system in memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(where: Path, *, options: str) -> Iterator[Path]:
    """Mount a tmpfs for a while; skip the test where that is not possible.

    Args:
        where: a folder that does not exist yet.
        options: of the mount, such as ``size=2m``.
    """
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield where
    finally:
        # Lazily: a failed test may still have a file open.
        subprocess.run(["umount", "-l", str(where)], check=True)


@contextlib.contextmanager
def covered(where: Path, *, options: str) -> Iterator[None]:
    """Mount an empty file system over a folder, as when its own one went away.

    Args:
        where: the folder.
        options: of the mount, such as ``ro``.
    """
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
    subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def free(where: Path) -> int:
    """Bytes that can still be written there."""
    status = os.statvfs(where)
    return status.f_bavail * status.f_frsize


def fill(where: Path, *, leaving: int = 0) -> Path:
    """Write a file until only so many bytes are free; it may be written again."""
    filler = where / "filler"
    with filler.open("ab", buffering=0) as file:
        while (spare := free(where) - leaving) > 0:
            file.write(bytes(min(spare, 1 << 20)))
    return filler
