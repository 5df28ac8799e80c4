"""One writing process a run directory."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

import filelock
import msgspec

from persist_callbacks.errors import RunLocked
from persist_callbacks.storage import durable, layout
from persist_callbacks.storage.reading import read_plain

OWNER = layout.OWNER
_MAX_OWNER = 4096


class Owner(msgspec.Struct, frozen=True):
    """Who took the lock last."""

    pid: int
    host: str


class RunLock:
    """The right to write to a run directory, held until `release` or process end.

    The operating system gives it up when the process dies, whatever way it dies; the
    files stay and mean nothing by themselves. Where the file system has no locks it
    keeps nobody out: a file in place of one would outlive a process that is killed.

    Args:
        directory: an existing folder.

    Raises:
        RunLocked: a live process holds it.
        OSError: the lock file cannot be created.
    """

    def __init__(self, directory: Path) -> None:
        # Not thread_local: training ends on another thread than it began in where a
        # signal or a notebook stops it.
        self._lock = _file_lock(directory, thread_local=False)
        try:
            self._without = not _acquire(self._lock)
            if self._without:
                (directory / layout.LOCK).touch()
        except filelock.Timeout:
            raise RunLocked(
                directory,
                expected="no other process writing to this run",
                found=_describe(_read_owner(directory)),
                advice="Stop it, or give this run another directory.",
            ) from None
        self._directory = directory
        self._file = _identity(directory / layout.LOCK)

    def sign(self) -> None:
        """Write down who holds it, for those who find it taken.

        Raises:
            OSError: it cannot be written; the lock is held all the same.
        """
        owner = Owner(os.getpid(), socket.gethostname())
        durable.replace_file(self._directory / OWNER, msgspec.json.encode(owner))

    @property
    def held(self) -> bool:
        """Whether the lock is still held."""
        return self._lock.is_locked or self._without

    @property
    def keeps_others_out(self) -> bool:
        """Whether it is held where the file system has locks."""
        return self._lock.is_locked

    @property
    def device(self) -> int | None:
        """The file system that it was taken on; None where nothing says so."""
        return None if self._file is None else self._file[0]

    def is_in_place(self) -> bool:
        """Whether whoever comes next meets this lock: its file is still the one there.

        A file that was deleted, with its directory say, keeps nobody out any more.
        """
        return self.held and _identity(self._lock.lock_file) == self._file

    def release(self) -> None:
        """Let others write; more than once is no error."""
        self._lock.release(force=True)
        self._without = False


def holder(directory: Path) -> Owner | None:
    """Tell which live process holds the lock of a run directory, None for none.

    Changes nothing but that it holds the lock itself for an instant. Where the file
    system has none, it is whoever came last, dead or alive.
    """
    if not (directory / layout.LOCK).exists():
        return None
    probe = _file_lock(directory)
    try:
        if _acquire(probe):
            probe.release()
            return None
    except filelock.Timeout:
        pass
    return _read_owner(directory)


def is_here(owner: Owner) -> bool:
    """Whether a process is one of this machine."""
    return owner.host == socket.gethostname()


def is_held_by(directory: Path, pid: int) -> bool:
    """Whether a process of that number has the lock file of a run directory open.

    Where the system lists what processes have open, as Linux does: a number may be
    another process's by now, or have been given in another container of this name.

    Args:
        directory: the run directory.
        pid: the process, of this system.

    Raises:
        OSError: there is none, or what it has open is kept from us.
    """
    lock = _identity(directory / layout.LOCK)
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        # One may be closed meanwhile.
        with contextlib.suppress(OSError):
            status = descriptor.stat()
            if (status.st_dev, status.st_ino) == lock:
                return True
    return False


def _file_lock(directory: Path, *, thread_local: bool = True) -> filelock.BaseFileLock:
    return filelock.FileLock(
        directory / layout.LOCK,
        timeout=0,
        thread_local=thread_local,
        fallback_to_soft=False,
    )


def _acquire(lock: filelock.BaseFileLock) -> bool:
    """Take a lock; False where the file system has none, as Lustre without ``flock``.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the file cannot be opened.
    """
    try:
        lock.acquire()
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return False
    return True


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _read_owner(directory: Path) -> Owner | None:
    try:
        return msgspec.json.decode(
            read_plain(directory / OWNER, limit=_MAX_OWNER), type=Owner
        )
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # Taken an instant ago, its owner not written yet.
        return None


def _describe(owner: Owner | None) -> str:
    if owner is None:
        return "one that has just begun"
    if not is_here(owner):
        return f"process {owner.pid} on {owner.host}"
    if owner.pid == os.getpid():
        return f"this very process ({owner.pid}), in a run that was not closed"
    return f"process {owner.pid}"
