"""Which of two values of a monitored metric is the better one.

Keras' own metrics know it of themselves, by an attribute without a public name that is
read here alone; ``tests/training/test_directions.py`` fails by name when a version
moves it. Of anything else the name has to tell.
"""

from __future__ import annotations

import re
from typing import Any

from persist_callbacks.training.variables import metrics_of

# Whole words of a metric's name; a loss or an error is lower whatever else it is of.
_HIGHER_IS_BETTER = re.compile(
    r"(^|_)(\w*accuracy|acc|auc|precision|recall|sensitivity|specificity|f1|fbeta|"
    r"f_score|io_?u|dice|r2|top_k|similarity|correlation|score)(_|\d|$)"
)
_LOWER_IS_BETTER = re.compile(r"(^|_)(\w*loss|\w*error|mse|mae|mape|msle)(_|\d|$)")


def lower_is_better(model: Any, monitor: str) -> bool:
    """Tell whether the smaller of two values is the better one.

    Args:
        model: the Keras model, whose metrics are built by now as far as they ever are.
        monitor: the value's key in Keras' logs.
    """
    name = monitor.removeprefix("val_")
    # Of several outputs, the key begins with the output's name.
    told = {
        metric._direction
        for metric in metrics_of(model)
        if hasattr(metric, "_direction")
        and (name == metric.name or name.endswith(f"_{metric.name}"))
    }
    if len(told) == 1:
        return told != {"up"}
    return (
        _LOWER_IS_BETTER.search(name) is not None
        or _HIGHER_IS_BETTER.search(name) is None
    )
