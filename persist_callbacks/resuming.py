"""resume(): the newest sound checkpoint back into a live model, outside of `fit`."""

from __future__ import annotations

import os
from numbers import Integral
from pathlib import Path
from typing import Any

from persist_callbacks import environment, paths
from persist_callbacks.errors import ArgumentError
from persist_callbacks.recovery import Recovery, ResumePoint, require_trainable
from persist_callbacks.storage.checkpoints import Committed, Sound, read_found
from persist_callbacks.storage.store import Store


def resume(
    model: Any,
    directory: str | os.PathLike[str],
    *,
    checkpoint: str | int | os.PathLike[str] = "latest",
) -> ResumePoint:
    """Put a checkpoint's variables, optimizer state and seeds into a model, at once.

    For custom loops, for evaluation, and for ``fit(initial_epoch=point.epoch)``. Reads
    only: nothing in the directory changes. It may be done while training writes there.

    Args:
        model: a compiled, built Keras model of the run's architecture.
        directory: the run directory.
        checkpoint: ``"latest"``, ``"best"``, a step number, or a checkpoint's folder.

    Returns:
        Where the run stands: step, epoch, batch, path, history, and a report that
        prints well.

    Raises:
        ArgumentError: an argument is nothing of its kind.
        ModelNotCompiled: the model has no optimizer.
        ModelNotBuilt: the model has no variables, or an optimizer of its own has none.
        NotARunDirectory: the directory holds something else.
        CheckpointNotFound: there is no such checkpoint, or each was pruned while it
            was read.
        NoSoundCheckpoint: all checkpoints are damaged.
        ArchitectureMismatch: the checkpoint is of another model or optimizer.
    """
    environment.require_tensorflow_backend()
    require_trainable(model, "model")
    store = Store.open_for_reading(directory)
    selector = _selector(checkpoint)

    def find() -> tuple[Path, tuple[Committed, tuple[Any, ...]]]:
        sound = store.newest_sound() if selector == "latest" else Sound(None)
        committed = sound.committed or store.find(selector)
        return committed.path, (committed, sound.passed_over)

    def put_back(found: tuple[Committed, tuple[Any, ...]]) -> ResumePoint:
        recovery = Recovery(store, *found)
        # What metrics have gathered ends with the epoch.
        within_epoch = recovery.committed.record.position.batch > 0
        recovery.put_back_variables(model, training_goes_on=False, metrics=within_epoch)
        recovery.put_back_seeds()
        point = recovery.point(in_fit=False, newest=selector == "latest")
        recovery.forget_tensors()
        return point

    return read_found(find, put_back)


def _selector(checkpoint: object) -> str | int:
    if isinstance(checkpoint, Integral) and not isinstance(checkpoint, bool):
        return int(checkpoint)
    if isinstance(checkpoint, str) and checkpoint:
        return checkpoint
    if isinstance(checkpoint, os.PathLike):
        paths.absolute(checkpoint, "checkpoint")
        return str(os.fspath(checkpoint))
    raise ArgumentError(
        "checkpoint",
        expected="'latest', 'best', a step number or a checkpoint's folder",
        found=repr(checkpoint),
        advice="Leave it out for the newest one that is sound.",
    )
