"""Whether weights are numbers that training can go on from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from persist_callbacks.training.variables import LiveVariable


def watched(live: Iterable[LiveVariable]) -> dict[str, bool]:
    """List the variables in which a NaN means that training has gone wrong.

    Args:
        live: the variables of the run.

    Returns:
        The keys of the model's and the optimizers' floating-point variables, and
        whether an infinity is as bad as a NaN there: a variable that is not trained
        may hold one on purpose, as a mask does.
    """
    return {
        item.info.key: item.info.role == "optimizer" or bool(item.variable.trainable)
        for item in live
        if item.info.role in ("model", "optimizer") and item.variable.dtype.is_floating
    }


def poisoned(tensors: Mapping[str, Any], keys: Mapping[str, bool]) -> list[str]:
    """Name the variables that are not finite where they should be.

    One pass over each without a copy: a sum is finite only if all of its terms are.

    Args:
        tensors: values by key.
        keys: from `watched`.

    Returns:
        Keys, in their order.
    """
    return [
        key
        for key, infinities_too in keys.items()
        if key in tensors and not is_sound(np.asarray(tensors[key]), infinities_too)
    ]


def is_sound(value: np.ndarray[Any, Any], infinities_too: bool) -> bool:
    """Whether the numbers of a variable, or some of them, are what they should be.

    Args:
        value: of any shape and floating-point dtype.
        infinities_too: whether an infinity is as bad as a NaN.
    """
    with np.errstate(all="ignore"):
        if np.isfinite(value.sum(dtype=np.float32)):
            return True
        # Large numbers overflow a sum.
        if infinities_too:
            return bool(np.isfinite(value).all())
        return not np.isnan(value).any()
