"""Data that are cached in files: killed while one is filled, and gone on with."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from loops import Crash, CrashAt, data, outcome_of, save_at_once, sequential
from persist_callbacks import PeriodicCheckpoint
from persist_callbacks.errors import DataMismatch
from persist_callbacks.storage.cache_files import clear, half_filled, require_whole
from persist_callbacks.training import pipeline

BATCHES, EPOCHS = 7, 3

pytestmark = pytest.mark.usefixtures("deterministic")


class KillAt(keras.callbacks.Callback):
    """Kills its process at a hook, once it was called so many times."""

    def __init__(self, hook, times):
        super().__init__()
        self._left = times
        setattr(self, hook, self._count)

    def _count(self, batch, logs=None):
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder, *callbacks, augmented=True):
    """Train and validate on data that are cached in files, and shuffled then."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    model = sequential()
    rows = tf.data.Dataset.from_tensor_slices(data())
    random = tf.random.Generator.from_seed(4)
    drawn = rows.map(lambda x, y: (x + random.uniform([6]), y))
    cached = (drawn if augmented else rows).cache(str(folder / "cached"))
    history = model.fit(
        cached.shuffle(4).batch(8),
        epochs=EPOCHS,
        validation_data=rows.cache(str(folder / "held out")).batch(8),
        callbacks=[
            PeriodicCheckpoint(folder / "run", every_steps=4, verbose=0),
            *callbacks,
        ],
        verbose=0,
    )
    return outcome_of(model, history)


def train_on_snapshot(folder, *callbacks):
    """Train on data that are kept in a snapshot, and shuffled then."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    model = sequential()
    rows = tf.data.Dataset.from_tensor_slices(data())
    kept = rows.shuffle(50).snapshot(str(folder / "kept"))
    history = model.fit(
        kept.shuffle(4).batch(8), epochs=EPOCHS, callbacks=callbacks, verbose=0
    )
    return outcome_of(model, history)


def train_on_snapshot_and_save(folder, *callbacks):
    """Likewise, and save while it is written; give the report of a resume too."""
    ours = PeriodicCheckpoint(folder / "run", every_steps=3, verbose=0)
    with pytest.MonkeyPatch.context() as patch:
        save_at_once(patch)
        found = train_on_snapshot(folder, ours, *callbacks)
    return found, ours.resume_point and ours.resume_point.report


def kill(folder, hook, times, how="train"):
    """Train in a process of its own until it is killed."""
    script = f"""
import sys
from pathlib import Path
import tensorflow as tf
sys.path[:0] = [{str(Path(__file__).parent)!r}]
tf.config.experimental.enable_op_determinism()
from test_caches_in_files import *
{how}(Path({str(folder)!r}), KillAt({hook!r}, {times}))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("hook", "times", "filled"),
    [
        # No checkpoint is there yet.
        ("on_train_batch_end", 3, set()),
        ("on_train_batch_end", 5, set()),
        ("on_train_batch_end", 2 * BATCHES + 6, {"cached", "held out"}),
    ],
)
def test_killed_while_a_cache_is_filled(hook, times, filled, tmp_path):
    """It is filled anew; a whole one is gone on with."""
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    folder.mkdir()
    expected = train(whole)
    kill(folder, hook, times)
    assert {path.stem for path in folder.glob("*.index") if "_" not in path.stem} == (
        filled
    )
    assert any(folder.glob("*.lockfile")) == (len(filled) < 2)
    assert train(folder) == expected
    assert not list(folder.glob("*.lockfile"))


def test_a_cache_that_is_gone(tmp_path):
    """As on another machine, where the scratch disk is empty: it is filled anew."""
    whole, folder = tmp_path / "whole", tmp_path / "moved"
    whole.mkdir()
    folder.mkdir()
    expected = train(whole, augmented=False)
    with pytest.raises(Crash):
        train(folder, CrashAt(2 * BATCHES + 5), augmented=False)
    for path in folder.glob("cached*"):
        path.unlink()
    assert train(folder, augmented=False) == expected


@pytest.mark.parametrize("times", [5, BATCHES + 5])
def test_a_snapshot_that_is_written_while_a_run_is_saved(times, tmp_path):
    """An iterator's state would damage it; killed in the midst, it is gone around."""
    for name in ("alone", "whole", "killed"):
        (tmp_path / name).mkdir()
    expected = train_on_snapshot(tmp_path / "alone")
    assert train_on_snapshot_and_save(tmp_path / "whole") == (expected, None)
    kill(tmp_path / "killed", "on_train_batch_end", times, "train_on_snapshot_and_save")
    found, report = train_on_snapshot_and_save(tmp_path / "killed")
    assert found == expected
    assert "it keeps a snapshot, which" in report.data


def test_a_cache_that_may_be_filled_by_another_process(tmp_path):
    """Nothing is deleted, and the message names what is in the way."""
    lock = tmp_path / "cached_0.lockfile"
    lock.touch()
    with pytest.raises(DataMismatch, match=r"cached: expected a cache .* another") as e:
        # Of a run that has not drawn anything yet.
        train(tmp_path)
    assert str(lock) in str(e.value)
    lock.unlink()
    with pytest.raises(Crash):
        train(tmp_path, CrashAt(5))
    # What has begun to fill it is no more, and has taken its files away.
    gc.collect()
    lock.touch()
    later = time.time() + 60
    os.utime(lock, (later, later))
    with pytest.raises(DataMismatch, match=r"cached: expected a cache .* another"):
        train(tmp_path)
    assert lock.exists()
    os.utime(lock, (1, 1))
    train(tmp_path)
    assert not lock.exists()


def test_a_validations_cache_is_left_to_whoever_fills_it(tmp_path):
    """Training has gone on, and says nothing of who began it: TensorFlow ends there."""
    with pytest.raises(Crash):
        train(tmp_path, CrashAt(5))
    lock = tmp_path / "held out_0.lockfile"
    lock.touch()
    os.utime(lock, (1, 1))
    with pytest.raises(tf.errors.AlreadyExistsError):
        train(tmp_path)
    assert lock.exists()


def test_a_state_that_an_older_version_took_beside_a_cache(tmp_path):
    """Without the cache's files, TensorFlow would end the process."""
    prefix = str(tmp_path / "cached")
    with pytest.raises(DataMismatch, match=r"cached: .*found no cached\.index"):
        require_whole([prefix], tmp_path / "ckpt-000000004")
    list(tf.data.Dataset.range(3).cache(prefix))
    require_whole([prefix, "gs://elsewhere/cached"], tmp_path / "ckpt-000000004")


def test_only_what_the_first_batch_is_drawn_from():
    """Another source may be another process's until its turn comes."""
    first, second = (tf.data.Dataset.range(3).cache(name) for name in ("a", "b"))
    both = first.concatenate(second).cache("c").map(lambda row: row + 1)
    assert sorted(pipeline.cache_files(both)) == ["a", "b", "c"]
    assert pipeline.cache_files(both, at_once=True) == ["c"]
    assert pipeline.cache_files(both.cache()) == pipeline.cache_files(both)


def test_what_is_half_filled(tmp_path):
    """By TensorFlow's own names for the parts; others' files are not touched."""
    prefix = str(tmp_path / "c[1]")
    data = tf.data.Dataset.range(3).cache(prefix)
    assert half_filled(prefix) is None
    iterator = iter(data)
    next(iterator)
    (tmp_path / "c[1]_0.notes").touch()
    (tmp_path / "c[1]_more.index").touch()
    (tmp_path / "c1_0.index").touch()
    # A whole cache of another name.
    (tmp_path / "c[1]_1.index").touch()
    found = half_filled(prefix)
    assert found.prefix == prefix
    assert {part.name.split(".")[0] for part in found.parts} == {"c[1]_0"}
    assert len(found.parts) >= 2
    assert abs(found.begun_at - time.time()) < 600
    assert list(iterator) == [1, 2]
    assert half_filled(prefix) is None
    other = str(tmp_path / "d")
    (tmp_path / "d_0.lockfile").touch()
    (tmp_path / "d_1.index").touch()
    assert clear([prefix, other], drawn_until=time.time() + 1) == [other]
    assert [path.name for path in tmp_path.glob("d*")] == ["d_1.index"]
