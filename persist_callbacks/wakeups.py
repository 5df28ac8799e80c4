"""Signals told of as they arrive, whether or not the main thread comes to its handlers.

Python runs a handler between two instructions of the main thread, which may wait in
TensorFlow for data that never come: the workers that make them have died of the same
signal. What tells sooner is the descriptor to which the interpreter writes the number
of every signal that has a handler.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable

_END = 0
# On Windows there is no such descriptor but a socket's, and no signal that it is for.
_IS_POSSIBLE = hasattr(signal, "pthread_sigmask") and hasattr(os, "register_at_fork")
# In the order in which they began, each with the one before as what was there.
_OPEN: dict[Wakeups, None] = {}
# Those that were closed while somebody else had their place, by their descriptors.
_LEFT: dict[int, Wakeups] = {}


class Wakeups:
    """Calls a function with each signal that arrives, on a thread of its own.

    Whoever wanted to be told before, as asyncio does, still is. A forked child has what
    it would have had without us: it could write nothing but its own signals, which are
    not for us.

    Args:
        told: called with a signal's number, and when it came of the monotonic clock.
    """

    def __init__(self, told: Callable[[int, float], None]) -> None:
        self._told = told
        self._earlier = self._writer = -1
        # Of those that were left before us: nobody tells them any more.
        self._ends: list[int] = []

    def open(self) -> None:
        """Begin to listen; in the main thread alone."""
        if not _IS_POSSIBLE:
            return
        _mind_forks()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        thread = threading.Thread(
            target=self._listen,
            args=(reader, writer),
            name="persist_callbacks-wakeups",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            # There is none to be had; the handlers do without.
            os.close(reader)
            os.close(writer)
            return
        self._writer = writer
        self._earlier = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        _OPEN[self] = None

    def close(self) -> None:
        """Put back what was there; in the main thread. More than once is no error."""
        if self not in _OPEN:
            return
        del _OPEN[self]
        # Whoever has come since may pass on to us what comes: it stays as it is then,
        # and so do we.
        if self._put_back():
            with contextlib.suppress(OSError):
                os.write(self._writer, bytes([_END]))
        else:
            _LEFT[self._writer] = self

    def forget(self) -> None:
        """Put back what was there, in a child, which has no thread that listens."""
        self._put_back()

    def _put_back(self) -> bool:
        """Take the place that was ours away; False if somebody else has it by now."""
        present = signal.set_wakeup_fd(-1)
        is_ours = present in (self._writer, -1)
        there = self._earlier if present == self._writer else present
        while present == self._writer and there in _LEFT:
            self._ends.append(there)
            there = _LEFT.pop(there)._earlier
        if there != -1:
            # It may have been closed meanwhile.
            with contextlib.suppress(OSError, ValueError):
                signal.set_wakeup_fd(there, warn_on_full_buffer=False)
        return is_ours

    def _listen(self, reader: int, writer: int) -> None:
        while True:
            received = os.read(reader, 64)
            now = time.monotonic()
            numbers = received.replace(bytes([_END]), b"")
            if numbers and self._earlier != -1:
                # Its reader is slow, or gone: we are not to fail of it.
                with contextlib.suppress(OSError):
                    os.write(self._earlier, numbers)
            for number in numbers:
                self._told(number, now)
            if len(numbers) < len(received):
                for end in self._ends:
                    with contextlib.suppress(OSError):
                        os.write(end, bytes([_END]))
                _LEFT.pop(writer, None)
                os.close(writer)
                os.close(reader)
                return


@functools.cache
def _mind_forks() -> None:
    """Let no signal of a child's be taken for one of the parent's; once a process.

    Between the fork and what is done here in the child, no signal comes through.
    """
    masks: dict[int, set[int]] = {}

    def before() -> None:
        blocked = signal.valid_signals() if _OPEN else ()
        masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)

    def in_parent() -> None:
        mask = masks.pop(threading.get_ident(), None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def in_child() -> None:
        try:
            while _OPEN:
                _OPEN.popitem()[0].forget()
        finally:
            in_parent()

    os.register_at_fork(
        before=before, after_in_parent=in_parent, after_in_child=in_child
    )
