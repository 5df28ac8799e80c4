"""Data shards of a CKPT: the bytes of tensors end to end, each with its checksum.

TensorFlow's own writer copies every tensor through a small buffer, at several times the
cost of what the system needs to take the bytes. Here each block is checksummed, looked
at and copied while it is in the processor's cache, so that it comes from memory only
once; all without the interpreter's lock, and training goes on meanwhile.

NumPy and TensorFlow are imported inside the functions, as in `bundle`.

The format is ``tensorflow/core/util/tensor_bundle/tensor_bundle.cc``: little-endian
values in row-major order, and of each tensor a masked CRC-32C in the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import crc32c
import xxhash

from persist_callbacks.storage.streams import open_stream

if TYPE_CHECKING:
    import numpy as np

# Small enough to stay in the cache from the first look at it to its copy.
_BLOCK = 512 * 1024

# Is shown each block of a tensor as it is written: its key, and numbers in a row.
Look = Callable[[str, "np.ndarray[Any, Any]"], None]
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
        expected: bytes that it is going to hold, more or less.
        look: is shown each block of a plain tensor before it is written; what it raises
            ends the writing.

    Raises:
        OSError: the system refused, here or later.
    """

    def __init__(self, path: Path, expected: int = 0, look: Look | None = None) -> None:
        self._stream = open_stream(path, expected)
        self._look = look
        self._digest = xxhash.xxh3_128()
        self._extents: dict[str, Extent] = {}
        self._offset = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def add(self, key: str, value: Any) -> None:
        """Write a plain tensor."""
        array, crc = _array(value), 0
        for block in _blocks(array):
            data = _bytes(block)
            # First what goes through memory straight on: it brings the block in.
            crc = crc32c.crc32c(data.data, crc)
            if self._look is not None:
                self._look(key, block)
            self._put(data)
        self._extents[key] = Extent(
            _dtype_of(value), array.shape, self._offset, array.nbytes, masked(crc)
        )
        self._offset += array.nbytes

    def add_encoded(
        self, key: str, value: Any, shape: tuple[int, ...], data: bytes, crc: int
    ) -> None:
        """Write a tensor that is not plain, given its bytes and their masked CRC."""
        import numpy as np

        self._extents[key] = Extent(
            _dtype_of(value), shape, self._offset, len(data), crc
        )
        self._put(np.frombuffer(data, np.uint8))
        self._offset += len(data)

    def add_file(self, path: Path, extents: dict[str, Extent]) -> None:
        """Take over another file, all of its bytes, and what lies in it."""
        import numpy as np

        for key, e in extents.items():
            offset = e.offset + self._offset
            self._extents[key] = Extent(e.dtype, e.shape, offset, e.size, e.crc)
        with open(path, "rb", buffering=0) as source:
            while block := source.read(_BLOCK):
                self._put(np.frombuffer(block, np.uint8))
                self._offset += len(block)

    def shard(self) -> Shard:
        """Hand all to the system, and say what the file holds."""
        self._stream.finish()
        return Shard(self._extents, self._offset, self._digest.hexdigest())

    def _put(self, data: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self._digest.update(data.data)
        self._stream.write(data)


def digest_of(values: Iterable[Any]) -> str:
    """Give the digest that a shard of these tensors would have."""
    digest = xxhash.xxh3_128()
    for value in values:
        for block in _blocks(_array(value)):
            digest.update(_bytes(block).data)
    return str(digest.hexdigest())


def crc_of(value: Any) -> int:
    """Give the masked CRC-32C of a plain tensor's bytes."""
    crc = 0
    for block in _blocks(_array(value)):
        crc = crc32c.crc32c(_bytes(block).data, crc)
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


def _blocks(array: np.ndarray[Any, Any]) -> Iterable[np.ndarray[Any, Any]]:
    import numpy as np

    flat = np.ascontiguousarray(array).reshape(-1)
    each = max(1, _BLOCK // flat.itemsize)
    for begin in range(0, flat.size, each):
        yield flat[begin : begin + each]


def _bytes(block: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    import numpy as np

    return block.view(np.uint8)


def _dtype_of(value: Any) -> int:
    import tensorflow as tf

    return int(tf.as_dtype(value.dtype).as_datatype_enum)
