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
            clock of the file system; 0 without any.
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


def clear(
    training: Sequence[str], validation: Sequence[str], *, drawn_until: float | None
) -> list[str]:
    """Delete what an earlier process of this run has left half filled.

    Only what is certainly its own: it went on drawing from the data after the cache was
    begun, and nobody else can fill a cache meanwhile. It has died, since the run's lock
    is held here.

    Args:
        training: the caches of the data to train on, as the user named them.
        validation: those of the data to validate on.
        drawn_until: when the earlier process last drew a batch, in seconds since 1970;
            None if there was none.

    Returns:
        The caches that are filled anew.

    Raises:
        DataMismatch: one that training draws from is in the way, and may be another
            process's, or cannot be deleted.
    """
    cleared = []
    for prefix in dict.fromkeys([*training, *validation]):
        found = half_filled(prefix)
        if found is None:
            continue
        if drawn_until is not None and 0 < found.begun_at <= drawn_until:
            found.delete()
            cleared.append(prefix)
        elif prefix in training:
            raise found.in_the_way("may be another process's")
        # Until the first validation, whoever fills it may well be done.
    return cleared


def half_filled(prefix: str) -> HalfFilled | None:
    """Look whether no iterator would get past what lies in a cache's place.

    Args:
        prefix: what the user gave to ``cache``; one on a remote file system is left to
            TensorFlow.
    """
    place = Path(prefix)
    part = re.compile(
        re.escape(place.name) + r"_\d+(\.index|\.lockfile|\.data-\d{5}-of-\d{5}(\..*)?)"
    )
    try:
        files = sorted(place.parent.iterdir())
        if any(path.name == f"{place.name}.index" for path in files):
            return None
        parts = tuple(path for path in files if part.fullmatch(path.name))
        made = [path.stat().st_mtime for path in parts if path.suffix == _LOCK]
    except OSError:
        # What cannot be looked at cannot be told of; the first batch tells.
        return None
    return HalfFilled(prefix, parts, max(made, default=0.0)) if parts else None
