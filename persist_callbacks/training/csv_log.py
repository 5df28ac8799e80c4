"""The log that ``keras.callbacks.CSVLogger`` writes, brought back to an earlier epoch.

A rerun opens its file anew, which empties it, or appends to rows of epochs that are
trained again. The rows up to the checkpoint are the callback's state.
"""

from __future__ import annotations

import os
import stat
from typing import Any


def get_state(logger: Any) -> dict[str, Any]:
    """Take the columns and the text that a logger has written so far.

    Args:
        logger: the callback, after its ``on_train_begin``.

    Returns:
        A JSON-ready record for `set_state`. Its text is None where it cannot be read:
        of a pipe, and of a file that was deleted or moved away meanwhile.
    """
    file = logger.csv_file
    text: str | None = ""
    if file is not None and not file.closed:
        file.flush()
        text = _text_of(file, logger.filename)
    return {"keys": logger.keys, "text": text}


def set_state(logger: Any, state: dict[str, Any]) -> None:
    """Make a logger's file what it was, and let it go on behind.

    Where that cannot be, the rows that come are added to what there is, under the
    columns that there were.

    Args:
        logger: the callback, after its ``on_train_begin``.
        state: from `get_state`.
    """
    file, text = logger.csv_file, state["text"]
    logger.keys = state["keys"]
    # The header is written with a writer's first row.
    logger.writer = None
    if text is None or not _is_regular(os.fstat(file.fileno())):
        return
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()
    # It stands at the top already.
    logger.append_header = not text


def _text_of(file: Any, name: str) -> str | None:
    """Read what a file that is open for writing holds, by its name."""
    try:
        found = os.stat(name)
        # To open a pipe would wait for somebody else to write into it.
        if not _is_regular(found) or not os.path.samestat(
            found, os.fstat(file.fileno())
        ):
            return None
        # Line ends as they are: csv writes its own.
        with open(name, encoding=file.encoding, newline="") as written:
            return written.read()
    except OSError:
        return None


def _is_regular(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode)
