"""What cannot work is refused by name, and nothing is written or deleted."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from loops import CLASSES, FEATURES, data, sequential
from persist_callbacks import (
    FrozenGraphExport,
    PeriodicCheckpoint,
    freeze,
    load_frozen_graph,
    paths,
    resume,
)
from persist_callbacks.errors import (
    ArchitectureMismatch,
    ArgumentError,
    BackendError,
    CheckpointNotFound,
    DirectoryNotWritable,
    ModelNotBuilt,
    ModelNotCompiled,
    NotAFrozenGraph,
    NotARunDirectory,
    PersistError,
    TensorNotFound,
)
from persist_callbacks.verifying import verify


def tree(root):
    """Everything below a folder: names, kinds, contents and times of change."""
    return {
        str(path.relative_to(root)): (
            path.is_dir(),
            path.stat().st_mtime_ns,
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
    }


def fit(model, *callbacks):
    x, y = data()
    return model.fit(x, y, batch_size=25, verbose=0, callbacks=list(callbacks))


@pytest.fixture
def untouched(tmp_path):
    """The test's folder; the test fails if it leaves anything in it changed."""
    before = {}

    class Guard:
        path = tmp_path

        def watch(self):
            before.update(tree(tmp_path))

    yield Guard()
    assert before, "the test watches nothing"
    assert tree(tmp_path) == before


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run directory with a checkpoint and a PB in it, to be copied from."""
    run = tmp_path_factory.mktemp("finished") / "run"
    fit(
        sequential(),
        PeriodicCheckpoint(run, every_epochs=1, verbose=0),
        FrozenGraphExport(run / "model.pb"),
    )
    return run


@pytest.fixture
def a_run(untouched, finished_run):
    """A copy of it which the test must leave as it is."""
    shutil.copytree(finished_run, untouched.path / "run")
    untouched.watch()
    return untouched.path / "run"


def message_of(raised, kind):
    """The message, after seeing that it has all four parts."""
    error = raised.value
    assert type(error) is kind
    assert isinstance(error, PersistError)
    assert error.where
    assert error.advice.endswith(".")
    assert str(error) == (
        f"{error.where}: expected {error.expected}, found {error.found}. {error.advice}"
    )
    return str(error)


FACES = {
    "PeriodicCheckpoint": PeriodicCheckpoint,
    "FrozenGraphExport": lambda path: FrozenGraphExport(path / "model.pb"),
    "resume": lambda path: resume(sequential(), path),
}


@pytest.mark.parametrize("face", FACES)
def test_another_keras_backend(face, untouched, monkeypatch):
    """Each face that needs Keras refuses another backend at once, and says how."""
    (untouched.path / "notes.txt").write_text("mine")
    untouched.watch()
    model = sequential()
    monkeypatch.setattr(f"{__name__}.sequential", lambda: model)
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(BackendError) as raised:
        FACES[face](untouched.path / "run")
    assert message_of(raised, BackendError) == (
        "keras.config.backend(): expected 'tensorflow', found 'jax'. "
        "Set KERAS_BACKEND=tensorflow before Keras is first imported."
    )


def test_directory_below_a_file(untouched):
    """A run directory that cannot be made is refused before any training."""
    (untouched.path / "notes.txt").write_text("mine")
    untouched.watch()
    with pytest.raises(DirectoryNotWritable) as raised:
        PeriodicCheckpoint(untouched.path / "notes.txt" / "run")
    message = message_of(raised, DirectoryNotWritable)
    assert message == (
        f"{untouched.path}/notes.txt/run: expected {untouched.path}/notes.txt to be a "
        "folder, found a file. Give another directory."
    )


@pytest.mark.parametrize("face", ["PeriodicCheckpoint", "FrozenGraphExport"])
def test_read_only_directory(face, untouched, monkeypatch):
    """A folder without permission to write is refused before the first step."""
    folder = untouched.path / "shared"
    folder.mkdir()
    untouched.watch()
    if os.access(folder, os.W_OK) and getattr(os, "geteuid", lambda: 0)() == 0:
        # Root may write anywhere; let it see what other users do.
        monkeypatch.setattr(os, "access", lambda path, mode, **_: False)
    folder.chmod(0o500)
    try:
        with pytest.raises(DirectoryNotWritable, match=f"no permission.* {folder}"):
            fit(sequential(), FACES[face](folder / "run"))
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize(
    ("face", "error"),
    [
        ("PeriodicCheckpoint", NotARunDirectory),
        ("resume", NotARunDirectory),
        # Which takes any folder that a Saver has written, and misses a checkpoint.
        ("freeze", CheckpointNotFound),
    ],
)
def test_directory_with_something_else(face, error, untouched):
    """A folder of the user's own files is not taken for a run, nor made one."""
    folder = untouched.path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("mine")
    untouched.watch()
    faces = {**FACES, "freeze": lambda path: freeze(path, path / "model.pb")}
    with pytest.raises(error) as raised:
        faces[face](folder)
    message = message_of(raised, error)
    assert message.startswith(f"{folder}: expected a run directory")


def test_directory_that_is_a_file(untouched):
    """A file is not a run directory."""
    (untouched.path / "run").write_text("mine")
    untouched.watch()
    with pytest.raises(NotARunDirectory, match="expected a folder, found a file"):
        PeriodicCheckpoint(untouched.path / "run")


def other(layers=(8, CLASSES), optimizer="adam"):
    """A model that `sequential` is not."""
    model = keras.Sequential(
        [keras.Input((FEATURES,)), *(keras.layers.Dense(units) for units in layers)]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("face", ["fit", "resume"])
def test_run_of_another_architecture(face, a_run):
    """The differences are listed, and the model is left as it was too."""
    model = other()
    weights = model.get_weights()
    with pytest.raises(ArchitectureMismatch) as raised:
        if face == "fit":
            fit(model, PeriodicCheckpoint(a_run, verbose=0))
        else:
            resume(model, a_run)
    message = message_of(raised, ArchitectureMismatch)
    assert "ckpt-000000002: expected the model variables of this program: 4" in message
    assert "batch_normalization/gamma float32[8], model has dense_1/kernel" in message
    assert "train into another directory" in message
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_run_with_another_optimizer(a_run):
    """An optimizer of another kind is refused, by its variables' names."""
    model = sequential("sgd")
    weights = model.get_weights()
    with pytest.raises(ArchitectureMismatch, match=r"optimizer variables.*momentum"):
        resume(model, a_run)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_fit_with_another_optimizer(a_run):
    """In fit too, and before the first step has changed anything."""
    model = sequential("sgd")
    weights = model.get_weights()
    with pytest.raises(ArchitectureMismatch, match=r"optimizer variables.*momentum"):
        fit(model, PeriodicCheckpoint(a_run, verbose=0))
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_model_that_is_not_compiled(a_run):
    """There is nothing to put the optimizer's state into."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    with pytest.raises(ModelNotCompiled) as raised:
        resume(model, a_run)
    message = message_of(raised, ModelNotCompiled)
    assert "without an optimizer. Call model.compile(...) first" in message


def test_model_that_is_not_built(a_run):
    """There is nothing to put the weights into."""
    model = keras.Sequential([keras.layers.Dense(CLASSES)])
    model.compile("adam", "mse")
    with pytest.raises(ModelNotBuilt) as raised:
        resume(model, a_run)
    message = message_of(raised, ModelNotBuilt)
    assert "without variables. Begin it with keras.Input(...)" in message


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"nothing": "x"}, "'nothing'"),
        (["one", "two"], "found 2: one, two"),
    ],
)
def test_output_that_the_model_has_not(outputs, words, untouched):
    """A wrong name is an error before the first step, and lists the right ones."""
    (untouched.path / "model.pb").write_bytes(b"an older one")
    untouched.watch()
    model = sequential()
    weights = model.get_weights()
    with pytest.raises(TensorNotFound) as raised:
        fit(model, FrozenGraphExport(untouched.path / "model.pb", outputs=outputs))
    message = message_of(raised, TensorNotFound)
    assert "classes" in message
    assert words in message
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_output_that_the_checkpoint_has_not(a_run):
    """Freezing a checkpoint with a wrong name leaves the older PB in place."""
    with pytest.raises(TensorNotFound) as raised:
        freeze(a_run, a_run / "model.pb", outputs=["nothing"])
    message = message_of(raised, TensorNotFound)
    assert message.startswith("nothing: expected ")
    assert "classes" in message


def test_nothing_to_freeze(untouched):
    """A path without a checkpoint is named."""
    (untouched.path / "empty").mkdir()
    untouched.watch()
    for name in ("empty", "nowhere"):
        with pytest.raises(CheckpointNotFound) as raised:
            freeze(untouched.path / name, untouched.path / "model.pb")
        assert str(untouched.path / name) in message_of(raised, CheckpointNotFound)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a PB\n", b"\x89HDF\r\n\x1a\n" + bytes(64), None],
    ids=["empty", "text", "hdf5", "with variables"],
)
def test_pb_that_is_not_one(content, untouched):
    """A file that is no frozen graph is an error of ours, by its path."""
    if content is None:
        graph = tf.Graph()
        with graph.as_default():
            tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2], name="kernel")
        content = graph.as_graph_def().SerializeToString()
    path = untouched.path / "model.pb"
    path.write_bytes(content)
    untouched.watch()
    with pytest.raises(NotAFrozenGraph) as raised:
        load_frozen_graph(path)
    assert message_of(raised, NotAFrozenGraph).startswith(str(path))


def test_pb_that_is_not_there(untouched):
    """A missing PB is an error of ours, by its path."""
    (untouched.path / "notes.txt").write_text("mine")
    untouched.watch()
    with pytest.raises(NotAFrozenGraph, match=r"model\.pb: expected .*found"):
        load_frozen_graph(untouched.path / "model.pb")


NO_PATHS = [None, 3, b"x", "", "a\0b", "~nobody-of-this-name/x", "\ud800"]
TAKES_PATH = {
    "PeriodicCheckpoint": ("directory", PeriodicCheckpoint),
    "FrozenGraphExport": ("path", FrozenGraphExport),
    "load_frozen_graph": ("path", load_frozen_graph),
    "freeze from": ("checkpoint", lambda path: freeze(path, "model.pb")),
    "freeze to": ("path", lambda path: freeze("run", path)),
    "verify": ("path", verify),
    "resume": ("directory", lambda path: resume(sequential(), path)),
}


@pytest.mark.parametrize("face", TAKES_PATH)
def test_what_is_no_path(face, untouched, monkeypatch):
    """Refused by the argument's name, before anything is read."""
    (untouched.path / "file").touch()
    untouched.watch()
    monkeypatch.chdir(untouched.path)
    argument, call = TAKES_PATH[face]
    for value in NO_PATHS:
        with pytest.raises(ArgumentError) as raised:
            call(value)
        found = message_of(raised, ArgumentError)
        assert found.startswith(f"{argument}: expected "), found
        assert f", found {value!r}. " in found


@pytest.mark.skipif(sys.platform == "darwin", reason="the system has no such names")
@pytest.mark.parametrize(
    "face", ["PeriodicCheckpoint", "freeze from", "verify", "resume"]
)
def test_a_run_whose_name_is_not_utf8(face, untouched, monkeypatch):
    """TensorFlow takes none, so nothing is saved there that it could not read."""
    folder = Path(os.fsdecode(bytes(untouched.path) + b"/r\xe9sultats"))
    (folder / "run").mkdir(parents=True)
    untouched.watch()
    argument, call = TAKES_PATH[face]
    monkeypatch.chdir(folder)
    for value in (folder / "run", "run"):
        with pytest.raises(ArgumentError) as raised:
            call(value)
        found = message_of(raised, ArgumentError)
        assert found.startswith(f"{argument}: expected a path in UTF-8")
        assert f"found {bytes(folder / 'run')!r}. Rename that folder" in found


@pytest.mark.skipif(sys.platform == "darwin", reason="the system has no such names")
def test_names_that_are_not_utf8_elsewhere(tmp_path):
    """A PB may have one, and so may what a link with a better name leads to."""
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/r\xe9sultats"))
    (folder / "run").mkdir(parents=True)
    model, link = sequential(), tmp_path / "link"
    link.symlink_to(folder / "run", target_is_directory=True)
    callbacks = [PeriodicCheckpoint(link, every_epochs=1, verbose=0)]
    fit(model, *callbacks, FrozenGraphExport(folder / "m.pb"))
    assert resume(model, link).step
    assert load_frozen_graph(folder / "m.pb").op_count


@pytest.mark.parametrize("face", TAKES_PATH)
def test_addresses_of_stores(face, untouched, monkeypatch):
    """Not taken for folders of that name; a drive of Windows is not taken for one."""
    (untouched.path / "file").touch()
    untouched.watch()
    monkeypatch.chdir(untouched.path)
    argument, call = TAKES_PATH[face]
    for value in (
        *(
            "gs://bucket/run1",
            "s3://bucket/model.pb",
            "hdfs://host:9000/run",
            "S3A://b",
        ),
        *("http://host/run", Path("gs://bucket/run1")),
    ):
        with pytest.raises(ArgumentError) as raised:
            call(value)
        assert message_of(raised, ArgumentError) == (
            f"{argument}: expected a path in a local or mounted file system, found an "
            f"address of a remote store, {str(value)!r}. Give a local folder, or the "
            "one that the store is mounted at."
        )
    for value in (
        *("file:///home/run", "file://localhost/home/run"),
        Path("file:///home/run"),
    ):
        with pytest.raises(ArgumentError) as raised:
            call(value)
        assert "an address of a file" in message_of(raised, ArgumentError)
        assert raised.value.advice == "Give '/home/run'."


@pytest.mark.parametrize(
    "name", ["C:\\run", "c:/run", "C://run", "a b://x", "x/gs://y"]
)
def test_paths_that_look_like_addresses(name):
    """They are what the system takes them for."""
    assert paths.absolute(name, "path") == Path(name).absolute()
    if name != "C://run":
        assert paths.absolute(Path(name), "path") == Path(name).absolute()


def test_folders_of_an_addresss_name(tmp_path, monkeypatch):
    """A Path of them is one, as long as no store is called so or they are there."""
    monkeypatch.chdir(tmp_path)
    for name in ("run:/x", "lr-0.1:/bs/3"):
        assert paths.absolute(Path(name), "path") == tmp_path / name
    Path("gs:").mkdir()
    assert paths.absolute(Path("gs:/x"), "path") == tmp_path / "gs:" / "x"


def test_what_resume_cannot_take(a_run):
    """What is no model, and what names no checkpoint."""
    for model in (None, 3):
        with pytest.raises(ArgumentError) as raised:
            resume(model, a_run)
        assert message_of(raised, ArgumentError).startswith("model: expected a Keras")
    model = sequential()
    for checkpoint in (
        *(None, float("nan"), 1.5, True, "", b"x", "a\0b", ["best"]),
        *("gs://bucket/run/ckpt-000000002", Path("gs://bucket/run/ckpt-000000002")),
    ):
        with pytest.raises(ArgumentError) as raised:
            resume(model, a_run, checkpoint=checkpoint)
        assert message_of(raised, ArgumentError).startswith("checkpoint: expected ")
    newest = resume(model, a_run).path
    for checkpoint in (Path(newest.name), newest, np.int64(resume(model, a_run).step)):
        assert resume(model, a_run, checkpoint=checkpoint).path == newest


def test_a_directory_whose_name_is_too_long(untouched):
    """The system's refusal is an error of ours, before the first step."""
    (untouched.path / "file").touch()
    untouched.watch()
    with pytest.raises(DirectoryNotWritable) as raised:
        PeriodicCheckpoint(untouched.path / ("x" * 300))
    assert "File name too long" in message_of(raised, DirectoryNotWritable)
