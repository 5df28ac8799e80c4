"""Files of ``Dataset.cache(FILE)``: what a process that died has left half filled.

TensorFlow fills a cache in parts named ``FILE_0``, ``FILE_1``, ..., each with a lock
file beside it, and merges them to ``FILE.index`` and ``FILE.data-*`` once an iterator
has gone through all elements. A process that dies before that leaves its parts, and no
other gets past them: its first batch ends with an ``AlreadyExistsError``. (Source:
``tensorflow/core/kernels/data/cache_dataset_ops.cc``.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from persist_callbacks.errors import DataMismatch
from persist_callbacks.storage import durable

_LOCK = ".lockfile"


@dataclass(frozen=True)
class HalfFilled:
    """A cache that an iterator has begun to fill, and has not filled.

    Args:
        prefix: what the user gave to ``cache``.
        parts: paths of its files.
        begun_at: seconds since 1970 when the last of its lock files was made, by the
            clock of the file system.
    """

    prefix: str
    parts: tuple[Path, ...]
    begun_at: float

    def delete(self) -> None:
        """Delete its files, so that the next iterator fills it anew.

        Raises:
            DataMismatch: they cannot be deleted.
        """
        # The locks go last: until then nobody else begins to fill it.
        for path in sorted(self.parts, key=lambda path: path.suffix == _LOCK):
            try:
                durable.remove_file(path)
            except OSError as error:
                raise self.in_the_way(f"cannot be deleted: {error}") from error

    def in_the_way(self, why: str) -> DataMismatch:
        """Return the error that says that no batch can be drawn.

        Args:
            why: what keeps this process from deleting the files itself.
        """
        return DataMismatch(
            self.prefix,
            expected="a cache of the data that is whole, or none yet",
            found=f"one that was begun and never filled, which {why}",
            advice="If no other process is filling it now, delete "
            f"{', '.join(map(str, self.parts))} and run again; it is filled anew then.",
        )


def clear(prefixes: Sequence[str], *, drawn_until: float | None) -> list[str]:
    """Delete what an earlier process of this run has left half filled.

    Only what is certainly its own: it went on drawing from a cache after that was
    begun, and nobody else can fill it meanwhile. The process has died, since the run's
    lock is held here.

    Args:
        prefixes: the caches that each batch to train on is drawn from, as the user
            named them.
        drawn_until: when the earlier process last trained on a batch, in seconds since
            1970; None if it never did.

    Returns:
        The caches that are filled anew.

    Raises:
        DataMismatch: one may be another process's, or cannot be deleted.
    """
    cleared = []
    for prefix in dict.fromkeys(prefixes):
        found = half_filled(prefix)
        if found is None:
            continue
        if drawn_until is None or found.begun_at > drawn_until:
            raise found.in_the_way("may be another process's")
        found.delete()
        cleared.append(prefix)
    return cleared


def require_whole(prefixes: Sequence[str], checkpoint: Path) -> None:
    """Refuse to restore an iterator's state where caches that it speaks of are gone.

    Older versions took such states. TensorFlow ends the process over one.

    Args:
        prefixes: the caches in the pipeline, as the user named them.
        checkpoint: what holds the state.

    Raises:
        DataMismatch: one of them is not there, or not whole.
    """
    for prefix in prefixes:
        index = Path(f"{prefix}.index")
        if "://" not in prefix and not index.exists():
            raise DataMismatch(
                prefix,
                expected=f"the whole cache that {checkpoint} goes on with",
                found=f"no {index.name}",
                advice="Put its files back, or go on from a checkpoint at an epoch's "
                "end with persist_callbacks.resume, fit(initial_epoch=...) and another "
                "directory for PeriodicCheckpoint.",
            )


def half_filled(prefix: str) -> HalfFilled | None:
    """Look whether no iterator would get past what lies in a cache's place.

    Args:
        prefix: what the user gave to ``cache``; one on a remote file system is left to
            TensorFlow.
    """
    place = Path(prefix)
    part = re.compile(
        re.escape(place.name)
        + r"_(\d+)(\.index|\.lockfile|\.data-\d{5}-of-\d{5}(\..*)?)"
    )
    try:
        files = sorted(place.parent.iterdir())
        if any(path.name == f"{place.name}.index" for path in files):
            return None
        numbered = [
            (path, found[1]) for path in files if (found := part.fullmatch(path.name))
        ]
        # Without a lock it is another cache, a whole one whose name ends in a number.
        locks = {number: path for path, number in numbered if path.suffix == _LOCK}
        begun_at = max((path.stat().st_mtime for path in locks.values()), default=0.0)
    except OSError:
        # What cannot be looked at cannot be told of; the first batch tells.
        return None
    parts = tuple(path for path, number in numbered if number in locks)
    return HalfFilled(prefix, parts, begun_at) if parts else None
