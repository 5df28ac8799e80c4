from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from persist_callbacks.storage import writer as writing
from persist_callbacks.storage.writer import THREAD_NAME, Writer


class Captured:
    """Stands for the tensors of a checkpoint."""


def fail(error: BaseException) -> None:
    raise error


def test_a_job_runs_on_the_named_thread_and_hands_its_value_back_once() -> None:
    """The outcome is there after the job, once, with the time it took."""
    writer: Writer[str] = Writer()
    writer.submit(lambda: threading.current_thread().name)
    outcome = writer.drain()
    assert outcome is not None
    assert outcome.result() == THREAD_NAME
    assert outcome.seconds >= 0.0
    assert writer.collect() is None
    writer.close()


def test_one_job_in_flight() -> None:
    """While a job runs the writer is busy, and a second job is a programming error."""
    writer: Writer[None] = Writer()
    gate = threading.Event()
    writer.submit(lambda: gate.wait() and None)
    assert writer.busy
    assert writer.collect() is None
    assert writer.drain(timeout=0.01) is None
    with pytest.raises(RuntimeError, match="a job is in flight"):
        writer.submit(lambda: None)
    gate.set()
    assert writer.drain() is not None
    assert not writer.busy
    writer.close()


@pytest.mark.parametrize("error", [OSError("disk full"), SystemExit(3), MemoryError()])
def test_an_error_is_handed_back_once(error: BaseException) -> None:
    """Whatever a job raises is an outcome, and no exception of the thread."""
    writer: Writer[None] = Writer()
    writer.submit(lambda: fail(error))
    outcome = writer.drain()
    assert outcome is not None
    assert outcome.error is error
    with pytest.raises(type(error)):
        outcome.result()
    assert writer.drain() is None
    writer.close()


def test_outcomes_nobody_asked_for_are_kept() -> None:
    """A second job does not push the first one's error out."""
    writer: Writer[int] = Writer()
    writer.submit(lambda: 1 // 0)
    while writer.busy:
        threading.Event().wait(0.001)
    writer.submit(lambda: 2)
    writer.close()
    first, second = writer.collect(), writer.collect()
    assert first is not None
    assert isinstance(first.error, ZeroDivisionError)
    assert second is not None
    assert second.result() == 2


@pytest.mark.parametrize("fails", [False, True])
def test_the_job_is_dropped_when_it_has_run(fails: bool) -> None:
    """What a job captured is free after it, even while its error is kept."""
    writer: Writer[None] = Writer()
    captured = Captured()
    alive = weakref.ref(captured)

    def job(captured: Captured = captured) -> None:
        local = captured
        try:
            if fails:
                raise OSError("disk full")
        except OSError as error:
            raise ValueError("cannot save") from error
        assert local

    del captured
    writer.submit(job)
    del job
    outcome = writer.drain()
    gc.collect()
    assert outcome is not None
    assert (outcome.error is not None) == fails
    assert ("disk full" in outcome.trace and "cannot save" in outcome.trace) == fails
    assert alive() is None
    writer.close()


def test_close_waits_and_then_takes_no_more() -> None:
    """The job in flight is finished, its outcome kept, and the next one refused."""
    writer: Writer[int] = Writer()
    gate = threading.Event()
    writer.submit(lambda: int(gate.wait()))
    threading.Timer(0.05, gate.set).start()
    writer.close()
    outcome = writer.collect()
    assert outcome is not None
    assert outcome.result() == 1
    with pytest.raises(RuntimeError, match="the writer is closed"):
        writer.submit(lambda: 2)
    writer.close()


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == THREAD_NAME]


def test_no_thread_is_left_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that nobody closes leaves nothing behind, after a while."""
    monkeypatch.setattr(writing, "LINGER_SECONDS", 0.05)
    writer: Writer[None] = Writer()
    writer.submit(lambda: None)
    writer.drain()
    for thread in threads():
        thread.join(10.0)
    assert not threads()
    # The next job gets another one.
    writer.submit(lambda: None)
    outcome = writer.drain()
    assert outcome is not None
    assert outcome.error is None
    writer.close()


def test_one_thread_runs_jobs_that_follow_soon() -> None:
    """It is woken for the next job, and gone at once after close."""
    writer: Writer[int] = Writer()
    ran = []
    for _ in range(3):
        writer.submit(threading.get_ident)
        outcome = writer.drain()
        assert outcome is not None
        ran.append(outcome.result())
    assert len(set(ran)) == 1
    writer.close()
    for thread in threads():
        thread.join(10.0)
    assert not threads()


def test_no_job_is_lost_between_lingering_and_leaving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However the two fall together, each job is run."""
    monkeypatch.setattr(writing, "LINGER_SECONDS", 0.0005)
    writer: Writer[int] = Writer()
    for number in range(300):
        writer.submit(lambda number=number: number)
        outcome = writer.drain(timeout=10.0)
        assert outcome is not None
        assert outcome.result() == number
        time.sleep(0.0001 * (number % 10))
    writer.close()


@pytest.mark.parametrize("error", [RuntimeError("no thread"), KeyboardInterrupt()])
def test_a_job_that_cannot_begin(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """It is never run and never waited for; what came before it is not lost."""
    monkeypatch.setattr(writing, "LINGER_SECONDS", 0.01)
    writer: Writer[int] = Writer()
    writer.submit(lambda: 1 // 0)
    writer.wait()
    for thread in threads():
        thread.join(10.0)
    ran: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: fail(error))
        with pytest.raises(type(error)):
            writer.submit(lambda: ran.append(1) or 1)
    assert not writer.busy
    assert not writing._IN_FLIGHT
    writer.submit(lambda: 2)
    writer.close()
    first, second = writer.collect(), writer.collect()
    assert first is not None
    assert isinstance(first.error, ZeroDivisionError)
    assert second is not None
    assert second.result() == 2
    assert writer.collect() is None
    assert ran == []


def test_a_job_while_the_interpreter_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no new threads then, since Python 3.12: it is run all the same."""
    error = RuntimeError("can't create new thread at interpreter shutdown")
    monkeypatch.setattr(threading.Thread, "start", lambda self: fail(error))
    writer: Writer[int] = Writer()
    writer.submit(lambda: 3)
    assert not writer.busy
    outcome = writer.collect()
    assert outcome is not None
    assert outcome.result() == 3
    writer.submit(lambda: 1 // 0)
    outcome = writer.drain()
    assert outcome is not None
    assert isinstance(outcome.error, ZeroDivisionError)
    writer.close()
    assert not writing._IN_FLIGHT


def test_a_forked_child_has_a_thread_of_its_own() -> None:
    """The parent's thread lingers, and is not there in the child."""
    script = """
import os
from persist_callbacks.storage.writer import Writer
writer = Writer()
writer.submit(lambda: 1)
assert writer.drain().result() == 1
child = os.fork()
if not child:
    writer.submit(lambda: 2)
    outcome = writer.drain(timeout=10.0)
    writer.close()
    os._exit(0 if outcome is not None and outcome.result() == 2 else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_an_abandoned_job_is_not_waited_for() -> None:
    """Neither by close nor when the process ends."""
    writer: Writer[None] = Writer()
    gate = threading.Event()
    writer.submit(lambda: gate.wait() and None)
    writer.abandon()
    writer.close()
    assert not writer.busy
    assert not list(writing._IN_FLIGHT)
    gate.set()
    for thread in threads():
        thread.join(10.0)


@pytest.mark.parametrize(
    ("limit", "seconds", "written"), [(60.0, 0.3, True), (0.1, 60.0, False)]
)
def test_a_script_that_dies_finishes_its_job_but_not_a_hung_one(
    limit: float, seconds: float, written: bool
) -> None:
    """At exit the job in flight gets its time, and no more than that."""
    script = f"""
import time
from persist_callbacks.storage import writer
writer.EXIT_SECONDS = {limit}
def job():
    time.sleep({seconds})
    print("written", flush=True)
writer.Writer().submit(job)
raise ValueError("the script dies")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert "the script dies" in done.stderr
    assert ("written" in done.stdout) == written
