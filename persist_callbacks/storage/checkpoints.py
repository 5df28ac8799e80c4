"""The checkpoints of a run directory, seen by a reader: list, find, newest sound.

Safe while another process writes: what vanishes while it is read was pruned, what
changes was replaced by another of the same step, and neither is called damaged.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from persist_callbacks import paths
from persist_callbacks.errors import (
    CheckpointDamaged,
    CheckpointNotFound,
    CheckpointUnreadable,
    FormatTooNew,
    NoSoundCheckpoint,
    PersistError,
    UnreadableFile,
)
from persist_callbacks.records import CheckpointRecord
from persist_callbacks.storage import (
    checkpoint_files,
    journal,
    layout,
    manifest,
    retention,
)
from persist_callbacks.storage.layout import MANIFEST, PREFIX
from persist_callbacks.storage.sharing import stamp_of

_SURVEYS = 10
_SECONDS_TO_ANSWER = 1.0

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Committed:
    """A checkpoint that exists.

    Args:
        path: its folder.
        record: what its manifest says of it.
    """

    path: Path
    record: CheckpointRecord

    @property
    def prefix(self) -> str:
        """Path of its CKPT files without ``.index``."""
        return os.fspath(self.path / PREFIX)


@dataclass(frozen=True)
class Sound:
    """The newest checkpoint whose every byte is as it was written.

    Args:
        committed: the checkpoint; None where the run has none at all.
        passed_over: newer ones that are damaged, newest first, and what is wrong.
    """

    committed: Committed | None
    passed_over: tuple[tuple[Path, PersistError], ...] = ()


class Vanished(Exception):
    """A checkpoint was pruned while it was read."""


Found = Committed | tuple[Path, PersistError]


class Known:
    """Manifests that were read once, and need not be again while they are the same.

    For who writes the checkpoints, and looks at what there is at each of them. Safe on
    any thread.
    """

    def __init__(self) -> None:
        self._found: dict[Path, tuple[tuple[int, ...], Committed]] = {}

    def read(self, folder: Path) -> Committed:
        """Do as `read` does."""
        identity = _identity(folder)
        try:
            stamp = stamp_of(folder / MANIFEST)
        except OSError:
            identity = None
        if identity is None:
            return read(folder)
        # By the folder too: a link to where the same manifest lies now is none.
        now = (*identity, *stamp)
        known = self._found.get(folder)
        if known is not None and known[0] == now:
            return known[1]
        found = read(folder)
        self._found[folder] = now, found
        return found

    def keep(self, folders: Sequence[Path]) -> None:
        """Forget all others."""
        for gone in set(self._found).difference(folders):
            self._found.pop(gone, None)


def survey(directory: Path, known: Known | None = None) -> list[Found]:
    """List all checkpoint folders by step, reading no file but their manifests.

    Args:
        directory: the run directory.
        known: manifests that need not be read anew.

    Returns:
        The checkpoint, or where its manifest does not read, the folder and why.
    """
    for _ in range(_SURVEYS):
        found: list[Found] = []
        folders = _folders(directory)
        for folder in folders:
            before = _identity(folder)
            try:
                found.append(read(folder) if known is None else known.read(folder))
            except PersistError as error:
                # Another one may have its name by now: that is not what was read.
                if before is not None and _identity(folder) == before:
                    found.append((folder, error))
        if len(found) == len(folders):
            break
    if known is not None:
        known.keep(folders)
    return found


def read(folder: Path) -> Committed:
    """Read one checkpoint's manifest.

    Raises:
        CheckpointDamaged: it does not read.
        FormatTooNew: it was written by a newer persist_callbacks.
    """
    return Committed(folder, manifest.to_record(manifest.read(folder), folder))


def readable(directory: Path, known: Known | None = None) -> list[Committed]:
    """List the checkpoints whose manifest reads, by step; arguments as for `survey`."""
    return [each for each in survey(directory, known) if isinstance(each, Committed)]


def newest_sound(directory: Path) -> Sound:
    """Find the newest checkpoint to go on from, reading every byte of it.

    Raises:
        NoSoundCheckpoint: there are checkpoints, all damaged or set aside as such.
        FormatTooNew: one that is newer than the newest sound one was written by a
            newer persist_callbacks; going back behind it would lose work.
        CheckpointUnreadable: or it may be sound, and cannot be read here.
    """
    for _ in range(_SURVEYS):
        with contextlib.suppress(Vanished):
            return _newest_sound(directory)
    raise restless(directory, _SURVEYS)


def _newest_sound(directory: Path) -> Sound:
    passed_over: list[tuple[Path, PersistError]] = []
    for found in reversed(survey(directory)):
        failure: PersistError | None = None
        if isinstance(found, Committed):
            path = found.path
        else:
            path, failure = found
        if failure is None or checkpoint_files.may_pass(failure):
            try:
                return Sound(validate(path), tuple(passed_over))
            except PersistError as error:
                failure = error
        if isinstance(failure, (FormatTooNew, CheckpointUnreadable)):
            raise failure
        passed_over.append((path, failure))
    reasons = [str(error) for _, error in passed_over]
    # Nobody is to train for hours before finding out that the run began at zero.
    reasons += [
        f"{name}: set aside: {reason}" for name, reason in set_aside(directory).items()
    ]
    if reasons:
        raise NoSoundCheckpoint(
            directory,
            expected="at least one sound checkpoint",
            found="; ".join(reasons),
            advice="Restore one from a copy; to begin at zero, move these away or give "
            "another directory.",
        )
    return Sound(None)


def set_aside(directory: Path) -> dict[str, str]:
    """Name the checkpoints that were set aside as damaged, with the reason if noted."""
    aside = sorted(path.name for path in directory.glob(f"{layout.ASIDE}ckpt-*"))
    reasons: dict[str, str] = {}
    if aside:
        with contextlib.suppress(UnreadableFile):
            for event in journal.read(directory):
                if event.get("event") == "set aside":
                    reasons[str(event.get("kept_as"))] = str(event.get("reason"))
    return {name: reasons.get(name, "the journal does not say why") for name in aside}


def validate(folder: Path) -> Committed:
    """Read every byte of a checkpoint, once more where the disk did not let it.

    Raises:
        CheckpointDamaged: the first thing found that is not as it should be.
        FormatTooNew: it was written by a newer persist_callbacks.
        Vanished: it was pruned meanwhile.
    """
    is_again = False
    for _ in range(_SURVEYS):
        before = _identity(folder)
        try:
            described = manifest.validate(folder, checksums=True)
            return Committed(folder, manifest.to_record(described, folder))
        except CheckpointDamaged as error:
            after = _identity(folder)
            if after is None:
                raise Vanished from None
            if after == before:
                if is_again or not checkpoint_files.may_pass(error):
                    raise
                is_again = True
                time.sleep(_SECONDS_TO_ANSWER)
    raise Vanished


def read_found(find: Callable[[], tuple[Path, T]], read: Callable[[T], R]) -> R:
    """Find a checkpoint and read it; another one where it was pruned meanwhile.

    Args:
        find: gives its folder, and what `read` is to be given.
        read: reads it; whatever it has changed by then, it changes anew.

    Returns:
        What was read.

    Raises:
        CheckpointNotFound: each was pruned while it was read.
    """
    for _ in range(_SURVEYS):
        folder, found = find()
        before = _identity(folder)
        try:
            return read(found)
        except (PersistError, OSError):
            after = _identity(folder)
            if after is not None and after == before:
                raise
    raise restless(folder.parent, _SURVEYS)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = os.lstat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def restless(directory: Path, times: int) -> CheckpointNotFound:
    """Error for a run whose checkpoints go faster than they can be read.

    Args:
        directory: the run directory.
        times: how often that was tried.
    """
    return CheckpointNotFound(
        directory,
        expected="a checkpoint that stays while it is read",
        found=f"that each was pruned meanwhile, {times} times",
        advice="Keep more of them (keep_last), or ask again.",
    )


def find(directory: Path, selector: str | int | Path) -> Committed:
    """Find one checkpoint and read every byte of it; see `Store.find`."""
    for _ in range(_SURVEYS):
        with contextlib.suppress(Vanished):
            return _find(directory, selector)
    raise _not_found(directory, selector)


def _find(directory: Path, selector: str | int | Path) -> Committed:
    found: Committed | None
    if selector == "latest":
        found = newest_sound(directory).committed
    elif selector == "best":
        by_name = {each.record.name: each for each in readable(directory)}
        record = retention.best([each.record for each in by_name.values()])
        found = by_name[record.name] if record is not None else None
    else:
        found = _at(directory, selector)
    if found is None:
        raise _not_found(directory, selector)
    return found if selector == "latest" else validate(found.path)


def _folders(directory: Path) -> list[Path]:
    """Folders that are named as checkpoints, by step."""
    steps: dict[int, Path] = {}
    for name in sorted(os.listdir(directory)):
        step = layout.step_of_either(name)
        # The plain name sorts first: it replaces the one that is called replaced.
        # Whatever has a checkpoint's name, or readers would begin at zero beside it.
        if step is not None and step not in steps:
            steps[step] = directory / name
    return [steps[step] for step in sorted(steps)]


def _at(directory: Path, selector: str | int | Path) -> Committed | None:
    text = os.fspath(selector) if isinstance(selector, str | Path) else str(selector)
    if text.isdecimal():
        text = layout.folder_name(int(text))
    step = layout.step_of(text)
    if step is not None:
        of_step = (
            path
            for path in _folders(directory)
            if layout.step_of_either(path.name) == step
        )
        path = next(of_step, directory / text)
    else:
        path = paths.of_checkpoints(text, "checkpoint")
        if path.name == PREFIX:
            path = path.parent
        if not (path / MANIFEST).exists():
            return None
    return read(path) if os.path.lexists(path) else None


def _not_found(directory: Path, selector: object) -> CheckpointNotFound:
    records = [found.record for found in readable(directory)]
    if selector == "best" and records:
        return CheckpointNotFound(
            directory,
            expected="a checkpoint with a score",
            found=f"{len(records)} without",
            advice="Give PeriodicCheckpoint a monitor, or ask for the latest.",
        )
    names = ", ".join(record.name for record in records)
    return CheckpointNotFound(
        directory,
        expected="a checkpoint" if selector == "latest" else f"checkpoint {selector!s}",
        found=names or "no checkpoints",
        advice="Choose one of these." if names else "Train with PeriodicCheckpoint.",
    )
