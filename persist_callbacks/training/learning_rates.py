"""The learning rates of all of a model's optimizers, as far as they can be set."""

from __future__ import annotations

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


def multiply(model: Any, factor: float) -> list[float]:
    """Multiply each rate that is a variable.

    Args:
        model: the Keras model.
        factor: by what.

    Returns:
        The rates as they are now.
    """
    rates = given(model)
    for rate in rates:
        rate.assign(rate * factor)
    return [float(rate) for rate in rates]
