"""What asks a run from outside to save, or to save and stop: signals, a file, notices.

Nothing is done when it arrives. A flag is set, and the train loop answers at its next
step boundary, where alone a run can be captured.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from persist_callbacks import standard_streams
from persist_callbacks.wakeups import Wakeups
from persist_callbacks.watchers import Watcher

# What takes a process away: the batch system, the machine, or a closed terminal.
_STOPPING = ("SIGTERM", "SIGHUP", "SIGXCPU", "SIGINT")
_SAVING = ("SIGUSR1",)
# A look for a file costs some microseconds, which short steps would feel.
_SECONDS_BETWEEN_LOOKS = 0.25


@dataclass(frozen=True)
class Request:
    """One thing that a run was asked for.

    Args:
        reason: what asked, for people and for the journal.
        stops: whether the run is to stop once it is saved.
        at: when, of the monotonic clock.
        signal: the signal's number, 0 for none.
    """

    reason: str
    stops: bool
    at: float
    signal: int = 0

    @property
    def code(self) -> int:
        """What a shell reports of a process that the signal has ended."""
        return 128 + (self.signal or int(signal.SIGTERM))

    def exit(self) -> BaseException:
        """Return what ends the program as that signal would have.

        ``KeyboardInterrupt`` for Ctrl-C. For the others ``SystemExit`` with 128 and the
        signal's number, as a shell reports it; a notice counts as SIGTERM.
        """
        if self.signal == signal.SIGINT:
            return KeyboardInterrupt()
        return SystemExit(self.code)


class Interruptions:
    """Receives requests from `open` to `close`; the train loop asks for them.

    Handlers of the user's own are called too, at once. What was there is put back at
    the end, unless somebody has taken the place over since: what still comes to us goes
    to whom it would go without us. Outside the main thread, where Python knows no
    signals, the file and the notices work all the same.

    Args:
        signals: whether to listen to signals.
        is_alive: whether the loop is still under way; a signal that finds it dead, by
            an exception that nobody told of, or that finds a forked child, goes to whom
            it would go without us.
        saves: tells whether a save was asked for by a file, and takes the file away.
        watchers: look for notices that the machine will be taken away.
    """

    def __init__(
        self,
        *,
        signals: bool,
        is_alive: Callable[[], bool],
        saves: Callable[[], bool],
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self._signals = signals
        self._is_alive = is_alive
        self._saves = saves
        self._watchers = watchers
        self._before: dict[int, Any] = {}
        # What was there before handlers that were let go: who has taken their place
        # since may call them, or put them back.
        self._behind: dict[int, Any] = {}
        self._stop: Request | None = None
        self._save: Request | None = None
        self._at_once = False
        self._looked_at = 0.0
        self._process = os.getpid()
        self._closing = threading.Event()
        self._failures: deque[tuple[Watcher, Exception]] = deque()
        self._wakeups = Wakeups(self._arrived)
        # When signals came that the main thread may not have come to yet.
        self._arrivals: dict[int, float] = {}
        # Called with each request to stop as soon as it is there, and with one that has
        # a signal maybe twice; by whatever thread.
        self.on_stop: Callable[[Request], None] = lambda request: None
        # Called when nothing is to be waited for any more.
        self.on_haste: Callable[[], None] = lambda: None

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed yet."""
        return not self._closing.is_set()

    def open(self) -> None:
        """Begin to listen."""
        if self._signals and threading.current_thread() is threading.main_thread():
            for name in (*_STOPPING, *_SAVING):
                number = getattr(signal, name, None)
                if number is not None:
                    self._take_over(number)
            if self._before:
                self._wakeups.open()
        for watcher in self._watchers:
            thread = threading.Thread(
                target=self._watch,
                args=(watcher,),
                name="persist_callbacks-watcher",
                daemon=True,
            )
            thread.start()

    def close(self, *, but_saves: bool = False) -> None:
        """Put handlers back and end the watching; more than once is no error.

        Args:
            but_saves: whether signals that ask to save stay ours, with nothing left to
                save: they would end the program otherwise.
        """
        self._closing.set()
        is_main = threading.current_thread() is threading.main_thread()
        if is_main:
            self._wakeups.close()
        for number, before in list(self._before.items()):
            if but_saves and signal.Signals(number).name in _SAVING:
                continue
            self._behind[number] = before
            if not is_main:
                # It cannot be put back from here: ours stays, and passes on.
                continue
            self._before.pop(number, None)
            if signal.getsignal(number) == self._received:
                signal.signal(number, _still_held(before, number))

    def wait_until_closed(self, seconds: float) -> None:
        """Wait until it is closed, at most so long."""
        self._closing.wait(seconds)

    @property
    def stop(self) -> Request | None:
        """The request to save and stop, None if there is none."""
        return self._stop

    @property
    def at_once(self) -> bool:
        """Whether Ctrl-C came after a request to stop: nothing is waited for then."""
        return self._at_once

    def take_save(self) -> Request | None:
        """Return the request to save and go on, once; None if there is none."""
        now = time.monotonic()
        if self._save is None and now - self._looked_at >= _SECONDS_BETWEEN_LOOKS:
            self._looked_at = now
            if self._saves():
                return Request("the SAVE file", False, now)
        request, self._save = self._save, None
        return request

    def take_failures(self) -> list[tuple[Watcher, Exception]]:
        """Return the watchers that raised for the first time, and what; once."""
        found = []
        while self._failures:
            found.append(self._failures.popleft())
        return found

    def _take_over(self, number: int) -> None:
        before = _still_held(signal.getsignal(number), number)
        # Whoever ignores a signal has reasons, as nohup has; None was set by C code,
        # and cannot be put back.
        if before is None or before == signal.SIG_IGN:
            return
        self._before[number] = before
        signal.signal(number, self._received)

    def _arrived(self, number: int, at: float) -> None:
        """Take note of a signal before the main thread does, which may never do so."""
        if number not in self._before or not self.is_open:
            return
        name = signal.Signals(number).name
        # One that somebody has taken over since is theirs, who may pass it on to us.
        if name not in _SAVING and signal.getsignal(number) == self._received:
            self._arrivals.setdefault(number, at)
            self.on_stop(Request(name, True, at, number))

    def _received(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        before = self._there_before(number)
        # A forked child has the handlers and the loop's frames, and no loop.
        is_child = os.getpid() != self._process
        if is_child and name in _SAVING and not callable(before):
            # What asks all processes of a job to save is no reason for one to end whose
            # batches the loop waits for.
            return
        if is_child or number in self._behind or not self._is_alive():
            self._pass_on(number, frame)
            return
        again = number == signal.SIGINT and self._stop is not None
        at = self._arrivals.get(number, time.monotonic())
        request = Request(name, name not in _SAVING, at, number)
        if not request.stops:
            self._save = request
        elif self._stop is None:
            self._ask_to_stop(request)
            if number == signal.SIGINT:
                standard_streams.tell(
                    "\nSaving, then stopping. Ctrl-C again to stop at once.\n"
                )
        else:
            self.on_stop(request)
        if again:
            self._at_once = True
            self.on_haste()
        if callable(before) and (again or before is not signal.default_int_handler):
            before(number, frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Do what would have been done without us."""
        before = self._there_before(number)
        is_last = signal.getsignal(number) == self._received
        self.close()
        if is_last:
            signal.signal(number, before)
        if callable(before):
            before(number, frame)
        elif is_last:
            signal.raise_signal(number)

    def _there_before(self, number: int) -> Any:
        before = self._before.get(number, self._behind.get(number, signal.SIG_DFL))
        return _still_held(before, number)

    def _ask_to_stop(self, request: Request) -> None:
        self._stop = request
        standard_streams.divert_lost_until(self._closing)
        self.on_stop(request)

    def _watch(self, watcher: Watcher) -> None:
        failed = False
        while not self._closing.is_set():
            notice = None
            try:
                notice = watcher.notice()
            except Exception as error:  # noqa: BLE001 - it is the user's code
                # What cannot be looked up now may be there to see the next time.
                if not failed:
                    self._failures.append((watcher, error))
                failed = True
            if notice is not None:
                if self._stop is None:
                    self._ask_to_stop(Request(notice, True, time.monotonic()))
                return
            self._closing.wait(watcher.seconds)


def _still_held(handler: Any, number: int) -> Any:
    """Return a handler, or what was there before it where it was let go."""
    owner = getattr(handler, "__self__", None)
    while isinstance(owner, Interruptions) and number in owner._behind:
        handler = owner._behind[number]
        owner = getattr(handler, "__self__", None)
    return handler
