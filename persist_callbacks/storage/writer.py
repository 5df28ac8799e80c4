"""One job at a time on a background thread, its outcome handed back exactly once."""

from __future__ import annotations

import atexit
import functools
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

THREAD_NAME = "persist_callbacks-writer"
EXIT_SECONDS = 300.0
_LET_GO = 0.001


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How a job ended.

    Args:
        value: what it returned; None if it failed.
        error: what it raised, or None.
        seconds: how long it ran.
        trace: the traceback as text, empty without an error.
    """

    value: T | None
    error: BaseException | None
    seconds: float
    trace: str = ""

    def result(self) -> T:
        """Return what the job returned, or raise what it raised."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


class Writer(Generic[T]):
    """Runs jobs behind the train thread, one in flight.

    Each job gets a fresh thread: between jobs there is none to leak when `fit` ends
    with an exception and nobody calls `close`. All methods are for the train thread.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._outcomes: deque[Outcome[T]] = deque()
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a job is in flight."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, job: Callable[[], T]) -> None:
        """Run a job in the background; returns at once.

        The job is dropped as soon as it has run, with everything that it refers to.

        Raises:
            RuntimeError: a job is in flight, or the writer is closed.
        """
        if self._closed:
            raise RuntimeError("submit: the writer is closed")
        if self.busy:
            raise RuntimeError("submit: a job is in flight; ask busy first")
        _wait_at_exit()
        box = [job]
        del job
        thread = threading.Thread(
            target=_run, args=(box, self._outcomes), name=THREAD_NAME, daemon=True
        )
        # Where there is no thread to be had, there is none to wait for.
        thread.start()
        self._thread = thread

    def collect(self) -> Outcome[T] | None:
        """Hand over the oldest outcome not handed over yet, without waiting."""
        return self._outcomes.popleft() if self._outcomes else None

    def drain(self, timeout: float | None = None) -> Outcome[T] | None:
        """Wait for the job in flight, then hand over an outcome as `collect` does.

        Args:
            timeout: seconds to wait at most; None waits to the end.

        Returns:
            None where there is no outcome; `busy` tells whether that was the timeout.
        """
        if self._thread is not None:
            self._thread.join(timeout)
        return self.collect()

    def abandon(self) -> None:
        """Wait no more for the job in flight, neither here nor when the process ends.

        What it had staged is swept up by whoever opens the store next.
        """
        if self._thread is not None:
            self._thread.name = f"{THREAD_NAME}, abandoned"
            self._thread = None
        self._closed = True

    def close(self) -> None:
        """Wait for the job in flight and take no more; its outcome can be collected."""
        self._closed = True
        if self._thread is not None:
            self._thread.join()


def _run(box: list[Callable[[], T]], outcomes: deque[Outcome[T]]) -> None:
    job = box.pop()
    begun = time.monotonic()
    # A new thread comes into being with the interpreter's lock, and would keep it from
    # the train thread for some milliseconds.
    time.sleep(_LET_GO)
    value: T | None = None
    error: BaseException | None = None
    trace = ""
    try:
        value = job()
    except BaseException as raised:  # noqa: BLE001 - handed back whatever it is
        error = raised
        trace = "".join(traceback.format_exception(raised))
        _forget_frames(raised)
    del job
    outcomes.append(Outcome(value, error, time.monotonic() - begun, trace))


def _forget_frames(error: BaseException) -> None:
    """Take the tracebacks off an error and its causes.

    Their frames hold the captured state, by their locals and, which
    `traceback.clear_frames` leaves alone, by the functions that they run.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        current.__traceback__ = None
        waiting.extend(
            other for other in (current.__cause__, current.__context__) if other
        )


@functools.cache
def _wait_at_exit() -> None:
    """Give jobs in flight a limited time when the interpreter exits.

    The threads are daemons, or a hung disk would keep a script that has died from
    ever exiting; but daemons are cut off in the middle of a write, so they are waited
    for here. Registered at the first job and not at import: handlers run last come
    first, and TensorFlow's own must find the jobs done.
    """
    atexit.register(_join_all)


def _join_all() -> None:
    deadline = time.monotonic() + EXIT_SECONDS
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(max(0.0, deadline - time.monotonic()))
