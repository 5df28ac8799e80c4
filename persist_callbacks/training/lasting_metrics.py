"""Metrics that carry something over an epoch's end, as Keras' own do not.

``reset_state`` of the user's may do nothing, or leave a moving average as it is. What a
compiled model is to be measured by is made into metrics at its first step; until then
it is kept without a public name, which is touched here alone, and
``tests/training/test_lasting_metrics.py`` fails by name when a version moves it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import keras

from persist_callbacks.training import model_building
from persist_callbacks.training.variables import is_foreign, metrics_of


def may_be_in(model: Any) -> bool:
    """Whether a model has metrics of the user's own making.

    Args:
        model: the Keras model, whose compiled metrics need not be built yet.
    """
    compiled = getattr(model, "_compile_metrics", None)
    wanted = [
        getattr(compiled, name, None)
        for name in ("_user_metrics", "_user_weighted_metrics")
    ]
    return any(
        isinstance(each, keras.Metric) and is_foreign(type(each))
        for each in [*metrics_of(model), *keras.tree.flatten(wanted)]
    )


def build(model: Any, element_spec: Any) -> None:
    """Make a model's compiled metrics create their variables before its first step.

    Those that need a real batch are left to the step, and all are where a train step of
    the user's makes the optimizer's: Keras would make those too, of all weights.

    Args:
        model: the compiled Keras model, which is built.
        element_spec: structure of ``tf.TypeSpec`` of one batch; None for an unknown.
    """
    optimizer = getattr(model, "optimizer", None)
    is_keras = type(model).train_step is keras.Model.train_step
    if element_spec is None or not (is_keras or optimizer is None or optimizer.built):
        return
    # Code of the user's, which may not be made for this.
    with contextlib.suppress(Exception):
        model_building.build_all(model, element_spec)
