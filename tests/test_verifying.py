"""verify(): what it finds that a checksum over the files cannot tell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import xxhash
from click.testing import CliRunner

from another_user import as_another_user, folder_for_all
from loops import data, save_at_once, sequential
from persist_callbacks import PeriodicCheckpoint
from persist_callbacks.cli import commands
from persist_callbacks.errors import CheckpointNotFound, NotARunDirectory
from persist_callbacks.storage import bundle, checkpoints, manifest
from persist_callbacks.storage.layout import MANIFEST, META, STATE
from persist_callbacks.storage.store import Store
from persist_callbacks.training import finiteness
from persist_callbacks.verifying import verify

DATA = "model.ckpt.data-00000-of-00001"
OLDER, NEWEST = "ckpt-000000004", "ckpt-000000007"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven steps with two checkpoints."""
    run = tmp_path_factory.mktemp("verify") / "run"
    keras.utils.set_random_seed(3)
    with pytest.MonkeyPatch.context() as patch:
        save_at_once(patch)
        train(run)
    return run


def train(run: Path, **more: Any) -> None:
    x, y = data()
    stop = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    ours = PeriodicCheckpoint(run, every_steps=4, verbose=0)
    model = sequential(**more)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[ours, stop])


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it to be damaged."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def vouch(folder: Path, name: str, content: bytes) -> None:
    """Change a file, and make the manifest say that it was written so."""
    (folder / name).write_bytes(content)
    old = manifest.read(folder)
    checksum = f"xxh3_128:{xxhash.xxh3_128_hexdigest(content)}"
    files = {**old.files, name: manifest.FileEntry(len(content), checksum)}
    changed = manifest.msgspec.structs.replace(old, files=files)
    (folder / MANIFEST).write_bytes(manifest.encode(changed))
    manifest.validate(folder, checksums=True)


def only_finding(run: Path, *, damage: bool = True) -> str:
    """What was found, there being one thing only, and in the newest checkpoint."""
    found = verify(run)
    assert found.findings == ()
    older, newest = found.checkpoints
    assert older.sound
    assert older.findings == ()
    assert newest.sound is not damage
    (finding,) = newest.findings
    assert finding.damage is damage
    return str(finding)


def test_a_sound_run(run: Path) -> None:
    """Nothing is found; every tensor of every checkpoint was read."""
    found = verify(run)
    assert found.sound
    assert [each.path.name for each in found.checkpoints] == [OLDER, NEWEST]
    assert all(each.tensors > 25 for each in found.checkpoints)
    assert found.findings == ()
    for path in (run / NEWEST, run / NEWEST / "model.ckpt"):
        (one,) = verify(path).checkpoints
        assert one.sound
        assert one.path == run / NEWEST


def test_a_tensor_that_is_not_what_its_own_checksum_says(run: Path) -> None:
    """A flipped byte that the manifest vouches for: TensorFlow's checksum finds it."""
    content = bytearray((run / NEWEST / DATA).read_bytes())
    content[40] ^= 4
    vouch(run / NEWEST, DATA, bytes(content))
    assert f"{NEWEST}/model.ckpt.data: expected readable" in only_finding(run)


def test_shards_cut_short(run: Path) -> None:
    """The index speaks of more than there is."""
    vouch(run / NEWEST, DATA, (run / NEWEST / DATA).read_bytes()[:-200])
    assert f"{NEWEST}/{DATA}: expected readable checkpoint data" in only_finding(run)


def test_the_state_of_another_checkpoint(run: Path) -> None:
    """Its position is not the manifest's; it speaks of tensors that are not there."""
    vouch(run / NEWEST, STATE, (run / OLDER / STATE).read_bytes())
    (finding,) = verify(run).checkpoints[-1].findings
    assert "step=4), and the manifest says another one" in str(finding)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state["variables"].pop(0) and None, None),
        (
            lambda state: state["variables"][0].update(key="gone"),
            "gone is (6, 8), float32; found no such tensor",
        ),
        (
            lambda state: state["variables"][0].update(shape=[8, 6]),
            "is (8, 6), float32; found ((6, 8), 'float32')",
        ),
        (
            lambda state: state["random"]["python"].update(words="AAAA"),
            "random.python: 3 bytes of words",
        ),
        (lambda state: state["position"].update(batch=-1), "batch: -1"),
        (
            lambda state: state["callbacks"].append(
                {"kind": "X", "occurrence": 0, "state": {"a": {"$tensor": "lost"}}}
            ),
            "there is no tensor 'lost' that it speaks of",
        ),
        (lambda state: state.pop("data"), "missing required field `data`"),
    ],
)
def test_a_state_that_does_not_fit(run: Path, change: Any, words: str | None) -> None:
    """Its schema, its values, and the tensors that it speaks of."""
    state = json.loads((run / NEWEST / STATE).read_bytes())
    change(state)
    vouch(run / NEWEST, STATE, json.dumps(state).encode())
    if words is None:
        # A tensor that the state does not speak of is nothing to anybody.
        assert verify(run).sound
        return
    assert words in only_finding(run)


def test_a_graph_of_another_model(run: Path, tmp_path: Path) -> None:
    """A .meta whose variables are not the checkpoint's."""
    x, y = data()
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, name="other")])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ours = PeriodicCheckpoint(tmp_path / "other", verbose=0)
    model.fit(x, y, verbose=0, callbacks=[ours])
    (theirs,) = (tmp_path / "other").glob(f"ckpt-*/{META}")
    vouch(run / NEWEST, META, theirs.read_bytes())
    findings = [str(each) for each in verify(run).checkpoints[-1].findings]
    assert findings == [
        f"{NEWEST}/{META}: other/bias float32[5]; found no such tensor",
        f"{NEWEST}/{META}: other/kernel float32[6, 5]; found no such tensor",
    ]
    vouch(run / NEWEST, META, b"\x07 no graph")
    assert f"{NEWEST}/{META}: expected a MetaGraphDef" in only_finding(run)


def test_weights_that_are_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in any case; damage only where that is asked for."""
    # A run does not save them; another version may have.
    monkeypatch.setattr(finiteness, "is_sound", lambda value, infinities_too: True)
    x, y = data()
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="d")])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x[0, 0] = np.nan
    run = tmp_path / "run"
    model.fit(x, y, verbose=0, callbacks=[PeriodicCheckpoint(run, verbose=0)])
    found = verify(run)
    assert found.sound
    (one,) = found.checkpoints
    assert [each.what for each in one.findings] == [
        "d/bias holds NaN or infinity",
        "d/kernel holds NaN or infinity",
    ]
    assert not any(each.damage for each in one.findings)
    assert not verify(run, finite=True).sound
    assert call("verify", run).exit_code == 0
    assert call("verify", run, "--finite").exit_code == 1


def test_what_lies_beside(run: Path) -> None:
    """Leftovers, what was set aside and a stale file are named, and are no damage."""
    with Store.open_for_writing(run) as store:
        store.set_aside(run / OLDER, "a test")
        staged = store.stage(9)
    (run / "checkpoint").write_text('model_checkpoint_path: "gone/model.ckpt"\n')
    found = verify(run)
    assert found.sound
    assert [str(each) for each in found.findings] == [
        f"{staged.path.name}: staged: of a save that is under way, or has not come to "
        "its end",
        f"damaged-{OLDER}: set aside: a test",
        "checkpoint: names none that is there: TensorFlow's own functions find nothing",
    ]
    (run / "run.json").write_bytes(b"{")
    assert not verify(run).sound


def test_what_is_no_run(tmp_path: Path) -> None:
    """The usual errors for what is not there or is something else."""
    with pytest.raises(CheckpointNotFound):
        verify(tmp_path / "nowhere")
    with pytest.raises(CheckpointNotFound):
        verify(tmp_path / "ckpt-000000001")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(NotARunDirectory):
        verify(tmp_path)


def call(*arguments: object) -> Any:
    return CliRunner().invoke(commands, [str(each) for each in arguments])


def test_the_command(run: Path) -> None:
    """0 for sound, 1 for damaged, 2 for a wrong call; the same as JSON."""
    result = call("verify", run)
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "2 of 2 checkpoints sound"
    (run / NEWEST / STATE).write_bytes(b"")
    result = call("verify", run)
    assert result.exit_code == 1
    assert f"{NEWEST}: DAMAGED\n  {NEWEST}/{STATE}: expected" in result.output
    assert result.output.splitlines()[-1] == "1 of 2 checkpoints sound"
    result = call("verify", run, "--json")
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert told["path"] == str(run)
    assert told["sound"] is False
    assert [each["sound"] for each in told["checkpoints"]] == [True, False]
    (finding,) = told["checkpoints"][1]["findings"]
    assert finding["where"] == f"{NEWEST}/{STATE}"
    assert finding["damage"] is True
    assert call("verify").exit_code == 2
    for nothing in ("nowhere", "ckpt-000000001", NEWEST + "/model.ckpt.index"):
        done = call("verify", run / nothing)
        assert done.exit_code == 2
        assert f"{run / nothing}: expected a" in done.output


@pytest.mark.parametrize("name", [MANIFEST, STATE])
def test_a_newer_format(name: str, run: Path) -> None:
    """Nobody can go on from it, and nobody says that it is damaged."""
    content = json.loads((run / NEWEST / name).read_bytes())
    changed = json.dumps({**content, "version": 2}).encode()
    if name == MANIFEST:
        (run / NEWEST / name).write_bytes(changed)
    else:
        vouch(run / NEWEST, name, changed)
    found = verify(run)
    assert not found.sound
    older, newest = found.checkpoints
    assert older.sound
    assert newest.newer
    assert not newest.sound
    result = call("verify", run)
    assert result.exit_code == 1
    assert f"{NEWEST}: newer format\n  {NEWEST}" in result.output
    assert "found version 2. " in result.output
    assert "DAMAGED" not in result.output
    assert result.output.splitlines()[-1] == "1 of 2 checkpoints sound"
    told = json.loads(call("verify", run, "--json").output)
    assert [each["newer_format"] for each in told["checkpoints"]] == [False, True]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize("name", [MANIFEST, DATA])
def test_what_may_not_be_read(name: str, trained: Path) -> None:
    """Nobody says that it is damaged: whoever may read it finds out."""
    with folder_for_all() as folder:
        run = shutil.copytree(trained, folder / "run")
        for path in (run, *run.rglob("*")):
            path.chmod(0o755)
        (run / NEWEST / name).chmod(0)
        with as_another_user():
            found = verify(run)
            result = call("verify", run)
            told = json.loads(call("verify", run, "--json").output)
    assert [each.sound for each in found.checkpoints] == [True, False]
    assert [each.unread for each in found.checkpoints] == [False, True]
    assert result.exit_code == 1
    assert f"{NEWEST}: not readable\n  {NEWEST}" in result.output
    assert "Permission denied" in result.output
    assert "DAMAGED" not in result.output
    assert [each["not_readable"] for each in told["checkpoints"]] == [False, True]


def pruning(monkeypatch: pytest.MonkeyPatch, now: Any, then: Any) -> None:
    """Let things happen just before a checkpoint is read, and just after."""
    real = checkpoints.validate

    def validate(folder: Path) -> Any:
        now(folder)
        try:
            return real(folder)
        finally:
            then(folder)

    monkeypatch.setattr(checkpoints, "validate", validate)


def test_what_is_pruned_meanwhile(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run saves and prunes while it is looked at: what is there then is read."""
    newer = (run / NEWEST).rename(tmp_path / "newer")

    def prune(folder: Path) -> None:
        if folder.name == OLDER:
            shutil.rmtree(folder)
            newer.rename(run / NEWEST)

    pruning(monkeypatch, prune, lambda folder: None)
    result = call("verify", run)
    assert result.exit_code == 0
    assert result.output.splitlines()[-2:] == [
        "1 pruned meanwhile",
        "1 of 1 checkpoints sound",
    ]
    (one,) = verify(run).checkpoints
    assert one.path == run / NEWEST


def test_pruned_between_two_looks_at_its_index(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was found sound, and before its tensors are read: pruned meanwhile."""
    real = bundle.check_index

    def check_index(prefix: str) -> None:
        real(prefix)
        if Path(prefix).parent == run / OLDER:
            shutil.rmtree(run / OLDER)

    monkeypatch.setattr(bundle, "check_index", check_index)
    found = verify(run)
    assert found.sound
    assert found.pruned == 1
    assert [each.path for each in found.checkpoints] == [run / NEWEST]


def test_pruned_faster_than_it_can_be_read(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing was read, nothing is said to be sound."""
    away = tmp_path / "away"
    pruning(
        monkeypatch,
        lambda folder: folder.rename(away),
        lambda folder: away.rename(folder),
    )
    # It is there again when one looks, and is another one then.
    monkeypatch.setattr(checkpoints, "_identity", lambda folder: None)
    with pytest.raises(CheckpointNotFound, match="each was pruned meanwhile, 10 times"):
        verify(run)
    assert call("verify", run).exit_code == 1
    with pytest.raises(CheckpointNotFound, match="it was pruned while it was read"):
        verify(run / NEWEST)


LOADED = """
import sys
from persist_callbacks.storage import checkpoints
from persist_callbacks.verifying import verify
real = checkpoints.survey
def survey(*arguments):
    print("tensorflow" in sys.modules)
    return real(*arguments)
checkpoints.survey = survey
verify(sys.argv[1])
"""


def test_nothing_is_loaded_after_it_was_looked_what_there_is(run: Path) -> None:
    """In the seconds that TensorFlow takes, all of it may be pruned."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, run], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True"]
