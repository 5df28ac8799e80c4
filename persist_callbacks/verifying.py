"""verify(): is every byte of a run or a checkpoint what it was written as?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from persist_callbacks import paths
from persist_callbacks.errors import (
    CheckpointNotFound,
    CheckpointUnreadable,
    FormatTooNew,
    PersistError,
)
from persist_callbacks.storage import (
    bundle,
    checkpoint_files,
    checkpoints,
    durable,
    journal,
    layout,
    run_directory,
)
from persist_callbacks.storage.checkpoints import Committed, Vanished
from persist_callbacks.storage.layout import MANIFEST, META, STATE
from persist_callbacks.storage.store import Store

# How often a run may prune its newest checkpoint while it is read, before that is an
# error.
_TRIES = 10


@dataclass(frozen=True)
class Finding:
    """Something that was found.

    Args:
        where: a path below the run directory, or what of a checkpoint it is about.
        what: a sentence.
        damage: whether it keeps the checkpoint, or the run, from being sound.
    """

    where: str
    what: str
    damage: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class VerifiedCheckpoint:
    """What became of looking at one checkpoint.

    Args:
        path: its folder.
        tensors: how many were read.
        findings: what was found; none if all is well.
        newer: whether it is for a newer persist_callbacks to judge.
        unread: whether it could not be read here, and may well be sound.
    """

    path: Path
    tensors: int
    findings: tuple[Finding, ...] = ()
    newer: bool = False
    unread: bool = False

    @property
    def sound(self) -> bool:
        """Whether a run of this version can go on from it."""
        judged = not self.newer and not self.unread
        return judged and not any(finding.damage for finding in self.findings)


@dataclass(frozen=True)
class Verification:
    """What became of looking at a run directory or at one checkpoint.

    Args:
        path: what was looked at.
        checkpoints: oldest first.
        findings: what was found beside them.
        pruned: how many a run that goes on has pruned before they were read.
    """

    path: Path
    checkpoints: tuple[VerifiedCheckpoint, ...]
    findings: tuple[Finding, ...] = ()
    pruned: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return all(each.sound for each in self.checkpoints) and not any(
            finding.damage for finding in self.findings
        )


def verify(path: str | os.PathLike[str], *, finite: bool = False) -> Verification:
    """Read all there is of a run directory or a checkpoint, and compare.

    Structure, sizes and checksums against the manifest; every tensor against its own
    checksum; the training state against its schema, the manifest and the tensors; the
    ``.meta`` against the tensors. Reads only, and may be done while training writes:
    what is pruned meanwhile is counted, and the newest one that there is then is read.

    Args:
        path: a run directory, a checkpoint's folder, or its prefix.
        finite: take weights that are NaN or infinite for damage. They are named in any
            case; as bytes they are what training has written.

    Returns:
        What was found.

    Raises:
        CheckpointNotFound: there is no such thing, or it was pruned while it was read.
        NotARunDirectory: it is something else.
    """
    given = paths.of_checkpoints(path, "path")
    folder = given.parent if given.name == layout.PREFIX else given
    if layout.step_of(folder.name) is not None or (folder / MANIFEST).is_file():
        _require_there(folder)
        examined = _examine(folder, finite)
        if examined is None:
            raise _not_there(folder, "that it was pruned while it was read")
        return Verification(folder, (examined,))
    store = Store.open_for_reading(given)
    _load_readers()
    verified, pruned = _examine_all(given, finite)
    findings = tuple(_beside(store, verified))
    return Verification(given, tuple(verified), findings, pruned)


def _load_readers() -> None:
    """Import what reads tensors, state and graph.

    It takes seconds, in which a run prunes all that was found before.
    """
    from persist_callbacks.graph import meta  # noqa: F401
    from persist_callbacks.training import state  # noqa: F401


def _examine_all(directory: Path, finite: bool) -> tuple[list[VerifiedCheckpoint], int]:
    """Look at the checkpoints of a run that may go on, the newest among them.

    Returns:
        What became of them, oldest first, and how many were pruned meanwhile.
    """
    verified: dict[Path, VerifiedCheckpoint] = {}
    pruned: set[Path] = set()
    for _ in range(_TRIES):
        found = [
            each.path if isinstance(each, Committed) else each[0]
            for each in checkpoints.survey(directory)
        ]
        # The newest one, which is there for longest, first.
        for folder in reversed(found):
            if folder in verified:
                continue
            examined = _examine(folder, finite)
            if examined is None:
                pruned.add(folder)
            else:
                verified[folder] = examined
        if not found or found[-1] in verified:
            break
    if pruned and not verified:
        raise checkpoints.restless(directory, _TRIES)
    return [verified[each] for each in sorted(verified, key=_step)], len(
        pruned.difference(verified)
    )


def _step(folder: Path) -> int:
    return layout.step_of_either(folder.name) or 0


def _require_there(folder: Path) -> None:
    if not os.path.lexists(folder):
        raise _not_there(folder, "nothing")


def _not_there(folder: Path, found: str) -> CheckpointNotFound:
    return CheckpointNotFound(
        folder,
        expected="a checkpoint's folder",
        found=found,
        advice="`persist-callbacks list RUN` shows the checkpoints of a run.",
    )


def _examine(folder: Path, finite: bool) -> VerifiedCheckpoint | None:
    """Look at one checkpoint; None if it was pruned meanwhile."""
    try:
        committed = checkpoints.validate(folder)
    except Vanished:
        return None
    except (FormatTooNew, CheckpointUnreadable) as error:
        newer, finding = (
            isinstance(error, FormatTooNew),
            _not_judged(folder.name, error),
        )
        return VerifiedCheckpoint(folder, 0, (finding,), newer=newer, unread=not newer)
    except PersistError as error:
        return VerifiedCheckpoint(folder, 0, (_finding(folder.name, error),))
    contents = _Contents(committed, finite)
    findings = tuple(contents.findings())
    if findings and not os.path.lexists(folder):
        return None
    return VerifiedCheckpoint(folder, contents.tensors, findings, contents.newer)


class _Contents:
    """What is in the files of a checkpoint whose every byte is as it was written."""

    def __init__(self, committed: Committed, finite: bool) -> None:
        self._committed = committed
        self._finite = finite
        self._name = committed.path.name
        self.tensors = 0
        self.newer = False

    def findings(self) -> Iterator[Finding]:
        shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        odd: list[str] = []
        try:
            for key, value in bundle.scan(self._committed.prefix):
                shapes[key] = (tuple(value.shape), value.dtype.name)
                if not bundle.is_finite(value):
                    odd.append(key)
                del value
        except PersistError as error:
            yield _finding(self._name, error)
            return
        self.tensors = len(shapes)
        yield from self._state(shapes, odd)
        yield from self._meta(shapes)

    def _state(
        self, shapes: Mapping[str, tuple[tuple[int, ...], str]], odd: list[str]
    ) -> Iterator[Finding]:
        from persist_callbacks.training import state as training_state

        where = f"{self._name}/{STATE}"
        try:
            data = checkpoint_files.read_file(self._committed.path, STATE)
            state = training_state.load(data, where)
        except FormatTooNew as error:
            self.newer = True
            yield _not_judged(where, error)
            return
        except PersistError as error:
            yield _finding(where, error)
            return
        if state.position != self._committed.record.position:
            yield Finding(where, f"{state.position}, and the manifest says another one")
        for info in state.variables:
            if shapes.get(info.key) != (info.shape, info.dtype):
                found = shapes.get(info.key, "no such tensor")
                yield Finding(
                    where, f"{info.key} is {info.shape}, {info.dtype}; found {found}"
                )
        for key in training_state.further_keys(state):
            if key not in shapes:
                yield Finding(where, f"there is no tensor {key!r} that it speaks of")
        roles = {info.key: info.role for info in state.variables}
        for key in odd:
            if roles.get(key) in ("model", "optimizer"):
                what = f"{key} holds NaN or infinity"
                yield Finding(self._name, what, damage=self._finite)

    def _meta(
        self, shapes: Mapping[str, tuple[tuple[int, ...], str]]
    ) -> Iterator[Finding]:
        from persist_callbacks.graph import meta

        where = f"{self._name}/{META}"
        if not os.path.lexists(self._committed.path / META):
            what = "saved without a graph: a PB needs the model"
            yield Finding(self._name, what, damage=False)
            return
        try:
            data = checkpoint_files.read_file(self._committed.path, META)
            graph = meta.from_meta(data, where)
        except PersistError as error:
            yield _finding(where, error)
            return
        for info in graph.variables:
            if shapes.get(info.name) != (info.shape, info.dtype):
                found = shapes.get(info.name, "no such tensor")
                yield Finding(where, f"{info}; found {found}")


def _beside(store: Store, verified: list[VerifiedCheckpoint]) -> Iterator[Finding]:
    """Look at what lies beside the checkpoints of a run."""
    directory = store.directory
    if os.path.lexists(directory / run_directory.RUN):
        if run_directory.read_run(directory) is None:
            yield Finding(run_directory.RUN, "cannot be read")
    else:
        yield Finding(run_directory.RUN, "is not there", damage=False)
    for entry in sorted(directory.iterdir()):
        if durable.is_leftover(entry.name):
            what = "staged: of a save that is under way, or has not come to its end"
            yield Finding(entry.name, what, damage=False)
    for name, reason in checkpoints.set_aside(directory).items():
        yield Finding(name, f"set aside: {reason}", damage=False)
    if verified and bundle.latest_prefix(directory) is None:
        what = "names none that is there: TensorFlow's own functions find nothing"
        yield Finding("checkpoint", what, damage=False)
    try:
        store.journal()
    except PersistError as error:
        yield _finding(journal.NAME, error)


def _not_judged(where: str, error: PersistError) -> Finding:
    what = f"expected {error.expected}, found {error.found}. {error.advice}"
    return Finding(where, what, damage=False)


def _finding(where: str, error: PersistError) -> Finding:
    expected = f"expected {error.expected}, found {error.found}"
    return Finding(error.where if "/" in error.where else where, expected)


def as_json(verification: Verification) -> dict[str, Any]:
    """Give a verification as plain values."""

    def each(findings: tuple[Finding, ...]) -> list[dict[str, Any]]:
        return [
            {"where": one.where, "what": one.what, "damage": one.damage}
            for one in findings
        ]

    return {
        "path": str(verification.path),
        "sound": verification.sound,
        "pruned": verification.pruned,
        "checkpoints": [
            {
                "name": one.path.name,
                "sound": one.sound,
                "newer_format": one.newer,
                "not_readable": one.unread,
                "tensors": one.tensors,
                "findings": each(one.findings),
            }
            for one in verification.checkpoints
        ],
        "findings": each(verification.findings),
    }
