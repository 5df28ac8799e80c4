"""A disk that is full after any number of pages: whole checkpoints, and no leftover."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_checkpoint import hidden, save

from persist_callbacks.errors import SaveFailed
from persist_callbacks.storage import manifest, staging
from persist_callbacks.storage.store import Store
from small_disk import covered, fill, free, mounted

PAGE = 4096
SECOND = "ckpt-000000002"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", options="size=1m,nr_inodes=200") as where:
        yield where


def see_to(store: Store, steps: set[int]) -> None:
    """What was committed is sound, and nothing else is there."""
    found = store.checkpoints()
    assert {each.record.position.step for each in found} == steps
    for each in found:
        manifest.validate(each.path, checksums=True)
    assert store.damaged() == []
    left = [name for name in hidden(store.directory) if not name.startswith(".lock")]
    assert left == []


def test_full_at_any_page(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of whatever a save writes: it fails whole; the next one works."""
    # What asks for the space beforehand would let it come to none of these.
    monkeypatch.setattr(staging, "require_space", lambda folder, needs: None)
    failed, reasons = 0, set()
    with Store.open_for_writing(disk / "run") as store:
        save(store, 1)
        for pages in range(30):
            filler = fill(disk, leaving=pages * PAGE)
            try:
                save(store, 2, data=bytes(9 * PAGE), finished=True)
                see_to(store, {1, 2})
                store.prune([SECOND])
            except SaveFailed as error:
                reasons.add(error.found)
                failed += 1
                # As training does it, while there still is no room.
                for staged in disk.glob("run/.staged-*"):
                    store.abandon(staging.Staged(staged, 2))
                # Committed, maybe, and only the file that tells so was not written.
                there = (disk / "run" / SECOND).exists()
                see_to(store, {1, 2} if there else {1})
            filler.unlink()
            save(store, 2)
            see_to(store, {1, 2})
            store.prune([SECOND])
    assert 10 < failed < 30
    assert reasons == {"No space left on device"}


def test_no_room_for_the_next_one_is_known_before(disk: Path) -> None:
    """Nothing is written; the message has both numbers, and what can be done."""
    with Store.open_for_writing(disk / "run") as store:
        save(store, 1)
        before = free(disk)
        with pytest.raises(SaveFailed) as raised:
            store.stage(2, needs=2 << 20)
        assert free(disk) == before
        needed = (2 << 20) + (64 << 10)
        assert f"expected {needed:,} bytes of free space" in str(raised.value)
        assert f"found {before:,}. Make room" in str(raised.value)
        see_to(store, {1})
        save(store, 2)
        see_to(store, {1, 2})


def test_full_of_what_a_killed_save_has_left(disk: Path) -> None:
    """The rerun sweeps it before it writes anything, and signs the lock."""
    with Store.open_for_writing(disk / "run") as store:
        save(store, 1)
    (disk / "run" / ".lock-owner").unlink()
    staged = disk / "run" / f".staged-{SECOND}-0123abcd"
    staged.mkdir()
    fill(staged)
    with Store.open_for_writing(disk / "run") as again:
        see_to(again, {1})
        assert (disk / "run" / ".lock-owner").exists()
        save(again, 2)
        see_to(again, {1, 2})


def test_no_more_files(disk: Path) -> None:
    """Bytes there are, but not one inode: the same, by another way."""
    with Store.open_for_writing(disk / "run") as store:
        save(store, 1)
        others = 0
        with pytest.raises(OSError, match="No space left"):
            while True:
                (disk / f"other{others}").touch()
                others += 1
        # Room for the folder and two of its files.
        for number in range(3):
            (disk / f"other{number}").unlink()
        with pytest.raises(SaveFailed, match="No space left on device"):
            save(store, 2)
        for number in range(3, others):
            (disk / f"other{number}").unlink()
        save(store, 3)
        see_to(store, {1, 3})


def test_read_only_for_a_while(disk: Path) -> None:
    """A disk that takes no more writes: refused by name, and well again afterwards."""
    with Store.open_for_writing(disk / "run") as store:
        save(store, 1)
        with covered(store.directory, options="ro"):
            with pytest.raises(SaveFailed, match="Read-only file system"):
                store.stage(2)
            with pytest.raises(SaveFailed, match="Read-only file system"):
                store.note("an event")
        save(store, 3)
        see_to(store, {1, 3})


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="needs another user"
)
def test_permission_lost_for_a_while() -> None:
    """Without the right to write in the folder, and with it again."""
    code = """
import os, sys
from pathlib import Path
from fake_checkpoint import save
from persist_callbacks.errors import SaveFailed
from persist_callbacks.storage.store import Store

run = Path(sys.argv[1])
os.setuid(65534)
with Store.open_for_writing(run) as store:
    save(store, 1)
    run.chmod(0o555)
    try:
        save(store, 2)
    except SaveFailed as error:
        print(error.found)
    print([each.record.position.step for each in store.checkpoints()])
    run.chmod(0o755)
    save(store, 3)
    print([each.record.position.step for each in store.checkpoints()])
    print(sorted(path.name for path in run.glob(".staged*")))
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        run = Path(folder) / "run"
        run.mkdir()
        os.chown(run, 65534, 65534)
        done = subprocess.run(
            [sys.executable, "-c", code, str(run)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    if "ModuleNotFoundError" in done.stderr or "Permission" in done.stderr:
        pytest.skip("another user cannot read this checkout")
    assert done.stdout.splitlines() == ["Permission denied", "[1]", "[1, 3]", "[]"], (
        done.stderr
    )
