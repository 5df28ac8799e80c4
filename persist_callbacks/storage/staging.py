"""A checkpoint in the making, and the moment in which it gets its name."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from persist_callbacks.errors import (
    CheckpointDamaged,
    FormatTooNew,
    PersistError,
    SaveFailed,
)
from persist_callbacks.storage import durable, layout, manifest, run_directory
from persist_callbacks.storage.layout import PREFIX, REPLACED

_OF_SAVES = (layout.STAGED, layout.TRASH)


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
        """Write one file of it, such as `STATE` or `META`; `Store.commit` syncs it.

        Raises:
            ValueError: a checkpoint has no file of that name.
            SaveFailed: the file could not be written.
        """
        if not layout.is_file_name(name):
            raise ValueError(f"{name!r}: not the name of a checkpoint file")
        with saving(self.path / name):
            durable.write_file(self.path / name, data, sync=False)


def publish(staged: Path, final: Path, run_id: str) -> None:
    """Give a staged folder its name, which another checkpoint may have now.

    At every instant readers find either the old checkpoint of that step, under its
    name or with the ending `REPLACED`, or the new one; the new one on return.

    Args:
        staged: a whole checkpoint.
        final: its path; what lies there is this run's.
        run_id: of this run.
    """
    if not final.exists():
        durable.publish_folder(staged, final)
        return
    replaced = final.with_name(final.name + REPLACED)
    if os.path.lexists(replaced):
        # An earlier swap came as far as the new name and failed at clearing up.
        _remove_replaced(replaced, run_id)
    durable.move_aside(final, replaced)
    try:
        durable.publish_folder(staged, final)
    except OSError:
        if not final.exists():
            durable.move_aside(replaced, final)
        raise
    durable.remove_folder(replaced)


def finish_swaps(directory: Path, run_id: str | None) -> None:
    """Complete or undo what a crash left of replacing a checkpoint by another.

    Args:
        directory: the run directory.
        run_id: of the run; None if nothing says so.
    """
    for replaced in list(directory.glob(f"ckpt-*{REPLACED}")):
        final = replaced.with_name(replaced.name.removesuffix(REPLACED))
        if layout.step_of(final.name) is None:
            continue
        if not os.path.lexists(final):
            durable.move_aside(replaced, final)
            continue
        # One of a newer format is for a newer version to judge.
        with contextlib.suppress(FormatTooNew):
            if _is_sound(final):
                _remove_replaced(replaced, run_id)
            else:
                # The old one is all that is left of that step.
                _move_aside(final)
                durable.move_aside(replaced, final)


def _is_sound(folder: Path) -> bool:
    try:
        manifest.validate(folder, checksums=True)
    except CheckpointDamaged:
        return False
    return True


def _remove_replaced(replaced: Path, run_id: str | None) -> None:
    """Delete what was replaced; put aside what this run did not write."""
    try:
        is_own = manifest.read(replaced).run_id == run_id
    except PersistError:
        is_own = False
    if is_own:
        durable.remove_folder(replaced)
        return
    _move_aside(replaced)


def _move_aside(path: Path) -> None:
    name = f"{layout.ASIDE}{path.name}"
    durable.move_aside(path, run_directory.free_name(path.parent, name))


def require_space(folder: Path, needs: int) -> None:
    """Refuse to begin what the disk has no room for, before anything is written.

    A quota, or what others write meanwhile, is found out by writing all the same.

    Args:
        folder: on the disk in question.
        needs: bytes.

    Raises:
        SaveFailed: the disk has fewer.
    """
    free = shutil.disk_usage(folder).free
    if free < needs:
        raise SaveFailed(
            folder,
            expected=f"{needs:,} bytes of free space for the next checkpoint",
            found=f"{free:,}",
            advice="Make room, or keep fewer checkpoints (keep_last).",
        )


def sweep(directory: Path) -> list[tuple[Path, OSError]]:
    """Delete what failed saves have left and could not delete themselves then.

    Only what saves make: another thread may be writing a file of its own beside them.

    Returns:
        What cannot be deleted now either, and why.
    """
    stuck = []
    for entry in list(directory.iterdir()):
        if entry.name.startswith(_OF_SAVES) and durable.is_leftover(entry.name):
            try:
                durable.remove_leftover(entry)
            except OSError as error:
                stuck.append((entry, error))
    return stuck


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
