"""One writing process a run directory."""

from __future__ import annotations

import os
import socket
import weakref
from pathlib import Path

import filelock
import msgspec

from persist_callbacks.errors import RunLocked
from persist_callbacks.storage import durable

_LOCK = ".lock"
_OWNER = ".lock-owner"


# The locks that this process has taken, by real path.
_taken: weakref.WeakValueDictionary[str, RunLock] = weakref.WeakValueDictionary()


class Owner(msgspec.Struct, frozen=True):
    """Who took the lock last."""

    pid: int
    host: str


class RunLock:
    """The right to write to a run directory, held until `release` or process end.

    The operating system gives it up when the process dies, whatever way it dies; the
    files stay and mean nothing by themselves.

    Args:
        directory: an existing folder.

    Raises:
        RunLocked: a live process holds it.
        OSError: the lock file cannot be created.
    """

    def __init__(self, directory: Path) -> None:
        # Not thread_local: training ends on another thread than it began in where a
        # signal or a notebook stops it.
        self._lock = filelock.FileLock(directory / _LOCK, timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise RunLocked(
                directory,
                expected="no other process writing to this run",
                found=_describe(_read_owner(directory)),
                advice="Stop it, or give this run another directory.",
            ) from None
        _taken[os.path.realpath(directory)] = self
        owner = Owner(os.getpid(), socket.gethostname())
        try:
            durable.replace_file(directory / _OWNER, msgspec.json.encode(owner))
        except BaseException:
            self.release()
            raise

    @property
    def held(self) -> bool:
        """Whether the lock is still held."""
        return self._lock.is_locked

    def release(self) -> None:
        """Let others write; more than once is no error."""
        self._lock.release(force=True)


def release_own(directory: Path) -> None:
    """Release the lock of a run directory if this very process holds it."""
    taken = _taken.get(os.path.realpath(directory))
    if taken is not None:
        taken.release()


def _read_owner(directory: Path) -> Owner | None:
    try:
        return msgspec.json.decode((directory / _OWNER).read_bytes(), type=Owner)
    except (OSError, msgspec.MsgspecError):
        # Taken an instant ago, its owner not written yet.
        return None


def _describe(owner: Owner | None) -> str:
    if owner is None:
        return "one that has just begun"
    if owner.host != socket.gethostname():
        return f"process {owner.pid} on {owner.host}"
    if owner.pid == os.getpid():
        return f"this very process ({owner.pid}), in a run that was not closed"
    return f"process {owner.pid}"
