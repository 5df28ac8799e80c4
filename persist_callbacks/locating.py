"""Which checkpoint a path means: of ours, or of any TensorFlow script."""

from __future__ import annotations

import os
import re
from pathlib import Path

from persist_callbacks import paths
from persist_callbacks.errors import CheckpointDamaged, CheckpointNotFound
from persist_callbacks.storage import bundle, checkpoints, run_directory
from persist_callbacks.storage.layout import MANIFEST
from persist_callbacks.storage.store import Store

_PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


def locate(path: Path, *, check: bool) -> str:
    """Return the prefix of the checkpoint that a path means.

    Args:
        path: a run directory (its newest sound checkpoint), a folder that
            TensorFlow's own Saver wrote, a checkpoint folder, a prefix, or one of the
            files that begin with it.
        check: whether to read every byte of one of ours, where the path means just it.

    Raises:
        CheckpointNotFound: nothing is there, or no checkpoint in it.
        CheckpointDamaged: it is none, or not sound.
    """
    path = paths.absolute(path, "checkpoint")
    if path.is_file() and _PART.search(path.name):
        path = path.with_name(_PART.sub("", path.name))
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST).is_file():
        if check:
            return checkpoints.find(folder.parent, folder).prefix
        return checkpoints.read(folder).prefix
    if path.is_dir():
        # A folder that TensorFlow's own Saver wrote has no manifest to check.
        foreign = bundle.latest_prefix(path)
        if foreign is not None and not (Path(foreign).parent / MANIFEST).is_file():
            return foreign
        if run_directory.is_ours(path):
            return Store.open_for_reading(path).find("latest").prefix
    elif _is_prefix(path):
        return os.fspath(path)
    elif (shards := bundle.old_shards(path)) is not None:
        return os.fspath(shards)
    elif path.exists():
        raise CheckpointDamaged(
            path,
            expected="a run directory, a checkpoint folder or a prefix",
            found="a file",
            advice="Give the folder that it lies in.",
        )
    raise CheckpointNotFound(
        path,
        expected="a run directory, a checkpoint folder or a prefix",
        found=_without_checkpoint(path) if path.is_dir() else "nothing of that name",
        advice="Give the path that PeriodicCheckpoint was given, or a folder with a "
        "Saver's files.",
    )


def own_graph(prefix: str) -> Path:
    """Return the ``.meta`` of a checkpoint's own name, be it there or not.

    Args:
        prefix: the checkpoint.
    """
    return Path(f"{bundle.stem_of(prefix)}.meta")


def graph_beside(prefix: str) -> Path:
    """Return the ``.meta`` that goes with a checkpoint.

    A script that saves with ``write_meta_graph=False`` has one for all its checkpoints.

    Args:
        prefix: the checkpoint.

    Raises:
        CheckpointNotFound: there is none, or several that could be it.
    """
    own = own_graph(prefix)
    if own.is_file():
        return own
    others = sorted(own.parent.glob("*.meta"))
    if len(others) == 1:
        return others[0]
    found = "no .meta file"
    if others:
        found = f"those of others: {', '.join(path.name for path in others)}"
    raise CheckpointNotFound(
        own,
        expected="the inference graph beside the checkpoint",
        found=found,
        advice="It was saved without one: build the model, resume() it from the "
        "checkpoint, and export it with FrozenGraphExport.",
    )


def _is_prefix(path: Path) -> bool:
    """Whether a checkpoint's files begin so; the old format's is one plain file."""
    if path.with_name(f"{path.name}.index").is_file():
        return True
    return path.is_file() and path.with_name(f"{path.name}.meta").is_file()


def _without_checkpoint(folder: Path) -> str:
    prefixes = sorted(path.stem for path in folder.glob("*.index"))
    if not prefixes:
        return "a folder without a checkpoint"
    return f"no usable `checkpoint` file, but checkpoints: {', '.join(prefixes)}"
