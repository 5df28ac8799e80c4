"""Where a file that the user asked for can be put: never over what is no plain file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from persist_callbacks.errors import DirectoryNotWritable
from persist_callbacks.storage import layout


def check_place(path: Path) -> None:
    """Refuse a path that no file could be written to, touching nothing.

    A new file takes the place of what is there. For a device or a pipe that would be
    the end of it, and a checkpoint's own files are nobody's to replace.

    Args:
        path: of the file, absolute.

    Raises:
        DirectoryNotWritable: no file can be put there; it says why.
    """
    found = _taken(path) or _no_way_to(path)
    if found is not None:
        raise file_not_writable(path, found)


def file_not_writable(path: Path, reason: str) -> DirectoryNotWritable:
    """Error for a file that cannot be put where it was asked for, and why."""
    return DirectoryNotWritable(
        path,
        expected="a path that a file can be written to",
        found=reason,
        advice="Give a file in a folder of yours, such as runs/digits/model.pb.",
    )


def _taken(path: Path) -> str | None:
    """Tell what is there that must stay; of a link, where it leads."""
    folder = Path(os.path.realpath(path.parent))
    if layout.is_in_checkpoint(folder / path.name):
        return "a checkpoint's own file"
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # Nothing, or what `_no_way_to` tells of.
        return None
    if stat.S_ISDIR(mode):
        return "a folder"
    return None if stat.S_ISREG(mode) else "a device or a pipe"


def _no_way_to(path: Path) -> str | None:
    folder = next(parent for parent in path.parents if os.path.exists(parent))
    if not folder.is_dir():
        return f"{folder} is a file"
    try:
        # Names that are too long: of the file, and of folders that are to be made.
        for name in path.relative_to(folder).parts:
            _look(folder / name)
        _look(path)
    except OSError as error:
        return error.strerror or str(error)
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"no permission to write to {folder}"
    return None


def _look(path: Path) -> None:
    """Let the system judge a path; that nothing is there is no fault."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
