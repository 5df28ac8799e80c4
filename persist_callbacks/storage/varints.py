"""Numbers in as few bytes as they need: seven bits a byte, the lowest first."""

from __future__ import annotations


def encoded(value: int) -> bytes:
    """Encode a number that is not negative."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def decoded(data: bytes, at: int) -> tuple[int, int]:
    """Decode the number that begins at an offset.

    Returns:
        The number, and the offset that comes after it.

    Raises:
        ValueError: it has more than 64 bits.
        IndexError: the data end before it does.
    """
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
