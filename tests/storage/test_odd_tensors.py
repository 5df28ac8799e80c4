"""Strings and variants in a CKPT: byte for byte what TensorFlow's own writer makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.storage import bundle, bundle_index, odd_tensors, varints

LONG = 2**18


def iterator_state() -> Any:
    data = iter(tf.data.Dataset.range(100).shuffle(30).batch(3).prefetch(2))
    next(data)
    return tf.raw_ops.SerializeIterator(
        resource_handle=data._iterator_resource, external_state_policy=0
    )


def tensor_list() -> Any:
    items = tf.reshape(tf.range(12, dtype=tf.float32), (3, 4))
    return tf.raw_ops.TensorListFromTensor(
        tensor=items, element_shape=tf.constant([4], tf.int32)
    )


def table_of_optionals() -> Any:
    one = tf.raw_ops.OptionalFromValue(components=[tf.constant("text"), tf.zeros(300)])
    return tf.stack([[one, one], [one, tf.raw_ops.OptionalNone()]])


ODD = {
    "a scalar": lambda: tf.constant("text"),
    "zeros at the ends": lambda: tf.constant([b"a\0\0", b"\0", b""]),
    "a scalar of zeros": lambda: tf.constant(b"a\0\0"),
    "lengths of several bytes": lambda: tf.constant([b"x" * 127, b"y" * 128, b"z"]),
    "a long one": lambda: tf.constant(np.array([b"q" * LONG], dtype=object)),
    "a table": lambda: tf.constant([["a", "bc"], ["ä€", ""]]),
    "no strings": lambda: tf.zeros((0, 3), tf.string),
    "an array of objects": lambda: np.array([b"object\0", b"graph"], dtype=object),
    "a scalar array": lambda: np.array(b"graph\0", dtype=object),
    "an array of text": lambda: np.array(["ä", "text"]),
    "an iterator": iterator_state,
    "a list of tensors": tensor_list,
    "optionals": table_of_optionals,
    "no variants": lambda: iterator_state()[:0],
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_the_bytes_are_those_of_tensorflow(make: Any, tmp_path: Path) -> None:
    """So is what the index says of them: shape, dtype, size and checksum."""
    value = make()
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    tf.raw_ops.SaveV2(
        prefix=str(theirs),
        tensor_names=["odd"],
        shape_and_slices=[""],
        tensors=[tf.convert_to_tensor(value)],
    )
    # What was written last tells that it may be written here.
    first = bundle.write(tmp_path / "first", {"odd": value})
    bundle.write(ours, {"odd": value}, before=first)
    for file in tmp_path.glob("first*"):
        file.unlink()
    index = "{}.index"
    assert bundle_index.extents(Path(index.format(ours)).read_bytes()) == (
        bundle_index.extents(Path(index.format(theirs)).read_bytes())
    )
    data = "{}.data-00000-of-00001"
    written = Path(data.format(ours)).read_bytes()
    assert written == Path(data.format(theirs)).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{name}.{end}"
        for name in ("ours", "theirs")
        for end in ("data-00000-of-00001", "index")
    ]


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_it_is_written_without_tensorflow(make: Any, tmp_path: Path) -> None:
    """Strings from the first time on, variants once it is known how large they are."""
    value = make()
    first = bundle.write(tmp_path / "first", {"odd": value}).extents()["odd"]
    found = odd_tensors.encoded(value, first)
    assert found is not None
    assert (found.shape, len(found.data)) == (first.shape, first.size)
    assert found.crc == first.crc
    is_variant = getattr(value, "dtype", None) == tf.variant
    assert (odd_tensors.encoded(value, None) is None) == is_variant


def test_what_has_numbers_is_left_to_others() -> None:
    """They are the memory's bytes, or packed ones that only TensorFlow writes."""
    assert odd_tensors.encoded(tf.constant([1.0]), None) is None
    packed = tf.cast(tf.constant([1, 2]), tf.as_dtype("int4"))
    assert odd_tensors.encoded(packed, None) is None


def test_what_is_large_is_left_to_tensorflow(tmp_path: Path) -> None:
    """It would be copied with the interpreter's lock held, and die of two gigabytes."""
    assert odd_tensors.encoded(tf.constant([b"x" * 600_000] * 2), None) is None
    assert odd_tensors.encoded(tf.fill((2000,), "x"), None) is None
    small, large = [
        tf.stack([tf.raw_ops.OptionalFromValue(components=[tf.zeros(size)])])
        for size in (10, 300_000)
    ]
    written = bundle.write(tmp_path / "large", {"odd": large})
    assert odd_tensors.encoded(large, written.extents()["odd"]) is None
    written = bundle.write(tmp_path / "small", {"odd": small})
    before = written.extents()["odd"]
    assert odd_tensors.encoded(small, before) is not None
    # Twenty times as many may be any number of times as large.
    assert odd_tensors.encoded(tf.stack([small[0]] * 20), before) is None


def test_the_shape_is_what_is_written(tmp_path: Path) -> None:
    """And not what a variable is declared to have."""
    variable = tf.Variable(["a", "b"], shape=[None])
    bundle.write(tmp_path / "model.ckpt", {"text": variable})
    read = bundle.read(tmp_path / "model.ckpt", ["text"])["text"]
    assert read.numpy().tolist() == [b"a", b"b"]


def test_packed_numbers_lie_beside_strings(tmp_path: Path) -> None:
    """What TensorFlow writes and what is written here end up in one file."""
    small = tf.cast(tf.constant([1, -2, 3]), tf.as_dtype("int4"))
    prefix = tmp_path / "model.ckpt"
    bundle.write(
        prefix,
        {"text": tf.constant("a"), "small": small, "state": iterator_state()},
    )
    read = bundle.read(prefix, ["small", "text", "state"])
    assert tf.cast(read["small"], tf.int32).numpy().tolist() == [1, -2, 3]
    assert read["text"].numpy() == b"a"
    assert read["state"].dtype == tf.variant


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63])
def test_numbers_of_few_bytes(value: int) -> None:
    """They come back, wherever they lie."""
    data = b"\xff" + varints.encoded(value) + b"\x01"
    assert varints.decoded(data, 1) == (value, len(data) - 1)


def test_a_number_without_an_end() -> None:
    """It is an error that tells what is wrong, and not one that goes on for ever."""
    with pytest.raises(ValueError, match="more than 64 bits"):
        varints.decoded(b"\xff" * 20, 0)
    with pytest.raises(IndexError):
        varints.decoded(b"\xff", 0)
