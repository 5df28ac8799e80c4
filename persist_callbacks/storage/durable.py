"""The only place that syncs, renames or removes; nothing else in the package does.

What "durable" means here: the data was handed to the device with ``fsync`` (on macOS
``F_FULLFSYNC``), and so was the folder entry that names it. A device or network file
system that acknowledges a sync and then loses the data is beyond what a program can
guard against; checksums in the manifest find such damage when it is read.

Names made on the way to a final one begin with a dot and end in eight random hex
digits, so that no reader takes them for data and the owner can sweep them up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
from pathlib import Path

from persist_callbacks.storage.reading import NO_TRAPS

if sys.platform != "win32":
    import fcntl

_LEFTOVER = re.compile(r"\.(tmp|staged|trash)-(.+)-[0-9a-f]{8}", re.DOTALL)

# Bytes that a name has at most on nearly every file system.
_LONGEST_NAME = 255

# What file systems answer that cannot sync a folder, or know no F_FULLFSYNC.
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOTTY, errno.EBADF})


def passing_name(kind: str, name: str) -> str:
    """Name for something that is not there to stay.

    Args:
        kind: ``tmp``, ``staged`` or ``trash``.
        name: the final name that it will have, or had.

    Returns:
        A hidden name that `is_leftover` recognises; of a name so long that there is no
        room for more, its beginning.
    """
    head, tail = f".{kind}-", f"-{secrets.token_hex(4)}"
    room = _LONGEST_NAME - len(head) - len(tail)
    if len(os.fsencode(name)) > room:
        # A file system may refuse half a character.
        name = os.fsencode(name)[:room].decode(errors="ignore")
    return head + name + tail


def is_leftover(name: str) -> bool:
    """Whether a name was made by `passing_name`: nobody misses what bears it."""
    return _LEFTOVER.fullmatch(name) is not None


def file_in_the_making(name: str) -> str | None:
    """Final name of the file that a name of the kind ``tmp`` stands for, else None."""
    match = _LEFTOVER.fullmatch(name)
    return match[2] if match is not None and match[1] == "tmp" else None


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, each entry durable on return."""
    missing = []
    folder = path
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def stage_folder(path: Path) -> None:
    """Create a folder for what is in the making; its name need not last."""
    path.mkdir()


def write_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a new file; its content, not yet its name, is durable on return.

    Args:
        path: of the file.
        data: its content.
        sync: False where the caller makes it durable later.

    Raises:
        FileExistsError: the path is taken.
    """
    with open(path, "xb") as file:
        file.write(data)
        if sync:
            file.flush()
            _sync(file.fileno())


def sync_file(path: Path) -> None:
    """Make the content of a file that something else wrote durable."""
    # Windows syncs only through a handle that may write.
    flags = os.O_RDWR if sys.platform == "win32" else os.O_RDONLY
    descriptor = os.open(path, flags)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def begin_writing(descriptor: int, offset: int, size: int) -> None:
    """Have the system begin to write a part of a file that is in its cache.

    It makes nothing durable and does not wait; a sync has less to do afterwards. Of
    pages that are not written yet, which these are, Linux begins to write those that it
    is told nobody needs, and keeps them while it does; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        # An advice: a file system that takes none has lost nothing.
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable; nothing to do where folders have no sync."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Put a file in place of another, or of none: the old or the new, never half.

    Content and name are durable on return.
    """
    passing = path.with_name(passing_name("tmp", path.name))
    try:
        write_file(passing, data)
        os.replace(passing, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(passing)
        raise
    sync_folder(path.parent)


def put_in_place(passing: Path, path: Path) -> None:
    """Put a file that something else has written in place of another, or of none.

    Args:
        passing: the new file, in the same folder, named by `passing_name`.
        path: its final name; content and name are durable on return.
    """
    sync_file(passing)
    os.replace(passing, path)
    sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add one line to a journal with a single write; it is durable on return.

    A line that a crash cut short is ended first, so that it spoils only itself.
    Lines of other threads or processes are never interleaved with this one.
    """
    is_new = not path.exists()
    # A link in its place could lead to any file of the user's.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_TRAPS
    descriptor = os.open(path, flags, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        is_cut = False
        if size:
            os.lseek(descriptor, size - 1, os.SEEK_SET)
            is_cut = os.read(descriptor, 1) != b"\n"
        os.write(descriptor, ("\n" * is_cut + line + "\n").encode())
        _sync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(path.parent)


def publish_folder(staged: Path, final: Path) -> None:
    """Give a staged folder its final name, durably; both are in the same folder.

    The caller holds the run's lock: between the check and the rename nobody else
    creates the final name.

    Raises:
        FileExistsError: the final name is taken.
    """
    if os.path.lexists(final):
        raise FileExistsError(errno.EEXIST, "the name is taken", str(final))
    os.rename(staged, final)
    sync_folder(final.parent)


def move_aside(path: Path, target: Path) -> None:
    """Rename a file or folder to a name that is free in the same folder, durably.

    Raises:
        FileExistsError: the target's name is taken.
    """
    publish_folder(path, target)


def link(path: Path, target: Path) -> None:
    """Give a file a second name; neither is durable by this alone.

    Raises:
        OSError: the file system has no such links, or the name is taken.
    """
    os.link(path, target)


def drop_file(path: Path) -> None:
    """Delete a file of a folder in the making; that it is gone need not last."""
    os.unlink(path)


def remove_file(path: Path) -> None:
    """Delete a file if it is there; that it is gone is durable on return."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder: gone under its name at once and durably, then its content.

    It is renamed first, so that a crash while its files go one by one leaves no
    half-empty folder under a name that readers trust. Content that cannot be deleted
    is a leftover then, and no error.
    """
    trash = path.with_name(passing_name("trash", path.name.strip(".")))
    os.rename(path, trash)
    sync_folder(path.parent)
    with contextlib.suppress(OSError):
        remove_leftover(trash)


def remove_leftover(path: Path) -> None:
    """Delete what `is_leftover` recognises, file or tree; a missing one is no error.

    Raises:
        ValueError: the name is not one of ours to delete.
    """
    if not is_leftover(path.name):
        raise ValueError(f"{path}: not a name that this library made to delete")
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        # Two sweeps at once: the other one was faster.
        return


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        # fsync leaves the data in the drive's own cache there.
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                raise
    os.fsync(descriptor)
