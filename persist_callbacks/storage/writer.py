"""One job at a time on a background thread, its outcome handed back exactly once."""

from __future__ import annotations

import atexit
import functools
import os
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")

THREAD_NAME = "persist_callbacks-writer"
EXIT_SECONDS = 300.0
# Waking a thread that waits holds up the train thread for a tenth of what making one
# does; one that waits in vain goes away by itself.
LINGER_SECONDS = 10.0
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

    Its thread waits some seconds for a further job, and ends then, so that none is left
    for good when `fit` ends with an exception and nobody calls `close`. All methods are
    for the train thread.
    """

    def __init__(self) -> None:
        self._line: _Line[T] = _Line()
        self._last: _Job[T] | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a job is in flight."""
        return self._last is not None and self._last.is_in_flight

    def submit(self, job: Callable[[], T]) -> None:
        """Run a job in the background; returns at once.

        The job is dropped as soon as it has run, with everything that it refers to.
        While the interpreter exits there are no new threads, since Python 3.12: where
        none is waiting the job runs here and now, and for as long as it takes.

        Raises:
            RuntimeError: a job is in flight, or the writer is closed.
        """
        if self._closed:
            raise RuntimeError("submit: the writer is closed")
        if self.busy:
            raise RuntimeError("submit: a job is in flight; ask busy first")
        _wait_at_exit()
        entry: _Job[T] = _Job([job])
        del job
        if self._last is not None and self._last.process != os.getpid():
            # A forked child has the line, and no thread that serves it.
            self._line = _Line()
        self._last = entry
        _IN_FLIGHT.add(entry)
        try:
            self._line.take(entry)
        except BaseException as error:
            if isinstance(error, RuntimeError) and "shutdown" in str(error):
                _run(entry, self._line.outcomes)
                return
            # Where there is no thread to be had, there is none to wait for.
            _withdraw(entry)
            raise

    def collect(self) -> Outcome[T] | None:
        """Hand over the oldest outcome not handed over yet, without waiting."""
        outcomes = self._line.outcomes
        return outcomes.popleft() if outcomes else None

    def drain(self, timeout: float | None = None) -> Outcome[T] | None:
        """Wait for the job in flight, then hand over an outcome as `collect` does.

        Args:
            timeout: seconds to wait at most; None waits to the end.

        Returns:
            None where there is no outcome; `busy` tells whether that was the timeout.
        """
        self.wait(timeout)
        return self.collect()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the job in flight; its outcome stays to be collected.

        Args:
            timeout: as for `drain`.
        """
        if self._last is not None and self._last.is_in_flight:
            self._last.done.wait(timeout)

    def abandon(self) -> None:
        """Wait no more for the job in flight, neither here nor when the process ends.

        Nobody is told how it ends. What it had staged is swept up by whoever opens the
        store next.
        """
        self.leave_at_exit()
        self._last = None
        self._end()
        self._line = _Line()

    def leave_at_exit(self) -> None:
        """Wait for the job in flight no more when the process ends.

        May be called from a signal handler, in the middle of any other method.
        """
        last = self._last
        if last is not None:
            _IN_FLIGHT.discard(last)

    def close(self) -> None:
        """Wait for the job in flight and take no more; its outcome can be collected."""
        self._end()
        self.wait()

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            self._line.jobs.put(None)


@dataclass(eq=False)
class _Job(Generic[T]):
    """What is to be run, in a box that is emptied when it begins."""

    box: list[Callable[[], T]]
    done: threading.Event = field(default_factory=threading.Event)
    process: int = field(default_factory=os.getpid)

    def take(self) -> Callable[[], T] | None:
        """Take the job out, once; None afterwards."""
        try:
            return self.box.pop()
        except IndexError:
            return None

    @property
    def is_in_flight(self) -> bool:
        """Whether there is something to wait for: a forked child has no such thread."""
        return not self.done.is_set() and self.process == os.getpid()


@dataclass(eq=False)
class _Line(Generic[T]):
    """What a writer and its thread share.

    Args:
        jobs: to be run; None ends the thread.
        outcomes: of those that have run.
        lock: held to put a job in, and to leave for want of one.
        thread: who takes the next one; None for nobody.
    """

    jobs: queue.SimpleQueue[_Job[T] | None] = field(default_factory=queue.SimpleQueue)
    outcomes: deque[Outcome[T]] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread | None = None

    def take(self, entry: _Job[T]) -> None:
        """Have a job run, by the thread that waits or by a new one."""
        with self.lock:
            self.jobs.put(entry)
            if self.thread is not None:
                return
            self.thread = thread = threading.Thread(
                target=_serve, args=(self,), name=THREAD_NAME, daemon=True
            )
        try:
            thread.start()
        except BaseException:
            self.leave(thread)
            raise

    def leave(self, thread: threading.Thread) -> None:
        """Note that a thread takes no more."""
        with self.lock:
            if self.thread is thread:
                self.thread = None


# Jobs that the interpreter's exit waits for.
_IN_FLIGHT: set[_Job[Any]] = set()


def _withdraw(entry: _Job[Any]) -> None:
    """Let a job that has not begun never do so; one that has begun is waited for."""
    if entry.take() is not None:
        _IN_FLIGHT.discard(entry)
        entry.done.set()


def _serve(line: _Line[T]) -> None:
    # A new thread comes into being with the interpreter's lock, and would keep it from
    # the train thread for some milliseconds.
    time.sleep(_LET_GO)
    while True:
        try:
            job = line.jobs.get(timeout=LINGER_SECONDS)
        except queue.Empty:
            with line.lock:
                if not line.jobs.empty():
                    continue
                line.thread = None
                return
        if job is None:
            return
        _run(job, line.outcomes)
        del job


def _run(entry: _Job[T], outcomes: deque[Outcome[T]]) -> None:
    job = entry.take()
    if job is None:
        # It was withdrawn.
        return
    begun = time.monotonic()
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
    _IN_FLIGHT.discard(entry)
    entry.done.set()


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
    # A copy: the writer's thread takes its job out when it is done.
    for job in list(_IN_FLIGHT):
        if job.is_in_flight:
            job.done.wait(max(0.0, deadline - time.monotonic()))
