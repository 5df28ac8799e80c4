"""Reading while another process writes, and what a crash leaves of a replacement."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_checkpoint import DATA, hidden, save, stage

from persist_callbacks.storage import checkpoints, manifest
from persist_callbacks.storage.store import MANIFEST, Store

ROUNDS = 150

WRITER = """
import sys
from fake_checkpoint import save
from persist_callbacks.records import Score
from persist_callbacks.storage.store import Store

with Store.open_for_writing(sys.argv[1]) as store:
    step = 1
    while not sys.stdin.closed and step < 100_000:
        # Replaced at once, as the last one of a run is, then pruned soon.
        for finished in (False, True):
            score = Score("loss", 1 / step, True)
            save(store, step, data=bytes([step % 250]) * 500_000, score=score)
        store.prune([f"ckpt-{step - 1:09d}"])
        step += 1
        if step == 3:
            print("begun", flush=True)
"""


def test_a_reader_always_finds_a_whole_checkpoint(tmp_path: Path) -> None:
    """Whatever is replaced and pruned meanwhile: newest, best and list are whole."""
    memory = Path("/dev/shm") if os.path.isdir("/dev/shm") else tmp_path
    run = memory / f"readers-{os.getpid()}"
    with Store.open_for_writing(run) as store:
        save(store, 1, data=b"x" * 500_000)
    path = os.pathsep.join(filter(None, sys.path))
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
        seen = []
        reader = Store.open_for_reading(run)
        for _ in range(ROUNDS):
            sound = reader.newest_sound()
            assert sound.committed is not None
            assert sound.passed_over == ()
            seen.append(sound.committed.record.position.step)
            assert reader.find("best").record.position.step >= seen[-1] - 1
            assert 1 <= len(reader.checkpoints()) <= 3
            assert reader.damaged() == []
        assert seen == sorted(seen)
        # It did write all the while.
        assert len(set(seen)) > 10
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.communicate()
        shutil.rmtree(run)


def replaced_halfway(store: Store) -> tuple[Path, Path]:
    """Leave both the old and the new checkpoint of a step, as a crash does."""
    old = save(store, 1, data=b"old").path
    shutil.copytree(old, store.directory / "aside")
    save(store, 1, data=b"new")
    replaced = store.directory / f"{old.name}.replaced"
    (store.directory / "aside").rename(replaced)
    store.close()
    return old, replaced


def test_a_replaced_one_goes_when_the_new_one_is_sound(store: Store) -> None:
    """The crash came after the new one had its name."""
    final, replaced = replaced_halfway(store)
    Store.open_for_writing(store.directory).close()
    assert not replaced.exists()
    assert (final / DATA).read_bytes() == b"new"


def test_a_replaced_one_is_used_when_the_new_one_is_damaged(store: Store) -> None:
    """The old one is not deleted for the sake of one that does not read."""
    final, replaced = replaced_halfway(store)
    (final / DATA).write_bytes(b"bad")
    Store.open_for_writing(store.directory).close()
    assert not replaced.exists()
    assert (final / DATA).read_bytes() == b"old"
    manifest.validate(final, checksums=True)
    aside = store.directory / f"damaged-{final.name}"
    assert (aside / DATA).read_bytes() == b"bad"


@pytest.mark.parametrize("what", ["a stranger's", "no checkpoint"])
def test_what_only_looks_replaced_is_never_deleted(
    store: Store, tmp_path: Path, what: str
) -> None:
    """Whose name ends so and is not this run's is put aside."""
    final, replaced = replaced_halfway(store)
    if what == "no checkpoint":
        (replaced / MANIFEST).unlink()
    else:
        shutil.rmtree(replaced)
        with Store.open_for_writing(tmp_path / "other") as other:
            shutil.copytree(save(other, 1, data=b"theirs").path, replaced)
    expected = (replaced / DATA).read_bytes()
    Store.open_for_writing(store.directory).close()
    assert (final / DATA).read_bytes() == b"new"
    kept = store.directory / f"damaged-{replaced.name}"
    assert (kept / DATA).read_bytes() == expected


def test_a_save_sweeps_what_failed_ones_have_left(store: Store) -> None:
    """Where they could not do so themselves; what others write beside it stays."""
    abandoned = stage(store, 1)
    (store.directory / ".trash-ckpt-000000009-0123abcd").mkdir()
    other = store.directory / ".tmp-model.pb-0123abcd"
    other.write_bytes(b"being written by an export")
    save(store, 2)
    assert not abandoned.path.exists()
    assert hidden(store.directory) == [".lock", ".lock-owner", other.name]


def test_a_checkpoint_that_goes_while_it_is_read_is_not_called_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when it is pruned, nor when another of its step takes its place."""
    save(store, 1, data=b"one")
    save(store, 2, data=b"two")
    real, done = manifest.checksum, []

    def meanwhile(path: Path) -> str:
        if path.parent.name == "ckpt-000000002" and not done:
            done.append(path)
            save(store, 2, data=b"again")
        return real(path)

    monkeypatch.setattr(manifest, "checksum", meanwhile)
    found = checkpoints.validate(store.directory / "ckpt-000000002")
    assert (found.path / DATA).read_bytes() == b"again"
    assert done

    def pruning(path: Path) -> str:
        if path.parent.name == "ckpt-000000002":
            store.prune(["ckpt-000000002"])
        return real(path)

    monkeypatch.setattr(manifest, "checksum", pruning)
    sound = store.newest_sound()
    assert sound.committed is not None
    assert sound.committed.record.position.step == 1
    assert sound.passed_over == ()
