"""Keeping a run directory in order: after a crash, and when it is deleted under us."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from persist_callbacks.errors import ForeignCheckpoint
from persist_callbacks.storage import (
    checkpoint_file,
    checkpoints,
    durable,
    journal,
    lock,
    run_directory,
    staging,
)
from persist_callbacks.storage.run_directory import RUN, RunInfo

# What the one that holds the lock puts in place of an older file.
_OWN_FILES = (RUN, checkpoint_file.NAME, lock.OWNER)
_DAY = 24 * 60 * 60.0


def recover(
    directory: Path, own_lock: lock.RunLock, versions: Mapping[str, str]
) -> RunInfo:
    """Put a locked directory in order after a crash, and see to its ``run.json``.

    Args:
        directory: the run directory.
        own_lock: that of the process, which is signed.
        versions: of the software that writes, by name.
    """
    # Before anything is written: they may be what has filled the disk.
    for entry in list(directory.iterdir()):
        # What cannot be deleted is in nobody's way; a save tells of it.
        with contextlib.suppress(OSError):
            if durable.is_leftover(entry.name) and not _may_be_anothers(entry):
                durable.remove_leftover(entry)
    own_lock.sign()
    run = run_directory.read_run(directory)
    run_id = run.run_id if run is not None else newest_run_id(directory)
    staging.finish_swaps(directory, run_id)
    if run is not None:
        return run
    return run_directory.begin_run(directory, run_id=run_id, versions=versions)


def _may_be_anothers(leftover: Path) -> bool:
    """Whether another process, which needs no lock, may be writing a file just now.

    An export or a prediction into the run directory, say. One that was killed is known
    by nobody having written to its file for a day.
    """
    final = durable.file_in_the_making(leftover.name)
    if final is None or final in _OWN_FILES:
        return False
    try:
        return time.time() - leftover.lstat().st_mtime < _DAY
    except FileNotFoundError:
        return True


def newest_run_id(directory: Path) -> str | None:
    """Tell by the checkpoints whose directory it is; None if there are none."""
    found = checkpoints.readable(directory)
    return found[-1].record.run_id if found else None


def see_to_directory(
    directory: Path,
    own_lock: lock.RunLock,
    run_id: str,
    versions: Mapping[str, str],
    tell: Callable[[str], None],
) -> lock.RunLock:
    """Make a run directory anew, locked and with its ``run.json``, if it is gone.

    Args:
        directory: the run directory.
        own_lock: that of the process, on the directory that was there.
        run_id: the run that it is for.
        versions: of the software that writes, by name.
        tell: is given what the user is to know of it, where it was made anew.

    Returns:
        The lock that keeps others out now.

    Raises:
        RunLocked: another process has made it anew.
        ForeignCheckpoint: the same, and that run has ended.
        OSError: it cannot be made.
    """
    if not own_lock.is_in_place():
        durable.make_folder(directory)
        if not directory.is_dir():
            code = errno.ENOTDIR
            raise NotADirectoryError(code, os.strerror(code), str(directory))
        anew = lock.RunLock(directory)
        try:
            anew.sign()
            elsewhere = anew.device != own_lock.device
            _see_to_run(directory, run_id, versions, tell, elsewhere=elsewhere)
        except BaseException:
            anew.release()
            raise
        own_lock.release()
        return anew
    _see_to_run(directory, run_id, versions, tell, elsewhere=False)
    return own_lock


def _see_to_run(
    directory: Path,
    run_id: str,
    versions: Mapping[str, str],
    tell: Callable[[str], None],
    *,
    elsewhere: bool,
) -> None:
    run = run_directory.read_run(directory)
    if run is not None and run.run_id != run_id:
        raise ForeignCheckpoint(
            directory,
            expected=f"the directory of run {run_id}",
            found=f"that of run {run.run_id}, begun since",
            advice="Give each run a directory of its own.",
        )
    if run is None:
        run_directory.begin_run(directory, run_id=run_id, versions=versions)
        tell(_made_again(directory, elsewhere))
        found = f"a run directory without {RUN}"
        found += ", on another file system" if elsewhere else ""
        journal.append(directory, "made again", run_id, {"found": found})


def _made_again(directory: Path, elsewhere: bool) -> str:
    """Word what has become of a run directory, and what is not there any more."""
    told = f"{directory}: expected the run directory as this run has left it, found "
    if checkpoints.readable(directory):
        return f"{told}it without its {RUN}, which was written again. Leave it there."
    told += "nothing of the run: it was made again, and what checkpoints there were "
    told += "are gone from there. "
    if elsewhere:
        told += "Another file system is there now, as where a mount has dropped: what "
        return (
            f"{told}is saved from here on is in that one. Mount it again, or copy it."
        )
    return f"{told}Put them back if it was moved away."
