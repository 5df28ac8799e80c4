from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref

import pytest

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


def test_no_thread_is_left_between_jobs() -> None:
    """A writer that nobody closes leaves nothing behind."""
    writer: Writer[None] = Writer()
    writer.submit(lambda: None)
    writer.drain()
    assert THREAD_NAME not in [thread.name for thread in threading.enumerate()]


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
