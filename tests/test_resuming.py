"""resume(): a checkpoint back into a live model, for loops of the user's own."""

from __future__ import annotations

import random
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from loops import data, save_at_once, sequential
from persist_callbacks import PeriodicCheckpoint, resume
from persist_callbacks.errors import (
    ArchitectureMismatch,
    CheckpointDamaged,
    CheckpointNotFound,
    FormatTooNew,
    NoSoundCheckpoint,
)
from persist_callbacks.storage.store import Store


class Remembers(keras.callbacks.Callback):
    """What the model was, and which random numbers came next, before each epoch."""

    def __init__(self):
        super().__init__()
        self.bits, self.drawn = {}, {}

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = abs(epoch - 1)
        self.bits[7 * (epoch + 1)] = bits(self.model)


def bits(model):
    """All that a model and its optimizer hold."""
    return [v.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]


def draw():
    """One number of each process-wide generator."""
    return random.random(), np.random.random(), float(tf.random.uniform([]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of three epochs, the second the best, and what it was at each end."""
    run = tmp_path_factory.mktemp("trained") / "run"
    seen = Remembers()
    keras.utils.set_random_seed(3)
    x, y = data()
    with pytest.MonkeyPatch.context() as patch:
        save_at_once(patch)
        options = {"every_epochs": 1, "monitor": "score", "mode": "min", "verbose": 0}
        history = sequential().fit(
            x,
            y,
            batch_size=8,
            epochs=3,
            verbose=0,
            callbacks=[seen, PeriodicCheckpoint(run, **options)],
        )
    return run, seen, history


@pytest.mark.parametrize(
    ("selector", "step"),
    [
        ("latest", 21),
        ("best", 14),
        (7, 7),
        ("ckpt-000000007", 7),
        ("{run}/ckpt-000000014", 14),
        ("{run}/ckpt-000000014/model.ckpt", 14),
    ],
)
def test_which_checkpoint(selector, step, trained):
    """Latest, best, a step, a name or a path: model and optimizer, to the bit."""
    run, seen, history = trained
    keras.utils.set_random_seed(9)
    model = sequential()
    if isinstance(selector, str):
        selector = selector.format(run=run)
    point = resume(model, run, checkpoint=selector)
    assert (point.step, point.epoch, point.batch) == (step, step // 7, 0)
    assert point.path == run / f"ckpt-{step:09d}"
    assert bits(model) == seen.bits[step]
    epochs = step // 7
    assert point.history == {
        name: values[:epochs] for name, values in history.history.items()
    }


def test_seeds_go_on(trained):
    """Two resumes from one place draw the same numbers, whatever was drawn before."""
    run, _, _ = trained
    drawn = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        draw()
        resume(sequential(), run)
        drawn.append(draw())
    assert drawn[0] == drawn[1]


def test_reads_only(trained):
    """Nothing in the run directory changes, and nobody is kept from writing to it."""
    run, _, _ = trained

    def listing():
        return {path: path.stat().st_mtime_ns for path in run.rglob("*")}

    before = listing()
    with Store.open_for_writing(run):
        during = listing()
        resume(sequential(), run)
        assert listing() == during
    assert before.keys() == listing().keys()


def test_pruned_before_it_is_read(trained, tmp_path, monkeypatch):
    """By a run that goes on, just after it was found sound: the next one is taken."""
    shutil.copytree(trained[0], run := tmp_path / "run")
    newer = (run / "ckpt-000000021").rename(tmp_path / "newer")
    real = Store.load_state

    def load_state(store, committed):
        if newer.exists():
            newer.rename(run / "ckpt-000000021")
            shutil.rmtree(committed.path)
        return real(store, committed)

    monkeypatch.setattr(Store, "load_state", load_state)
    model = sequential()
    assert resume(model, run).step == 21
    assert bits(model) == trained[1].bits[21]


def test_pruned_faster_than_it_can_be_read(trained, tmp_path, monkeypatch):
    """Nobody is told of damage where there is none."""
    shutil.copytree(trained[0], run := tmp_path / "run")

    def load_state(store, committed):
        (run / "ckpt-000000021").rename(tmp_path / "away")
        raise FileNotFoundError

    def found(store):
        if (tmp_path / "away").exists():
            (tmp_path / "away").rename(run / "ckpt-000000021")
        return real(store)

    real = Store.newest_sound
    monkeypatch.setattr(Store, "load_state", load_state)
    monkeypatch.setattr(Store, "newest_sound", found)
    with pytest.raises(CheckpointNotFound, match="each was pruned meanwhile, 10 times"):
        resume(sequential(), run)


def test_fit_goes_on_from_it(trained):
    """initial_epoch=point.epoch trains the epochs that are left."""
    run, _, _ = trained
    model = sequential()
    point = resume(model, run)
    x, y = data()
    history = model.fit(
        x, y, batch_size=8, epochs=4, initial_epoch=point.epoch, verbose=0
    )
    assert history.epoch == [3]
    assert int(model.optimizer.iterations.numpy()) == 28


def test_report_prints_well(trained):
    """The report names the checkpoint, the place, and what was put back."""
    run, _, _ = trained
    point = resume(sequential(), run, checkpoint=14)
    lines = re.sub(r"saved \d+ (s|min|h|d) ago", "saved 1 s ago", str(point))
    assert lines.splitlines() == [
        f"Resuming from ckpt-000000014 in {run}, saved 1 s ago: "
        "epoch 3, batch 0, step 14",
        *str(point.report).splitlines(),
    ]
    # Other tests may have made Keras' global generator, which has a variable too.
    report = str(point.report).replace(" + 1 seed", "")
    assert report.splitlines() == [
        "  restored: 9 model + 14 optimizer variables, History of 2 epochs, "
        "seeds of Python, NumPy and TensorFlow",
        "  data: the caller's to bring to batch 0 of the epoch",
    ]


def damage(folder):
    shard = folder / "model.ckpt.data-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0x40
    shard.write_bytes(content)


def test_damaged_newest_is_passed_over(trained, tmp_path):
    """The one before it is used, the report says why, and nothing is moved."""
    shutil.copytree(trained[0], run := tmp_path / "run")
    damage(run / "ckpt-000000021")
    model = sequential()
    point = resume(model, run)
    assert point.step == 14
    assert bits(model) == trained[1].bits[14]
    (passed,) = point.report.passed_over
    assert "ckpt-000000021/model.ckpt.data-00000-of-00001" in passed
    assert f"  passed over: {passed}" in str(point)
    assert (run / "ckpt-000000021").is_dir()


def test_damaged_one_that_was_asked_for(trained, tmp_path):
    """Who names a checkpoint gets that one or an error."""
    shutil.copytree(trained[0], run := tmp_path / "run")
    damage(run / "ckpt-000000014")
    model = sequential()
    before = bits(model)
    with pytest.raises(CheckpointDamaged, match=r"ckpt-000000014/model\.ckpt\.data"):
        resume(model, run, checkpoint=14)
    assert bits(model)[: len(before)] == before


def test_all_damaged(trained, tmp_path):
    """Then there is nothing to go on from, and the error says so."""
    shutil.copytree(trained[0], run := tmp_path / "run")
    for folder in run.glob("ckpt-*"):
        damage(folder)
    with pytest.raises(NoSoundCheckpoint, match=str(run)):
        resume(sequential(), run)


def test_training_state_of_a_newer_version(trained, tmp_path):
    """A manifest that fits a state from the future does not let it be misread."""
    from persist_callbacks.storage import manifest

    shutil.copytree(trained[0], run := tmp_path / "run")
    folder = run / "ckpt-000000021"
    state = folder / "training_state.json"
    state.write_bytes(state.read_bytes().replace(b'"version": 1', b'"version": 2'))
    record = Store.open_for_reading(trained[0]).find(21).record
    (folder / "manifest.json").unlink()
    described = manifest.build(
        folder,
        run_id=record.run_id,
        position=record.position,
        saved_at=record.saved_at,
        fingerprint=record.fingerprint,
        score=record.score,
        finished=record.finished,
    )
    (folder / "manifest.json").write_bytes(manifest.encode(described))
    with pytest.raises(FormatTooNew, match=r"training_state\.json: .*found version 2"):
        resume(sequential(), run)


@pytest.mark.parametrize("selector", ["latest", "best", 8, "ckpt-000000008"])
def test_nothing_there(selector, trained, tmp_path):
    """The directory or the selector is named, with what there is instead."""
    with pytest.raises(CheckpointNotFound, match=str(tmp_path / "nowhere")):
        resume(sequential(), tmp_path / "nowhere", checkpoint=selector)
    if selector not in ("latest", "best"):
        with pytest.raises(CheckpointNotFound, match="found ckpt-000000007, ckpt-0"):
            resume(sequential(), trained[0], checkpoint=selector)


def test_other_architecture(trained):
    """It is refused with the differences, and the model keeps its weights."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    before = [weights.tobytes() for weights in model.get_weights()]
    with pytest.raises(
        ArchitectureMismatch, match=r"dense/kernel float32\[6, 8\], mod"
    ):
        resume(model, trained[0])
    assert [weights.tobytes() for weights in model.get_weights()] == before


def test_a_normalization_computes_with_what_it_was_given(tmp_path):
    """As after load_weights, in functions too that were traced before."""

    def normalizing(adapt_to):
        layer = keras.layers.Normalization()
        if adapt_to is not None:
            layer.adapt(adapt_to)
        inner = keras.Sequential([keras.Input((6,)), layer])
        model = keras.Sequential([keras.Input((6,)), inner, keras.layers.Dense(3)])
        model.compile("sgd", "mse")
        return model

    x, y = 20 * data()[0] + 100, keras.utils.to_categorical(data()[1], 3)
    trained = normalizing(x)
    ours = PeriodicCheckpoint(tmp_path / "run", verbose=0)
    trained.fit(x, y, verbose=0, callbacks=[ours])
    model = normalizing(None)
    model.predict_on_batch(x)
    model.evaluate(x, y, verbose=0)
    resume(model, tmp_path / "run")
    np.testing.assert_array_equal(
        model.predict_on_batch(x), trained.predict_on_batch(x)
    )
    assert model.evaluate(x, y, verbose=0) == trained.evaluate(x, y, verbose=0)


def test_finished_run_gives_the_weights_that_the_user_was_left_with(tmp_path):
    """After averaging at train end: the averages, not what training goes on from."""

    def averaging():
        optimizer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)
        return sequential(optimizer)

    x, y = data()
    model = averaging()
    run = tmp_path / "run"
    model.fit(x, y, verbose=0, callbacks=[PeriodicCheckpoint(run, verbose=0)])
    fresh = averaging()
    resume(fresh, run)
    for one, other in zip(model.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
