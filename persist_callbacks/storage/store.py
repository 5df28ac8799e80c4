"""One run directory: stage, commit, list, find, set aside, prune.

`Store.commit` alone makes a checkpoint exist, by renaming a staged folder whose
content is durable. Readers look at folders and their manifests; TensorFlow's
``checkpoint`` file is written for others and never read here.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from persist_callbacks.errors import (
    CheckpointDamaged,
    ForeignCheckpoint,
    PersistError,
    SaveFailed,
)
from persist_callbacks.records import CheckpointRecord, Position, Score
from persist_callbacks.storage import (
    checkpoint_file,
    checkpoint_files,
    checkpoints,
    durable,
    journal,
    layout,
    lock,
    manifest,
    run_directory,
    staging,
    upkeep,
)
from persist_callbacks.storage.checkpoints import Committed, Sound
from persist_callbacks.storage.layout import MANIFEST, META, PREFIX, STATE
from persist_callbacks.storage.run_directory import RUN, check_directory
from persist_callbacks.storage.staging import Staged, saving

JOURNAL = journal.NAME

# What a save takes beside its own files: two small ones written anew, and the blocks of
# the folders.
_SLACK = 64 * 1024

__all__ = [
    "JOURNAL",
    "MANIFEST",
    "META",
    "PREFIX",
    "RUN",
    "STATE",
    "Committed",
    "Sound",
    "Staged",
    "Store",
    "check_directory",
]


class Store:
    """A run directory, made by `open_for_reading` or `open_for_writing`.

    Reading is safe while another process writes. Writing methods are for one thread
    at a time, but `note` for any.
    """

    check_directory = staticmethod(check_directory)

    def __init__(
        self,
        directory: Path,
        run_id: str,
        own_lock: lock.RunLock | None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.run_id = run_id
        self._lock = own_lock
        self._known = None if own_lock is None else checkpoints.Known()
        self._versions = dict(versions or {})
        self._notices: deque[str] = deque()
        self._stuck: set[Path] = set()

    @classmethod
    def open_for_reading(cls, directory: str | os.PathLike[str]) -> Store:
        """Open the directory of a run that has begun, changing nothing.

        Raises:
            CheckpointNotFound: the directory does not exist or is empty.
            NotARunDirectory: it holds something else than a run.
            FormatTooNew: a newer persist_callbacks has begun the run.
        """
        path = run_directory.absolute(directory)
        run_directory.require_run(path)
        run = run_directory.read_run(path)
        run_id = run.run_id if run is not None else upkeep.newest_run_id(path)
        return cls(path, run_id or "", None)

    @classmethod
    def open_for_writing(
        cls,
        directory: str | os.PathLike[str],
        *,
        versions: Mapping[str, str] | None = None,
    ) -> Store:
        """Open or create a run directory, lock it, and sweep what a crash left.

        Args:
            directory: the run directory; links are followed once, now.
            versions: of the software that writes, by name, for ``run.json``.

        Raises:
            NotARunDirectory: the directory holds something else than a run.
            DirectoryNotWritable: it cannot be created or written.
            RunLocked: another live process writes to it.
            FormatTooNew: a newer persist_callbacks has begun the run.
        """
        path = run_directory.absolute(directory)
        check_directory(path)
        path = run_directory.resolved(path)
        with _refusing(path):
            durable.make_folder(path)
            own_lock = lock.RunLock(path)
        try:
            with _refusing(path):
                run = upkeep.recover(path, own_lock, versions or {})
                store = cls(path, run.run_id, own_lock, versions)
                if store.checkpoints():
                    store._announce()
            if not own_lock.keeps_others_out:
                store._notices.append(
                    f"{path}: expected a file system with locks, found none (flock): "
                    "other processes are not kept from writing to this run. Train it "
                    "in one at a time, or have it mounted with locks (-o flock)."
                )
        except BaseException:
            own_lock.release()
            raise
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes write; more than once is no error."""
        if self._lock is not None:
            self._lock.release()

    @property
    def is_held(self) -> bool:
        """Whether it is open for writing."""
        return self._lock is not None and self._lock.held

    # Reading

    def checkpoints(self) -> list[Committed]:
        """List the checkpoints whose manifest reads, by step; no other file is read."""
        return checkpoints.readable(self.directory, self._known)

    def own_checkpoints(self) -> list[Committed]:
        """List those that this run has written and may prune, by step."""
        return [each for each in self.checkpoints() if self._is_own(each.record)]

    def damaged(self) -> list[tuple[Path, PersistError]]:
        """List the checkpoint folders whose manifest does not read, and why."""
        found = checkpoints.survey(self.directory)
        return [each for each in found if not isinstance(each, Committed)]

    def newest_sound(self) -> Sound:
        """Find the newest checkpoint to go on from, reading every byte of it.

        It only reads: whoever goes on sets the damaged ones aside.

        Raises:
            NoSoundCheckpoint: there are checkpoints, all damaged.
            FormatTooNew: one that is newer than the newest sound one was written by
                a newer persist_callbacks; going back behind it would lose work.
            CheckpointUnreadable: or it may be sound, and cannot be read here.
        """
        return checkpoints.newest_sound(self.directory)

    def find(self, selector: str | int | Path) -> Committed:
        """Find one checkpoint and read every byte of it.

        Args:
            selector: ``"latest"``, ``"best"``, a step number, a folder's name, or the
                path of a checkpoint folder or prefix, in this run or another.

        Raises:
            CheckpointNotFound: there is no such checkpoint; what there is is listed.
            CheckpointDamaged: it is there and not sound.
            NoSoundCheckpoint: the latest was asked for, and all are damaged.
        """
        return checkpoints.find(self.directory, selector)

    def load_state(self, committed: Committed) -> bytes:
        """Read the training state of a checkpoint.

        Raises:
            CheckpointDamaged: it cannot be read.
        """
        return checkpoint_files.read_file(committed.path, STATE)

    def load_meta(self, committed: Committed) -> bytes | None:
        """Read the MetaGraphDef of a checkpoint; None where it was saved without.

        Raises:
            CheckpointDamaged: it cannot be read.
        """
        if not os.path.lexists(committed.path / META):
            return None
        return checkpoint_files.read_file(committed.path, META)

    def journal(self) -> list[dict[str, Any]]:
        """Read what happened to the run, oldest first."""
        return journal.read(self.directory)

    # Writing

    def take_save_request(self) -> bool:
        """Tell whether a file named SAVE asks for a checkpoint, and take it away."""
        path = self.directory / layout.SAVE
        # `Path.exists` would raise while the disk is away for a moment.
        if not os.path.exists(path):
            return False
        with contextlib.suppress(OSError):
            # One that cannot be removed would ask again and again: it is obeyed once
            # each time it is looked for, which is what its owner sees to.
            durable.remove_file(path)
        return True

    def take_notices(self) -> list[str]:
        """Hand over what the user is to know and was not told, on any thread."""
        taken = []
        while self._notices:
            taken.append(self._notices.popleft())
        return taken

    def stage(self, step: int, *, needs: int = 0) -> Staged:
        """Begin a checkpoint.

        A run directory that was deleted meanwhile is made again, and leftovers of saves
        that have failed are swept; `take_notices` tells of the one, and of those that
        cannot be deleted.

        Args:
            step: training steps done.
            needs: bytes that it is expected to take on disk.

        Raises:
            SaveFailed: the folder could not be created, or there is no room.
            RunLocked: the directory was deleted, and another process has made it anew.
            ForeignCheckpoint: the same, and that run has ended.
        """
        self._require_lock()
        name = durable.passing_name("staged", layout.folder_name(step))
        with saving(self.directory / name):
            assert self._lock is not None
            self._lock = upkeep.see_to_directory(
                self.directory,
                self._lock,
                self.run_id,
                self._versions,
                self._notices.append,
            )
            self._sweep()
            staging.require_space(self.directory, needs + _SLACK)
            durable.stage_folder(self.directory / name)
        return Staged(self.directory / name, step)

    def commit(
        self,
        staged: Staged,
        *,
        position: Position,
        fingerprint: str,
        score: Score | None = None,
        finished: bool = False,
        digests: Mapping[str, str] | None = None,
        announce: bool = True,
    ) -> Committed:
        """Make a staged checkpoint exist; it is durable on return.

        Files are synced first, then the manifest that lists them, then the folder;
        only then does the folder get its name, and only then does TensorFlow's
        ``checkpoint`` file speak of it.

        Args:
            staged: all of its files written.
            position: where training stood.
            fingerprint: the architecture's fingerprint.
            score: the monitored value, where there is one.
            finished: whether the run ended by itself.
            digests: of files that need not be read back, see `manifest.build`.
            announce: False where `prune` follows, which rewrites that file too.

        Raises:
            SaveFailed: the disk refused; the staged folder can be abandoned.
            CheckpointDamaged: the staged folder is not a whole checkpoint.
            ForeignCheckpoint: another run's checkpoint has that step's name.
        """
        self._require_lock()
        if position.step != staged.step:
            raise ValueError(f"commit: staged {staged.step}, got {position.step}")
        final = self.directory / layout.folder_name(staged.step)
        if final.exists():
            self._make_way(final)
        with saving(final):
            for path in sorted(staged.path.iterdir()):
                durable.sync_file(path)
            description = manifest.build(
                staged.path,
                run_id=self.run_id,
                position=position,
                saved_at=time.time(),
                fingerprint=fingerprint,
                score=score,
                finished=finished,
                digests=digests,
            )
            data = manifest.encode(description)
            durable.write_file(staged.path / MANIFEST, data)
            manifest.validate(staged.path, checksums=False)
            durable.sync_folder(staged.path)
            replaces = final.exists()
            if replaces:
                self._announce(without={final.name})
            staging.publish(staged.path, final, self.run_id)
            if announce or replaces:
                self._announce()
        return Committed(final, manifest.to_record(description, final))

    def abandon(self, staged: Staged) -> None:
        """Delete a staged checkpoint; one that was committed or swept is no error."""
        self._require_lock()
        durable.remove_leftover(staged.path)

    def set_aside(self, path: Path, reason: str | PersistError) -> Path:
        """Rename a damaged checkpoint so that nobody reads it; nothing is deleted.

        Returns:
            Its new path, ``damaged-`` and the old name.
        """
        self._require_lock()
        target = run_directory.free_name(self.directory, f"{layout.ASIDE}{path.name}")
        with saving(path):
            self._announce(without={path.name})
            durable.move_aside(path, target)
        # What goes on from an earlier one can do so without a journal.
        with contextlib.suppress(SaveFailed):
            self.note(
                "set aside", checkpoint=path.name, kept_as=target.name, reason=reason
            )
        return target

    def prune(self, names: Collection[str]) -> None:
        """Delete checkpoints of this run; what is gone already is no error.

        TensorFlow's ``checkpoint`` file speaks of none of them before they go. Of files
        that cannot be deleted, in a folder that is none any more, `take_notices` tells.

        Args:
            names: folder names, as `retention.to_delete` gives them.

        Raises:
            ForeignCheckpoint: one belongs to another run; none was deleted.
            CheckpointDamaged: one does not say whose it is; none was deleted.
            SaveFailed: the disk refused for one; the others were deleted.
        """
        self._require_lock()
        folders = [self.directory / name for name in names]
        folders = [folder for folder in folders if os.path.lexists(folder)]
        try:
            for folder in folders:
                self._require_own(folder)
        except PersistError:
            # What was committed before may wait for it.
            with saving(self.directory):
                self._announce()
            raise
        with saving(self.directory):
            self._announce(without=set(names))
            refused: OSError | None = None
            for folder in folders:
                try:
                    durable.remove_folder(folder)
                except OSError as error:
                    refused = refused or error
            if refused is not None:
                raise refused
            if folders:
                self._sweep()

    def note(self, event: str, **fields: Any) -> None:
        """Add an event to the journal; durable on return, and safe from any thread.

        Raises:
            SaveFailed: the disk refused.
        """
        with saving(self.directory / JOURNAL):
            journal.append(self.directory, event, self.run_id, fields)

    # Inside

    def _require_lock(self) -> None:
        if not self.is_held:
            raise RuntimeError(f"{self.directory}: not open for writing")

    def _is_own(self, record: CheckpointRecord) -> bool:
        return record.run_id == self.run_id

    def _require_own(self, folder: Path) -> None:
        assert self._known is not None
        record = self._known.read(folder).record
        if not self._is_own(record):
            raise ForeignCheckpoint(
                folder,
                expected=f"a checkpoint of run {self.run_id}",
                found=f"one of run {record.run_id}",
                advice="Move it out of this directory if it is in the way.",
            )

    def _sweep(self) -> None:
        """Delete leftovers, and tell once of each that cannot be deleted."""
        for path, error in staging.sweep(self.directory):
            if path not in self._stuck:
                self._stuck.add(path)
                self._notices.append(
                    f"{path}: expected to delete it, which is left of an older "
                    f"checkpoint or of a failed save, found {error.strerror or error}. "
                    "Each save tries again; see to its permissions, or delete it."
                )

    def _make_way(self, final: Path) -> None:
        """See to it that what has a new checkpoint's name may be replaced by it."""
        try:
            self._require_own(final)
        except CheckpointDamaged as error:
            self.set_aside(final, error)

    def _announce(self, without: Collection[str] = ()) -> None:
        """Rewrite TensorFlow's ``checkpoint`` file."""
        names = [each.record.name for each in self.checkpoints()]
        prefixes = [f"{name}/{PREFIX}" for name in names if name not in without]
        checkpoint_file.write(self.directory, prefixes)


@contextlib.contextmanager
def _refusing(directory: Path) -> Iterator[None]:
    """Turn what the system refuses at opening into an error that names the folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise run_directory.not_writable(directory, reason) from error
