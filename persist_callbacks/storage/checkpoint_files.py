"""The files of a checkpoint folder, as they are found: plain, there, of some size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from persist_callbacks.errors import (
    CheckpointDamaged,
    CheckpointUnreadable,
    PersistError,
)
from persist_callbacks.storage import layout
from persist_callbacks.storage.reading import read_plain

GO_BACK = "Use an earlier checkpoint, or restore this one from a copy."
# Rights, limits of the process, and a server that is away: another time, or to another
# user, the file can be read.
_NO_DAMAGE = frozenset(
    [
        *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
        *(errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN),
    ]
)


def require_folder(folder: Path) -> None:
    """Refuse what has a checkpoint's name and is no folder of its own.

    Raises:
        CheckpointDamaged: it is a link, a file, or not there.
    """
    try:
        mode = os.lstat(folder).st_mode
    except OSError as error:
        raise unreadable(folder.name, error) from error
    if not stat.S_ISDIR(mode):
        raise CheckpointDamaged(
            folder.name,
            expected="a folder",
            found="a link" if stat.S_ISLNK(mode) else "a file",
            advice="Put the checkpoint's own folder in its place.",
        )


def plain_file_size(folder: Path, name: str) -> int:
    """Give the bytes of a file of a checkpoint.

    Raises:
        CheckpointDamaged: it is a link, no plain file, or not there.
    """
    where = f"{folder.name}/{name}"
    try:
        status = os.lstat(folder / name)
    except FileNotFoundError:
        raise CheckpointDamaged(
            where, expected="a file", found="nothing", advice=GO_BACK
        ) from None
    except OSError as error:
        raise unreadable(where, error) from error
    if not stat.S_ISREG(status.st_mode):
        # A link could lead out of the folder, and is not what was checksummed.
        kind = "a link" if stat.S_ISLNK(status.st_mode) else "no plain file"
        raise CheckpointDamaged(
            where, expected="a plain file", found=kind, advice=GO_BACK
        )
    return status.st_size


def require_within(where: str, size: int, bound: int | None) -> None:
    """Refuse a file that would fill the memory.

    Args:
        where: the file, for the message.
        size: its bytes.
        bound: how many it may have; None for any number.

    Raises:
        CheckpointDamaged: it has more.
    """
    if bound is not None and size > bound:
        raise CheckpointDamaged(
            where,
            expected=f"at most {bound} bytes",
            found=f"{size}: more than could be read safely",
            advice=GO_BACK,
        )


def read_file(folder: Path, name: str) -> bytes:
    """Read one of a checkpoint's files into memory; `layout.LARGEST` bounds it.

    Raises:
        CheckpointDamaged: it is missing, too large, or cannot be read.
    """
    try:
        return read_plain(folder / name, limit=layout.LARGEST[name])
    except OSError as error:
        raise unreadable(f"{folder.name}/{name}", error) from error


def unreadable(where: str, error: OSError) -> CheckpointDamaged:
    """Make an error of what the system says of a file.

    Returns:
        A `CheckpointUnreadable` where the file may well be sound.
    """
    if error.errno in _NO_DAMAGE:
        return CheckpointUnreadable(
            where,
            expected="to be allowed to read it",
            found=error.strerror or str(error),
            advice="See to that and try again: it may be sound. To go on from an "
            "earlier checkpoint, move this one away.",
        )
    return CheckpointDamaged(
        where,
        expected="a readable file",
        found=error.strerror or str(error),
        advice="Check the permissions and the disk.",
    )


def may_pass(error: PersistError) -> bool:
    """Whether another answer may come in a moment.

    A server that is slow is told of as a bad sector is, by an I/O error.
    """
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.EIO
