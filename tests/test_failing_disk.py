"""A real training on a disk that fails it: it goes on, or stops, as `on_error` says."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from loops import FEATURES, Crash, CrashAt, data
from persist_callbacks import FrozenGraphExport, PeriodicCheckpoint, interruptions
from persist_callbacks.errors import (
    DirectoryNotWritable,
    PersistWarning,
    RunLocked,
    SaveFailed,
)
from persist_callbacks.storage import bundle, durable
from persist_callbacks.storage.store import Store
from persist_callbacks.verifying import verify
from small_disk import fill, free, mounted

# Two thirds of a megabyte of weights: three checkpoints fit on the disk.
WIDE = 160_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", options="size=3m") as where:
        yield where


def wide() -> keras.Model:
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(WIDE // 6)])
    model.compile("sgd", "mse")
    return model


def fit(model: keras.Model, *callbacks: Any) -> None:
    """One epoch of seven steps."""
    x, _ = data()
    y = np.zeros((len(x), 1), "float32")
    model.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=list(callbacks))


def kept(run: Path) -> list[int]:
    """Steps of the checkpoints, every one of them sound to the last tensor."""
    found = verify(run)
    assert found.sound, found
    assert [each for each in found.findings if "staged" in each.what] == []
    return [int(each.path.name[5:]) for each in found.checkpoints]


class At(keras.callbacks.Callback):
    """Does things before given batches."""

    def __init__(self, **things: Callable[[], Any]) -> None:
        super().__init__()
        self._things = {int(name[1:]): thing for name, thing in things.items()}

    def get_state(self) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._things.get(batch, lambda: None)()


def messages(caught: Any) -> list[str]:
    return [str(each.message) for each in caught if each.category is PersistWarning]


@pytest.mark.usefixtures("synchronous")
def test_full_in_the_middle_of_a_save(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of the weights hits the end of a real disk; the next save has room."""
    real = bundle.write
    full = threading.Event()

    def write(*args: Any, **kwargs: Any) -> Any:
        if full.is_set():
            # After the space was asked for, and before it is taken.
            fill(disk, leaving=300_000)
        return real(*args, **kwargs)

    monkeypatch.setattr(bundle, "write", write)
    run = disk / "run"
    room = At(b2=full.set, b5=lambda: (full.clear(), (disk / "filler").unlink()))
    with pytest.warns(PersistWarning) as caught:
        fit(
            wide(), room, PeriodicCheckpoint(run, every_steps=1, keep_last=2, verbose=0)
        )
    failed = messages(caught)
    # Steps 2 to 4: the first in the middle of the write, the others before it.
    assert len(failed) == 3, failed
    assert "No space left on device" in failed[0]
    assert "newest safe checkpoint of this session is ckpt-000000001" in failed[0]
    assert "bytes of free space for the next checkpoint" in failed[1]
    assert kept(run) == [6, 7]


@pytest.mark.usefixtures("synchronous")
def test_full_disk_stops_training_where_that_is_wanted(disk: Path) -> None:
    """The error names what was needed; what was saved before is there to go on from."""
    run = disk / "run"
    full = At(b3=lambda: fill(disk, leaving=200_000))
    options: Any = {"every_steps": 2, "keep_last": 2, "on_error": "raise", "verbose": 0}
    with pytest.raises(SaveFailed) as raised:
        fit(
            wide(),
            full,
            PeriodicCheckpoint(run, **options),
        )
    assert "bytes of free space for the next checkpoint" in str(raised.value)
    assert "newest safe checkpoint of this session is ckpt-000000002" in str(
        raised.value
    )
    assert kept(run) == [2]
    assert free(disk) < 300_000
    (disk / "filler").unlink()
    again = PeriodicCheckpoint(run, **options)
    fit(wide(), again)
    assert again.resume_point is not None
    assert again.resume_point.step == 2
    assert kept(run)[-1] == 7


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("verbose", [0, 1])
@pytest.mark.parametrize("written", [0, 1])
def test_full_when_the_last_one_is_written(
    written: int, verbose: int, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing tries it again, and what is saved nowhere is said, and printed last."""
    run = disk / "run"
    full = At(**{"b4" if written else "b0": lambda: fill(disk, leaving=200_000)})
    with pytest.warns(PersistWarning) as caught:
        fit(wide(), full, PeriodicCheckpoint(run, every_steps=3, verbose=verbose))
    *others, last = messages(caught)
    assert others
    assert all(each.endswith("The next trigger tries again.") for each in others)
    lost = f"Training ended at step 7: steps {1 + 3 * written} to 7 are saved nowhere"
    assert last.endswith(
        f"{lost}, and nothing tries again. The model still has them: save it "
        "elsewhere. Run the script again when the cause is gone."
    )
    printed = capsys.readouterr().out
    assert kept(run) == ([3] if written else [])
    if not verbose:
        assert printed == ""
        return
    summary = printed.splitlines()[-1]
    assert summary.startswith(f"{written} checkpoints written to {run}")
    assert summary.endswith(f". {lost}.")


def test_an_export_that_finds_no_room(disk: Path) -> None:
    """The advice is about room, and nothing is left of it."""
    pb = disk / "model.pb"
    full = At(b6=lambda: fill(disk, leaving=200_000))
    with pytest.raises(DirectoryNotWritable, match="No space left") as raised:
        fit(wide(), full, FrozenGraphExport(pb))
    assert raised.value.where == str(pb)
    assert raised.value.advice == "Make room there, and run it again."
    assert [each.name for each in disk.iterdir()] == ["filler"]


@pytest.mark.usefixtures("synchronous")
def test_a_stop_that_finds_no_room(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the last one before the process ends nobody says that it is tried again."""

    def stop() -> None:
        fill(disk, leaving=200_000)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.warns(PersistWarning) as caught, pytest.raises(SystemExit):
        fit(wide(), At(b3=stop), PeriodicCheckpoint(disk / "run", every_epochs=1))
    (message,) = messages(caught)
    assert message.endswith("Run the script again when the cause is gone.")
    assert "it could not be saved within 25 s" in capsys.readouterr().out


@pytest.mark.usefixtures("synchronous")
def test_a_deleted_directory_is_made_again_and_locked(tmp_path: Path) -> None:
    """With its run.json, lock and journal: nobody else can take it meanwhile."""
    run = tmp_path / "run"
    locked: list[bool] = []

    def another() -> None:
        with pytest.raises(RunLocked):
            Store.open_for_writing(run)
        locked.append(True)

    before: list[str] = []
    deletion = At(
        b3=lambda: (
            before.append(Store.open_for_reading(run).run_id),
            shutil.rmtree(run),
        ),
        b5=another,
    )
    with pytest.warns(PersistWarning) as caught:
        fit(wide(), deletion, PeriodicCheckpoint(run, every_steps=2, verbose=0))
    (message,) = messages(caught)
    assert message == (
        f"{run}: expected the run directory as this run has left it, found nothing of "
        "the run: it was made again, and what checkpoints there were are gone from "
        "there. Put them back if it was moved away."
    )
    store = Store.open_for_reading(run)
    assert locked == [True]
    assert before == [store.run_id]
    assert [event["event"] for event in store.journal()] == [
        *("made again", "saved", "saved", "saved")
    ]
    assert (run / ".progress").is_file()
    assert kept(run) == [4, 6, 7]


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("below", [".", "runs/one"])
def test_a_mount_that_has_dropped(below: str, tmp_path: Path) -> None:
    """What is under the mount point is another file system, and that is said once."""
    with mounted(tmp_path / "disk", options="size=3m") as disk:
        run = disk / below
        drop = At(b3=lambda: subprocess.run(["umount", "-l", disk], check=True))
        with pytest.warns(PersistWarning) as caught:
            fit(wide(), drop, PeriodicCheckpoint(run, every_steps=2, verbose=0))
        # For the fixture to take away.
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
    (message,) = messages(caught)
    assert "what checkpoints there were are gone from there" in message
    assert "Another file system is there now, as where a mount has dropped" in message
    assert kept(run) == [4, 6, 7]
    (first, *_) = Store.open_for_reading(run).journal()
    assert first["found"] == "a run directory without run.json, on another file system"


@pytest.mark.usefixtures("synchronous")
def test_a_run_json_that_is_gone(tmp_path: Path) -> None:
    """It is written again, and nobody says that the checkpoints are gone."""
    run = tmp_path / "run"
    loss = At(b3=lambda: (run / "run.json").unlink())
    with pytest.warns(PersistWarning) as caught:
        fit(wide(), loss, PeriodicCheckpoint(run, every_steps=2, verbose=0))
    (message,) = messages(caught)
    assert "found it without its run.json, which was written again" in message
    assert kept(run) == [4, 6, 7]


@pytest.mark.usefixtures("synchronous")
def test_a_directory_that_another_run_has_taken_is_left_alone(tmp_path: Path) -> None:
    """Two runs never mix: this one's saves fail, and say whose it is."""
    run = tmp_path / "run"

    def taken() -> None:
        shutil.rmtree(run)
        Store.open_for_writing(run).close()

    with pytest.warns(PersistWarning) as caught:
        fit(wide(), At(b3=taken), PeriodicCheckpoint(run, every_steps=2, verbose=0))
    assert len(messages(caught)) == 3
    assert all("begun since" in message for message in messages(caught))
    assert kept(run) == []


@pytest.fixture
def unplug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give what makes the run directory's server go away, or be there again."""
    is_away = False

    def unplug(away: bool = True) -> None:
        nonlocal is_away
        is_away = away

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Any = ".", *args: Any, **more: Any) -> Any:
            is_path = isinstance(path, str | os.PathLike)
            if is_away and is_path and Path(path).is_relative_to(tmp_path / "run"):
                code = errno.ESTALE
                raise OSError(code, os.strerror(code), os.fspath(path))
            return real(path, *args, **more)

        return look

    monkeypatch.setattr(interruptions, "_SECONDS_BETWEEN_LOOKS", 0.0)
    for name in ("stat", "listdir", "mkdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return unplug


@pytest.mark.usefixtures("synchronous")
def test_a_disk_that_is_away_asks_for_nothing(
    tmp_path: Path, unplug: Callable[..., None]
) -> None:
    """Where no checkpoint is due meanwhile, training does not notice."""
    run = tmp_path / "run"
    away = At(b3=unplug, b5=lambda: unplug(False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(wide(), away, PeriodicCheckpoint(run, every_steps=6, verbose=0))
    assert kept(run) == [6, 7]


@pytest.mark.usefixtures("synchronous")
def test_a_stop_while_the_disk_is_away(
    tmp_path: Path, unplug: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The process ends as it was asked to, and says what is not saved."""

    def stop() -> None:
        unplug()
        os.kill(os.getpid(), signal.SIGTERM)

    ours = PeriodicCheckpoint(tmp_path / "run", every_epochs=1)
    with pytest.warns(PersistWarning) as caught, pytest.raises(SystemExit) as raised:
        fit(wide(), At(b3=stop), ours)
    assert raised.value.code == 128 + signal.SIGTERM
    (message,) = messages(caught)
    assert "Stale file handle" in message
    assert "The newest safe checkpoint is none." in capsys.readouterr().out


def test_a_slow_disk_does_not_hold_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one sync hangs, steps go on, and what falls due meanwhile is not queued."""
    going_on = threading.Event()
    real = durable.sync_file

    def hanging(path: Path) -> None:
        assert going_on.wait(timeout=60)
        real(path)

    monkeypatch.setattr(durable, "sync_file", hanging)
    run = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(
            wide(),
            At(b6=going_on.set),
            PeriodicCheckpoint(run, every_steps=1, keep_last=9, verbose=0),
        )
    steps = kept(run)
    assert steps[0] == 1
    assert steps[-1] == 7
    assert not {2, 3, 4, 5} & set(steps)


@pytest.mark.usefixtures("synchronous")
def test_what_is_safe_from_before_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rerun whose first save fails says what it could go on from once more."""
    run = tmp_path / "run"
    with pytest.raises(Crash):
        fit(wide(), PeriodicCheckpoint(run, every_steps=2, verbose=0), CrashAt(5))

    def refuse(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable, "sync_file", refuse)
    with pytest.raises(SaveFailed) as raised:
        fit(
            wide(),
            PeriodicCheckpoint(run, every_steps=2, on_error="raise", verbose=0),
        )
    assert "Input/output error" in str(raised.value)
    assert "none yet, that of an earlier one is ckpt-000000004" in str(raised.value)
    assert kept(run) == [2, 4]
