"""Small frozen records that more than one room reads. No behaviour beyond their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape and dtype of one tensor.

    Args:
        name: a variable's checkpoint key, or a graph tensor's name without ``:0``.
        shape: sizes, None where a dimension is not fixed; None where the rank is not.
        dtype: TensorFlow's name of the dtype, such as ``float32``.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name} {self.dtype}(unknown rank)"
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype}[{sizes}]"


@dataclass(frozen=True, order=True)
class Position:
    """Where a training run stands: the step that comes next.

    Args:
        epoch: zero-based epoch of the next step.
        batch: zero-based batch of the next step within its epoch.
        step: training steps done since the run began, over all epochs.
    """

    epoch: int
    batch: int
    step: int


@dataclass(frozen=True)
class Score:
    """The monitored value that a checkpoint was saved with.

    Args:
        monitor: the key in Keras' logs, such as ``val_loss``.
        value: its value at the end of the epoch.
        lower_is_better: whether the smaller of two values is the better one.
    """

    monitor: str
    value: float
    lower_is_better: bool

    def beats(self, other: Score | None) -> bool:
        """Whether this score is better than the other; any number beats NaN."""
        if other is None or other.value != other.value:
            return self.value == self.value
        if self.lower_is_better:
            return self.value < other.value
        return self.value > other.value


@dataclass(frozen=True)
class CheckpointRecord:
    """What a checkpoint's manifest says of it: enough to list, choose and prune.

    Args:
        name: the folder's name, such as ``ckpt-000001200``.
        run_id: the run that wrote it.
        position: where training stood.
        saved_at: seconds since 1970 in UTC when it was committed.
        size: bytes of all its files together.
        fingerprint: the architecture's fingerprint.
        score: the monitored value, where there was one.
        finished: whether the run had ended by itself.
    """

    name: str
    run_id: str
    position: Position
    saved_at: float
    size: int
    fingerprint: str
    score: Score | None = None
    finished: bool = False


@dataclass(frozen=True)
class GraphNames:
    """How a user wants the inference graph's tensors to be called.

    Args:
        inputs: names for the model's inputs, in order or by the Keras name.
        outputs: names for the model's outputs, in order or by the Keras name.
    """

    inputs: tuple[str, ...] | Mapping[str, str] | None = None
    outputs: tuple[str, ...] | Mapping[str, str] | None = None
