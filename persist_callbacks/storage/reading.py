"""Reading files that somebody else may have put there: plain ones, within a bound."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# A link could lead out of the directory, a pipe would be waited at for ever. What a
# system does not have is none of its dangers.
NO_TRAPS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def read_plain(path: Path, *, limit: int) -> bytes:
    """Read a whole file, following no link.

    Args:
        path: the file.
        limit: bytes that it may have at most.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read, is no plain file, or has more bytes.
    """
    with open(path, "rb", opener=_open) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        # Not the size that the system tells: it may grow while it is read.
        data = file.read(min(limit, status.st_size) + 1)
        if len(data) > limit:
            raise OSError(errno.EFBIG, f"more than {limit} bytes", str(path))
        return data + file.read(max(0, limit - len(data)))


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | NO_TRAPS)
