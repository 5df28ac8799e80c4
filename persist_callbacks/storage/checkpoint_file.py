"""TensorFlow's ``checkpoint`` file: a CheckpointState proto in text form.

Written by hand, so that listing and pruning need no TensorFlow. The fields are those
of ``tensorflow/python/training/checkpoint_state.proto``; paths are relative to the
file, so that a run directory can be moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from persist_callbacks.storage import durable, layout

NAME = layout.CHECKPOINT

_ESCAPES = str.maketrans(
    {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
)


def write(directory: Path, prefixes: Sequence[str]) -> None:
    """Name the checkpoints there are, atomically and durably.

    Args:
        directory: the run directory.
        prefixes: relative prefixes, oldest first; the last is the one to restore.
            With none, the file is removed: TensorFlow raises on an empty one.
    """
    if not prefixes:
        durable.remove_file(directory / NAME)
        return
    durable.replace_file(directory / NAME, render(prefixes).encode())


def render(prefixes: Sequence[str]) -> str:
    """Give the text of the file that names these prefixes, at least one."""
    lines = [
        f"model_checkpoint_path: {_quote(prefixes[-1])}",
        *(f"all_model_checkpoint_paths: {_quote(prefix)}" for prefix in prefixes),
    ]
    return "".join(f"{line}\n" for line in lines)


def _quote(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'
