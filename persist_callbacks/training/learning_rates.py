"""The learning rates of all of a model's optimizers, as far as they can be set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from persist_callbacks.training.variables import optimizers_of


def given(model: Any) -> list[Any]:
    """List the rates that are variables, each once.

    Args:
        model: the Keras model.
    """
    rates = [optimizer.learning_rate for optimizer in _with_rates(model)]
    variables = [rate for rate in rates if isinstance(rate, keras.Variable)]
    # One optimizer may wrap another, and has its rate.
    return list({id(rate): rate for rate in variables}.values())


def computed(model: Any) -> list[str]:
    """Name the optimizers whose rate a schedule or a function computes.

    Args:
        model: the Keras model.
    """
    return [
        type(optimizer).__name__
        for optimizer in _with_rates(model)
        if not isinstance(optimizer.learning_rate, keras.Variable)
    ]


def _with_rates(model: Any) -> list[Any]:
    """List the optimizers that have a rate: a ``MultiOptimizer`` has none of its own.

    Those that it hands the variables to may not be known before it is built.
    """
    wrapped = [
        getattr(optimizer, "inner_optimizer", optimizer)
        for optimizer in optimizers_of(model)
    ]
    return [part for each in wrapped for part in getattr(each, "optimizers", [each])]


def multiply(model: Any, factor: float, *, at_most: Sequence[float]) -> list[float]:
    """Multiply each rate that is a variable.

    Args:
        model: the Keras model.
        factor: by what.
        at_most: for each rate, what is multiplied in its place where that is lower.

    Returns:
        The rates as they are now.
    """
    rates = given(model)
    for rate, most in zip(rates, at_most, strict=True):
        now = float(rate)
        rate.assign(factor * (most if most < now else now))
    return [float(rate) for rate in rates]
