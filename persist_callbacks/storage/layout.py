"""The names inside a run directory: of checkpoint folders and of the files in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

PREFIX = "model.ckpt"
INDEX = f"{PREFIX}.index"
META = f"{PREFIX}.meta"
STATE = "training_state.json"
MANIFEST = "manifest.json"

# TensorFlow's own pointer to the newest checkpoint.
CHECKPOINT = "checkpoint"
RUN = "run.json"
JOURNAL = "journal.jsonl"
LOCK = ".lock"
OWNER = ".lock-owner"
PROGRESS = ".progress"
# Touched by whoever wants a checkpoint of a run that is under way.
SAVE = "SAVE"
# How a name begins that is on the way to a final one, or out of it.
STAGED, TMP, TRASH = ".staged-", ".tmp-", ".trash-"

# Bytes beyond which nobody reads a file of that name into memory; of .meta a protocol
# buffer's own limit. The tensors' shards have none.
LARGEST = {INDEX: 2**30, META: 2**31 - 1, STATE: 2**28}

# A damaged checkpoint that was put out of the readers' way bears its name after this.
ASIDE = "damaged-"

# A checkpoint that is being replaced by another of the same step bears this ending
# until the other one has its name: two folders cannot be swapped in one go.
REPLACED = ".replaced"

_FILES = (CHECKPOINT, RUN, JOURNAL, LOCK, OWNER, PROGRESS, SAVE)
_BEGINNINGS = (STAGED, TMP, TRASH, f"{ASIDE}ckpt-", f"{ASIDE}{RUN}")
_SHARD = re.compile(rf"{re.escape(PREFIX)}\.data-([0-9]{{5}})-of-([0-9]{{5}})")
_FOLDER = re.compile(r"ckpt-([0-9]{9,18})")


def folder_name(step: int) -> str:
    """Name of the folder of the checkpoint at a global train step."""
    return f"ckpt-{step:09d}"


def step_of(name: str) -> int | None:
    """Global train step that a folder's name speaks of; None for any other name."""
    match = _FOLDER.fullmatch(name)
    if match is None or folder_name(int(match[1])) != name:
        return None
    return int(match[1])


def step_of_either(name: str) -> int | None:
    """As `step_of`, of a checkpoint in its place or out of a new one's way as well."""
    return step_of(name.removesuffix(REPLACED))


def is_file_name(name: str) -> bool:
    """Whether a checkpoint may hold a file of this name, the manifest aside."""
    return name in (INDEX, META, STATE) or _SHARD.fullmatch(name) is not None


def is_of_run(name: str) -> bool:
    """Whether a name in a run directory is one that the run keeps for itself."""
    is_checkpoint = step_of_either(name) is not None
    return is_checkpoint or name in _FILES or name.startswith(_BEGINNINGS)


def is_in_checkpoint(path: Path) -> bool:
    """Whether a path is that of a file by which a checkpoint stands or falls."""
    is_checkpoint = step_of_either(path.parent.name) is not None
    return is_checkpoint and (path.name == MANIFEST or is_file_name(path.name))


def required(names: Iterable[str]) -> list[str]:
    """Names of the files that a checkpoint must have, given those that it has.

    Each data shard says in its name how many there are; without any, one is missing.
    """
    counts = {int(match[2]) for match in map(_SHARD.fullmatch, names) if match}
    shards = [
        f"{PREFIX}.data-{shard:05d}-of-{count:05d}"
        for count in sorted(counts or {1})
        for shard in range(count)
    ]
    return [INDEX, STATE, *shards]
