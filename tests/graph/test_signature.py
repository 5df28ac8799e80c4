"""signature.py: the JSON beside a PB."""

from __future__ import annotations

import json

import pytest

from persist_callbacks.errors import FormatTooNew, NotAFrozenGraph
from persist_callbacks.graph.signature import (
    ComparedOutput,
    ComparisonRecord,
    Signature,
    SignatureTensor,
    checksum,
    from_json,
)

SIGNATURE = Signature(
    inputs=(SignatureTensor("my_input", (None, 3), "float32", "my input"),),
    outputs=(SignatureTensor("y", None, "float32"),),
    op_count=7,
    size=1234,
    checksum=checksum(b"pb"),
    tensorflow="2.21.0",
    comparison=ComparisonRecord(1e-5, 1e-4, (ComparedOutput("y", 1e-7, 2e-7),)),
)


def test_round_trip() -> None:
    """What is written is what is read, open dimensions and originals included."""
    assert from_json(SIGNATURE.to_json(), "s") == SIGNATURE


def test_it_reads_well() -> None:
    """A person sees first what the file is; checksums name their kind."""
    text = SIGNATURE.to_json().decode()
    assert text.startswith('{\n  "format": "persist_callbacks signature",\n')
    fields = json.loads(text)
    assert fields["inputs"][0]["shape"] == [None, 3]
    assert fields["checksum"].startswith("xxh3_128:")
    assert len(fields["checksum"]) == len("xxh3_128:") + 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("checksum"), "missing required field `checksum`"),
        (lambda f: f.update(format="other"), "its `format` says something else"),
        (lambda f: f.update(size="big"), "Expected `int`"),
        (lambda f: f.clear(), "its `format` says something else"),
    ],
)
def test_files_that_are_no_signature(change: object, message: str) -> None:
    """A field that is missing or of another type is named."""
    fields = json.loads(SIGNATURE.to_json())
    change(fields)  # type: ignore[operator]
    with pytest.raises(NotAFrozenGraph, match=f"m.signature.json: .*{message}"):
        from_json(json.dumps(fields).encode(), "m.signature.json")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe"])
def test_not_even_json(data: bytes) -> None:
    """Any bytes are refused as no signature."""
    with pytest.raises(NotAFrozenGraph, match="expected a PB's signature"):
        from_json(data, "s")


def test_newer_version() -> None:
    """A later format is not guessed at."""
    fields = {**json.loads(SIGNATURE.to_json()), "version": 2, "new": 1}
    with pytest.raises(FormatTooNew, match="version 2"):
        from_json(json.dumps(fields).encode(), "s")


def test_huge_file() -> None:
    """A file that cannot be a signature is not parsed."""
    with pytest.raises(NotAFrozenGraph, match="at most"):
        from_json(b" " * (2**24 + 1), "s")
