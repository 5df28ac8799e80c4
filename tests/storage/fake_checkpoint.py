"""Checkpoints of a few bytes: what the store does with files needs no TensorFlow."""

from __future__ import annotations

from pathlib import Path

from persist_callbacks.records import CheckpointRecord, Position, Score
from persist_callbacks.storage.store import PREFIX, STATE, Committed, Staged, Store

INDEX = f"{PREFIX}.index"
DATA = f"{PREFIX}.data-00000-of-00001"


def stage(store: Store, step: int, *, data: bytes = b"d" * 8192) -> Staged:
    staged = store.stage(step)
    staged.write(INDEX, b"index")
    staged.write(DATA, data)
    staged.write(STATE, b"{}")
    return staged


def save(
    store: Store,
    step: int,
    *,
    data: bytes = b"d" * 8192,
    score: Score | None = None,
    finished: bool = False,
) -> Committed:
    return store.commit(
        stage(store, step, data=data),
        position=Position(epoch=step // 100, batch=step % 100, step=step),
        fingerprint="f" * 32,
        score=score,
        finished=finished,
    )


def record(
    step: int,
    *,
    saved_at: float = 0.0,
    loss: float | None = None,
    monitor: str = "val_loss",
    lower_is_better: bool = True,
) -> CheckpointRecord:
    return CheckpointRecord(
        name=f"ckpt-{step:09d}",
        run_id="run",
        position=Position(epoch=0, batch=step, step=step),
        saved_at=saved_at,
        size=1,
        fingerprint="f",
        score=None if loss is None else Score(monitor, loss, lower_is_better),
    )


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name[0] != ".")


def hidden(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name[0] == ".")
