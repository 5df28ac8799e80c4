"""Variables that a train step uses and nothing of the model holds, as in a closure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

# What moves a large variable moves its beginning too.
_FEW = 100


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
        self._before = [(each, _beginning(each)) for each in stray.values()]

    def found(self) -> list[str]:
        """Describe those that are others than they were, each once and never again."""
        now = [(variable, _beginning(variable)) for variable, _ in self._before]
        both = list(zip(self._before, now, strict=True))
        self._before = [old for old, new in both if old[1] == new[1]]
        return sorted(_described(old[0]) for old, new in both if old[1] != new[1])


def _beginning(variable: Any) -> bytes:
    few = np.asarray(tf.reshape(variable, [-1])[:_FEW])
    return repr(few.tolist()).encode() if few.dtype.hasobject else few.tobytes()


def _described(variable: Any) -> str:
    name, dtype = variable.name.split(":")[0], tf.as_dtype(variable.dtype).name
    return f"{name} {dtype}{list(variable.shape)}"
