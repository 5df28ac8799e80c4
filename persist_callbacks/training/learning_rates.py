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
    rates = [optimizer.learning_rate for optimizer in optimizers_of(model)]
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
        for optimizer in optimizers_of(model)
        if not isinstance(optimizer.learning_rate, keras.Variable)
    ]


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
