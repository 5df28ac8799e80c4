"""What stands beside a PB: ``model.signature.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from persist_callbacks.errors import FormatTooNew, NotAFrozenGraph
from persist_callbacks.records import TensorInfo

FORMAT = "persist_callbacks signature"
VERSION = 1
_MAX_BYTES = 2**24


@dataclass(frozen=True)
class SignatureTensor:
    """One input or output of a PB.

    Args:
        name: the graph tensor's name without ``:0``.
        shape: sizes, None where open; None where the rank is.
        dtype: TensorFlow's name of the dtype.
        original: the name the user gave, where a graph cannot hold it.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str
    original: str | None = None

    def info(self) -> TensorInfo:
        """Return name, shape and dtype."""
        return TensorInfo(self.name, self.shape, self.dtype)


@dataclass(frozen=True)
class ComparedOutput:
    """How far an output was from the live model's when the PB was written.

    Args:
        name: the output.
        absolute: largest absolute difference.
        relative: largest relative difference.
    """

    name: str
    absolute: float
    relative: float


@dataclass(frozen=True)
class ComparisonRecord:
    """The comparison with the live model that a PB passed.

    Args:
        atol: absolute tolerance.
        rtol: relative tolerance.
        outputs: one an output.
        of_largest: tolerance relative to an output's largest number.
    """

    atol: float
    rtol: float
    outputs: tuple[ComparedOutput, ...]
    of_largest: float = 0.0


@dataclass(frozen=True)
class Signature:
    """What a PB takes and gives, and which bytes it is about.

    Args:
        inputs: in the model's order.
        outputs: in the model's order.
        op_count: nodes of the graph, those in functions included.
        size: bytes of the PB.
        checksum: ``xxh3_128:`` and the PB's hash in hex.
        tensorflow: version that wrote it.
        comparison: with the live model; None if there was none at hand.
        format: what this file is.
        version: of this format.
    """

    inputs: tuple[SignatureTensor, ...]
    outputs: tuple[SignatureTensor, ...]
    op_count: int
    size: int
    checksum: str
    tensorflow: str
    comparison: ComparisonRecord | None = None
    format: str = FORMAT
    version: int = VERSION

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        order = ("format", "version")
        fields: dict[str, Any] = msgspec.to_builtins(self)
        fields = {**{key: fields[key] for key in order}, **fields}
        return msgspec.json.format(msgspec.json.encode(fields), indent=2) + b"\n"


def from_json(data: bytes, where: object) -> Signature:
    """Return the signature that a file's bytes hold.

    Args:
        data: the bytes.
        where: the file, for errors.

    Raises:
        NotAFrozenGraph: the bytes are no signature.
        FormatTooNew: a newer persist_callbacks wrote it.
    """
    advice = "Remove it to use the PB without its signature, or export again."
    if len(data) > _MAX_BYTES:
        raise NotAFrozenGraph(
            where,
            expected=f"a signature of at most {_MAX_BYTES} bytes",
            found=f"{len(data)} bytes",
            advice=advice,
        )
    try:
        # Read loosely first: a newer version may have other fields.
        head = msgspec.json.decode(data)
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise msgspec.ValidationError("its `format` says something else")
        version = head.get("version")
        if isinstance(version, int) and version > VERSION:
            raise FormatTooNew(
                where,
                expected=f"version {VERSION} or older",
                found=f"version {version}",
                advice="Install a newer persist_callbacks.",
            )
        return msgspec.json.decode(data, type=Signature)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAFrozenGraph(
            where, expected="a PB's signature", found=str(error), advice=advice
        ) from error


def signature_path(pb_path: str | Path) -> Path:
    """Return where a PB's signature lies: ``model.signature.json`` for ``model.pb``."""
    path = Path(pb_path)
    stem = path.name.removesuffix(".pb")
    return path.with_name(f"{stem}.signature.json")


def checksum(data: bytes) -> str:
    """Return ``xxh3_128:`` and the hash of the bytes in hex."""
    return f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}"
