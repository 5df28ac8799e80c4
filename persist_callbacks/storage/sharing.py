"""Which shards of a checkpoint are those of the one before: the same files, by link.

A frozen backbone is not written again and again. A shard whose tensors have not changed
is linked into the next checkpoint, which stays whole when the older one is deleted: the
bytes are gone with the last name. That they have not changed is told by all of them, by
a digest of 128 bits over what is in memory, not by a guess.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from persist_callbacks.storage import durable, shards
from persist_callbacks.storage.shards import Extent, Shard

# Less is written anew: a file of its own would cost more, in syncs.
SMALLEST = 1_000_000
# So many shards that do not change, one for each time that some have come to rest.
_MOST = 8
# What has moved once may do so again, as a metric does that is reset: it is taken for
# settled when it has been the same in so many checkpoints in a row. A backbone that is
# frozen again is then.
_CALM = 8

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """One data file of a checkpoint.

    Args:
        name: of the file.
        shard: what it holds.
        stamp: what the system says of it: the file, its size, and when it was written.
        settled: whether nothing in it is expected to change.
    """

    name: str
    shard: Shard
    stamp: Stamp
    settled: bool


@dataclass(frozen=True)
class Written:
    """What a save has written, for the next one to share.

    Args:
        folder: the checkpoint.
        parts: its data files.
        resting: tensors that were the same as in the checkpoint before it.
        restless: tensors that have changed after they had been taken for settled, and
            how many checkpoints in a row have found them the same since.
        linked_bytes: how much of it was shared with the checkpoint before.
    """

    folder: Path
    parts: tuple[Part, ...] = ()
    resting: frozenset[str] = frozenset()
    restless: Mapping[str, int] = field(default_factory=dict)
    linked_bytes: int = 0

    def moved_to(self, folder: Path) -> Written:
        """Give the same, of a folder that has been given its name meanwhile."""
        return dataclasses.replace(self, folder=folder)

    def digests(self) -> dict[str, str]:
        """Give the XXH3-128 of each data file by its name, in hex."""
        return {part.name: part.shard.digest for part in self.parts}

    def extents(self) -> dict[str, Extent]:
        """Say where each tensor lies in its file."""
        return {k: e for part in self.parts for k, e in part.shard.extents.items()}

    def shareable(self) -> int:
        """Bytes that the next checkpoint need not write, if they stay as they are."""
        return sum(part.shard.size for part in self.parts if part.settled)


@dataclass(frozen=True)
class Plan:
    """How the tensors of a checkpoint are laid out in files.

    Args:
        linked: files of the checkpoint before.
        settled: plain tensors for a new file that later checkpoints may share.
        moving: the other plain tensors.
        odd: what is not plain.
        restless: as in `Written`.
    """

    linked: tuple[Part, ...] = ()
    settled: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    restless: Mapping[str, int] = field(default_factory=dict)


def plan(
    tensors: Mapping[str, Any], before: Written | None, frozen: Collection[str]
) -> Plan:
    """Find what can be shared with the checkpoint before; reads the tensors in doubt.

    Args:
        tensors: all values by key.
        before: what the last save has written; None at the first.
        frozen: keys of what is not expected to change.
    """
    odd = [key for key, value in tensors.items() if not shards.is_plain(value)]
    rest = dict.fromkeys(key for key in tensors if key not in set(odd))
    restless = {} if before is None else dict(before.restless)
    linked = []
    settled_before = [] if before is None else [p for p in before.parts if p.settled]
    for part in settled_before:
        keys = part.shard.extents
        if len(settled_before) <= _MOST and _is_same(tensors, part.shard):
            linked.append(part)
            for key in keys:
                rest.pop(key)
        else:
            moved = [key for key in keys if not _stays(tensors, key, keys[key])]
            restless.update(dict.fromkeys(moved, 0))
    resting = set(frozen) | (set() if before is None else before.resting)
    quiet = [
        key for key in rest if key in resting and restless.get(key, _CALM) >= _CALM
    ]
    if sum(shards.size_of(tensors[key]) for key in quiet) < SMALLEST:
        quiet = []
    still = set(quiet)
    moving = [key for key in rest if key not in still]
    restless = {key: count for key, count in restless.items() if key not in still}
    return Plan(tuple(linked), tuple(quiet), tuple(moving), tuple(odd), restless)


def stamp_of(path: Path) -> Stamp:
    """Say which file a name stands for, and in what state."""
    status = os.lstat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns


def link(source: Path, stamp: Stamp, target: Path) -> bool:
    """Give a file of the last checkpoint a name in the next one.

    Args:
        source: the file.
        stamp: what the system said of it when it was written.
        target: its further name.

    Returns:
        False where it is not as it was written, or the file system has no links: then
        it is to be written anew.
    """
    try:
        if stamp_of(source) != stamp:
            return False
        durable.link(source, target)
    except OSError:
        return False
    return True


def resting(before: Written | None, now: Mapping[str, Extent]) -> frozenset[str]:
    """List the tensors that are the same as in the checkpoint before.

    By their CRC-32C, which is a hint for the next plan; that one looks at all bytes.
    """
    old = {} if before is None else before.extents()
    return frozenset(
        key
        for key, extent in now.items()
        if key in old and (old[key].crc, old[key].size) == (extent.crc, extent.size)
    )


def calmed(restless: Mapping[str, int], resting: Collection[str]) -> dict[str, int]:
    """Count one more checkpoint for what is restless, from 0 again for what has moved.

    Args:
        restless: as in `Written`.
        resting: what is the same as in the checkpoint before.
    """
    return {key: count + 1 if key in resting else 0 for key, count in restless.items()}


def _is_same(tensors: Mapping[str, Any], shard: Shard) -> bool:
    fitting = all(
        key in tensors and shards.fits(tensors[key], extent)
        for key, extent in shard.extents.items()
    )
    return fitting and shards.digest_of(tensors[k] for k in shard.extents) == (
        shard.digest
    )


def _stays(tensors: Mapping[str, Any], key: str, extent: Extent) -> bool:
    value = tensors.get(key)
    return (
        value is not None
        and shards.fits(value, extent)
        and shards.crc_of(value) == extent.crc
    )
