"""``persist-callbacks save``: a checkpoint of a run that is under way, now."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path

import click

from persist_callbacks.cli import wording
from persist_callbacks.cli.examples import examples
from persist_callbacks.cli.parameters import LocalPath, seconds
from persist_callbacks.errors import RunNotActive
from persist_callbacks.storage import durable, layout, lock, progress
from persist_callbacks.storage.store import Store

_SECONDS_BETWEEN_LOOKS = 0.1


@click.command(
    "save",
    epilog=examples(
        "persist-callbacks save runs/digits",
        "persist-callbacks save runs/digits --signal --wait 0",
    ),
)
@click.argument("run", type=LocalPath())
@click.option(
    "--signal",
    "by_signal",
    is_flag=True,
    help="Send SIGUSR1 to the process, on this machine, in place of touching a file; "
    "for a fit in its main thread, with save_on_signal.",
)
@click.option(
    "--wait",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0),
    callback=seconds,
    help="Seconds to wait for the checkpoint; 0 asks and returns at once.",
)
def command(run: Path, by_signal: bool, wait: float) -> None:
    """Ask the process that trains the run RUN for a checkpoint, and wait for it.

    It is made at the next step boundary, and holds every step that was done when it was
    asked for. By default a file named SAVE is put into the
    run directory, which reaches processes on other machines too.
    """
    store = Store.open_for_reading(run)
    owner = lock.holder(store.directory)
    if owner is None:
        raise RunNotActive(
            store.directory,
            expected="a process that trains this run",
            found="none",
            advice="Start the training script; its checkpoints are written by it.",
        )
    # Before it is asked: it may be saving already, what it had before these steps.
    done = _steps_done(store.directory)
    before = {saved.record.saved_at for saved in store.checkpoints()}
    if by_signal:
        _send(store.directory, owner)
    else:
        durable.replace_file(store.directory / layout.SAVE, b"")
    if not wait:
        return
    deadline = time.monotonic() + wait
    with wording.console().status("Waiting for the checkpoint ..."):
        while time.monotonic() < deadline:
            for saved in store.checkpoints():
                record = saved.record
                if record.saved_at not in before and record.position.step >= done:
                    click.echo(record.name)
                    return
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    raise RunNotActive(
        store.directory,
        expected=f"a checkpoint within {wait:g} s",
        found=f"none yet from process {owner.pid} on {owner.host}",
        advice="A step, a validation or a write may take longer: give --wait more, or "
        "look with persist-callbacks report.",
    )


def _steps_done(directory: Path) -> int:
    """Tell how many steps the process that trains has done; 0 if nothing says so."""
    found = progress.read(directory)
    with contextlib.suppress(OSError):
        noted = (directory / progress.NAME).stat().st_mtime_ns
        # An earlier process may have come farther than its last checkpoint.
        if found is not None and noted >= (directory / lock.OWNER).stat().st_mtime_ns:
            return found.step
    return 0


def _send(directory: Path, owner: lock.Owner) -> None:
    number = getattr(signal, "SIGUSR1", None)
    if number is None:
        found = "none on this system"
    elif not lock.is_here(owner):
        found = f"it on {owner.host}"
    else:
        try:
            found = _why_not(directory, owner.pid, number)
            if not found:
                os.kill(owner.pid, number)
                return
        except OSError as error:
            found = f"process {owner.pid}: {error.strerror}"
    raise RunNotActive(
        directory,
        expected="a process on this machine that SIGUSR1 can be sent to",
        found=found,
        advice="Leave --signal out: a file in the run directory asks for it too.",
    )


def _why_not(directory: Path, pid: int, number: int) -> str:
    """Say why a process is not to get a signal, which may be its end; "" if it may.

    Args:
        directory: the run directory.
        pid: the process that is said to train there.
        number: the signal's.

    Raises:
        OSError: nothing can be known of it.
    """
    if not sys.platform.startswith("linux"):
        # No other system tells.
        return ""
    if not lock.is_held_by(directory, pid):
        return f"another process of the number {pid}, maybe since it is in a container"
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    if caught is None or not int(caught[1], 16) >> (number - 1) & 1:
        return (
            f"process {pid}, which SIGUSR1 would end: fit has not begun or is over, "
            "runs outside the main thread, or has save_on_signal=False"
        )
    return ""
