"""Every kind of damage to every file of a real checkpoint: found, and walked back."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from loops import data, save_at_once, sequential
from persist_callbacks import PeriodicCheckpoint, resume
from persist_callbacks.errors import NoSoundCheckpoint, PersistError
from persist_callbacks.storage import manifest
from persist_callbacks.storage.layout import INDEX, MANIFEST, META, STATE
from persist_callbacks.storage.store import Store
from persist_callbacks.verifying import verify

DATA = "model.ckpt.data-00000-of-00001"
FILES = (DATA, INDEX, META, STATE, MANIFEST)
FLIPS, CUTS = 200, 50
OLDEST, OLDER, NEWEST = "ckpt-000000003", "ckpt-000000006", "ckpt-000000007"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven steps with three checkpoints."""
    run = tmp_path_factory.mktemp("damage") / "run"
    x, y = data()
    keras.utils.set_random_seed(3)
    with pytest.MonkeyPatch.context() as patch:
        save_at_once(patch)
        ours = PeriodicCheckpoint(run, every_steps=3, verbose=0)
        sequential().fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[ours])
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def damages(path: Path, other: Path, seed: int) -> Iterator[tuple[str, bytes | None]]:
    """What a file may have become: its content, None where it is gone."""
    chance = random.Random(seed)
    whole = path.read_bytes()
    for _ in range(FLIPS):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= chance.randint(1, 255)
        yield "flip", bytes(content)
    for _ in range(CUTS):
        yield "cut", whole[: chance.randrange(len(whole))]
    yield "removal", None
    # The graph of two checkpoints of a run is one and the same: no damage to swap it.
    if path.name != META:
        assert other.read_bytes() != whole
        yield "swap", other.read_bytes()


def says_the_same(content: bytes | None, whole: bytes) -> bool:
    """Whether it is a manifest with the very same fields: another white space."""
    try:
        return content is not None and manifest.decode(
            content, "here"
        ) == manifest.decode(whole, "here")
    except PersistError:
        return False


@pytest.mark.parametrize("name", FILES)
def test_no_damage_loads_silently(run: Path, name: str) -> None:
    """200 flips, 50 cuts, gone, another's: each time the one before it is used."""
    path = run / NEWEST / name
    whole = path.read_bytes()
    cases: dict[str, int] = {}
    loaded, wrong = [], []
    for kind, content in damages(path, run / OLDER / name, seed=FILES.index(name)):
        cases[kind] = cases.get(kind, 0) + 1
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        sound = Store.open_for_reading(run).newest_sound()
        assert sound.committed is not None
        if sound.committed.path.name == NEWEST:
            if name != MANIFEST or not says_the_same(content, whole):
                loaded.append((kind, content))
        elif sound.committed.path.name != OLDER or [
            each.name for each, _ in sound.passed_over
        ] != [NEWEST]:
            wrong.append((kind, sound))
        path.write_bytes(whole)
    assert cases.pop("swap", 0) == (name != META)
    assert cases == {"flip": FLIPS, "cut": CUTS, "removal": 1}
    assert loaded == []
    assert wrong == []
    assert Store.open_for_reading(run).find("latest").path.name == NEWEST


@pytest.mark.parametrize("name", FILES)
def test_what_is_resumed_is_the_one_before(run: Path, name: str) -> None:
    """The live model then has the older one's weights; verify names the file."""
    path = run / NEWEST / name
    model = sequential()
    resume(model, run, checkpoint=6)
    expected = [np.asarray(variable) for variable in model.weights]
    last = dict(damages(path, run / OLDER / name, seed=9))
    assert list(last)[:3] == ["flip", "cut", "removal"]
    for kind, content in last.items():
        shutil.copytree(run, run.with_name(kind))
        damaged = run.with_name(kind) / NEWEST / name
        if content is None:
            damaged.unlink()
        else:
            damaged.write_bytes(content)
        found = verify(damaged.parent.parent)
        assert [each.sound for each in found.checkpoints] == [True, True, False]
        (finding,) = found.checkpoints[-1].findings
        assert finding.where.startswith(NEWEST)
        point = resume(model, damaged.parent.parent)
        assert point.step == 6
        assert point.report is not None
        assert len(point.report.passed_over) == 1
        for variable, value in zip(model.weights, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(variable), value)
            variable.assign(variable + 1)


def test_all_damaged_is_an_error_that_lists_each(run: Path) -> None:
    """A run whose every checkpoint is damaged does not begin at zero."""
    for name in (OLDEST, OLDER, NEWEST):
        (run / name / STATE).write_bytes(b"{}")
    x, y = data()
    ours = PeriodicCheckpoint(run, verbose=0)
    with pytest.raises(NoSoundCheckpoint) as raised:
        sequential().fit(x, y, verbose=0, callbacks=[ours])
    for name in (OLDEST, OLDER, NEWEST):
        assert f"{name}/{STATE}: expected" in str(raised.value)


def test_what_was_set_aside_does_not_let_a_run_begin_at_zero(run: Path) -> None:
    """With all others gone the error says so, and what was wrong with it."""
    with Store.open_for_writing(run) as store:
        store.set_aside(run / NEWEST, "a flipped bit")
    for name in (OLDEST, OLDER):
        shutil.rmtree(run / name)
    x, y = data()
    ours = PeriodicCheckpoint(run, verbose=0)
    with pytest.raises(NoSoundCheckpoint, match=f"damaged-{NEWEST}.*a flipped bit"):
        sequential().fit(x, y, verbose=0, callbacks=[ours])
    assert (run / f"damaged-{NEWEST}" / DATA).is_file()
