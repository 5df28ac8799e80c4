from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_checkpoint import save

from persist_callbacks.errors import CheckpointDamaged, SaveFailed, TensorNotFound
from persist_callbacks.records import TensorInfo
from persist_callbacks.storage import bundle
from persist_callbacks.storage.store import Store

tf = pytest.importorskip("tensorflow")

TENSORS = {
    "dense/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "step": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float64),
    "flag": np.array([True, False]),
    bundle.OBJECT_GRAPH_KEY: np.array(b"graph \x00 bytes"),
}


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    """A CKPT with a tensor of several kinds."""
    path = str(tmp_path / "model.ckpt")
    bundle.write(path, {**TENSORS, "half": tf.constant([1.5, -2.0], tf.bfloat16)})
    return path


def test_tensorflow_reads_what_was_written(prefix: str) -> None:
    """Its own reader finds every key, dtype, shape and value."""
    reader = tf.train.load_checkpoint(prefix)
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(reader.get_tensor(name), value)
    assert reader.get_variable_to_dtype_map()["half"] == tf.bfloat16
    assert sorted(path.name for path in Path(prefix).parent.iterdir()) == [
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
    ]


def test_what_was_written_is_read(prefix: str) -> None:
    """Values and dtypes come back, for the keys that are asked for."""
    read = bundle.read(prefix, ["step", "half", "dense/kernel"])
    assert list(read) == ["step", "half", "dense/kernel"]
    assert read["half"].dtype == tf.bfloat16
    assert int(read["step"]) == 7
    np.testing.assert_array_equal(read["dense/kernel"], TENSORS["dense/kernel"])
    assert bundle.read(prefix, []) == {}


@pytest.mark.parametrize("proc", [True, False])
@pytest.mark.parametrize("name", ["lr=[0.1]", "a*b", "what?", "back\\slash", "]["])
def test_a_folder_whose_name_is_a_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, proc: bool
) -> None:
    """TensorFlow by itself reads none of what it has written there."""
    if not proc:
        isdir = os.path.isdir
        monkeypatch.setattr(
            os.path, "isdir", lambda path: path != "/proc/self/fd" and isdir(path)
        )
    prefix = tmp_path / name / "model.ckpt"
    prefix.parent.mkdir()
    bundle.write(prefix, {"a": tf.constant([1.0, 2.0]), "b": tf.constant(["text"])})
    opened = len(os.listdir("/proc/self/fd")) if Path("/proc").exists() else 0
    read = bundle.read(prefix, ["a", "b"])
    assert read["a"].numpy().tolist() == [1.0, 2.0]
    assert read["b"].numpy().tolist() == [b"text"]
    assert [info.name for info in bundle.variables(prefix)] == ["a", "b"]
    assert not bundle.is_object_based(prefix)
    with pytest.raises(TensorNotFound):
        bundle.read(prefix, ["c"])
    if opened:
        assert len(os.listdir("/proc/self/fd")) == opened
    prefix.with_name("model.ckpt.index").unlink()
    with pytest.raises(CheckpointDamaged):
        bundle.read(prefix, ["a"])


def test_variant_tensors_survive(tmp_path: Path) -> None:
    """The state of a data iterator is a variant tensor."""
    path = str(tmp_path / "model.ckpt")
    data = iter(tf.data.Dataset.range(10))
    next(data)
    next(data)
    state = tf.raw_ops.SerializeIterator(
        resource_handle=data._iterator_resource, external_state_policy=0
    )
    bundle.write(path, {"iterator": state})
    again = iter(tf.data.Dataset.range(10))
    tf.raw_ops.DeserializeIterator(
        resource_handle=again._iterator_resource,
        serialized=bundle.read(path, ["iterator"])["iterator"],
    )
    assert int(next(again)) == 2


def test_variables_are_listed_without_the_object_graph(prefix: str) -> None:
    """Sorted by name, with shape and TensorFlow's name of the dtype."""
    assert bundle.variables(prefix) == (
        TensorInfo("dense/kernel", (3, 4), "float32"),
        TensorInfo("empty", (0, 3), "float64"),
        TensorInfo("flag", (2,), "bool"),
        TensorInfo("half", (2,), "bfloat16"),
        TensorInfo("step", (), "int64"),
    )


def test_a_missing_key_names_its_neighbours(prefix: str) -> None:
    """A misspelt key is answered with the nearest ones."""
    with pytest.raises(TensorNotFound, match=r"'dense/kernal'.*Nearest: dense/kernel"):
        bundle.read(prefix, ["step", "dense/kernal"])


def data_of(prefix: str) -> Path:
    return Path(f"{prefix}.data-00000-of-00001")


def flip_data(prefix: str) -> None:
    data = bytearray(data_of(prefix).read_bytes())
    for at in range(len(data)):
        data[at] ^= 0x40
    data_of(prefix).write_bytes(data)


def truncate_data(prefix: str) -> None:
    data_of(prefix).write_bytes(data_of(prefix).read_bytes()[:8])


def remove_data(prefix: str) -> None:
    data_of(prefix).unlink()


def flip_index(prefix: str) -> None:
    path = Path(f"{prefix}.index")
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 3):
        data[at] ^= 0x11
    path.write_bytes(data)


def truncate_index(prefix: str) -> None:
    path = Path(f"{prefix}.index")
    path.write_bytes(path.read_bytes()[:10])


def empty_index(prefix: str) -> None:
    Path(f"{prefix}.index").write_bytes(b"")


def remove_index(prefix: str) -> None:
    Path(f"{prefix}.index").unlink()


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (flip_data, "model.ckpt.data"),
        (truncate_data, "model.ckpt.data"),
        (remove_data, "model.ckpt.data"),
        (flip_index, "model.ckpt"),
        (truncate_index, "model.ckpt.index"),
        (empty_index, "model.ckpt.index"),
        (remove_index, "model.ckpt.index"),
    ],
)
def test_damage_is_an_error_of_ours(
    prefix: str, damage: Callable[[str], None], where: str
) -> None:
    """Whatever TensorFlow raises for it, the file is named and nothing crashes."""
    damage(prefix)
    with pytest.raises(CheckpointDamaged, match=f"{where}.*readable checkpoint data"):
        bundle.read(prefix, ["dense/kernel"])


def test_a_folder_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    """What TensorFlow cannot write is told with the place and the cause."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SaveFailed, match="expected to write a checkpoint") as raised:
        bundle.write(tmp_path / "file" / "model.ckpt", TENSORS)
    assert isinstance(raised.value.__cause__, NotADirectoryError)


def test_writing_on_a_thread_keeps_no_tensor(tmp_path: Path) -> None:
    """It works on a background thread, and refers to nothing afterwards."""
    tensors = {"x": tf.random.normal([1000])}
    alive = weakref.ref(tensors["x"])
    expected = tensors["x"].numpy().copy()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            bundle.write(tmp_path / "model.ckpt", tensors)
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    tensors.clear()
    gc.collect()
    assert alive() is None
    read = bundle.read(tmp_path / "model.ckpt", ["x"])["x"]
    np.testing.assert_array_equal(read, expected)


def test_tensorflow_finds_the_newest_by_our_checkpoint_file(tmp_path: Path) -> None:
    """`tf.train.latest_checkpoint` reads it, in a moved directory with odd letters."""
    directory = tmp_path / 'run "5" ä'
    with Store.open_for_writing(directory) as store:
        first = save(store, 1)
        second = save(store, 2)
        assert tf.train.latest_checkpoint(str(directory)) == second.prefix
        state = tf.train.get_checkpoint_state(str(directory))
        assert list(state.all_model_checkpoint_paths) == [first.prefix, second.prefix]
        store.prune(["ckpt-000000002"])
        assert tf.train.latest_checkpoint(str(directory)) == first.prefix
        store.prune(["ckpt-000000001"])
        assert tf.train.latest_checkpoint(str(directory)) is None
    moved = tmp_path / "moved"
    shutil.move(directory, moved)
    with Store.open_for_writing(moved) as store:
        assert tf.train.latest_checkpoint(str(moved)) is None
        third = save(store, 3)
        assert tf.train.latest_checkpoint(str(moved)) == third.prefix


def test_latest_prefix_of_a_folder_that_was_moved(tmp_path: Path) -> None:
    """Absolute paths of the machine that wrote them lead to the same names here."""
    folder = tmp_path / "old"
    model = tf.train.Checkpoint(x=tf.Variable(1.0))
    written = model.save(str(folder / "ckpt"))
    assert bundle.latest_prefix(folder) == written
    (folder / "checkpoint").write_text('model_checkpoint_path: "/gone/old/ckpt-1"\n')
    moved = folder.rename(tmp_path / "new")
    assert bundle.latest_prefix(moved) == str(moved / "ckpt-1")


@pytest.mark.parametrize("text", [None, "", 'model_checkpoint_path: "/gone/x"\n'])
def test_latest_prefix_of_nothing(tmp_path: Path, text: str | None) -> None:
    """No file, an empty one, or one that leads nowhere: there is none."""
    if text is not None:
        (tmp_path / "checkpoint").write_text(text)
    assert bundle.latest_prefix(tmp_path) is None


def test_only_bundle_loads_tensorflow_and_only_when_called() -> None:
    """Importing the whole room leaves TensorFlow and Keras unloaded."""
    code = """
import importlib, pkgutil, sys
import persist_callbacks.storage as room
for module in pkgutil.iter_modules(room.__path__):
    importlib.import_module(f"{room.__name__}.{module.name}")
print([name for name in ("tensorflow", "keras", "numpy") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
