"""The log that ``keras.callbacks.CSVLogger`` writes, brought back to an earlier epoch.

A rerun opens its file anew, which empties it, or appends to rows of epochs that are
trained again. The rows up to the checkpoint are the callback's state.
"""

from __future__ import annotations

from typing import Any


def get_state(logger: Any) -> dict[str, Any]:
    """Take the columns and the text that a logger has written so far.

    Args:
        logger: the callback, after its ``on_train_begin``.

    Returns:
        A JSON-ready record for `set_state`.
    """
    file = logger.csv_file
    text = ""
    if file is not None and not file.closed:
        file.flush()
        # Line ends as they are: csv writes its own.
        with open(logger.filename, encoding=file.encoding, newline="") as written:
            text = written.read()
    return {"keys": logger.keys, "text": text}


def set_state(logger: Any, state: dict[str, Any]) -> None:
    """Make a logger's file what it was, and let it go on behind.

    Args:
        logger: the callback, after its ``on_train_begin``.
        state: from `get_state`.
    """
    file = logger.csv_file
    file.seek(0)
    file.truncate()
    file.write(state["text"])
    file.flush()
    logger.keys = state["keys"]
    # The header stands at the top already, and is written with a writer's first row.
    logger.writer = None
    logger.append_header = not state["text"]
