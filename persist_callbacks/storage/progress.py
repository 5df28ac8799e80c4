"""How far training had come, whatever became of its checkpoints.

A small file beside them that is written over and over and never synced: it costs a
microsecond, outlives the process, and after a power loss may be older than the newest
checkpoint. A resume report tells by it how much work was lost, and what the run cached
in files by then is known for its own.

Format: one record, little-endian: the bytes ``pcp1``, the CRC-32 of what follows, step
as uint64, seconds since the epoch as float64.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from persist_callbacks.storage import layout
from persist_callbacks.storage.reading import NO_TRAPS, read_plain

NAME = layout.PROGRESS

_HEAD = struct.Struct("<4sI")
_BODY = struct.Struct("<Qd")
_MAGIC = b"pcp1"
_MAX_BYTES = 4096


@dataclass(frozen=True)
class Progress:
    """How far training had come.

    Args:
        step: global train steps that were done.
        at: when, in seconds since 1970.
    """

    step: int
    at: float


class ProgressFile:
    """Keeps the record of one run up to date; for one thread.

    Where it cannot be written it is left out: nothing depends on it.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._descriptor = -1
        self._closed = False
        self._open()

    def note(self, step: int, *, look: bool = False) -> None:
        """Note how far training is; takes a microsecond or two.

        Args:
            step: global train steps that are done.
            look: see first whether the file is still there.

        Raises:
            OSError: it cannot be written, on a full disk say.
        """
        if self._closed:
            return
        if look and not self._path.exists():
            # Deleted under us, with the whole directory say.
            self._open()
        if self._descriptor < 0:
            return
        body = _BODY.pack(step, time.time())
        record = _HEAD.pack(_MAGIC, zlib.crc32(body)) + body
        if hasattr(os, "pwrite"):
            os.pwrite(self._descriptor, record, 0)
            return
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, record)

    def close(self) -> None:
        """Let the file go; more than once is no error."""
        self._closed = True
        self._let_go()

    def _open(self) -> None:
        self._let_go()
        flags = os.O_WRONLY | os.O_CREAT | NO_TRAPS | getattr(os, "O_CLOEXEC", 0)
        with contextlib.suppress(OSError):
            self._descriptor = os.open(self._path, flags, 0o666)

    def _let_go(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read(directory: Path) -> Progress | None:
    """Read how far training had come; None where nothing that is sound says so."""
    try:
        data = read_plain(directory / NAME, limit=_MAX_BYTES)
        magic, checksum = _HEAD.unpack_from(data)
        body = data[_HEAD.size : _HEAD.size + _BODY.size]
        if magic != _MAGIC or checksum != zlib.crc32(body):
            return None
        return Progress(*_BODY.unpack(body))
    except (OSError, struct.error):
        return None
