"""Which checkpoint a path means: of ours, or of any TensorFlow script."""

from __future__ import annotations

import os
import re
from pathlib import Path

from persist_callbacks import paths
from persist_callbacks.errors import CheckpointDamaged, CheckpointNotFound, PersistError
from persist_callbacks.storage import bundle, checkpoints, run_directory
from persist_callbacks.storage.layout import MANIFEST
from persist_callbacks.storage.store import Store

_PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
# Of each checkpoint there is one or the other.
_TELL_PREFIX = (".index", ".meta")
_SAVED_MODELS = ("saved_model.pb", "saved_model.pbtxt")


def locate(path: Path, *, check: bool) -> str:
    """Return the prefix of the checkpoint that a path means.

    Args:
        path: a run directory (its newest sound checkpoint), a folder that
            TensorFlow's own Saver wrote, a checkpoint folder, a prefix, or one of the
            files that begin with it.
        check: whether to read every byte of one of ours, where the path means just it.

    Raises:
        ArgumentError: the path is not in UTF-8.
        CheckpointNotFound: nothing is there, or no checkpoint in it.
        CheckpointDamaged: it is none, or not sound.
    """
    path = paths.of_checkpoints(path, "checkpoint")
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
    raise _not_found(path)


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
    if own.parent.name == "variables":
        _refuse_saved_model(own.parent)
    is_ours = (own.parent / MANIFEST).is_file()
    raise CheckpointNotFound(
        own,
        expected="the inference graph beside the checkpoint",
        found=found,
        advice="It was saved without one: build the model, resume() it from the "
        "checkpoint, and export it with FrozenGraphExport."
        if is_ours or bundle.is_object_based(prefix)
        else "It was saved without one: build the graph in TensorFlow 1 and call "
        f"tf.train.Saver().export_meta_graph({os.fspath(own)!r}).",
    )


def _is_prefix(path: Path) -> bool:
    """Whether a checkpoint's files begin so; the old format's is one plain file."""
    if path.with_name(f"{path.name}.index").is_file():
        return True
    return path.is_file() and path.with_name(f"{path.name}.meta").is_file()


def _not_found(path: Path) -> PersistError:
    """Say what is at a path that means no checkpoint, and what could be meant."""
    is_folder = path.is_dir()
    if is_folder:
        _refuse_saved_model(path)
    prefixes = _prefixes(path) if is_folder else []
    halves = _without_index(path)
    if halves and not prefixes:
        name, parts = halves.popitem()
        return CheckpointDamaged(
            (path if is_folder else path.parent) / name,
            expected=f"{name}.index beside {', '.join(parts)}",
            found="no such file",
            advice="Copy it from where the checkpoint was written, or use another one.",
        )
    found = "a folder without a checkpoint" if is_folder else "nothing of that name"
    advice = (
        "Give the path that PeriodicCheckpoint was given, or a folder with a Saver's "
        "files."
    )
    if prefixes:
        names = ", ".join(prefix.name for prefix in prefixes)
        found = f"no usable `checkpoint` file, but checkpoints: {names}"
        found += f"; without its .index: {', '.join(halves)}" if halves else ""
        advice = f"Give one of them: {prefixes[-1]}."
    return CheckpointNotFound(
        path,
        expected="a run directory, a checkpoint folder or a prefix",
        found=found,
        advice=advice,
    )


def _prefixes(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, by the numbers in their names."""
    ends = [os.path.splitext(name) for name in bundle.names_in(folder)]
    names = {stem for stem, end in ends if end in _TELL_PREFIX}
    prefixes = [folder / name for name in sorted(names, key=_by_numbers)]
    return [each for each in prefixes if _is_prefix(each) or bundle.old_shards(each)]


def _by_numbers(name: str) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", name)], name


def _without_index(path: Path) -> dict[str, list[str]]:
    """Return the parts of checkpoints that have no index.

    Args:
        path: a prefix, or a folder, of which all are looked at.

    Returns:
        Names of files by the checkpoint's, the newest last.
    """
    folder = path if path.is_dir() else path.parent
    parts: dict[str, list[str]] = {}
    for name in bundle.names_in(folder):
        stem = _PART.sub("", name)
        if stem != name and (path.is_dir() or stem == path.name):
            parts.setdefault(stem, []).append(name)
    # The old format, whose data are called otherwise, has none.
    halves = [
        stem
        for stem in sorted(parts, key=_by_numbers)
        if not _is_prefix(folder / stem) and any(".data-" in n for n in parts[stem])
    ]
    return {stem: parts[stem] for stem in halves}


def _refuse_saved_model(folder: Path) -> None:
    """Refuse a SavedModel, or the weights of one, whose graph is in no ``.meta``."""
    is_part = folder.name == "variables"
    whole = folder.parent if is_part else folder
    if not any((whole / name).is_file() for name in _SAVED_MODELS):
        return
    raise CheckpointNotFound(
        folder,
        expected="a run directory, a checkpoint folder or a prefix",
        found=f"{'the weights of ' if is_part else ''}a SavedModel",
        advice="Load it, tf.compat.v1.saved_model.load(session, ['serve'], "
        f"{os.fspath(whole)!r}), save the session with tf.compat.v1.train.Saver(), and "
        "give that; or build the Keras model and export it with FrozenGraphExport.",
    )
