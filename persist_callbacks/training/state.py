"""The record of a run at one step boundary, and its JSON form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from persist_callbacks.errors import CheckpointDamaged, FormatTooNew
from persist_callbacks.records import Position
from persist_callbacks.training import json_values, state_checks
from persist_callbacks.training.callback_state import CallbackState
from persist_callbacks.training.data_position import DataPosition
from persist_callbacks.training.variables import VariableInfo

VERSION = 1
# What is restored over a variable before training goes on after a finished run: its
# value from before train end, where an average or the best weights were put into it.
BEFORE_TRAIN_END = "before_train_end/"


@dataclass(frozen=True)
class TrainingState:
    """Everything about a run that is not a variable.

    Args:
        position: the step that comes next.
        data: how the position in the data is kept.
        variables: what the checkpoint holds, in the order in which it is restored.
        random: state of the process-wide generators.
        callbacks: the callbacks' states.
        last_logs: logs of the last step, as ``fit`` had them.
        batches_per_epoch: where fit was told.
        learnt_batches: in an epoch, as far as it had found out.
        stopped: whether training was stopped before all epochs were done.
        epochs: how many were asked for.
        replaced_at_end: keys that have another value under ``before_train_end/``.
        in_validation: whether all steps of the epoch are done and its validation comes
            next, or else what callbacks do at its end.
        settings: what the script had asked for, see `settings`.
        version: of this record's format.
    """

    position: Position
    data: DataPosition
    variables: tuple[VariableInfo, ...]
    random: dict[str, Any]
    callbacks: tuple[CallbackState, ...] = ()
    last_logs: dict[str, Any] = field(default_factory=dict)
    batches_per_epoch: int | None = None
    learnt_batches: int | None = None
    stopped: bool = False
    epochs: int | None = None
    replaced_at_end: tuple[str, ...] = ()
    in_validation: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    version: int = VERSION


def further_keys(state: TrainingState) -> list[str]:
    """List the tensors that a state speaks of beside its variables."""
    keys = [BEFORE_TRAIN_END + key for key in state.replaced_at_end]
    keys += json_values.array_names([saved.state for saved in state.callbacks])
    return keys + state.data.keys()


def to_json(state: TrainingState) -> bytes:
    """Write a state as JSON.

    Args:
        state: the state.

    Returns:
        UTF-8 text.
    """
    return msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n"


def from_json(data: bytes, where: object) -> TrainingState:
    """Read a state.

    Args:
        data: what `to_json` wrote.
        where: the file, for messages.

    Returns:
        The state.

    Raises:
        FormatTooNew: a newer version wrote it.
        CheckpointDamaged: it is not JSON, or a field is missing or of a wrong type.
    """
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("version")
        if isinstance(version, int) and version > VERSION:
            raise FormatTooNew(
                where,
                expected=f"version {VERSION} or older",
                found=f"version {version}",
                advice="Install a newer persist_callbacks to read it.",
            )
        return msgspec.json.decode(data, type=TrainingState)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(where, error) from error


def load(data: bytes, where: object) -> TrainingState:
    """Read a state that is to be restored: one whose values make sense too.

    Args:
        data: what `to_json` wrote.
        where: the file, for messages.

    Raises:
        FormatTooNew: a newer version wrote it.
        CheckpointDamaged: it is not JSON, or a field cannot be restored.
    """
    state = from_json(data, where)
    try:
        state_checks.check(state)
    except ValueError as error:
        raise _damaged(where, error) from error
    return state


def _damaged(where: object, error: Exception) -> CheckpointDamaged:
    return CheckpointDamaged(
        where,
        expected="a training state in JSON",
        found=str(error),
        advice="Resume from another checkpoint of the run.",
    )
