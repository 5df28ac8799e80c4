"""A run directory as a state machine: anything in any order, and what must hold.

Checkpoints are a few bytes each. A crash is a disk that takes no further change at one
of the store's changes and from then on, as for a process that is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from fake_checkpoint import DATA, INDEX, hidden, save
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import disk_calls
from persist_callbacks.errors import (
    CheckpointDamaged,
    CheckpointNotFound,
    NoSoundCheckpoint,
    NotARunDirectory,
    PersistError,
)
from persist_callbacks.records import Score
from persist_callbacks.storage import manifest, retention
from persist_callbacks.storage.layout import MANIFEST, STATE, folder_name
from persist_callbacks.storage.store import Store

FILES = st.sampled_from([DATA, INDEX, STATE, MANIFEST])
SCORES = st.none() | st.sampled_from([0.1, 0.2, 0.3, float("nan")])
# Some hundred thousand syncs: what they do to a disk is not what is looked at here.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
# A save takes some twenty changes, with what it prunes some thirty.
DEATHS = st.none() | st.integers(1, 45)


class Dead(BaseException):
    """The process is gone: nothing that it would still do reaches the disk."""


class RunDirectory(RuleBasedStateMachine):
    """What is done to a run directory, beside a model of what must be there.

    Attributes:
        sound: content by step of the checkpoints that are whole.
        damaged: steps of those that are not, and were not set aside yet.
        operations: how many there were, over all machines.
    """

    operations = 0

    @initialize()
    def begin(self) -> None:
        """Begin a run, and keep a stranger's checkpoint in its directory."""
        self.base = Path(tempfile.mkdtemp(prefix="machine-", dir=MEMORY))
        self.directory = self.base / "run"
        with Store.open_for_writing(self.base / "stranger") as stranger:
            foreign = save(stranger, 10**8).path
        self.store: Store | None = Store.open_for_writing(self.directory)
        self.run_id = self.store.run_id
        self.sound: dict[int, tuple[bytes, str]] = {}
        self.damaged: set[int] = set()
        self.aside = 0
        self.step = 0
        # It is older than all of the run's own: the best name for one that is not.
        self.foreign = self.directory / folder_name(0)
        shutil.copytree(foreign, self.base / foreign.name)

    def teardown(self) -> None:
        """Leave nothing behind."""
        if self.store is not None:
            self.store.close()
        shutil.rmtree(self.base)

    # What a run does

    @precondition(lambda self: self.store is not None)
    @rule(more=st.integers(0, 3), score=SCORES, death=DEATHS, content=st.binary())
    def save(
        self, more: int, score: float | None, death: int | None, content: bytes
    ) -> None:
        """Save, maybe the same step again, and die at some change of it or do not."""
        self._count()
        # The same step again is what train end does; a resume goes on from the newest.
        self.step += more
        step = max(self.step, 1)
        was = self.sound.get(step)
        scored = None if score is None else Score("loss", score, True)

        def work(store: Store) -> None:
            save(store, step, data=b"d" + content, score=scored)

        if self._until(death, work):
            self._now(step, (b"d" + content, str(score)))
            return
        if step in self.damaged and not self._folder(step).exists():
            self.damaged.remove(step)
            self.aside = self._count_aside()
        found = None
        try:
            found = self._reads(step)
        except CheckpointDamaged:
            # Nothing has come of it: what was damaged is there as it was.
            assert step in self.damaged
        if found is None:
            assert was is None
            return
        assert found in (was, (b"d" + content, str(score)))
        self._now(step, found)

    @precondition(lambda self: self.store is not None)
    @rule(
        last=st.integers(1, 3),
        best=st.integers(0, 2),
        every=st.none() | st.just(1e-9),
        death=DEATHS,
    )
    def prune(
        self, last: int, best: int, every: float | None, death: int | None
    ) -> None:
        """Delete by the rules: never the newest, never the best, nobody else's."""
        self._count()
        assert self.store is not None
        records = [each.record for each in self.store.own_checkpoints()]
        gone = retention.to_delete(
            records, keep_last=last, keep_best=best, keep_every_seconds=every
        )
        assert every is None or gone == []
        steps = {int(name[5:]) for name in gone}
        scores = {
            record.position.step: record.score.value
            for record in records
            if record.score is not None and record.score.value == record.score.value
        }
        if best and scores:
            assert min(scores, key=lambda step: (scores[step], step)) not in steps
        if records:
            assert records[-1].position.step not in steps
        finished = self._until(death, lambda store: store.prune(gone))
        for step in steps:
            if finished or not (self.directory / folder_name(step)).exists():
                self.sound.pop(step, None)
                self.damaged.discard(step)

    @rule(death=DEATHS)
    def go_on(self, death: int | None) -> None:
        """Run again: the newest sound one is gone on from, what is not is set aside."""
        self._count()
        if self.store is not None:
            self.store.close()
            self.store = None
        newest = max(self.sound, default=None)
        passed_over = {step for step in self.damaged if step > (newest or 0)}
        if newest is None and self.foreign.exists():
            # A stranger's is better than none, if somebody has put it there.
            newest, passed_over = 0, set(self.damaged)
        try:
            sound = Store.open_for_reading(self.directory).newest_sound()
        except (NoSoundCheckpoint, NotARunDirectory) as error:
            refusal: PersistError | None = error
        else:
            refusal = None
        if refusal is not None:
            assert newest is None
            assert self.damaged or self.aside
            if isinstance(refusal, NotARunDirectory):
                assert not (self.directory / "run.json").exists()
            else:
                told = str(refusal)
                assert all(folder_name(step) in told for step in self.damaged)
            # The user moves them away, and begins at zero.
            for path in self.directory.glob("*ckpt-*"):
                if path != self.foreign:
                    shutil.rmtree(path)
            if not (self.directory / "run.json").exists():
                # Nothing says any more that it is a run's.
                shutil.rmtree(self.directory)
            self.damaged.clear()
            self.aside = 0
            self.store = Store.open_for_writing(self.directory)
            self.run_id = self.store.run_id
            return
        if newest is None:
            assert sound.committed is None
        else:
            assert sound.committed is not None
            assert sound.committed.record.position.step == newest
            assert not newest or self._reads(newest) == self.sound[newest]
        assert {int(path.name[5:14]) for path, _ in sound.passed_over} == passed_over
        self.store = Store.open_for_writing(self.directory)
        assert self.store.run_id == self.run_id

        def work(store: Store) -> None:
            for path, reason in sound.passed_over:
                store.set_aside(path, reason)

        finished = self._until(death, work)
        for step in sorted(passed_over):
            if finished or not (self.directory / folder_name(step)).exists():
                self.damaged.remove(step)
                self.aside += 1
        self.step = newest or 0

    @rule()
    def vanish(self) -> None:
        """The process is killed between two saves; its lock goes with it."""
        self._count()
        if self.store is not None:
            self.store.close()
            self.store = None

    # What befalls it

    @precondition(lambda self: self.sound)
    @rule(which=st.integers(0, 99), name=FILES, at=st.integers(0, 10**6))
    def flip(self, which: int, name: str, at: int) -> None:
        """A bit of a committed checkpoint changes."""
        self._count()
        step, path = self._some_file(which, name)
        content = bytearray(path.read_bytes())
        # The last byte of a manifest is a line's end, which says nothing.
        content[at % (len(content) - (name == MANIFEST))] ^= 0x80
        path.write_bytes(content)
        self._damage(step)

    @precondition(lambda self: self.sound)
    @rule(which=st.integers(0, 99), name=FILES, at=st.integers(0, 10**6))
    def cut(self, which: int, name: str, at: int) -> None:
        """A file of a committed checkpoint is cut short, or gone."""
        self._count()
        step, path = self._some_file(which, name)
        size = path.stat().st_size
        if at % 3:
            os.truncate(path, at % (size - (name == MANIFEST)))
        else:
            path.unlink()
        self._damage(step)

    @precondition(lambda self: len(self.sound) > 1)
    @rule(which=st.integers(0, 99), name=FILES)
    def swap(self, which: int, name: str) -> None:
        """A file of a checkpoint is another's."""
        self._count()
        step, path = self._some_file(which, name)
        other = min(each for each in self.sound if each != step)
        content = (self.directory / folder_name(other) / name).read_bytes()
        if content != path.read_bytes():
            path.write_bytes(content)
            self._damage(step)

    @rule(what=st.sampled_from(["checkpoint", "run.json", "journal.jsonl"]))
    def lose(self, what: str) -> None:
        """A file beside the checkpoints is deleted; a run without any stays one."""
        self._count()
        # Whose the directory is must be told by something.
        if what != "run.json" or (self.sound and not self.foreign.exists()):
            (self.directory / what).unlink(missing_ok=True)

    @precondition(lambda self: (self.directory / "run.json").exists())
    @rule()
    def litter(self) -> None:
        """Somebody puts another run's checkpoint and a file of theirs there."""
        self._count()
        if not self.foreign.exists():
            copy = self.base / folder_name(10**8)
            shutil.copytree(copy, self.foreign)
            text = (self.foreign / MANIFEST).read_bytes()
            described = manifest.msgspec.structs.replace(
                manifest.decode(text, "here"), step=0
            )
            (self.foreign / MANIFEST).write_bytes(manifest.encode(described))

    # What must hold, whatever was done

    @invariant()
    def what_was_committed_is_there(self) -> None:
        """Every checkpoint that was neither damaged nor pruned is whole."""
        for step, expected in getattr(self, "sound", {}).items():
            assert self._reads(step) == expected

    @invariant()
    def readers_see_no_other(self) -> None:
        """Nothing staged or half removed is ever listed, by whoever looks."""
        if not hasattr(self, "sound"):
            return
        lost = not (self.directory / "run.json").exists() and not self.sound
        with contextlib.suppress(
            CheckpointNotFound, *([NotARunDirectory] if lost else [])
        ):
            reader = Store.open_for_reading(self.directory)
            listed = {each.record.position.step for each in reader.checkpoints()}
            assert listed - self.damaged - {0} == set(self.sound)
            if self.sound and not self.damaged:
                newest = reader.newest_sound().committed
                assert newest is not None
                assert newest.record.position.step == max(self.sound)

    @invariant()
    def strangers_are_left_alone(self) -> None:
        """Another run's checkpoint is never deleted, set aside or replaced."""
        if getattr(self, "foreign", None) is not None and self.foreign.exists():
            manifest.validate(self.foreign, checksums=True)

    @invariant()
    def set_aside_stays(self) -> None:
        """What was set aside is there for good."""
        if hasattr(self, "aside"):
            assert self._count_aside() >= self.aside

    @invariant()
    def nothing_is_left_over(self) -> None:
        """A store that is open has swept what the process before it has left."""
        if getattr(self, "store", None) is not None:
            left = [name for name in hidden(self.directory) if ".lock" not in name]
            assert left == []
            assert not list(self.directory.glob("*.replaced"))

    # Inside

    def _count(self) -> None:
        type(self).operations += 1

    def _until(self, death: int | None, work: object) -> bool:
        """Let the store do something; False if the process died on the way."""
        assert self.store is not None
        assert callable(work)
        left = [death or 0]

        def act(_: str) -> None:
            left[0] -= 1
            if death and left[0] <= 0:
                raise Dead

        try:
            with disk_calls.before_each(act):
                work(self.store)
        except Dead:
            self.store.close()
            self.store = None
            return False
        return True

    def _now(self, step: int, content: tuple[bytes, str]) -> None:
        self.sound[step] = content
        if step in self.damaged:
            # Replaced by a sound one, or set aside where it did not say whose it was.
            self.damaged.remove(step)
            self.aside = self._count_aside()

    def _count_aside(self) -> int:
        return len(list(self.directory.glob("damaged-ckpt-*")))

    def _damage(self, step: int) -> None:
        del self.sound[step]
        self.damaged.add(step)

    def _some_file(self, which: int, name: str) -> tuple[int, Path]:
        steps = sorted(self.sound)
        step = steps[which % len(steps)]
        return step, self._folder(step) / name

    def _folder(self, step: int) -> Path:
        folder = self.directory / folder_name(step)
        # Where a process died between the two renames of a replacement.
        replaced = folder.with_name(f"{folder.name}.replaced")
        return folder if folder.exists() else replaced

    def _reads(self, step: int) -> tuple[bytes, str] | None:
        """What a reader finds under a step; None if that is nothing sound."""
        folder = self._folder(step)
        if not folder.exists():
            return None
        described = manifest.validate(folder, checksums=True)
        score = manifest.to_record(described, folder).score
        # As text: a NaN is not equal to itself.
        value = str(None if score is None else score.value)
        return (folder / DATA).read_bytes(), value
