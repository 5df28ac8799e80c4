"""Folders that TensorFlow 1 wrote, frozen by us; and ours, frozen by TensorFlow 1.

The folders in ``tf1/folders`` were written by real TensorFlow 1.15 with
``tf1/write_folders.py``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf1
import zoo
from click.testing import CliRunner
from tf1 import write_folders

import persist_callbacks
from persist_callbacks.cli import commands
from persist_callbacks.errors import (
    CheckpointDamaged,
    CheckpointNotFound,
    TensorNotFound,
    UnsupportedGraph,
)
from persist_callbacks.graph.compare import compare, generate
from persist_callbacks.graph.meta import to_meta
from persist_callbacks.graph.trace import run_live
from persist_callbacks.storage import bundle

KINDS = sorted(path.name for path in tf1.FOLDERS.iterdir())
# One of its inputs has a default, which is taken unless the input is named.
WITH_FLAG = {"branches": ["input_holder", "flag"]}
LIKELY = {
    "training": "best (ArgMax), predictions (Softmax), loss (Mean).",
    "recurrent": "all (Identity), last (Identity), ",
}


def arrays(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a folder's graph was fed, and what it gave."""
    with np.load(folder / "arrays.npz") as loaded:
        both = {name: loaded[name] for name in loaded.files}
    return (
        {name[3:]: value for name, value in both.items() if name.startswith("in/")},
        {name[4:]: value for name, value in both.items() if name.startswith("out/")},
    )


def freeze_and_compare(folder: Path, pb: Path, kind: str) -> Any:
    """Freeze a folder by its outputs' names; the PB gives what was given there."""
    fed, expected = arrays(folder)
    outputs, inputs = list(expected), WITH_FLAG.get(kind)
    frozen = persist_callbacks.freeze(folder, pb, outputs=outputs, inputs=inputs)
    found = zoo.by_name(frozen(fed), outputs)
    comparison = compare(expected, found, atol=1e-6, rtol=1e-5)
    assert comparison.agrees, str(comparison)
    assert all(value.size for value in expected.values())
    return frozen


def test_every_kind_is_there() -> None:
    """The folders are those that the script beside them writes."""
    assert sorted(kind.__name__ for kind in write_folders.KINDS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_tensorflow_1(kind: str, tmp_path: Path) -> None:
    """Whatever its variables, loops, names and shards: the PB predicts the same."""
    frozen = freeze_and_compare(tf1.FOLDERS / kind, tmp_path / "m.pb", kind)
    assert not [op for op in frozen.ops if "Variable" in op or "Table" in op]


@pytest.mark.parametrize("kind", KINDS)
def test_likely_outputs_are_listed(kind: str, tmp_path: Path) -> None:
    """Without names, the error lists what may be wanted, the wanted among the first."""
    with pytest.raises(TensorNotFound) as raised:
        persist_callbacks.freeze(tf1.FOLDERS / kind, tmp_path / "m.pb")
    _, _, listed = str(raised.value).partition("likely ones are: ")
    assert listed.startswith(LIKELY.get(kind, "predictions ("))
    assert "save/" not in listed
    assert "gradients" not in listed
    assert not (tmp_path / "m.pb").exists()


def test_dead_branches_are_gone(tmp_path: Path) -> None:
    """A flag for training that takes its default leaves no trace of training."""
    frozen = persist_callbacks.freeze(
        tf1.FOLDERS / "layers", tmp_path / "m.pb", outputs=["predictions"]
    )
    assert [info.name for info in frozen.inputs] == ["image"]
    assert not {"Switch", "Merge", "PlaceholderWithDefault"} & set(frozen.ops)


def test_by_the_command_and_by_any_of_its_files(tmp_path: Path) -> None:
    """Folder, prefix, .index, .meta or shard: whichever one has at hand."""
    folder = tf1.FOLDERS / "sharded"
    fed, expected = arrays(folder)
    names = ["", "model-7", "model-7.index", "model-7.meta"]
    for name in [*names, "model-7.data-00000-of-00002"]:
        pb = tmp_path / "m.pb"
        arguments = ["freeze", folder / name, "-o", pb, "--outputs", "predictions:0"]
        done = CliRunner().invoke(commands, [str(each) for each in arguments])
        assert done.exit_code == 0, done.output
        found = persist_callbacks.load_frozen_graph(pb)(fed)
        np.testing.assert_allclose(found, expected["predictions"], rtol=1e-6)


def test_shards_of_the_old_format(tmp_path: Path) -> None:
    """Found by what they are called together, by one of them, and counted."""
    folder = tmp_path / "run"
    shutil.copytree(tf1.FOLDERS / "old_sharded", folder)
    fed, expected = arrays(folder)
    pattern = "model-7-?????-of-00002"
    for name in ("", "model-7", pattern, "model-7-00001-of-00002", "model-7.meta"):
        frozen = persist_callbacks.freeze(
            folder / name, tmp_path / "m.pb", outputs=["predictions"]
        )
        np.testing.assert_allclose(frozen(fed), expected["predictions"], rtol=1e-6)
    shown = CliRunner().invoke(commands, ["inspect", "--json", str(folder)])
    described = json.loads(shown.output)
    assert [each["name"] for each in described["variables"]] == ["b", "w"]
    assert described["graph"] is not None
    assert described["path"] == str(folder / pattern)
    (folder / "model-7-00001-of-00002").unlink()
    with pytest.raises(CheckpointDamaged, match=r"all of its 2.*no model-7-00001-of-"):
        persist_callbacks.freeze(folder, tmp_path / "m.pb", outputs=["predictions"])
    (folder / "model-7-00002-of-00003").touch()
    with pytest.raises(CheckpointNotFound):
        persist_callbacks.freeze(folder / "model-7", tmp_path / "m.pb")


def test_one_meta_for_several_checkpoints(tmp_path: Path) -> None:
    """A script that writes the graph once has one for all; of two, none is guessed."""
    folder = tmp_path / "run"
    shutil.copytree(tf1.FOLDERS / "renamed", folder)
    (folder / "model-7.meta").rename(folder / "model-0.meta")
    freeze_and_compare(folder, tmp_path / "m.pb", "renamed")
    shutil.copy(folder / "model-0.meta", folder / "model-1.meta")
    with pytest.raises(CheckpointNotFound, match=r"others: model-0\.meta, model-1"):
        persist_callbacks.freeze(folder, tmp_path / "m.pb", outputs=["predictions"])


def test_a_folder_without_its_checkpoint_file(tmp_path: Path) -> None:
    """The checkpoints that are there are named, and one can be given by its prefix."""
    folder = tmp_path / "run"
    shutil.copytree(tf1.FOLDERS / "two_variables", folder)
    (folder / "checkpoint").unlink()
    for text in (None, "garbage", 'model_checkpoint_path: "model-9"'):
        if text is not None:
            (folder / "checkpoint").write_text(text)
        with pytest.raises(CheckpointNotFound) as raised:
            persist_callbacks.freeze(folder, tmp_path / "m.pb", outputs=["predictions"])
        assert "but checkpoints: model-7. " in str(raised.value)
        assert raised.value.advice == f"Give one of them: {folder / 'model-7'}."
    for part in ("index", "meta", "data-00000-of-00001"):
        shutil.copy(folder / f"model-7.{part}", folder / f"model-10.{part}")
    with pytest.raises(CheckpointNotFound, match=r"Give one of them: \S*/model-10\."):
        persist_callbacks.freeze(folder, tmp_path / "m.pb")
    (folder / "model-10.index").unlink()
    with pytest.raises(
        CheckpointNotFound, match=r"model-7; without its \.index: model"
    ):
        persist_callbacks.freeze(folder, tmp_path / "m.pb")
    persist_callbacks.freeze(
        folder / "model-7", tmp_path / "m.pb", outputs=["predictions"]
    )


@pytest.mark.parametrize("kind", ["old_format", "old_sharded"])
def test_the_old_format_without_its_checkpoint_file(kind: str, tmp_path: Path) -> None:
    """It has no index, so that none is missing."""
    shutil.copytree(tf1.FOLDERS / kind, tmp_path / "run")
    (tmp_path / "run/checkpoint").unlink()
    with pytest.raises(CheckpointNotFound, match=r"Give one of them: .*/run/model-7"):
        persist_callbacks.freeze(tmp_path / "run", tmp_path / "m.pb")


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    """By the folder, the prefix and the files that are there."""
    folder = tmp_path / "run"
    shutil.copytree(tf1.FOLDERS / "two_variables", folder)
    (folder / "model-7.index").unlink()
    for name in ("", "model-7", "model-7.meta", "model-7.data-00000-of-00001"):
        with pytest.raises(CheckpointDamaged) as raised:
            persist_callbacks.freeze(folder / name, tmp_path / "m.pb")
        assert raised.value.where == str(folder / "model-7")
        assert raised.value.expected == (
            "model-7.index beside model-7.data-00000-of-00001, model-7.meta"
        )


def test_a_missing_graph_is_told_by_who_wrote_the_weights(tmp_path: Path) -> None:
    """A script of TensorFlow 1 writes it again; Keras has a way of its own."""
    folder = tmp_path / "run"
    shutil.copytree(tf1.FOLDERS / "two_variables", folder)
    meta = folder / "model-7.meta"
    meta.unlink()
    with pytest.raises(CheckpointNotFound) as raised:
        persist_callbacks.freeze(folder, tmp_path / "m.pb")
    advice = f"tf.train.Saver().export_meta_graph('{meta}')."
    assert raised.value.advice.endswith(advice)
    with tf.Graph().as_default():
        w = tf.compat.v1.get_variable("weights", [3, 1], use_resource=False)
        tf.matmul(tf.compat.v1.placeholder(tf.float32, [None, 3]), w, name="y")
        tf.compat.v1.train.Saver().export_meta_graph(str(meta))
    assert meta.is_file()
    tf.train.Checkpoint(x=tf.Variable(1.0)).save(str(tmp_path / "keras/model"))
    with pytest.raises(CheckpointNotFound, match=r"resume\(\) it .* FrozenGraphExport"):
        persist_callbacks.freeze(tmp_path / "keras", tmp_path / "m.pb")


def test_a_saved_model_is_called_one(tmp_path: Path) -> None:
    """The folder, its weights, and their prefix; what is advised makes a checkpoint."""
    v1, saved, pb = tf.compat.v1, tmp_path / "saved", tmp_path / "m.pb"
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        w = v1.get_variable("w", initializer=[2.0, 3.0])
        y = tf.multiply(x, w, name="y")
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(saved), {"x": x}, {"y": y})
    for name in ("", "variables", "variables/variables"):
        with pytest.raises(CheckpointNotFound, match="a SavedModel") as raised:
            persist_callbacks.freeze(saved / name, pb)
        assert f"saved_model.load(session, ['serve'], '{saved}')" in str(raised.value)
    with tf.Graph().as_default(), v1.Session() as session:
        v1.saved_model.load(session, ["serve"], str(saved))
        v1.train.Saver().save(session, str(tmp_path / "run/model"))
    frozen = persist_callbacks.freeze(tmp_path / "run", pb, outputs=["y"])
    np.testing.assert_array_equal(frozen([[1.0, 1.0]]), [[2.0, 3.0]])


def test_a_variable_that_the_saver_left_out(tmp_path: Path) -> None:
    """It is named, and what can be done about it."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        w, b = (v1.get_variable(name, [2]) for name in ("weights", "bias"))
        tf.add(x * w, b, name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver([b]).save(session, str(tmp_path / "run/model"))
    with pytest.raises(TensorNotFound, match=r"'weights'.* not save it.*var_list"):
        persist_callbacks.freeze(tmp_path / "run", tmp_path / "m.pb", outputs=["y"])


def test_damaged_weights_are_told_in_plain_words(tmp_path: Path) -> None:
    """Without TensorFlow's own kernels, and no advice to resume what is frozen."""
    folder = tmp_path / "run"
    shutil.copytree(tf1.FOLDERS / "two_variables", folder)
    data = folder / "model-7.data-00000-of-00001"
    data.write_bytes(bytes(byte ^ 0x40 for byte in data.read_bytes()))
    with pytest.raises(CheckpointDamaged, match="Checksum") as raised:
        persist_callbacks.freeze(folder, tmp_path / "m.pb", outputs=["predictions"])
    said = str(raised.value)
    assert "{{" not in said
    assert "[Op" not in said
    assert raised.value.advice.startswith("Use an earlier checkpoint, or restore")


def test_a_table_from_a_file_is_refused(tmp_path: Path) -> None:
    """What the graph does not hold cannot be made constant, and is named."""
    v1 = tf.compat.v1
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    with tf.Graph().as_default(), v1.Session() as session:
        asked = v1.placeholder(tf.string, [None], name="words")
        initializer = tf.lookup.TextFileInitializer(
            str(words),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        table = tf.lookup.StaticHashTable(initializer, -1, name="vocabulary")
        tf.identity(table.lookup(asked), name="ids")
        v1.get_variable("w", [1])
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "run" / "model"))
    with pytest.raises(UnsupportedGraph, match=r"vocabulary.*a lookup table"):
        persist_callbacks.freeze(tmp_path / "run", tmp_path / "m.pb", outputs=["ids"])


def test_written_by_tensorflow_2_in_its_old_ways(tmp_path: Path) -> None:
    """The same script run by this TensorFlow's compat.v1 makes folders that freeze."""
    kinds = ["two_variables", "partitioned_resources", "functional_loop"]
    script = tf1.HERE / "write_folders.py"
    subprocess.run(
        [sys.executable, script, tmp_path / "made", *kinds],
        check=True,
        capture_output=True,
        timeout=120,
    )
    for kind in kinds:
        freeze_and_compare(tmp_path / "made" / kind, tmp_path / "m.pb", kind)


@pytest.mark.parametrize("kind", ["loop", "branch"])
def test_resource_variables_in_old_control_flow(kind: str, tmp_path: Path) -> None:
    """Enter and Switch hand a variable's value in where they handed its handle."""
    v1, rows = tf.compat.v1, np.ones((2, 5), np.float32)
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None, 5], name="x")
            w = v1.get_variable("w", [5, 5], use_resource=True)
            if kind == "loop":
                y = v1.while_loop(
                    lambda y: tf.reduce_sum(y) < 9, lambda y: y @ w + 1, [x]
                )
            else:
                y = v1.cond(tf.reduce_sum(x) > 0, lambda: x @ w, lambda: x - w[0])
            y = tf.identity(y, name="y")
            session.run(v1.global_variables_initializer())
            wanted = [session.run(y, {x: each}) for each in (rows, -rows)]
            v1.train.Saver().save(session, str(tmp_path / "run" / "model"))
    finally:
        v1.enable_control_flow_v2()
    frozen = persist_callbacks.freeze(
        tmp_path / "run", tmp_path / "m.pb", outputs=["y"]
    )
    assert {"Switch", "Merge"} <= set(frozen.ops)
    for each, result in zip((rows, -rows), wanted, strict=True):
        np.testing.assert_allclose(frozen(each), result, rtol=1e-5, atol=1e-5)


# Ours, frozen by TensorFlow 1's own script.

_NEEDED = pytest.mark.skipif(
    tf1.python() is None, reason="no TensorFlow 1.15: TF1_PYTHON names none"
)
INTERPRETERS = [
    pytest.param(sys.executable, id="compat.v1"),
    pytest.param(tf1.python(), id="1.15", marks=_NEEDED),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A folder for each kind of model: our checkpoint's files, and a batch."""
    folders = {}
    for kind in zoo.KINDS:
        made, folder = zoo.shared(kind), tmp_path_factory.mktemp(kind)
        values = {key: tf.constant(value) for key, value in made.values.items()}
        bundle.write(folder / "model.ckpt", values)
        (folder / "model.ckpt.meta").write_bytes(to_meta(made.graph))
        (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"')
        np.savez(folder / "in.npz", **generate(made.graph.inputs))
        folders[kind] = folder
    return folders


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_ours_frozen_by_a_script_of_tensorflow_1(
    interpreter: str, saved: dict[str, Path]
) -> None:
    """import_meta_graph, restore, convert_variables_to_constants: the live outputs."""
    jobs = []
    for kind, folder in saved.items():
        files = [folder, folder / "in.npz", folder / "out.npz"]
        jobs.append([*map(str, files), ",".join(zoo.shared(kind).outputs)])
    subprocess.run(
        [interpreter, tf1.HERE / "freeze_folder.py", json.dumps(jobs)],
        check=True,
        timeout=300,
    )
    for kind, folder in saved.items():
        made = zoo.shared(kind)
        with np.load(folder / "in.npz") as sample:
            live = run_live(made.model, made.graph, sample)
        with np.load(folder / "out.npz") as found:
            tolerance = 2e-2 if kind == "mixed_precision" else 1e-5
            comparison = compare(
                {name: value.astype("float32") for name, value in live.items()},
                dict(found),
                atol=tolerance,
                rtol=tolerance,
            )
        assert comparison.agrees, f"{kind}: {comparison}"
        (folder / "out.npz").unlink()
