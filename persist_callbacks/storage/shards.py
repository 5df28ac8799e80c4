"""Data shards of a CKPT: the bytes of tensors end to end, each with its checksum.

TensorFlow's own writer copies every tensor through a small buffer, at several times the
cost of what the system needs to take the bytes. Here each block is checksummed while it
is in the processor's cache, and handed to the system from where it lies; both are done
without the interpreter's lock, and training goes on meanwhile.

NumPy and TensorFlow are imported inside the functions, as in `bundle`.

The format is ``tensorflow/core/util/tensor_bundle/tensor_bundle.cc``: little-endian
values in row-major order, and of each tensor a masked CRC-32C in the index.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import crc32c
import xxhash

if TYPE_CHECKING:
    import numpy as np

# Small enough to stay in the cache between the checksums and the system's copy.
_BLOCK = 1024**2
# These have formats of their own in a bundle, or one on disk that is not the memory's.
_NOT_PLAIN = ("string", "object", "variant", "resource", "int4", "uint4", "int2")


@dataclass(frozen=True)
class Extent:
    """Where the bytes of a tensor lie.

    Args:
        dtype: TensorFlow's number of it.
        shape: its sizes.
        offset: bytes from the shard's beginning.
        size: bytes.
        crc: masked CRC-32C of the bytes, or of what TensorFlow takes instead of them.
    """

    dtype: int
    shape: tuple[int, ...]
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class Shard:
    """A file of tensors.

    Args:
        extents: by key, in the order in which they lie.
        size: bytes of the file.
        digest: XXH3-128 of the file, in hex.
    """

    extents: dict[str, Extent]
    size: int
    digest: str


def is_plain(value: Any) -> bool:
    """Whether a tensor's bytes on disk are those in memory."""
    name = value.dtype.name
    return not (name.startswith(_NOT_PLAIN) or name.startswith(("str", "bytes")))


def size_of(value: Any) -> int:
    """Bytes of a plain tensor."""
    return int(_array(value).nbytes)


class ShardWriter:
    """Writes one shard; not synced. A context manager, for one thread.

    Args:
        path: of the file, which is not there yet.

    Raises:
        OSError: the system refused, here or later.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._digest = xxhash.xxh3_128()
        self._extents: dict[str, Extent] = {}
        self._offset = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, key: str, value: Any) -> None:
        """Write a plain tensor."""
        array, crc = _array(value), 0
        for block in _blocks(array):
            crc = crc32c.crc32c(block, crc)
            self._put(block)
        self._extents[key] = Extent(
            _dtype_of(value), array.shape, self._offset, array.nbytes, masked(crc)
        )
        self._offset += array.nbytes

    def add_file(self, path: Path, extents: dict[str, Extent]) -> None:
        """Take over another file, all of its bytes, and what lies in it."""
        for key, e in extents.items():
            offset = e.offset + self._offset
            self._extents[key] = Extent(e.dtype, e.shape, offset, e.size, e.crc)
        with open(path, "rb", buffering=0) as source:
            while block := source.read(_BLOCK):
                self._put(memoryview(block))
                self._offset += len(block)

    def shard(self) -> Shard:
        """Say what the file holds."""
        return Shard(self._extents, self._offset, self._digest.hexdigest())

    def _put(self, block: memoryview) -> None:
        self._digest.update(block)
        while block:
            block = block[os.write(self._file.fileno(), block) :]


def digest_of(values: Iterable[Any]) -> str:
    """Give the digest that a shard of these tensors would have."""
    digest = xxhash.xxh3_128()
    for value in values:
        for block in _blocks(_array(value)):
            digest.update(block)
    return str(digest.hexdigest())


def crc_of(value: Any) -> int:
    """Give the masked CRC-32C of a plain tensor's bytes."""
    crc = 0
    for block in _blocks(_array(value)):
        crc = crc32c.crc32c(block, crc)
    return masked(crc)


def fits(value: Any, extent: Extent) -> bool:
    """Whether a tensor has the dtype and shape of one that was written."""
    return (_dtype_of(value), tuple(value.shape)) == (extent.dtype, extent.shape)


def masked(crc: int) -> int:
    """Mask a checksum as ``crc32c::Mask`` does, for data that hold checksums."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _array(value: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    # A tensor in the CPU's memory is not copied.
    return np.asarray(value)


def _blocks(array: np.ndarray[Any, Any]) -> Iterable[memoryview]:
    import numpy as np

    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    data: memoryview = flat.data
    for begin in range(0, len(data), _BLOCK):
        yield data[begin : begin + _BLOCK]


def _dtype_of(value: Any) -> int:
    import tensorflow as tf

    return int(tf.as_dtype(value.dtype).as_datatype_enum)
