"""A checkpoint in the making, and the moment in which it gets its name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from persist_callbacks.errors import SaveFailed
from persist_callbacks.storage import durable, layout
from persist_callbacks.storage.layout import PREFIX, REPLACED


@dataclass(frozen=True)
class Staged:
    """A checkpoint in the making, in a folder that no reader takes for one.

    Args:
        path: its folder.
        step: training steps done.
    """

    path: Path
    step: int

    @property
    def prefix(self) -> str:
        """Path for its CKPT files without ``.index``."""
        return os.fspath(self.path / PREFIX)

    def write(self, name: str, data: bytes) -> None:
        """Write one file of it, such as `STATE` or `META`.

        Raises:
            ValueError: a checkpoint has no file of that name.
            SaveFailed: the file could not be written.
        """
        if not layout.is_file_name(name):
            raise ValueError(f"{name!r}: not the name of a checkpoint file")
        with saving(self.path / name):
            durable.write_file(self.path / name, data)


def publish(staged: Path, final: Path) -> None:
    """Give a staged folder its name, which another checkpoint may have now.

    At every instant readers find either the old checkpoint of that step, under its
    name or with the ending `REPLACED`, or the new one; the new one on return.
    """
    if not final.exists():
        durable.publish_folder(staged, final)
        return
    replaced = final.with_name(final.name + REPLACED)
    if replaced.exists():
        # An earlier swap came as far as the new name and failed at clearing up.
        durable.remove_folder(replaced)
    durable.move_aside(final, replaced)
    try:
        durable.publish_folder(staged, final)
    except OSError:
        if not final.exists():
            durable.move_aside(replaced, final)
        raise
    durable.remove_folder(replaced)


def finish_swaps(directory: Path) -> None:
    """Complete or undo what a crash left of replacing a checkpoint by another."""
    for replaced in list(directory.glob(f"ckpt-*{REPLACED}")):
        final = replaced.with_name(replaced.name.removesuffix(REPLACED))
        if layout.step_of(final.name) is None:
            continue
        if final.exists():
            durable.remove_folder(replaced)
        else:
            durable.move_aside(replaced, final)


@contextlib.contextmanager
def saving(where: Path) -> Iterator[None]:
    """Turn what the disk refuses into an error of ours that names the place."""
    try:
        yield
    except OSError as error:
        raise SaveFailed(
            where,
            expected="to write it",
            found=error.strerror or str(error),
            advice="Check free space and permissions.",
        ) from error
