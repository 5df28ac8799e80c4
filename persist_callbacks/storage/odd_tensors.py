"""The bytes that a CKPT has for tensors that are no numbers: strings and variants.

TensorFlow's own writer would make three files of its own for them at each save, and
they would be read back and deleted: some milliseconds, for the few strings and the
iterator's state that almost every checkpoint has. Large ones are left to it: here they
would be copied several times with the interpreter's lock held, and TensorFlow dies of
two gigabytes of variants in one message.

The format is that of ``WriteStringTensor`` and ``WriteVariantTensor`` in
``tensorflow/core/util/tensor_bundle/tensor_bundle.cc``. Checksums run over lengths as
numbers of fixed size, and over the masked checksums between the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import crc32c

from persist_callbacks.storage import varints
from persist_callbacks.storage.shards import Extent, masked

# Of elements and of bytes: what takes a millisecond or two.
_MOST = 1000
_LARGEST = 1_000_000


class Encoded(NamedTuple):
    """A tensor as it lies in a shard.

    Args:
        shape: its sizes.
        data: its bytes.
        crc: their masked CRC-32C.
    """

    shape: tuple[int, ...]
    data: bytes
    crc: int


def encoded(value: Any, before: Extent | None) -> Encoded | None:
    """Encode a tensor of strings or variants that is small.

    Args:
        value: an eager tensor or an array.
        before: the same tensor in the last checkpoint. What size variants have nobody
            can tell before they are serialised, so that only those are that had little
            the last time, and are about as many.

    Returns:
        None for a tensor of something else, a large one, and variants that nothing is
        known of.
    """
    import tensorflow as tf

    # The kernels run on the CPU only; elsewhere the runtime copies to it.
    with tf.device("/CPU:0"):
        tensor = tf.convert_to_tensor(value)
        shape = tuple(tensor.shape)
        count = math.prod(shape)
        if tensor.dtype == tf.string:
            if count <= _MOST and _length(tensor) <= _LARGEST:
                return Encoded(shape, *_strings(_texts(tensor)))
        elif tensor.dtype == tf.variant and before is not None:
            about = 2 * math.prod(before.shape) + 8
            if before.size <= _LARGEST and count <= min(about, _MOST):
                return Encoded(shape, *_variants(_messages(tensor)))
    return None


def _length(tensor: Any) -> int:
    """Give the bytes of all strings of a tensor, at little cost."""
    import tensorflow as tf

    return int(tf.reduce_sum(tf.cast(tf.strings.length(tensor), tf.int64)))


def _texts(tensor: Any) -> list[bytes]:
    # Not by way of an array of bytes, which has no zeros at their ends.
    values = tensor.numpy()
    return [values] if isinstance(values, bytes) else list(values.reshape(-1))


def _messages(tensor: Any) -> Iterable[memoryview]:
    """Give the serialised ``VariantTensorDataProto`` of each variant, in order."""
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    # All in one: their lengths first, then end to end (``EncodeVariantList``).
    whole = tensor_pb2.TensorProto.FromString(tf.io.serialize_tensor(tensor).numpy())
    content, at, sizes = whole.tensor_content, 0, []
    for _ in range(math.prod(tensor.shape)):
        size, at = varints.decoded(content, at)
        sizes.append(size)
    view = memoryview(content)
    for size in sizes:
        yield view[at : at + size]
        at += size
    if at != len(content):
        raise ValueError(f"{len(content) - at} bytes more than {len(sizes)} variants")


def _strings(texts: list[bytes]) -> tuple[bytes, int]:
    crc = 0
    for text in texts:
        # Of eight bytes only where they are longer than what is written here.
        crc = crc32c.crc32c(len(text).to_bytes(4, "little"), crc)
    between = masked(crc).to_bytes(4, "little")
    crc = crc32c.crc32c(between, crc)
    for text in texts:
        crc = crc32c.crc32c(text, crc)
    lengths = b"".join(varints.encoded(len(text)) for text in texts)
    return b"".join([lengths, between, *texts]), masked(crc)


def _variants(messages: Iterable[memoryview]) -> tuple[bytes, int]:
    parts: list[bytes | memoryview] = []
    crc = 0
    for message in messages:
        crc = crc32c.crc32c(len(message).to_bytes(8, "little"), crc)
        crc = crc32c.crc32c(message, crc)
        after = masked(crc).to_bytes(4, "little")
        crc = crc32c.crc32c(after, crc)
        parts += varints.encoded(len(message)), message, after
    return b"".join(parts), masked(crc)
