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
from typing import Any

import tensorflow as tf

from persist_callbacks.errors import DataMismatch
from persist_callbacks.training import pipeline


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
    parts: tuple[str, ...]
    begun_at: float

    def delete(self) -> None:
        """Delete its files, so that the next iterator fills it anew.

        Raises:
            DataMismatch: they cannot be deleted.
        """
        # The locks go last: until then nobody else begins to fill it.
        for path in sorted(self.parts, key=lambda path: path.endswith(_LOCK)):
            try:
                tf.io.gfile.remove(path)
            except tf.errors.NotFoundError:
                continue
            except tf.errors.OpError as error:
                raise self.in_the_way(f"cannot be deleted: {error.message}") from error

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
            f"{', '.join(self.parts)} and run again; it is filled anew then.",
        )


_LOCK = ".lockfile"


def clear(training: Any, validation: Any, *, drawn_until: float | None) -> list[str]:
    """Delete what an earlier process of this run has left half filled.

    Only what is certainly its own: it went on drawing from the data after the cache was
    begun, and nobody else can fill a cache meanwhile. It has died, since the run's lock
    is held here.

    Args:
        training: the data to train on; of anything but a ``tf.data.Dataset``, nothing
            is looked at.
        validation: the data to validate on, alike.
        drawn_until: when the earlier process last drew a batch, in seconds since 1970;
            None if there was none.

    Returns:
        The caches that are filled anew, as the user named them.

    Raises:
        DataMismatch: one that training draws from is in the way, and may be another
            process's, or cannot be deleted.
    """
    cleared = []
    for data in (training, validation):
        for found in half_filled(data):
            if drawn_until is not None and 0 < found.begun_at <= drawn_until:
                found.delete()
                cleared.append(found.prefix)
            elif data is training:
                raise found.in_the_way("may be another process's")
            # Until the first validation, whoever fills it may well be done.
    return cleared


def half_filled(data: Any) -> list[HalfFilled]:
    """Find the caches in files that no iterator over the data would get past.

    Args:
        data: a ``tf.data.Dataset``; anything else has none.
    """
    return [
        found
        for prefix in pipeline.cache_files(data)
        if (found := _look(prefix)) is not None
    ]


def _look(prefix: str) -> HalfFilled | None:
    folder, _, name = prefix.rpartition("/")
    part = re.compile(
        re.escape(name) + r"_\d+(\.index|\.lockfile|\.data-\d{5}-of-\d{5}(\..*)?)"
    )
    try:
        names: Sequence[str] = tf.io.gfile.listdir(folder or ("/" if _ else "."))
        if f"{name}.index" in names:
            return None
        lead = prefix[: len(prefix) - len(name)]
        parts = [lead + each for each in sorted(names) if part.fullmatch(each)]
        made = [
            tf.io.gfile.stat(path).mtime_nsec / 1e9
            for path in parts
            if path.endswith(_LOCK)
        ]
    except tf.errors.OpError:
        # What cannot be looked at cannot be told of; the first batch tells.
        return None
    return HalfFilled(prefix, tuple(parts), max(made, default=0.0)) if parts else None
