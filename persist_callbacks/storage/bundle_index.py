"""Second names for tensors in a CKPT's ``.index``, which is a sorted table on disk.

TensorFlow's object-based restore reads a variable under no other key than one that
ends in ``/.ATTRIBUTES/VARIABLE_VALUE``, and ours are to be readable. An entry of the
table says where a tensor's bytes lie and what they sum to; the same entry under a
second key costs some tens of bytes, and the data stay where they are.

The format is LevelDB's: ``tensorflow/core/lib/io/table_builder.cc`` and ``format.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5
_UNCOMPRESSED = 0
# Entries between two that hold their key in full.
_INTERVAL = 16


def add_names(index: Path, names: Mapping[str, str]) -> None:
    """Give tensors of a CKPT further keys; rewrites the file in place, unsynced.

    Args:
        index: the ``.index`` file, as TensorFlow has written it.
        names: further key to the key that is there.

    Raises:
        ValueError: the file is not such a table, or a key is not in it.
    """
    found = entries(index.read_bytes())
    for further, key in names.items():
        if key.encode() not in found:
            raise ValueError(f"{index}: no tensor {key!r}")
        found[further.encode()] = found[key.encode()]
    index.write_bytes(_table(found))


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
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
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
        block += _number(shared) + _number(len(key) - shared) + _number(len(value))
        block += key[shared:] + value
        before = key
    restarts = restarts or [0]
    block += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    block.append(_UNCOMPRESSED)
    return bytes(block) + struct.pack("<I", _masked(_crc32c(block)))


def _shared(one: bytes, other: bytes) -> int:
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))


def _place(offset: int, block: bytes) -> bytes:
    return _number(offset) + _number(len(block) - _TRAILER)


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            # The Castagnoli polynomial, bits reversed.
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC = _crc_table()


def _crc32c(data: bytes | bytearray) -> int:
    crc, table = 0xFFFFFFFF, _CRC
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(crc: int) -> int:
    """Mask a checksum as ``crc32c::Mask`` does, for data that hold checksums."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
