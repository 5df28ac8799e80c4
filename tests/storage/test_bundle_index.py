"""Our index, and second names in it, as TensorFlow's own readers see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import tensor_bundle_pb2 as protos

from persist_callbacks.storage import bundle, bundle_index

KEYS = st.text("abc/_.é", min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(
    keys=st.sets(KEYS, min_size=1, max_size=40),
    further=st.sets(KEYS.map(lambda key: f"{key}/.VALUE"), max_size=40),
    choose=st.randoms(),
)
def test_tensorflow_reads_both_names(keys, further, choose, tmp_path_factory):
    """Any keys, in any order and number: each name gives the tensor's own bits."""
    folder = tmp_path_factory.mktemp("bundle")
    prefix = str(folder / "model.ckpt")
    tensors = {
        key: np.arange(at + 1, dtype="float32") for at, key in enumerate(sorted(keys))
    }
    names = {name: choose.choice(sorted(keys)) for name in sorted(further - keys)}
    bundle.write(prefix, dict(tensors), further_keys=names)
    reader = tf.train.load_checkpoint(prefix)
    assert reader.get_variable_to_shape_map().keys() == keys | names.keys()
    for name, key in [*zip(keys, keys, strict=True), *names.items()]:
        np.testing.assert_array_equal(reader.get_tensor(name), tensors[key])


def test_data_are_not_written_twice(tmp_path: Path):
    """A second name costs the size of a name."""
    value = {"kernel": np.zeros(100_000, "float32")}
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    bundle.write(one, dict(value))
    bundle.write(other, dict(value), further_keys={"kernel/.VALUE": "kernel"})
    data = [Path(f"{p}.data-00000-of-00001").read_bytes() for p in (one, other)]
    assert data[0] == data[1]


def test_a_changed_byte_is_noticed(tmp_path: Path):
    """The checksums that TensorFlow verifies are over what was written last."""
    prefix = str(tmp_path / "model.ckpt")
    values = {"kernel": np.zeros(4, "float32"), "bias": np.ones(2, "float32")}
    bundle.write(prefix, values, further_keys={"kernel/.VALUE": "kernel"})
    index = Path(f"{prefix}.index")
    content = bytearray(index.read_bytes())
    content[content.index(b"kernel") + 1] ^= 0x40
    index.write_bytes(content)
    with pytest.raises(tf.errors.OpError, match="block checksum mismatch"):
        tf.train.load_checkpoint(prefix).get_tensor("bias")


def test_the_same_index_as_tensorflows(tmp_path: Path):
    """Every entry, bit for bit; its header says of what versions it can be read."""
    values = {
        "scalar": tf.constant(3, tf.int64),
        "empty": tf.zeros((0, 4)),
        "half": tf.constant([[1.5], [2.0]], tf.bfloat16),
        "text": tf.constant([b"one", b"", b"three"]),
        "flags": tf.constant([True, False]),
    }
    theirs, ours = str(tmp_path / "theirs"), str(tmp_path / "ours")
    names = list(values)
    tf.raw_ops.SaveV2(
        prefix=theirs,
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=list(values.values()),
    )
    bundle.write(ours, values)
    left, right = (
        bundle_index.entries(Path(f"{prefix}.index").read_bytes())
        for prefix in (theirs, ours)
    )
    assert left.pop(b"") == right.pop(b"")
    left, right = (
        {
            key: protos.BundleEntryProto.FromString(entry)
            for key, entry in entries.items()
        }
        for entries in (left, right)
    )
    for entries in (left, right):
        for entry in entries.values():
            # Ours lie in the order in which they were given, theirs by their names.
            entry.ClearField("offset")
    assert left == right


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_what_is_no_index_is_refused(content, tmp_path: Path):
    """A file of another kind."""
    path = tmp_path / "model.ckpt.index"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a table"):
        bundle_index.entries(path.read_bytes())


def test_a_name_for_nothing_is_refused(tmp_path: Path):
    """A second name needs a first one."""
    values = {"kernel": np.zeros(4, "float32")}
    further = {"bias/.VALUE": "bias"}
    with pytest.raises(ValueError, match="no tensor 'bias'"):
        bundle.write(tmp_path / "model.ckpt", values, further_keys=further)


def test_second_names_are_not_listed(tmp_path: Path):
    """Who lists a checkpoint's variables sees each once, by its readable key."""
    prefix = str(tmp_path / "model.ckpt")
    further = {"kernel" + bundle.OBJECT_KEY_SUFFIX: "kernel"}
    bundle.write(prefix, {"kernel": np.zeros(4, "float32")}, further_keys=further)
    assert [info.name for info in bundle.variables(prefix)] == ["kernel"]
