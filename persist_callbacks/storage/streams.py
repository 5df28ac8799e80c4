"""Files that are written front to back, at as little cost to training as can be.

A large file goes around the system's cache where the file system lets it
(``O_DIRECT``): the device takes it from two buffers that are used over and over, while
the next bytes are made ready. Pages of the cache would have to be found, cleared and
copied to, which takes more of the processors than all the checksums do, and would push
out what training reads. Elsewhere, and for small files, the system copies; it is told
to begin writing soon, so that less is left to be waited for when the file is synced.

Nothing here makes anything durable; NumPy is imported inside, as in `bundle`.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import queue
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from persist_callbacks.storage import durable

if TYPE_CHECKING:
    import numpy as np

if sys.platform != "win32":
    import fcntl

THREAD_NAME = "persist_callbacks-disk"
# Smaller files fit into the cache without anybody noticing.
_LARGE = 16 * 1024**2
_BUFFER = 4 * 1024**2
_BUFFERS = 2
_HUGE_PAGE = 2 * 1024**2
# What devices want lengths and offsets to be multiples of; none is known to want more,
# and one that did would be written through the cache.
_ALIGNMENT = 4096
# Of a file in the cache, how much is gathered before the system is to write it.
_SOON = 8 * 1024**2
# Buffers of the last stream, for the next one: memory that is new to the process costs
# several times what copying to it does.
_SPARE: list[mmap.mmap] = []


class Stream(Protocol):
    """A file in the making; for one thread. `close` is called however it ends."""

    def write(self, block: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Append bytes; they are copied on return."""

    def finish(self) -> None:
        """Hand all that was written to the system."""

    def close(self) -> None:
        """Let go of the file."""


def open_stream(path: Path, expected: int) -> Stream:
    """Make a new file and write it front to back.

    Args:
        path: not there yet.
        expected: bytes that it is going to hold, more or less.

    Raises:
        OSError: the system refused; the methods of a stream raise it too.
    """
    if expected >= _LARGE and hasattr(os, "O_DIRECT"):
        try:
            return DirectStream(path, expected)
        except FileExistsError:
            raise
        except OSError:
            # File systems that know no such thing answer in many ways; some make the
            # file before they do. What else is wrong the other way meets too.
            return CachedStream(path, os.O_CREAT | os.O_TRUNC)
    return CachedStream(path)


class CachedStream:
    """Writes through the system's cache.

    Args:
        path: of the file.
        how: flags of ``open`` for making it.
    """

    def __init__(self, path: Path, how: int = os.O_CREAT | os.O_EXCL) -> None:
        flags = os.O_WRONLY | how | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._written = self._begun = 0

    def write(self, block: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Append bytes."""
        _write_all(self._descriptor, block.data)
        self._written += block.nbytes
        if self._written - self._begun >= _SOON:
            begun, self._begun = self._begun, self._written
            durable.begin_writing(self._descriptor, begun, self._written - begun)

    def finish(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """Let go of the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class DirectStream:
    """Writes around the system's cache, by a thread that waits for the device.

    Args:
        path: of the file.
        expected: its size, more or less.
    """

    def __init__(self, path: Path, expected: int) -> None:
        import numpy as np

        self._written, self._expected = 0, expected
        self._error: BaseException | None = None
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._memory = _buffers()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(path, flags | os.O_DIRECT, 0o666)
        try:
            # With its size known, a file system need not note a new one at each write.
            os.ftruncate(self._descriptor, expected)
            # A map begins at a page, which is all the alignment that is needed.
            whole = _at_huge_page(np.frombuffer(self._memory, np.uint8))
            for number in range(_BUFFERS):
                self._free.put(whole[number * _BUFFER : (number + 1) * _BUFFER])
            self._buffer, self._filled = self._free.get(), 0
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        thread = threading.Thread(target=self._pour, name=THREAD_NAME, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # There are no new threads while the interpreter exits; a checkpoint that is
            # being written then is written all the same.
            return
        self._thread = thread

    def write(self, block: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Append bytes, once there is room for them."""
        import numpy as np

        while block.nbytes:
            part = block[: _BUFFER - self._filled]
            # Without the interpreter's lock.
            np.copyto(self._buffer[self._filled : self._filled + part.nbytes], part)
            self._filled += part.nbytes
            block = block[part.nbytes :]
            if self._filled == _BUFFER:
                self._hand_over(self._buffer)
                self._buffer, self._filled = self._free.get(), 0
                self._check()

    def finish(self) -> None:
        """Wait until all has been written; what is left over goes through the cache."""
        even = self._filled - self._filled % _ALIGNMENT
        if even:
            self._hand_over(self._buffer[:even])
        self._stop()
        self._check()
        rest = self._buffer[even : self._filled]
        if rest.nbytes:
            _use_cache(self._descriptor)
            _write_all(self._descriptor, rest.data)
            self._written += rest.nbytes
        if self._written < self._expected:
            os.ftruncate(self._descriptor, self._written)

    def close(self) -> None:
        """Let go of the file, and of the buffers for the next one."""
        self._stop()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            if not _SPARE:
                _SPARE.append(self._memory)

    def _hand_over(self, block: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        if self._thread is None:
            self._take(block)
        else:
            self._full.put(block)

    def _stop(self) -> None:
        if self._thread is not None:
            self._full.put(None)
            self._thread.join()
            self._thread = None

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _pour(self) -> None:
        while (block := self._full.get()) is not None:
            self._take(block)

    def _take(self, block: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Write a block, unless one before it could not be; runs on either thread."""
        if self._error is None:
            try:
                _write_all(self._descriptor, block.data)
                self._written += block.nbytes
            except BaseException as error:  # noqa: BLE001 - raised by `_check`
                self._error = error
        self._free.put(block)


def _buffers() -> mmap.mmap:
    try:
        return _SPARE.pop()
    except IndexError:
        pass
    # Private to the process: a forked child must not write into ours.
    if sys.platform == "win32":
        return mmap.mmap(-1, _BUFFERS * _BUFFER + _HUGE_PAGE)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, _BUFFERS * _BUFFER + _HUGE_PAGE, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Memory in one piece is handed to the device in few, which some virtual disks
        # take half again as fast. A system that has no huge pages says so.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _at_huge_page(whole: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Leave out what lies before the first huge page."""
    return whole[-whole.ctypes.data % _HUGE_PAGE :]


def _write_all(descriptor: int, block: memoryview) -> None:
    while block:
        try:
            block = block[os.write(descriptor, block) :]
        except OSError as error:
            # After a write that was cut short, or on a device that wants more than
            # `_ALIGNMENT`, the cache has to see to it.
            refused = error.errno in (errno.EINVAL, errno.ENOTSUP)
            if not refused or not _use_cache(descriptor):
                raise


def _use_cache(descriptor: int) -> bool:
    """Write through the cache from now on; False if that was so before."""
    if sys.platform == "win32":
        return False
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    direct = getattr(os, "O_DIRECT", 0)
    if not flags & direct:
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~direct)
    return True
