"""Where a file that the user asked for can be put: never over what is no plain file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from persist_callbacks.errors import DirectoryNotWritable, FormatTooNew
from persist_callbacks.storage import layout, run_directory


def check_place(path: Path) -> None:
    """Refuse a path that no file could be written to, touching nothing.

    A new file takes the place of what is there. For a device or a pipe that would be
    the end of it, and what a run has in its directory is nobody's to replace. In a
    checkpoint's folder it would go when that is pruned.

    Args:
        path: of the file, absolute.

    Raises:
        DirectoryNotWritable: no file can be put there; it says why.
    """
    found = _taken(path) or _no_way_to(path)
    if found is not None:
        raise file_not_writable(path, found)


def file_not_writable(
    path: Path, reason: str, code: int | None = None
) -> DirectoryNotWritable:
    """Error for a file that cannot be put where it was asked for, and why.

    Args:
        path: of the file.
        reason: why not.
        code: the system's number of it, where it was the system that refused.
    """
    return DirectoryNotWritable(
        path,
        expected="a path that a file can be written to",
        found=reason,
        advice="Make room there, and run it again."
        if code in (errno.ENOSPC, errno.EDQUOT)
        else "Give a file in a folder of yours, such as runs/digits/model.pb.",
    )


def _taken(path: Path) -> str | None:
    """Tell what is there that must stay; of a link, where it leads."""
    real = Path(os.path.realpath(path.parent), path.name)
    if layout.is_in_checkpoint(real):
        return "a checkpoint's own file"
    for entry in (real, *real.parents):
        if layout.is_of_run(entry.name) and _is_of_run(entry):
            where = "" if entry == real else f"a path in {entry.name}, "
            return f"{where}a name that the run in {entry.parent} keeps for itself"
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # Nothing, or what `_no_way_to` tells of.
        return None
    if stat.S_ISDIR(mode):
        return "a folder"
    return None if stat.S_ISREG(mode) else "a device or a pipe"


def _is_of_run(entry: Path) -> bool:
    """Whether what bears such a name is, or would be, of a run or a copied one."""
    is_checkpoint = layout.step_of_either(entry.name) is not None
    if is_checkpoint and (entry / layout.MANIFEST).is_file():
        return True
    try:
        return entry.parent.is_dir() and run_directory.is_ours(entry.parent)
    except FormatTooNew:
        return True
    except OSError:
        # A folder that cannot be listed, say: what is wrong there is told of later.
        return False


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
