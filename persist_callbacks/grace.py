"""The end of a process that was asked to stop and has not done so in time."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time

from persist_callbacks import standard_streams
from persist_callbacks.errors import PersistError
from persist_callbacks.interruptions import Interruptions, Request
from persist_callbacks.storage import progress
from persist_callbacks.storage.store import Store

# After the time is over, for what is said of it: a disk that hangs answers nothing.
_SECONDS_TO_SAY_SO = 2.0


class Grace:
    """Ends the process some seconds after a request to stop, if it is still there.

    Whatever the main thread does: it may be in a step of minutes, or wait for batches
    of workers that have died of the same signal. After Ctrl-C, by which a notebook is
    interrupted that shall live on, and after a notice, which may come when training has
    died and its process has not, it only says what is the matter.

    Args:
        seconds: how many; infinite for no limit.
        interruptions: where requests come in; once it is closed the program goes its
            own way to the end.
        store: the run directory, open for writing.
    """

    def __init__(
        self, seconds: float, interruptions: Interruptions, store: Store
    ) -> None:
        self.seconds = seconds if seconds <= threading.TIMEOUT_MAX else math.inf
        self._interruptions = interruptions
        self._store = store
        # Of requests that end the process, and of those that do not.
        self._begun: set[bool] = set()
        # Whether a boundary has come, at which all that can be is written in time.
        self.is_answered = False

    def begin(self, request: Request) -> None:
        """Let the time run; from any thread, and twice for the same request if need be.

        Args:
            request: to stop.
        """
        is_last = _is_last(request)
        if math.isinf(self.seconds) or is_last in self._begun:
            return
        self._begun.add(is_last)
        left = request.at + self.seconds - time.monotonic()
        timer = threading.Timer(max(0.0, left), self._end, [request])
        timer.daemon = True
        # While the interpreter exits there are no new threads.
        with contextlib.suppress(RuntimeError):
            timer.start()

    def _end(self, request: Request) -> None:
        if self.is_answered:
            # What cannot be written is given up just now.
            self._interruptions.wait_until_closed(_SECONDS_TO_SAY_SO)
        if not self._interruptions.is_open:
            return
        newest = self._note(request)
        if not self._interruptions.is_open:
            return
        standard_streams.tell(
            f"\nNo step has ended, nor all been written, within {self.seconds:g} s of "
            f"{request.reason}: the newest safe checkpoint is {newest}."
            f"{_then(request)}\n"
        )
        if _is_last(request):
            _leave(request.code)

    def _note(self, request: Request) -> str:
        """Return the newest checkpoint's name; tell the journal of an end."""
        names = ["not known, as the disk does not answer"]

        def note() -> None:
            with contextlib.suppress(OSError, PersistError):
                there = self._store.checkpoints()
                names.append(there[-1].record.name if there else "none")
                if not _is_last(request):
                    return
                reached = progress.read(self._store.directory)
                self._store.note(
                    "stopped",
                    reason=request.reason,
                    step=0 if reached is None else reached.step,
                    safe=False,
                    seconds=round(time.monotonic() - request.at, 4),
                )

        thread = threading.Thread(target=note, daemon=True)
        with contextlib.suppress(RuntimeError):
            thread.start()
            thread.join(_SECONDS_TO_SAY_SO)
        return names[-1]


def _is_last(request: Request) -> bool:
    """Whether it came by a signal that would end any program that has no handler."""
    return request.signal not in (0, signal.SIGINT)


def _then(request: Request) -> str:
    if _is_last(request):
        return " The process ends."
    return " Ctrl-\\ ends the process at once." if request.signal else ""


def _leave(code: int) -> None:
    """End the process though its main thread does not, as the signal would have.

    Workers that are to end with it, as those of a pool, would be left behind, with its
    output held open.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            with contextlib.suppress(OSError, ValueError):
                child.kill()
    os._exit(code)
