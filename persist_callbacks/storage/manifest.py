"""What a checkpoint folder says of itself, and the one test of whether that is true.

``manifest.json`` is written last into a staged folder. It lists every file of the
checkpoint with size and checksum, and carries a checksum of its own fields, so that
no flipped bit anywhere in the folder goes unseen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import xxhash

from persist_callbacks.errors import CheckpointDamaged, FormatTooNew
from persist_callbacks.records import CheckpointRecord, Position, Score
from persist_callbacks.storage import checkpoint_files as on_disk
from persist_callbacks.storage import layout
from persist_callbacks.storage.layout import MANIFEST
from persist_callbacks.storage.reading import read_plain

FORMAT: Final = "persist_callbacks checkpoint"
VERSION: Final = 1

_MAX_BYTES = 16 * 1024**2
# Stays in the processor's cache until it has been looked at.
_BLOCK = 512 * 1024
_HASH = "xxh3_128:"
# Beyond them a time has no date in some zones.
_FIRST_YEAR, _LAST_YEAR = 2, 9998

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Checksum = Annotated[str, msgspec.Meta(pattern="^xxh3_128:[0-9a-f]{32}$")]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size in bytes and checksum of one file, as ``xxh3_128:`` and 32 hex digits."""

    size: _Count
    checksum: _Checksum


class ScoreEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The monitored value; JSON has no NaN or infinity, so those are strings."""

    monitor: str
    value: float | Literal["nan", "inf", "-inf"]
    lower_is_better: bool


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``manifest.json``, format version 1.

    Args:
        run_id: the run that wrote the checkpoint.
        step: training steps done.
        epoch: zero-based epoch of the next step.
        batch: zero-based batch of the next step within its epoch.
        saved_at: when it was committed, with a time zone; written as UTC.
        fingerprint: the architecture's fingerprint.
        score: the monitored value, where there was one.
        finished: whether the run had ended by itself.
        files: every file of the checkpoint but the manifest, by name.
        checksum: of the manifest with this field empty; `encode` fills it in.
    """

    format: Literal["persist_callbacks checkpoint"] = FORMAT
    version: Literal[1] = VERSION
    run_id: str
    step: _Count
    epoch: _Count
    batch: _Count
    saved_at: Annotated[datetime, msgspec.Meta(tz=True)]
    fingerprint: str
    score: ScoreEntry | None
    finished: bool
    files: dict[str, FileEntry]
    checksum: str = ""


class _Header(msgspec.Struct):
    format: str
    version: int


def build(
    folder: Path,
    *,
    run_id: str,
    position: Position,
    saved_at: float,
    fingerprint: str,
    score: Score | None,
    finished: bool,
    digests: Mapping[str, str] | None = None,
) -> Manifest:
    """Describe a staged folder: every file in it, with its checksum.

    A file is read back for it, unless its XXH3-128, in hex, is among the digests: those
    were taken of what was written.
    """
    known = {name: f"{_HASH}{digest}" for name, digest in (digests or {}).items()}
    files = {
        path.name: FileEntry(
            size=path.lstat().st_size,
            checksum=known[path.name] if path.name in known else checksum(path),
        )
        for path in sorted(folder.iterdir())
    }
    return Manifest(
        run_id=run_id,
        step=position.step,
        epoch=position.epoch,
        batch=position.batch,
        saved_at=datetime.fromtimestamp(saved_at, timezone.utc),
        fingerprint=fingerprint,
        score=None if score is None else _score_entry(score),
        finished=finished,
        files=files,
    )


def encode(manifest: Manifest) -> bytes:
    """Turn a manifest into the bytes of ``manifest.json``, with its own checksum."""
    signed = msgspec.structs.replace(manifest, checksum=_own_checksum(manifest))
    return msgspec.json.format(msgspec.json.encode(signed), indent=2) + b"\n"


def decode(data: bytes, where: str) -> Manifest:
    """Parse and check the bytes of a ``manifest.json``.

    Raises:
        CheckpointDamaged: they are not a manifest, or were changed since.
        FormatTooNew: they were written by a newer persist_callbacks.
    """
    try:
        header = msgspec.json.decode(data, type=_Header)
        if header.format == FORMAT and header.version > VERSION:
            raise FormatTooNew(
                where,
                expected=f"format version {VERSION} or older",
                found=f"version {header.version}",
                advice="Upgrade persist_callbacks to read this checkpoint.",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointDamaged(
            where,
            expected=f"a {FORMAT} manifest",
            found=f"something else: {error}",
            advice=on_disk.GO_BACK,
        ) from error
    if manifest.checksum != _own_checksum(manifest):
        raise CheckpointDamaged(
            where,
            expected=f"fields with the checksum {manifest.checksum!r}",
            found=f"{_own_checksum(manifest)!r}: the manifest was changed",
            advice=on_disk.GO_BACK,
        )
    if not _FIRST_YEAR <= manifest.saved_at.year <= _LAST_YEAR:
        raise CheckpointDamaged(
            where,
            expected=f"saved_at of a year from {_FIRST_YEAR} to {_LAST_YEAR}",
            found=manifest.saved_at.isoformat(),
            advice=on_disk.GO_BACK,
        )
    return manifest


def read(folder: Path) -> Manifest:
    """Read a checkpoint folder's manifest, looking at no other file.

    Raises:
        CheckpointDamaged: it is missing, unreadable, or speaks of another step than
            the folder's name.
        FormatTooNew: it was written by a newer persist_callbacks.
    """
    where = f"{folder.name}/{MANIFEST}"
    on_disk.require_folder(folder)
    on_disk.require_within(where, on_disk.plain_file_size(folder, MANIFEST), _MAX_BYTES)
    try:
        data = read_plain(folder / MANIFEST, limit=_MAX_BYTES)
    except OSError as error:
        raise on_disk.unreadable(where, error) from error
    manifest = decode(data, where)
    step = layout.step_of(folder.name)
    if step is not None and step != manifest.step:
        raise CheckpointDamaged(
            where,
            expected=f"step {step}, as the folder is named",
            found=f"step {manifest.step}",
            advice="Give the folder back the name it was written with.",
        )
    return manifest


def validate(folder: Path, *, checksums: bool) -> Manifest:
    """Test that a folder is the checkpoint that its manifest describes.

    Args:
        folder: a committed checkpoint, or a staged one before it is published.
        checksums: also read every file and compare its checksum.

    Returns:
        The manifest, all of whose files are there as plain files of the right size.

    Raises:
        CheckpointDamaged: the first thing found that is not as it should be.
        FormatTooNew: it was written by a newer persist_callbacks.
    """
    manifest = read(folder)
    _check_names(folder, manifest.files)
    _check_unlisted(folder, manifest.files)
    for name, entry in manifest.files.items():
        where = f"{folder.name}/{name}"
        size = on_disk.plain_file_size(folder, name)
        if size != entry.size:
            state = "cut short" if size < entry.size else "longer than it was written"
            raise CheckpointDamaged(
                where,
                expected=f"{entry.size} bytes",
                found=f"{size}: the file is {state}",
                advice=on_disk.GO_BACK,
            )
        on_disk.require_within(where, size, layout.LARGEST.get(name))
    if checksums:
        for name, entry in manifest.files.items():
            where = f"{folder.name}/{name}"
            try:
                actual = checksum(folder / name)
            except OSError as error:
                raise on_disk.unreadable(where, error) from error
            if actual != entry.checksum:
                raise CheckpointDamaged(
                    where,
                    expected=f"checksum {entry.checksum}",
                    found=f"{actual}: its content was changed",
                    advice=on_disk.GO_BACK,
                )
    return manifest


def checksum(path: Path) -> str:
    """Checksum of a file's content, ``xxh3_128:`` and 32 hex digits.

    It is read in blocks of 512 KiB; xxhash lets other threads run while it works.
    """
    digest = xxhash.xxh3_128()
    block = memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
    return f"{_HASH}{digest.hexdigest()}"


def to_record(manifest: Manifest, folder: Path) -> CheckpointRecord:
    """Give the part of a manifest that listing, choosing and pruning need."""
    score = manifest.score
    return CheckpointRecord(
        name=folder.name,
        run_id=manifest.run_id,
        position=Position(
            epoch=manifest.epoch, batch=manifest.batch, step=manifest.step
        ),
        saved_at=manifest.saved_at.timestamp(),
        size=sum(entry.size for entry in manifest.files.values()),
        fingerprint=manifest.fingerprint,
        score=None
        if score is None
        else Score(score.monitor, float(score.value), score.lower_is_better),
        finished=manifest.finished,
    )


def _own_checksum(manifest: Manifest) -> str:
    # Over the fields and not the text: a manifest that was only reformatted is whole.
    bare = msgspec.json.encode(msgspec.structs.replace(manifest, checksum=""))
    return f"{_HASH}{xxhash.xxh3_128(bare).hexdigest()}"


def _score_entry(score: Score) -> ScoreEntry:
    value: float | Literal["nan", "inf", "-inf"] = float(score.value)
    if math.isnan(score.value):
        value = "nan"
    elif math.isinf(score.value):
        value = "inf" if score.value > 0 else "-inf"
    return ScoreEntry(score.monitor, value, score.lower_is_better)


def _check_names(folder: Path, files: Mapping[str, FileEntry]) -> None:
    for name in files:
        if not layout.is_file_name(name):
            raise CheckpointDamaged(
                f"{folder.name}/{MANIFEST}",
                expected="only names of checkpoint files",
                found=repr(name),
                advice="Do not use this folder: its manifest was not written by us.",
            )
    for name in layout.required(files):
        if name not in files:
            raise CheckpointDamaged(
                f"{folder.name}/{MANIFEST}",
                expected=f"an entry for {name}",
                found="none",
                advice=on_disk.GO_BACK,
            )


def _check_unlisted(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Refuse what would be read by its name, and nobody vouches for: a graph, say."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise on_disk.unreadable(folder.name, error) from error
    for name in names:
        if layout.is_file_name(name) and name not in files:
            raise CheckpointDamaged(
                f"{folder.name}/{name}",
                expected="only files that the manifest lists",
                found="one that it does not",
                advice="Move that file out of the checkpoint.",
            )
