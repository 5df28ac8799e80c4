"""Variables that a train step uses and nothing of the model holds, as in a closure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.training import references

# What moves a large variable moves its beginning too.
_FEW = 100
# How many are looked at at a time, each in some tens of microseconds of the train
# thread: a teacher in a closure may have a thousand.
_AT_A_TIME = 100


class StrayVariables:
    """Finds variables that change while a model is trained, and are not saved.

    Args:
        used: the variables that a train step uses.
        saved: ids of those that are saved.
    """

    def __init__(self, used: Iterable[Any] = (), saved: Collection[int] = ()) -> None:
        stray = {
            id(variable): variable for variable in used if id(variable) not in saved
        }
        read = ((each, _beginning(each)) for each in stray.values())
        self._before = deque(pair for pair in read if pair[1] is not None)

    def found(self) -> list[str]:
        """Describe those that are others than they were, each once and never again.

        Of many, the next ones that are due; all of them by and by.
        """
        changed = []
        for _ in range(min(_AT_A_TIME, len(self._before))):
            variable, before = self._before.popleft()
            now = _beginning(variable)
            if now == before:
                self._before.append((variable, before))
            elif now is not None:
                changed.append(_described(variable))
        return sorted(changed)


def _beginning(variable: Any) -> bytes | None:
    """Read the first numbers of a variable; None where they cannot be had."""
    try:
        value = references.read(variable.handle, variable.dtype)
        if "CPU" not in value.device:
            value = tf.reshape(value, [-1])[:_FEW]
        few = np.asarray(value).reshape(-1)[:_FEW]
    except (tf.errors.OpError, NotImplementedError, TypeError, ValueError):
        # Such as one that holds no numbers: it is not worth an end of training.
        return None
    return repr(few.tolist()).encode() if few.dtype.hasobject else few.tobytes()


def _described(variable: Any) -> str:
    name, dtype = variable.name.split(":")[0], tf.as_dtype(variable.dtype).name
    shape = variable.shape
    return f"{name} {dtype}{'' if shape.rank is None else list(shape)}"
