from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_checkpoint import DATA, hidden, names, save, stage

from another_user import as_another_user, folder_for_all
from persist_callbacks.errors import (
    CheckpointDamaged,
    CheckpointNotFound,
    CheckpointUnreadable,
    DirectoryNotWritable,
    ForeignCheckpoint,
    FormatTooNew,
    NoSoundCheckpoint,
    NotARunDirectory,
    PersistError,
    RunLocked,
    SaveFailed,
)
from persist_callbacks.records import Position, Score
from persist_callbacks.storage import checkpoints, durable, lock, manifest, reading
from persist_callbacks.storage.store import (
    JOURNAL,
    MANIFEST,
    META,
    RUN,
    STATE,
    Store,
    check_directory,
)


def spoil(folder: Path) -> None:
    """Turn over one bit in the middle of the data file."""
    data = bytearray((folder / DATA).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / DATA).write_bytes(data)


def steps(store: Store) -> list[int]:
    return [found.record.position.step for found in store.checkpoints()]


# What may be a run directory


@pytest.mark.parametrize(
    "entry",
    [
        "checkpoint",
        "ckpt-1.index",
        "weights.h5",
        "thesis.docx",
        "run.json",
        "manifest.json",
        "ckpt-000000001/notes.txt",
        "logs/notes.txt",
    ],
)
def test_a_folder_with_something_else_is_refused(tmp_path: Path, entry: str) -> None:
    """Neither checked, read nor written: the folder of another program."""
    path = tmp_path / "mine" / entry
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{}")
    first = entry.split("/")[0]
    with pytest.raises(NotARunDirectory, match=f"found a folder with {first} and no"):
        check_directory(tmp_path / "mine")
    with pytest.raises(NotARunDirectory):
        Store.open_for_writing(tmp_path / "mine")
    with pytest.raises(NotARunDirectory, match="found a folder without them"):
        Store.open_for_reading(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == [first]


@pytest.mark.parametrize(
    "entry",
    [
        ".gitignore",
        "model.pb",
        "model.signature.json",
        "log.csv",
        "train.log",
        "slurm.out",
        "slurm.err",
        "events.out.tfevents.123.host",
        "train/events.out.tfevents.123.host",
    ],
)
def test_what_other_callbacks_write_is_no_obstacle(tmp_path: Path, entry: str) -> None:
    """Logs and exports may be there before the first checkpoint, and stay."""
    path = tmp_path / entry
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    check_directory(tmp_path)
    with Store.open_for_writing(tmp_path) as store:
        save(store, 1)
    assert path.read_bytes() == b"x"


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_what_may_not_be_looked_into() -> None:
    """A new volume's lost+found is no obstacle, a stranger's folder is one."""
    with folder_for_all() as folder:
        for name in ("lost+found", "mine"):
            (folder / name).mkdir()
            (folder / name).chmod(0o700 if os.geteuid() == 0 else 0)
        with as_another_user():
            with pytest.raises(NotARunDirectory, match="found a folder with mine and"):
                check_directory(folder)
            with pytest.raises(NotARunDirectory, match="found a folder without them"):
                Store.open_for_reading(folder)
        (folder / "mine").rmdir()
        with as_another_user():
            check_directory(folder)
            with pytest.raises(CheckpointNotFound, match="in which no run has begun"):
                Store.open_for_reading(folder)
        (folder / "lost+found").rmdir()


def test_a_run_directory_may_hold_anything_beside(store: Store) -> None:
    """Once it is a run's, notes of the user in it are no reason to stop."""
    (store.directory / "notes.txt").write_text("x")
    check_directory(store.directory)


def test_a_checkpoint_alone_makes_it_ours(store: Store) -> None:
    """Without run.json the run goes on under the id of its newest checkpoint."""
    save(store, 1)
    store.close()
    (store.directory / RUN).unlink()
    with Store.open_for_reading(store.directory) as reader:
        assert reader.run_id == store.run_id
    with Store.open_for_writing(store.directory) as again:
        assert again.run_id == store.run_id
    assert (store.directory / RUN).is_file()


def test_a_damaged_run_file_is_kept_and_replaced(store: Store) -> None:
    """Nothing of the run is lost with run.json, which is only moved aside."""
    save(store, 1)
    store.close()
    (store.directory / RUN).write_text("{")
    with Store.open_for_writing(store.directory) as again:
        assert again.run_id == store.run_id
    assert (store.directory / f"damaged-{RUN}").read_text() == "{"


def test_checking_touches_nothing(tmp_path: Path) -> None:
    """A directory that can be created is not created by asking."""
    check_directory(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    """A file in place of the directory is refused by every way in."""
    (tmp_path / "file").write_bytes(b"")
    for open_it in (check_directory, Store.open_for_reading, Store.open_for_writing):
        with pytest.raises(NotARunDirectory, match="found a file"):
            open_it(tmp_path / "file")


def test_a_directory_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    """The message names what is in the way."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DirectoryNotWritable, match=r"expected .*file to be a folder"):
        check_directory(tmp_path / "file" / "run")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_directory_that_the_system_refuses() -> None:
    """Where permissions promise too much, creation still ends in an error of ours."""
    with pytest.raises(DirectoryNotWritable, match=r"/proc/run: expected a folder"):
        Store.open_for_writing("/proc/run")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write")
def test_a_read_only_parent(tmp_path: Path) -> None:
    """A parent without write permission is found before anything is tried."""
    tmp_path.chmod(0o555)
    with pytest.raises(DirectoryNotWritable, match="no permission to write"):
        check_directory(tmp_path / "run")
    tmp_path.chmod(0o755)


def test_reading_where_nothing_is(tmp_path: Path) -> None:
    """A run that has not begun is not found, rather than refused."""
    with pytest.raises(CheckpointNotFound, match="found nothing"):
        Store.open_for_reading(tmp_path / "run")
    with pytest.raises(CheckpointNotFound, match="found an empty folder"):
        Store.open_for_reading(tmp_path)


def test_a_run_of_a_newer_version_is_left_alone(store: Store) -> None:
    """A run.json of a format to come asks for an upgrade."""
    store.close()
    text = (store.directory / RUN).read_text().replace('"version": 1', '"version": 2')
    (store.directory / RUN).write_text(text)
    for open_it in (check_directory, Store.open_for_reading, Store.open_for_writing):
        with pytest.raises(FormatTooNew, match=r"run\.json.*found version 2"):
            open_it(store.directory)


# The lock


def in_child(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    script = "import sys\nfrom persist_callbacks.storage.store import Store\n" + code
    return subprocess.run(
        [sys.executable, "-c", script, str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
    )


OPEN = """
try:
    Store.open_for_writing(sys.argv[1])
    print("open")
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_second_process_is_locked_out(store: Store) -> None:
    """It is told which process holds the run; it may read; later it may write."""
    save(store, 5)
    answer = in_child(store.directory, OPEN).stdout
    assert answer.startswith("RunLocked")
    assert f"found process {os.getpid()}." in answer
    reading = "print(len(Store.open_for_reading(sys.argv[1]).checkpoints()))"
    assert in_child(store.directory, reading).stdout == "1\n"
    store.close()
    assert in_child(store.directory, OPEN).stdout == "open\n"


def test_a_process_that_died_holds_no_lock(tmp_path: Path) -> None:
    """What SIGKILL leaves behind keeps nobody out."""
    code = """
import os, signal
store = Store.open_for_writing(sys.argv[1])
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert in_child(tmp_path, code).returncode == -9
    Store.open_for_writing(tmp_path).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    """Data workers that outlive a killed trainer do not keep its rerun out."""
    code = """
import os, time
store = Store.open_for_writing(sys.argv[1])
worker = os.fork()
if worker == 0:
    os.close(1); os.close(2)
    time.sleep(60)
    os._exit(0)
time.sleep(0.2)
print(worker, flush=True)
os._exit(1)
"""
    worker = int(in_child(tmp_path, code).stdout)
    try:
        Store.open_for_writing(tmp_path).close()
    finally:
        os.kill(worker, 9)


def test_the_same_process_is_locked_out(store: Store) -> None:
    """A notebook's interrupted run is named as such."""
    with pytest.raises(RunLocked, match=r"this very process .* was not closed"):
        Store.open_for_writing(store.directory)
    store.close()
    with Store.open_for_writing(store.directory) as again:
        save(again, 1)
    with pytest.raises(RuntimeError, match="not open for writing"):
        store.stage(2)


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is kept out, by a process that is dead least of all; that is told once."""
    fcntl = pytest.importorskip("fcntl")

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)
    # Never closed, as of a process that was killed.
    dead = Store.open_for_writing(tmp_path / "run")
    save(dead, 1)
    (tmp_path / "run" / lock.OWNER).write_text('{"pid": 1, "host": "elsewhere"}')
    assert lock.holder(tmp_path / "run") == lock.Owner(1, "elsewhere")
    with Store.open_for_writing(tmp_path / "run") as store:
        save(store, 2)
        (told,) = store.take_notices()
        assert "expected a file system with locks, found none" in told
        shutil.rmtree(store.directory)
        save(store, 3)
        (told,) = store.take_notices()
        assert "it was made again" in told
        assert store.is_held
    assert not store.is_held


def test_a_link_that_is_pointed_at_the_next_run(tmp_path: Path) -> None:
    """A run goes on in the directory that it was opened in."""
    latest = tmp_path / "latest"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        latest.unlink(missing_ok=True)
        latest.symlink_to(name, target_is_directory=True)
        if name == "one":
            first = Store.open_for_writing(latest)
    with first, Store.open_for_writing(latest) as second:
        save(first, 1)
        first.note("saved")
        assert steps(first) == [1]
        assert second.journal() == second.checkpoints() == []
        (latest / "SAVE").touch()
        assert not first.take_save_request()
        assert second.take_save_request()


def test_a_reader_cannot_write(store: Store) -> None:
    """Every writing method of a store that was opened for reading refuses."""
    save(store, 1)
    reader = Store.open_for_reading(store.directory)
    calls: list[Callable[[], object]] = [
        lambda: reader.stage(2),
        lambda: reader.prune(["ckpt-000000001"]),
        lambda: reader.set_aside(store.directory / "ckpt-000000001", "x"),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="not open for writing"):
            call()


# Commit


def test_what_is_committed_is_found(store: Store) -> None:
    """Position, score and flags come back, and the files with their bytes."""
    score = Score("val_loss", 0.25, True)
    before = time.time()
    committed = save(store, 1200, score=score, finished=True)
    (found,) = store.checkpoints()
    assert found == committed
    assert found.record.position == Position(epoch=12, batch=0, step=1200)
    assert found.record.score == score
    assert found.record.finished
    assert found.record.run_id == store.run_id
    assert before - 1 <= found.record.saved_at <= time.time() + 1
    assert found.prefix == str(store.directory / "ckpt-000001200" / "model.ckpt")
    assert store.load_state(found) == b"{}"
    assert store.load_meta(found) is None
    assert names(store.directory) == ["checkpoint", "ckpt-000001200", RUN]


def test_the_meta_is_optional(store: Store) -> None:
    """A graph that was staged is part of the checkpoint."""
    staged = stage(store, 1)
    staged.write(META, b"graph")
    committed = store.commit(staged, position=Position(0, 1, 1), fingerprint="f")
    assert store.load_meta(committed) == b"graph"


def test_the_order_of_a_commit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, manifest, folder, name, parent, and only then TensorFlow's file."""
    save(store, 1)
    staged = stage(store, 2)
    calls: list[str] = []
    real_sync, real_rename, real_replace = durable._sync, os.rename, os.replace

    def sync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append("sync " + path.name.replace(staged.path.name, "STAGED"))
        real_sync(descriptor)

    def rename(old: Path, new: Path) -> None:
        calls.append(f"rename to {Path(new).name}")
        real_rename(old, new)

    def replace(old: Path, new: Path) -> None:
        calls.append(f"replace {Path(new).name}")
        real_replace(old, new)

    monkeypatch.setattr(durable, "_sync", sync)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", replace)
    store.commit(staged, position=Position(0, 2, 2), fingerprint="f")
    temporary = [call for call in calls if call.startswith("sync .tmp-checkpoint-")]
    assert len(temporary) == 1
    calls.remove(temporary[0])
    assert calls == [
        f"sync {DATA}",
        "sync model.ckpt.index",
        f"sync {STATE}",
        f"sync {MANIFEST}",
        "sync STAGED",
        "rename to ckpt-000000002",
        "sync run",
        "replace checkpoint",
        "sync run",
    ]


def test_a_staged_checkpoint_is_invisible(store: Store) -> None:
    """Until it is committed no list has it; abandoned, it leaves nothing."""
    save(store, 1)
    staged = stage(store, 2)
    assert steps(store) == [1]
    assert store.damaged() == []
    store.abandon(staged)
    store.abandon(staged)
    assert names(store.directory) == ["checkpoint", "ckpt-000000001", RUN]
    assert all(not name.startswith(".staged") for name in hidden(store.directory))


def test_an_incomplete_checkpoint_is_not_committed(store: Store) -> None:
    """The writer passes the reader's test, or there is no checkpoint."""
    staged = store.stage(1)
    staged.write(STATE, b"{}")
    with pytest.raises(CheckpointDamaged, match=r"expected an entry for model\.ckpt"):
        store.commit(staged, position=Position(0, 1, 1), fingerprint="f")
    assert steps(store) == []


def test_only_names_of_checkpoint_files_are_staged(store: Store) -> None:
    """A name that would lead out of the folder is a programming error."""
    staged = store.stage(1)
    for name in ("../x", "/tmp/x", MANIFEST, "model.ckpt.data-0-of-1"):
        with pytest.raises(ValueError, match="not the name of a checkpoint file"):
            staged.write(name, b"")


def test_the_same_step_again_replaces_it(store: Store) -> None:
    """A later state at the same step, such as a finished one, takes its place."""
    save(store, 1)
    save(store, 2, data=b"old")
    again = save(store, 2, data=b"new", finished=True)
    assert steps(store) == [1, 2]
    assert (again.path / DATA).read_bytes() == b"new"
    assert store.newest_sound().committed == again
    assert names(store.directory)[1:3] == ["ckpt-000000001", "ckpt-000000002"]


def test_a_damaged_one_of_the_same_step_is_set_aside(store: Store) -> None:
    """What cannot say whose it is, is neither deleted nor in the way."""
    path = save(store, 2).path
    (path / MANIFEST).write_bytes(b"?")
    save(store, 2, data=b"new")
    assert steps(store) == [2]
    aside = store.directory / "damaged-ckpt-000000002"
    assert (aside / MANIFEST).read_bytes() == b"?"


def test_a_strangers_checkpoint_is_not_replaced(store: Store, tmp_path: Path) -> None:
    """A folder copied in from another run stays as it is."""
    with Store.open_for_writing(tmp_path / "other") as other:
        foreign = save(other, 7, data=b"theirs").path
    moved = foreign.rename(store.directory / foreign.name)
    with pytest.raises(ForeignCheckpoint, match=f"found one of run {other.run_id}"):
        save(store, 7)
    assert (moved / DATA).read_bytes() == b"theirs"


def test_a_full_disk_is_an_error_of_ours(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk refuses is told with the place, and the cause is chained."""
    staged = stage(store, 1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(durable, "_sync", full)
        with pytest.raises(SaveFailed, match="No space left on device") as raised:
            store.commit(staged, position=Position(0, 1, 1), fingerprint="f")
    assert isinstance(raised.value.__cause__, OSError)
    store.abandon(staged)
    assert steps(store) == []
    save(store, 1)
    assert steps(store) == [1]


# Newest sound, set aside, find


def test_damaged_ones_are_passed_over(store: Store) -> None:
    """The newest whose every byte is right is taken, the others told with reasons."""
    for step in (1, 2, 3, 4):
        save(store, step)
    spoil(store.directory / "ckpt-000000003")
    (store.directory / "ckpt-000000004" / MANIFEST).unlink()
    sound = store.newest_sound()
    assert sound.committed is not None
    assert sound.committed.record.position.step == 2
    assert [path.name for path, _ in sound.passed_over] == [
        "ckpt-000000004",
        "ckpt-000000003",
    ]
    assert "found nothing" in str(sound.passed_over[0][1])
    assert "content was changed" in str(sound.passed_over[1][1])
    assert [path.name for path, _ in store.damaged()] == ["ckpt-000000004"]


def test_all_damaged(store: Store) -> None:
    """With nothing sound left each checkpoint is named with what is wrong."""
    for step in (1, 2):
        spoil(save(store, step).path)
    with pytest.raises(NoSoundCheckpoint, match=r"000000002/.*; .*000000001/"):
        store.newest_sound()


def test_none_at_all(store: Store) -> None:
    """A run that has saved nothing yet has no newest one, and that is no error."""
    sound = store.newest_sound()
    assert sound.committed is None
    assert sound.passed_over == ()


def test_a_newer_format_is_not_passed_over(store: Store) -> None:
    """Going back behind a checkpoint of a newer version would lose its work."""
    save(store, 1)
    path = save(store, 2).path / MANIFEST
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(FormatTooNew, match=r"ckpt-000000002/manifest\.json"):
        store.newest_sound()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("name", [MANIFEST, DATA])
def test_what_may_not_be_read_is_not_passed_over(name: str) -> None:
    """It may be sound, which whoever has the rights finds out."""
    with (
        folder_for_all() as folder,
        Store.open_for_writing(folder / "run") as store,
    ):
        store.directory.chmod(0o755)
        for step in (1, 2):
            newest = save(store, step).path
            for path in (newest, *newest.iterdir()):
                path.chmod(0o755)
        (newest / name).chmod(0)
        with (
            as_another_user(),
            pytest.raises(CheckpointUnreadable, match=f"2/{name}.*Permission"),
        ):
            store.newest_sound()
        (newest / name).chmod(0o644)
        with as_another_user():
            found = store.newest_sound().committed
        assert found is not None
        assert found.record.position.step == 2


@pytest.mark.parametrize("name", [MANIFEST, DATA])
@pytest.mark.parametrize(("times", "step"), [(1, 2), (9, 1)])
def test_an_input_output_error_is_asked_about_again(
    times: int, step: int, name: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that was slow answers by then; a bad sector is damage."""
    save(store, 1)
    newest = save(store, 2).path
    real, left = open, [times]

    def refusing(path: Path, *args: Any, **more: Any) -> Any:
        if path == newest / name and left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(checkpoints, "_SECONDS_TO_ANSWER", 0.0)
    for module in (manifest, reading):
        monkeypatch.setattr(module, "open", refusing, raising=False)
    reader = Store.open_for_reading(store.directory)
    sound = reader.newest_sound()
    assert sound.committed is not None
    assert sound.committed.record.position.step == step
    assert len(sound.passed_over) == 2 - step


def test_the_checkpoint_file_is_not_needed(store: Store, tmp_path: Path) -> None:
    """Missing, wrong, or in a moved directory: folders and manifests are enough."""
    save(store, 1)
    save(store, 2)
    store.close()
    (store.directory / "checkpoint").unlink()
    assert store.newest_sound().committed is not None
    (store.directory / "checkpoint").write_text('model_checkpoint_path: "/gone/x"')
    moved = store.directory.rename(tmp_path / "moved")
    with Store.open_for_writing(moved) as again:
        found = again.newest_sound().committed
        assert found is not None
        assert found.record.position.step == 2
    assert "ckpt-000000002/model.ckpt" in (moved / "checkpoint").read_text()


def test_set_aside_keeps_everything(store: Store) -> None:
    """A damaged checkpoint gets a name no reader takes, and the journal says why."""
    save(store, 1)
    for kept_as in ("damaged-ckpt-000000002", "damaged-ckpt-000000002-2"):
        path = save(store, 2).path
        spoil(path)
        ((_, reason),) = store.newest_sound().passed_over
        assert store.set_aside(path, reason).name == kept_as
        assert (store.directory / kept_as / DATA).stat().st_size == 8192
        assert steps(store) == [1]
        event = store.journal()[-1]
        assert event["event"] == "set aside"
        assert event["kept_as"] == kept_as
        assert "content was changed" in event["reason"]
        assert "000000002" not in (store.directory / "checkpoint").read_text()


def test_find(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By latest, best, step, name, folder or prefix, from wherever one stands."""
    for step, loss in ((100, 0.5), (200, 0.2), (300, float("nan")), (400, 0.3)):
        save(store, step, score=Score("val_loss", loss, True))
    monkeypatch.chdir(store.directory)
    selectors: list[tuple[str | int | Path, int]] = [
        ("latest", 400),
        ("best", 200),
        (300, 300),
        ("300", 300),
        ("ckpt-000000100", 100),
        (store.directory / "ckpt-000000200", 200),
        (Path("ckpt-000000200/model.ckpt"), 200),
    ]
    for selector, step in selectors:
        assert store.find(selector).record.position.step == step


def test_find_says_what_there_is(store: Store) -> None:
    """A checkpoint that does not exist is answered with those that do."""
    with pytest.raises(CheckpointNotFound, match="found no checkpoints"):
        store.find("latest")
    save(store, 100)
    save(store, 200)
    with pytest.raises(
        CheckpointNotFound,
        match="expected checkpoint 300, found ckpt-000000100, ckpt-000000200",
    ):
        store.find(300)
    with pytest.raises(CheckpointNotFound, match="found ckpt-000000100"):
        store.find("nonsense")
    with pytest.raises(CheckpointNotFound, match="with a score, found 2 without"):
        store.find("best")


def test_find_takes_no_name_that_only_begins_so(store: Store) -> None:
    """Of steps beyond nine digits too."""
    save(store, 1_000_000_003)
    with pytest.raises(CheckpointNotFound, match="found ckpt-1000000003"):
        store.find(100_000_000)
    assert store.find(1_000_000_003).record.name == "ckpt-1000000003"


def test_find_gives_no_damaged_one(store: Store) -> None:
    """One that was asked for by step is refused rather than silently replaced."""
    save(store, 100)
    spoil(save(store, 200).path)
    with pytest.raises(CheckpointDamaged, match="ckpt-000000200"):
        store.find(200)
    assert store.find("latest").record.position.step == 100


# Prune


def test_prune_deletes_what_it_is_told(store: Store) -> None:
    """Other checkpoints stay, and TensorFlow's file names only what there is."""
    for step in (1, 2, 3):
        save(store, step)
    store.prune(["ckpt-000000001", "ckpt-000000003", "ckpt-000000009"])
    assert steps(store) == [2]
    text = (store.directory / "checkpoint").read_text()
    assert text.splitlines() == [
        'model_checkpoint_path: "ckpt-000000002/model.ckpt"',
        'all_model_checkpoint_paths: "ckpt-000000002/model.ckpt"',
    ]


def test_prune_never_leaves_the_checkpoint_file_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the instant a folder goes, TensorFlow's file has already stopped naming it."""
    save(store, 1)
    save(store, 2)
    seen: list[str] = []

    def remove(path: Path) -> None:
        seen.append((store.directory / "checkpoint").read_text())

    monkeypatch.setattr(durable, "remove_folder", remove)
    store.prune(["ckpt-000000002"])
    (text,) = seen
    assert "000000002" not in text
    assert "000000001" in text


def test_prune_refuses_a_strangers_checkpoint(store: Store, tmp_path: Path) -> None:
    """Nothing is deleted that this run did not write, and then nothing at all."""
    save(store, 1)
    with Store.open_for_writing(tmp_path / "other") as other:
        foreign = save(other, 2).path
    foreign.rename(store.directory / foreign.name)
    with pytest.raises(ForeignCheckpoint, match="ckpt-000000002: expected a checkpoin"):
        store.prune(["ckpt-000000001", "ckpt-000000002"])
    assert steps(store) == [1, 2]
    assert [own.record.position.step for own in store.own_checkpoints()] == [1]


@pytest.mark.parametrize("name", ["../other", "precious", "damaged-ckpt-000000001"])
def test_prune_refuses_what_is_no_checkpoint(store: Store, name: str) -> None:
    """A folder that does not say that it is this run's cannot be deleted."""
    folder = store.directory / name
    folder.mkdir()
    (folder / "file").write_bytes(b"x")
    with pytest.raises(PersistError):
        store.prune([name])
    assert (folder / "file").read_bytes() == b"x"


def test_prune_speaks_of_what_was_committed_before_it(store: Store) -> None:
    """TensorFlow's file is rewritten once for both, whatever comes of the deletion."""
    save(store, 1)
    staged = stage(store, 2)
    store.commit(
        staged, position=Position(0, 2, 2), fingerprint="f" * 32, announce=False
    )
    text = (store.directory / "checkpoint").read_text()
    assert "000000002" not in text
    (store.directory / "precious").mkdir()
    with pytest.raises(PersistError, match="precious"):
        store.prune(["ckpt-000000001", "precious"])
    text = (store.directory / "checkpoint").read_text()
    assert text.startswith('model_checkpoint_path: "ckpt-000000002/model.ckpt"')
    assert "000000001" in text
    store.prune(["ckpt-000000001"])
    text = (store.directory / "checkpoint").read_text()
    assert "000000001" not in text


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_what_cannot_be_deleted_is_in_nobodys_way() -> None:
    """Neither other checkpoints' deletion, nor saves, nor a rerun; it is told once."""
    with folder_for_all() as folder, as_another_user():
        run = folder / "run"
        with Store.open_for_writing(run) as store:
            protected = save(store, 1).path
            for step in (2, 3):
                save(store, step)
            protected.chmod(0o555)
            store.prune(["ckpt-000000001", "ckpt-000000002"])
            assert steps(store) == [3]
            (told,) = store.take_notices()
            assert told.startswith(f"{run}/.trash-ckpt-000000001-")
            assert "found Permission denied. Each save tries again" in told
            save(store, 4)
            assert store.take_notices() == []
        with Store.open_for_writing(run) as again:
            save(again, 5)
            (told,) = again.take_notices()
            Path(told.split(":")[0]).chmod(0o755)
            save(again, 6)
            assert again.take_notices() == []
        assert hidden(run) == [".lock", ".lock-owner"]


def test_prune_goes_on_beside_one_that_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses to rename one; the error says so, and the others go."""
    for step in (1, 2, 3):
        save(store, step)
    real = os.rename

    def rename(old: Path, new: Path) -> None:
        if Path(old).name == "ckpt-000000001":
            raise PermissionError(1, "Operation not permitted", str(old))
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(SaveFailed, match="found Operation not permitted"):
        store.prune(["ckpt-000000001", "ckpt-000000002"])
    assert steps(store) == [1, 3]


def test_a_writer_reads_a_manifest_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again when it was changed or is another's; what is gone is forgotten."""
    read: list[str] = []
    real = manifest.read

    def note(folder: Path) -> manifest.Manifest:
        read.append(folder.name)
        return real(folder)

    first, second = save(store, 1), save(store, 2)
    monkeypatch.setattr(manifest, "read", note)
    assert steps(store) == steps(store) == [1, 2]
    assert read == []
    text = (first.path / MANIFEST).read_bytes()
    (first.path / MANIFEST).write_bytes(text.replace(b"1", b"2", 1))
    assert steps(store) == steps(store) == [2]
    assert read == [first.path.name] * 2
    (first.path / MANIFEST).write_bytes(text)
    assert steps(store) == [1, 2]
    store.prune([second.path.name])
    second = save(store, 2, data=b"e" * 100)
    found = store.checkpoints()
    assert [each.record.size for each in found] == [
        first.record.size,
        second.record.size,
    ]


def test_a_writer_counts_no_link(store: Store, tmp_path: Path) -> None:
    """A checkpoint that was moved away with a link left is none, as for readers."""
    moved = save(store, 1).path
    save(store, 2)
    assert steps(store) == [1, 2]
    moved.rename(tmp_path / "archive")
    moved.symlink_to(tmp_path / "archive")
    assert steps(store) == [2]
    save(store, 1)
    assert steps(store) == [1, 2]
    assert (tmp_path / "archive" / MANIFEST).exists()


# Journal and leftovers


def test_the_journal(store: Store) -> None:
    """Events come back in order, numbers that JSON lacks as text, cut lines not."""
    store.note("saved", step=3, loss=float("nan"), path=Path("a"), more=[float("inf")])
    with (store.directory / JOURNAL).open("ab") as file:
        file.write(b'{"event": "sav')
    store.note("failed", error=OSError("disk full"))
    with (store.directory / JOURNAL).open("ab") as file:
        file.write(b'{"event": "sav')
    first, second = store.journal()
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "event": "saved",
        "run_id": store.run_id,
        "step": 3,
        "loss": "nan",
        "path": "a",
        "more": ["inf"],
    }
    assert second["error"] == "disk full"


def test_leftovers_are_swept_and_nothing_else(store: Store) -> None:
    """What a crash left goes at the next opening; hidden files of others stay."""
    save(store, 1)
    stage(store, 2)
    store.close()
    for name in ("checkpoint", "run.json", ".lock-owner"):
        (store.directory / f".tmp-{name}-0123abcd").write_bytes(b"x")
    (store.directory / ".trash-ckpt-000000000-0123abcd").mkdir()
    (store.directory / ".tmp-mine").write_bytes(b"x")
    Store.open_for_writing(store.directory).close()
    assert hidden(store.directory) == [".lock", ".lock-owner", ".tmp-mine"]


def test_what_another_process_is_writing_is_not_swept(store: Store) -> None:
    """An export into the run directory needs no lock; one that was killed grows old."""
    store.close()
    half, old = (
        store.directory / f".tmp-{name}-0123abcd" for name in ("model.pb", "0.npy")
    )
    half.write_bytes(b"x")
    old.write_bytes(b"x")
    yesterday = time.time() - 25 * 60 * 60
    os.utime(old, (yesterday, yesterday))
    Store.open_for_writing(store.directory).close()
    assert hidden(store.directory) == [".lock", ".lock-owner", half.name]
