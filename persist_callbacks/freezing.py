"""`freeze`: a checkpoint on disk to a PB, with no model code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from persist_callbacks import exporting
from persist_callbacks.errors import (
    CheckpointDamaged,
    CheckpointNotFound,
    PersistError,
)
from persist_callbacks.graph.frozen import FrozenGraph
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.meta import from_meta
from persist_callbacks.storage import bundle, checkpoints
from persist_callbacks.storage.layout import MANIFEST
from persist_callbacks.storage.run_directory import absolute
from persist_callbacks.storage.store import Store

# How often a run may prune a checkpoint while it is read, before that is an error.
_TRIES = 10


def freeze(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    outputs: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
) -> FrozenGraph:
    """Write a checkpoint's inference graph and weights as one PB.

    Args:
        checkpoint: a run directory (its newest sound checkpoint is taken), a
            checkpoint folder, or a prefix such as ``ckpt-000001200/model.ckpt``.
        path: the PB to write; its signature goes beside it.
        outputs: nodes whose results the PB shall give; None for the model's outputs.
        inputs: the inputs it shall take, in this order; None for those it needs.

    Returns:
        The PB, loaded from the file and run once.

    Raises:
        CheckpointNotFound: there is no checkpoint, or it has no graph beside it.
        CheckpointDamaged: the checkpoint is not what its manifest says.
        TensorNotFound: an output or input is not in the graph.
        UnsupportedGraph: something in the graph cannot be a constant.
    """
    graph, values = _load(absolute(checkpoint))
    built = exporting.build(graph, values, outputs=outputs, inputs=inputs)
    return exporting.write(built, path)


def _load(path: Path) -> tuple[InferenceGraph, dict[str, Any]]:
    """Read a checkpoint's graph and weights, another's if it was pruned meanwhile."""
    for _ in range(_TRIES):
        prefix = _locate(path)
        try:
            return _read(prefix)
        except PersistError:
            if os.path.lexists(os.path.dirname(prefix)):
                raise
    return _read(_locate(path))


def _read(prefix: str) -> tuple[InferenceGraph, dict[str, Any]]:
    meta = Path(f"{prefix}.meta")
    try:
        data = meta.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointNotFound(
            meta,
            expected="the inference graph beside the checkpoint",
            found="no file",
            advice="It was saved without one: build the model, resume() it from the "
            "checkpoint, and export it with FrozenGraphExport.",
        ) from error
    graph = from_meta(data, meta)
    tensors = bundle.read(prefix, [info.name for info in graph.variables])
    values = {key: tensor.numpy() for key, tensor in tensors.items()}
    return graph, values


def _locate(path: Path) -> str:
    """Return the prefix of the checkpoint that a path means, checked where we can."""
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST).is_file():
        committed = checkpoints.find(folder.parent, folder)
        return committed.prefix
    if path.with_name(f"{path.name}.index").is_file():
        return os.fspath(path)
    if path.is_dir():
        # A folder that TensorFlow's own Saver wrote has no manifest to check.
        foreign = bundle.latest_prefix(path)
        if foreign is not None and not (Path(foreign).parent / MANIFEST).is_file():
            return foreign
        return Store.open_for_reading(path).find("latest").prefix
    if path.exists():
        raise CheckpointDamaged(
            path,
            expected="a run directory, a checkpoint folder or a prefix",
            found="a file",
            advice="Give the folder that it lies in.",
        )
    raise CheckpointNotFound(
        path,
        expected="a run directory, a checkpoint folder or a prefix",
        found="nothing of that name",
        advice="Give the path that PeriodicCheckpoint was given.",
    )
