"""``journal.jsonl``: what happened to a run, one JSON object a line."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from persist_callbacks.errors import UnreadableFile
from persist_callbacks.storage import durable, layout
from persist_callbacks.storage.reading import read_plain

NAME = layout.JOURNAL
# Some million events.
_MAX_BYTES = 2**28


def append(directory: Path, event: str, run_id: str, fields: dict[str, Any]) -> None:
    """Add one event; the line is durable on return, and safe from any thread.

    Args:
        directory: the run directory.
        event: what happened, such as ``saved``.
        run_id: the run that it happened to.
        fields: JSON values; other objects are written as their text.
    """
    entry = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "event": event,
        "run_id": run_id,
        **{name: _speakable(value) for name, value in fields.items()},
    }
    line = msgspec.json.encode(entry, enc_hook=str).decode()
    durable.append_line(directory / NAME, line)


def read(directory: Path) -> list[dict[str, Any]]:
    """Read all events, oldest first; lines that a crash cut short are left out.

    Raises:
        UnreadableFile: it is there and cannot be read.
    """
    try:
        lines = read_plain(directory / NAME, limit=_MAX_BYTES).splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UnreadableFile(
            directory / NAME,
            expected=f"a plain file of at most {_MAX_BYTES} bytes",
            found=error.strerror or str(error),
            advice="Move it aside: a run goes on without its journal.",
        ) from error
    return [entry for entry in map(_parse, lines) if entry is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _speakable(value: object) -> object:
    # JSON has no NaN or infinity, and a loss that became one is worth a journal line.
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _speakable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_speakable(item) for item in value]
    return value
