"""The ``.index`` of a CKPT: a sorted table of where each tensor's bytes lie.

TensorFlow's object-based restore reads a variable under no other key than one that
ends in ``/.ATTRIBUTES/VARIABLE_VALUE``, and ours are to be readable: the same entry
under a second key costs some tens of bytes, and the data stay where they are.

The table's format is LevelDB's: ``tensorflow/core/lib/io/table_builder.cc`` and
``format.h``; its entries are ``tensorflow/core/protobuf/tensor_bundle.proto``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import crc32c

from persist_callbacks.storage import varints
from persist_callbacks.storage.shards import Extent, masked

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5
# TensorFlow's kTensorBundleVersion.
_PRODUCER = 1
_UNCOMPRESSED = 0
# Entries between two that hold their key in full.
_INTERVAL = 16


def write(index: Path, entries: Mapping[bytes, bytes]) -> None:
    """Write an ``.index``; the file is not there yet, and not synced.

    Args:
        index: the file.
        entries: serialised protocol buffers by key, the header under the empty one.
    """
    with open(index, "xb") as file:
        file.write(_table(entries))


def serialized(shards: Sequence[Mapping[str, Extent]]) -> dict[bytes, bytes]:
    """Make the entries of an index, its header among them.

    Args:
        shards: where the tensors lie in each shard, by key.

    Returns:
        Serialised protocol buffers by key.
    """
    from tensorflow.core.protobuf import tensor_bundle_pb2 as protos

    header = protos.BundleHeaderProto(num_shards=len(shards))
    header.version.producer = _PRODUCER
    found = {b"": header.SerializeToString()}
    for number, extents in enumerate(shards):
        for key, extent in extents.items():
            entry = protos.BundleEntryProto(
                dtype=extent.dtype,
                shard_id=number,
                offset=extent.offset,
                size=extent.size,
                crc32c=extent.crc,
            )
            for size in extent.shape:
                entry.shape.dim.add(size=size)
            # TensorFlow's has a shape even if it is that of a scalar.
            entry.shape.SetInParent()
            found[key.encode()] = entry.SerializeToString()
    return found


def extents(table: bytes) -> dict[str, Extent]:
    """Read where the tensors of a CKPT of one shard lie, in that order."""
    from tensorflow.core.protobuf import tensor_bundle_pb2 as protos

    found = {}
    for key, value in entries(table).items():
        if key:
            entry = protos.BundleEntryProto.FromString(value)
            shape = tuple(dim.size for dim in entry.shape.dim)
            found[key.decode()] = Extent(
                entry.dtype, shape, entry.offset, entry.size, entry.crc32c
            )
    return found


def entries(table: bytes) -> dict[bytes, bytes]:
    """Read all entries of an ``.index``: serialised protocol buffers by key.

    The one under the empty key is the header.

    Raises:
        ValueError, IndexError, struct.error: the bytes are not such a table.
    """
    return dict(_entries(table))


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(table) < _FOOTER or struct.unpack("<Q", table[-8:])[0] != _MAGIC:
        raise ValueError("not a table")
    _, at = _handle(table, len(table) - _FOOTER)
    directory, _ = _handle(table, at)
    for _, handle in _block(table, directory):
        yield from _block(table, _handle(handle, 0)[0])


def _block(table: bytes, place: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    offset, size = place
    block, trailer = table[offset : offset + size], offset + size
    if table[trailer] != _UNCOMPRESSED:
        raise ValueError("a compressed table")
    (restarts,) = struct.unpack("<I", block[-4:])
    end, at, key = size - 4 - 4 * restarts, 0, b""
    while at < end:
        shared, at = varints.decoded(block, at)
        fresh, at = varints.decoded(block, at)
        length, at = varints.decoded(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _table(entries: Mapping[bytes, bytes]) -> bytes:
    """Write a table of one block."""
    ordered = sorted(entries.items())
    content, data = _sealed(ordered), bytearray()
    data += content
    places = [_place(0, content)]
    for members in ([], [(ordered[-1][0], places[0])]):
        block = _sealed(members)
        places.append(_place(len(data), block))
        data += block
    footer = places[1] + places[2]
    data += footer.ljust(_FOOTER - 8, b"\0") + struct.pack("<Q", _MAGIC)
    return bytes(data)


def _sealed(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Lay entries out as a block with its trailer: compression and checksum."""
    block, restarts, before = bytearray(), [], b""
    for number, (key, value) in enumerate(entries):
        if number % _INTERVAL == 0:
            restarts.append(len(block))
            before = b""
        shared = _shared(before, key)
        block += (
            varints.encoded(shared)
            + varints.encoded(len(key) - shared)
            + varints.encoded(len(value))
        )
        block += key[shared:] + value
        before = key
    restarts = restarts or [0]
    block += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    block.append(_UNCOMPRESSED)
    return bytes(block) + struct.pack("<I", masked(crc32c.crc32c(block)))


def _shared(one: bytes, other: bytes) -> int:
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


def _place(offset: int, block: bytes) -> bytes:
    return varints.encoded(offset) + varints.encoded(len(block) - _TRAILER)


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = varints.decoded(data, at)
    size, at = varints.decoded(data, at)
    return (offset, size), at
