"""Whose directory it is: what may be used as a run directory, and ``run.json``."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal

import msgspec

from persist_callbacks import paths
from persist_callbacks.errors import (
    CheckpointNotFound,
    DirectoryNotWritable,
    FormatTooNew,
    NotARunDirectory,
    PersistError,
)
from persist_callbacks.storage import durable, layout, manifest
from persist_callbacks.storage.reading import read_plain

RUN = layout.RUN
FORMAT: Final = "persist_callbacks run"
VERSION: Final = 1

_MAX_BYTES = 2**20

_ELSEWHERE = "Give an empty folder or one that does not exist yet."
# What other callbacks and shells put into a run directory before the first save.
_HARMLESS = (
    ".*",
    "*.pb",
    "*.signature.json",
    "*.keras",
    "*.weights.h5",
    "*.csv",
    "*.log",
    "*.out",
    "*.err",
    "events.out.tfevents*",
    # The system's own, of a volume that nobody has written to yet.
    "lost+found",
    # All there is where a process died while it wrote another in its place.
    f"damaged-{RUN}*",
)


class RunInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``run.json``.

    Args:
        run_id: 32 hex digits, the same for all sessions of a run.
        created_at: ISO 8601, UTC.
        versions: of the software that began the run, by name.
    """

    format: Literal["persist_callbacks run"] = FORMAT
    version: Literal[1] = VERSION
    run_id: str
    created_at: str
    versions: dict[str, str]


class _Header(msgspec.Struct):
    format: str
    version: int


def check_directory(directory: str | os.PathLike[str]) -> None:
    """Test that a directory can be this library's to write, touching nothing.

    Args:
        directory: a run directory, an empty folder, or one that can be created.

    Raises:
        NotARunDirectory: it is a file, or holds something else than a run.
        DirectoryNotWritable: it, or the folder it would be created in, is read-only.
        FormatTooNew: a newer persist_callbacks has begun the run.
    """
    path = absolute(directory)
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        # A name that is too long, say.
        raise not_writable(path, error.strerror or str(error)) from error
    if path.exists() and not path.is_dir():
        raise NotARunDirectory(
            path, expected="a folder", found="a file", advice=_ELSEWHERE
        )
    parent = path
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise DirectoryNotWritable(
            path,
            expected=f"{parent} to be a folder",
            found="a file",
            advice="Give another directory.",
        )
    if not os.access(parent, os.R_OK | os.W_OK | os.X_OK):
        raise not_writable(path, f"no permission to write in {parent}")
    if path.is_dir() and not is_ours(path):
        stranger = _something_else(path)
        if stranger is not None:
            raise NotARunDirectory(
                path,
                expected="a run directory or an empty folder",
                found=f"a folder with {stranger} and no checkpoint of ours",
                advice=_ELSEWHERE,
            )


def require_run(directory: Path) -> None:
    """Test that a run has begun in a directory.

    Raises:
        CheckpointNotFound: the directory does not exist, or no run has begun in it.
        NotARunDirectory: it is a file, or holds something else than a run.
        FormatTooNew: a newer persist_callbacks has begun the run.
    """
    advice = "Give the directory that PeriodicCheckpoint writes to."
    there = directory.exists()
    if not there or (directory.is_dir() and not any(directory.iterdir())):
        raise CheckpointNotFound(
            directory,
            expected="a run directory",
            found="an empty folder" if there else "nothing",
            advice=advice,
        )
    if not directory.is_dir() or not is_ours(directory):
        if directory.is_dir() and _something_else(directory) is None:
            # A run may have ended before it could say whose directory this is.
            raise CheckpointNotFound(
                directory,
                expected="a run directory",
                found="a folder in which no run has begun",
                advice=advice,
            )
        raise NotARunDirectory(
            directory,
            expected=f"a run directory, with {RUN} or checkpoints",
            found="a folder without them" if directory.is_dir() else "a file",
            advice=advice,
        )


def is_ours(directory: Path) -> bool:
    """Whether a folder holds a run: a valid ``run.json`` or a checkpoint of ours.

    Raises:
        FormatTooNew: a newer persist_callbacks has begun the run.
    """
    if read_run(directory) is not None:
        return True
    return any(_has_manifest(folder) for folder in _folders(directory))


def read_run(directory: Path) -> RunInfo | None:
    """Read ``run.json``.

    Returns:
        None where there is none, or it is not ours or damaged.

    Raises:
        FormatTooNew: a newer persist_callbacks has written it.
    """
    try:
        data = read_plain(directory / RUN, limit=_MAX_BYTES)
        header = msgspec.json.decode(data, type=_Header)
        if header.format == FORMAT and header.version > VERSION:
            raise FormatTooNew(
                directory / RUN,
                expected=f"format version {VERSION} or older",
                found=f"version {header.version}",
                advice="Upgrade persist_callbacks to go on with this run.",
            )
        return msgspec.json.decode(data, type=RunInfo)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def begin_run(
    directory: Path, *, run_id: str | None, versions: Mapping[str, str]
) -> RunInfo:
    """Write ``run.json``, keeping a damaged one under another name.

    Args:
        directory: the run directory, locked by the caller.
        run_id: the run that its checkpoints belong to; None begins a new one.
        versions: of the software that writes, by name.
    """
    path = directory / RUN
    if os.path.lexists(path):
        durable.move_aside(path, free_name(directory, f"damaged-{RUN}"))
    run = RunInfo(
        run_id=run_id or uuid.uuid4().hex,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=dict(versions),
    )
    text = msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n"
    durable.replace_file(path, text)
    return run


def free_name(directory: Path, name: str) -> Path:
    """Path in a directory that nothing has yet: the name, or the name and a number."""
    path, number = directory / name, 1
    while os.path.lexists(path):
        number += 1
        path = directory / f"{name}-{number}"
    return path


def absolute(directory: str | os.PathLike[str]) -> Path:
    """Path that still leads there after the process has changed its directory.

    Raises:
        ArgumentError: the directory is nothing that a path can be made of, an address
            of a remote store, or not in UTF-8.
    """
    return paths.of_checkpoints(directory, "directory")


def resolved(path: Path) -> Path:
    """Path that leads to the same folder after links to it have been pointed away."""
    # `Path.resolve` raises where links go round in a circle.
    real = Path(os.path.realpath(path))
    # What TensorFlow cannot be told is reached by the link alone.
    return real if paths.is_utf8(real) else path


def not_writable(path: Path, reason: str) -> DirectoryNotWritable:
    """Error for a directory that cannot be written, and why."""
    return DirectoryNotWritable(
        path,
        expected="a folder that can be written",
        found=reason,
        advice="Change its permissions or give another directory.",
    )


def _folders(directory: Path) -> list[Path]:
    return [
        path
        for path in sorted(directory.iterdir())
        if layout.step_of(path.name) is not None
        and path.is_dir()
        and not path.is_symlink()
    ]


def _has_manifest(folder: Path) -> bool:
    try:
        manifest.read(folder)
    except FormatTooNew:
        return True
    except PersistError:
        return False
    return True


def _something_else(directory: Path) -> str | None:
    """Name of the first entry that is not one that any run directory may hold."""
    for path in sorted(directory.iterdir()):
        if any(fnmatchcase(path.name, pattern) for pattern in _HARMLESS):
            continue
        # TensorBoard makes train/ and validation/ before the first step; what may not
        # be looked into could hold anything.
        with contextlib.suppress(OSError):
            is_folder = path.is_dir() and not path.is_symlink()
            if is_folder and _something_else(path) is None:
                continue
        return path.name
    return None
