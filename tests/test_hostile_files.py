"""Files made to be read: numbered attacks, and as many at random.

Each ends in an error of ours; nothing outside of the run directory is read or written.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from persist_callbacks import load_frozen_graph
from persist_callbacks.errors import (
    CheckpointDamaged,
    DirectoryNotWritable,
    NoSoundCheckpoint,
    NotAFrozenGraph,
    NotARunDirectory,
    SaveFailed,
    UnreadableFile,
)
from persist_callbacks.records import Position
from persist_callbacks.storage import bundle, bundle_index, manifest
from persist_callbacks.storage.layout import MANIFEST, META, STATE
from persist_callbacks.storage.progress import ProgressFile
from persist_callbacks.storage.store import Committed, Store

SOAK = Path(__file__).parent / "soak"
DATA = "model.ckpt.data-00000-of-00001"


@pytest.fixture
def bait(tmp_path: Path) -> Path:
    """What nobody is to read or write."""
    path = tmp_path / "bait"
    path.write_text("nobody's")
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with Store.open_for_writing(tmp_path / "run") as store:
        save(store, 1)
        save(store, 2)
    return tmp_path / "run"


def save(store: Store, step: int) -> Committed:
    staged = store.stage(step)
    bundle.write(staged.prefix, {"weight": tf.range(10.0), "bias": tf.range(3.0)})
    staged.write(STATE, b"{}")
    return store.commit(staged, position=Position(0, step, step), fingerprint="f")


def sign(folder: Path, **fields: Any) -> None:
    """Write the manifest that vouches for a folder as it is, but for some fields."""
    old = manifest.read(folder)
    (folder / MANIFEST).unlink()
    made = manifest.build(
        folder,
        run_id=old.run_id,
        position=Position(old.epoch, old.batch, old.step),
        saved_at=old.saved_at.timestamp(),
        fingerprint=old.fingerprint,
        score=None,
        finished=False,
    )
    made = manifest.msgspec.structs.replace(made, **fields)
    (folder / MANIFEST).write_bytes(manifest.encode(made))


def newest(run: Path) -> int:
    committed = Store.open_for_reading(run).newest_sound().committed
    assert committed is not None
    return committed.record.position.step


# 1: links, and what a folder has in place of a file


@pytest.mark.parametrize("name", [DATA, STATE, MANIFEST])
def test_a_file_that_is_a_link(run: Path, name: str, tmp_path: Path) -> None:
    """To a file of just the right content: it is not followed."""
    path = run / "ckpt-000000002" / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert newest(run) == 1


def test_a_checkpoint_that_is_a_link(run: Path, tmp_path: Path) -> None:
    """To a sound one elsewhere: neither listed nor used, and set aside as a link."""
    (run / "ckpt-000000002").rename(tmp_path / "elsewhere")
    (run / "ckpt-000000002").symlink_to(tmp_path / "elsewhere")
    sound = Store.open_for_reading(run).newest_sound()
    assert sound.committed is not None
    assert sound.committed.record.position.step == 1
    with Store.open_for_writing(run) as store:
        ((path, reason),) = sound.passed_over
        assert "expected a folder, found a link" in str(reason)
        store.set_aside(path, reason)
    assert (tmp_path / "elsewhere" / DATA).is_file()


def test_a_checkpoint_that_is_a_file(run: Path) -> None:
    """Alone in the run, it is still no reason to begin at zero."""
    for name in ("ckpt-000000001", "ckpt-000000002"):
        for file in (run / name).iterdir():
            file.unlink()
        (run / name).rmdir()
        (run / name).touch()
    with pytest.raises(NoSoundCheckpoint, match="expected a folder, found a file"):
        newest(run)


def test_a_journal_that_is_a_link(run: Path, bait: Path) -> None:
    """An event is not written to wherever it leads."""
    (run / "journal.jsonl").unlink(missing_ok=True)
    (run / "journal.jsonl").symlink_to(bait)
    with Store.open_for_writing(run) as store, pytest.raises(SaveFailed):
        store.note("x")
    with pytest.raises(UnreadableFile):
        store.journal()
    assert bait.read_text() == "nobody's"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_progress_file_that_is_none(run: Path, bait: Path, kind: str) -> None:
    """It is left out, and a pipe is not waited at."""
    path = run / ".progress"
    if kind == "link":
        path.symlink_to(bait)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    progress = ProgressFile(run)
    progress.note(5)
    progress.close()
    assert bait.read_text() == "nobody's"


def test_a_lock_that_is_a_link(run: Path, bait: Path) -> None:
    """It is neither followed nor emptied."""
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(bait)
    with pytest.raises(DirectoryNotWritable, match="symbolic links"):
        Store.open_for_writing(run)
    assert bait.read_text() == "nobody's"


def test_a_pipe_in_place_of_run_json(run: Path) -> None:
    """It is not waited at; the checkpoints say whose the run is."""
    run_id = Store.open_for_reading(run).run_id
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")
    with Store.open_for_writing(run) as store:
        assert store.run_id == run_id


def test_a_folder_with_nothing_but_a_link_is_no_run(run: Path, tmp_path: Path) -> None:
    """A run is not taken over by pointing at one of its checkpoints."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ckpt-000000001").symlink_to(run / "ckpt-000000001")
    with pytest.raises(NotARunDirectory):
        Store.open_for_writing(tmp_path / "mine")


# 2: manifests that vouch for what they should not


@pytest.mark.parametrize(
    "name",
    ["../bait", "/etc/passwd", "..", "", "a/b", "ckpt", "model.ckpt.data-1-of-1"],
)
def test_a_manifest_with_another_name(run: Path, name: str) -> None:
    """Only names of checkpoint files are ever joined to the folder."""
    folder = run / "ckpt-000000002"
    files = dict(manifest.read(folder).files)
    sign(folder, files={**files, name: files[DATA]})
    assert newest(run) == 1


def test_a_graph_that_nobody_vouches_for(run: Path) -> None:
    """A .meta put beside the others would be frozen by its name."""
    (run / "ckpt-000000002" / META).write_bytes(b"x")
    assert newest(run) == 1


def test_a_state_too_large_for_memory(run: Path) -> None:
    """A file without content of a thousand gigabytes, vouched for: refused by size."""
    folder = run / "ckpt-000000002"
    described = manifest.read(folder)
    os.truncate(folder / STATE, 10**12)
    files = {
        **described.files,
        STATE: manifest.FileEntry(10**12, "xxh3_128:" + "0" * 32),
    }
    changed = manifest.msgspec.structs.replace(described, files=files)
    (folder / MANIFEST).write_bytes(manifest.encode(changed))
    (_, reason), *_ = Store.open_for_reading(run).newest_sound().passed_over
    assert "more than could be read safely" in str(reason)


def test_too_large_small_files(run: Path) -> None:
    """A manifest, a run.json and a journal of a terabyte are not read."""
    run_id = Store.open_for_reading(run).run_id
    for path in (run / "ckpt-000000002" / MANIFEST, run / "run.json"):
        os.truncate(path, 10**12)
    (run / "journal.jsonl").touch()
    os.truncate(run / "journal.jsonl", 10**12)
    assert newest(run) == 1
    with pytest.raises(UnreadableFile, match="more than"):
        Store.open_for_reading(run).journal()
    with Store.open_for_writing(run) as store:
        assert store.run_id == run_id


# 3: TensorFlow's own files


def test_an_index_that_asks_for_more_memory_than_there_is(run: Path) -> None:
    """A shape of a petabyte over forty bytes of data, its own checksum correct."""
    folder = run / "ckpt-000000002"
    index = folder / "model.ckpt.index"
    entries = bundle_index.entries(index.read_bytes())
    from tensorflow.core.protobuf import tensor_bundle_pb2 as protos

    entry = protos.BundleEntryProto.FromString(entries[b"weight"])
    entry.shape.dim[0].size = 2**48
    entries[b"weight"] = entry.SerializeToString()
    index.write_bytes(bundle_index._table(entries))
    sign(folder)
    assert newest(run) == 2
    with pytest.raises(CheckpointDamaged, match="40 bytes for shape"):
        bundle.read(folder / "model.ckpt", ["bias"])
    with pytest.raises(CheckpointDamaged, match="40 bytes for shape"):
        list(bundle.scan(folder / "model.ckpt"))


@pytest.mark.parametrize("path", ["{}/other/model.ckpt", "../other/model.ckpt"])
def test_a_checkpoint_file_that_leads_outside(tmp_path: Path, path: str) -> None:
    """In TensorFlow's own folders too the name alone counts then."""
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        bundle.write(tmp_path / name / "model.ckpt", {"x": tf.range(3.0)})
    text = f'model_checkpoint_path: "{path.format(tmp_path)}"\n'
    (tmp_path / "mine" / "checkpoint").write_text(text)
    found = bundle.latest_prefix(tmp_path / "mine")
    assert found == str(tmp_path / "mine" / "model.ckpt")


def reading(path: Path) -> Any:
    return tf.io.read_file(str(path))


def writing(path: Path) -> Any:
    with tf.control_dependencies([tf.io.write_file(str(path), "gone")]):
        return tf.constant("x")


def printing(path: Path) -> Any:
    with tf.control_dependencies([tf.print("gone", output_stream=f"file://{path}")]):
        return tf.constant("x")


def python(path: Path) -> Any:
    return tf.numpy_function(lambda: path.write_text("gone"), [], tf.int64)


@pytest.mark.parametrize("make", [reading, writing, printing, python])
def test_a_pb_that_reaches_out(tmp_path: Path, bait: Path, make: Any) -> None:
    """Files and Python are refused when it is loaded, not when it has run."""
    with tf.Graph().as_default() as graph:
        tf.identity(make(bait), name="out")
    (tmp_path / "model.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(NotAFrozenGraph, match="reaches out of it"):
        load_frozen_graph(tmp_path / "model.pb")
    assert bait.read_text() == "nobody's"


def test_a_length_that_never_ends() -> None:
    """A number in an index that goes on for ever is refused, not waited for."""
    place = b"\x80" * 30
    table = place.ljust(40, b"\x80") + struct.pack("<Q", bundle_index._MAGIC)
    with pytest.raises(ValueError, match="more than 64 bits"):
        bundle_index.entries(table)


# 4: whatever else


def test_files_at_random() -> None:
    """A hundred cases of each kind in a child: none ends in anything but our errors."""
    done = subprocess.run(
        [sys.executable, str(SOAK / "fuzz.py"), "--cases", "100", "--seed", "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["cases"].values()) == {100}
    assert set(found["crashes"].values()) == {0}, done.stderr[-4000:]
