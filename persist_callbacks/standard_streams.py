"""Standard output and error, whose readers may be gone before the program is.

What asks a run to stop often takes them away too: Ctrl-C ends ``tee`` as well, and a
terminal is closed before its SIGHUP comes. The next line of a progress bar would then
end training by an error, before the boundary where it is saved.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
import threading
from typing import IO

# How long a reader is waited for that may be dying of the same signal.
_MILLISECONDS_TO_DIE = 50
# How soon the watching ends when a run does.
_MILLISECONDS_BETWEEN_LOOKS = 250


def tell(message: str) -> None:
    """Write to standard error from a signal handler or a thread; never fails.

    Not by print, which the train thread may be in the middle of.
    """
    with contextlib.suppress(OSError):
        descriptor = _descriptor(sys.__stderr__)
        if descriptor is not None:
            os.write(descriptor, message.encode(errors="replace"))


def divert_lost() -> None:
    """Send what is written to a reader that is gone to nowhere."""
    _Readers().divert(0)


def divert_lost_until(end: threading.Event) -> None:
    """Do so now, and for each reader that goes before an end, as soon as it does."""
    readers = _Readers()
    readers.divert(_MILLISECONDS_TO_DIE if readers.are_programs else 0)

    def watch() -> None:
        while readers.left and not end.is_set():
            readers.divert(_MILLISECONDS_BETWEEN_LOOKS)

    if readers.left:
        threading.Thread(
            target=watch, name="persist_callbacks-readers", daemon=True
        ).start()


class _Readers:
    """Who reads what the program writes, as far as the system tells when they go."""

    def __init__(self) -> None:
        self.left: set[int] = set()
        if not hasattr(select, "poll"):
            # On Windows.
            return
        self._poll = select.poll()
        for stream in (sys.__stdout__, sys.__stderr__):
            descriptor = _descriptor(stream)
            if descriptor is not None:
                self.left.add(descriptor)
                # A hang-up is reported whatever is asked for.
                self._poll.register(descriptor, 0)

    @property
    def are_programs(self) -> bool:
        """Whether one is behind a pipe, and may get a signal of its own."""
        with contextlib.suppress(OSError):
            return any(stat.S_ISFIFO(os.fstat(each).st_mode) for each in self.left)
        return False

    def divert(self, milliseconds: int) -> None:
        """Wait until one goes, at most so long, and put ``os.devnull`` in its place."""
        if not self.left:
            return
        for descriptor, event in self._poll.poll(milliseconds):
            self._poll.unregister(descriptor)
            self.left.discard(descriptor)
            if event & (select.POLLERR | select.POLLHUP):
                with contextlib.suppress(OSError):
                    _divert(descriptor)


def _divert(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
    finally:
        os.close(nowhere)


def _descriptor(stream: IO[str] | None) -> int | None:
    """Return what a stream of the interpreter's own writes to, None if nothing.

    A number that was closed when the program began may be some other file's by now.
    """
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None
