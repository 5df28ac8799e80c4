"""Signals are told of as they arrive, and whoever was told before still is."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import warnings

import pytest

from persist_callbacks.wakeups import Wakeups

WAIT = 60


@pytest.fixture(autouse=True)
def quiet():
    """Two signals have handlers, and nobody is told of them before or after."""
    before = {
        number: signal.signal(number, lambda *_: None)
        for number in (signal.SIGUSR1, signal.SIGUSR2)
    }
    assert signal.set_wakeup_fd(-1) == -1
    yield
    assert signal.set_wakeup_fd(-1) == -1
    for number, handler in before.items():
        signal.signal(number, handler)


def threads():
    return [each for each in threading.enumerate() if "wakeups" in each.name]


def descriptors():
    return len(os.listdir("/dev/fd"))


def listening():
    told = queue.SimpleQueue()
    wakeups = Wakeups(lambda number, at: told.put(number))
    wakeups.open()
    return wakeups, told


def test_told_until_it_is_closed():
    """Though no handler runs, as the main thread waits; and nothing is left behind."""
    before = descriptors()
    for _ in range(3):
        wakeups, told = listening()
        (thread,) = threads()
        signal.raise_signal(signal.SIGUSR1)
        assert told.get(timeout=WAIT) == signal.SIGUSR1
        wakeups.close()
        wakeups.close()
        thread.join(WAIT)
        assert threads() == []
    assert descriptors() == before


def test_whoever_was_there_before():
    """As the loop of asyncio: it is told too, and has its place again."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno())
        outer, told = listening()
        inner, told_too = listening()
        signal.raise_signal(signal.SIGUSR2)
        assert told.get(timeout=WAIT) == told_too.get(timeout=WAIT) == signal.SIGUSR2
        assert ours.recv(9) == bytes([signal.SIGUSR2])
        inner.close()
        outer.close()
        assert signal.set_wakeup_fd(-1) == theirs.fileno()


def test_whoever_has_come_since():
    """It keeps the place, and may pass on what comes."""
    wakeups, told = listening()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    passed_on = signal.set_wakeup_fd(writer)
    wakeups.close()
    assert signal.set_wakeup_fd(-1) == writer
    os.write(passed_on, bytes([signal.SIGUSR1]))
    assert told.get(timeout=WAIT) == signal.SIGUSR1
    (thread,) = threads()
    os.write(passed_on, b"\0")
    thread.join(WAIT)
    os.close(reader)
    os.close(writer)


def test_a_forked_child_has_what_was_there_before():
    """And the mask of signals that its parent had."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    wakeups, _ = listening()
    with warnings.catch_warnings():
        # From Python 3.12 on, of any fork beside threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        # From Python 3.12 on, asyncio leaves children none, where it is imported.
        is_earlier = signal.set_wakeup_fd(-1) in (writer, -1)
        os._exit(0 if is_earlier and mask == {signal.SIGUSR2} else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2]) == {
        signal.SIGUSR2
    }
    wakeups.close()
    assert signal.set_wakeup_fd(-1) == writer
    os.close(reader)
    os.close(writer)


def test_closed_in_the_order_in_which_they_were_opened():
    """The earlier one's place is taken away once the later one lets go of it."""
    earlier, _ = listening()
    later, told = listening()
    both = threads()
    earlier.close()
    signal.raise_signal(signal.SIGUSR1)
    assert told.get(timeout=WAIT) == signal.SIGUSR1
    later.close()
    assert signal.set_wakeup_fd(-1) == -1
    for thread in both:
        thread.join(WAIT)
    assert threads() == []
