"""What has not changed is not written again, and every checkpoint stays whole."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.storage import bundle, durable, sharing

LARGE, SMALL = 300_000, 10_000


def values(**changed):
    """A backbone of 2.4 MB that rests, a head that changes, and things of all kinds."""
    rng = np.random.default_rng(1)
    fresh = {
        "backbone/a": rng.normal(size=LARGE).astype("float32"),
        "backbone/b": rng.normal(size=LARGE).astype("float32"),
        "head": rng.normal(size=SMALL).astype("float32"),
        "step": np.int64(0),
        "text": np.array(b"object graph", dtype=object),
    }
    return {key: tf.convert_to_tensor(changed.get(key, v)) for key, v in fresh.items()}


def save(folder: Path, tensors, before=None, frozen=()):
    folder.mkdir()
    expected = {key: np.array(value) for key, value in tensors.items()}
    written = bundle.write(folder / "model.ckpt", tensors, before=before, frozen=frozen)
    assert tensors == {}
    return written, expected


def require_whole(folder: Path, expected):
    """TensorFlow's own reader finds every value."""
    reader = tf.train.load_checkpoint(str(folder / "model.ckpt"))
    assert reader.get_variable_to_shape_map().keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(reader.get_tensor(key), value)


def links(folder: Path):
    return [path for path in folder.glob("*.data-*") if path.stat().st_nlink > 1]


FROZEN = ("backbone/a", "backbone/b")


def test_what_is_frozen_is_written_once(tmp_path: Path):
    """From the second checkpoint on; each stands alone when the others are gone."""
    before, saved = None, []
    for number in range(4):
        tensors = values(head=np.full(SMALL, number, "float32"), step=np.int64(number))
        written, expected = save(tmp_path / str(number), tensors, before, FROZEN)
        assert written.linked_bytes == (0 if number == 0 else 8 * LARGE)
        before = written
        saved.append(expected)
    for number in range(3):
        shutil.rmtree(tmp_path / str(number))
    require_whole(tmp_path / "3", saved[3])
    assert links(tmp_path / "3") == []


def test_what_comes_to_rest_is_found_out(tmp_path: Path):
    """Without a hint: written, seen to rest, written apart, shared."""
    before, shared = None, []
    for number in range(4):
        tensors = values(head=np.full(SMALL, number, "float32"), step=np.int64(number))
        before, expected = save(tmp_path / str(number), tensors, before)
        shared.append(before.linked_bytes)
        require_whole(tmp_path / str(number), expected)
    assert shared == [0, 0, 0, 8 * LARGE]


@pytest.mark.parametrize("at", [0, LARGE - 1])
def test_the_smallest_change_counts(at, tmp_path: Path):
    """One bit of one weight; the tensor is not trusted at once, the others are."""
    one, _ = save(tmp_path / "one", values(), None, FROZEN)
    changed = np.array(values()["backbone/a"])
    changed.view("uint32")[at] ^= 1
    before = one
    shared = []
    for number in range(3):
        tensors = values(**{"backbone/a": changed})
        before, expected = save(tmp_path / str(number), tensors, before, FROZEN)
        require_whole(tmp_path / str(number), expected)
        shared.append(before.linked_bytes)
    assert shared == [0, 4 * LARGE, 4 * LARGE]
    assert before.restless == {"backbone/a": 2}


def test_what_is_frozen_again_is_shared_again(tmp_path: Path):
    """After some checkpoints in a row in which it has not moved, and no fewer."""
    before, _ = save(tmp_path / "first", values(), None, FROZEN)
    shared = []
    for number in range(2 * sharing._CALM + 6):
        # It moves twice: at once, and when it has nearly been trusted again.
        moved = 1.0 if number < sharing._CALM else 2.0
        tensors = values(**{"backbone/a": np.full(LARGE, moved, "float32")})
        before, expected = save(tmp_path / str(number), tensors, before, FROZEN)
        require_whole(tmp_path / str(number), expected)
        shared.append(before.linked_bytes // (4 * LARGE))
    calm = sharing._CALM
    assert shared == [0] + [1] * (2 * calm + 1) + [2] * 4
    assert before.restless == {}


@pytest.mark.parametrize("change", ["touched", "gone", "no links"])
def test_a_file_that_is_not_as_it_was_written(change, tmp_path: Path, monkeypatch):
    """It is written anew, whatever became of it."""
    one, _ = save(tmp_path / "one", values(), None, FROZEN)
    (part,) = [part for part in one.parts if part.settled]
    path = tmp_path / "one" / part.name
    if change == "touched":
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
    elif change == "gone":
        path.unlink()
    else:

        def refuse(path, target):
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(durable, "link", refuse)
    two, expected = save(tmp_path / "two", values(), one, FROZEN)
    assert two.linked_bytes == 0
    assert links(tmp_path / "two") == []
    require_whole(tmp_path / "two", expected)


def test_other_shapes_and_dtypes_share_nothing(tmp_path: Path):
    """The same bytes under another shape, another dtype, or no longer there."""
    one, _ = save(tmp_path / "one", values(), None, FROZEN)
    other = values()
    other["backbone/a"] = tf.reshape(other["backbone/a"], (-1, 2))
    other["backbone/b"] = tf.bitcast(other["backbone/b"], tf.int32)
    two, expected = save(tmp_path / "two", other, one, FROZEN)
    assert two.linked_bytes == 0
    require_whole(tmp_path / "two", expected)
    fewer = values()
    del fewer["backbone/b"]
    three, expected = save(tmp_path / "three", fewer, two, FROZEN)
    assert three.linked_bytes == 0
    require_whole(tmp_path / "three", expected)


def test_little_is_not_worth_a_file(tmp_path: Path):
    """Below a megabyte everything is in one file."""
    tensors = {"a": tf.ones(1000), "b": tf.zeros(1000)}
    written, _ = save(tmp_path / "one", tensors, None, ("a",))
    assert [part.name for part in written.parts] == ["model.ckpt.data-00000-of-00001"]


def test_nothing_but_what_is_frozen(tmp_path: Path):
    """Then the shared file is all there is."""
    before = None
    for number in range(3):
        tensors = {"a": tf.ones(LARGE)}
        before, expected = save(tmp_path / str(number), tensors, before, ("a",))
        require_whole(tmp_path / str(number), expected)
    assert before.linked_bytes == 4 * LARGE
