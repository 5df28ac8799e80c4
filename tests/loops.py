"""Small training runs that can be broken off, and what they came to, bit by bit."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from persist_callbacks import PeriodicCheckpoint
from persist_callbacks.storage.writer import Writer

FEATURES, CLASSES = 6, 3


class Crash(Exception):
    """Ends a fit without any of its ends being called, as a killed process does."""


class CrashAt(keras.callbacks.Callback):
    """Raises after so many steps of this process."""

    def __init__(self, steps: int | None) -> None:
        super().__init__()
        self._steps = steps
        self._done = itertools.count(1)

    def on_train_batch_end(self, batch, logs=None):
        if next(self._done) == self._steps:
            raise Crash


@dataclass(frozen=True)
class Outcome:
    """Everything that two equal runs must agree in."""

    digest: str
    epochs: tuple[int, ...]
    history: dict[str, list[float]]
    iterations: int


def data(rows: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Make the same small classification problem each time."""
    random = np.random.default_rng(5)
    x = random.standard_normal((rows, FEATURES)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32") + (x[:, 0] > 1)


def sequential(optimizer: Any = "adam", **layers: Any) -> keras.Model:
    """Make a compiled model with seeds, averages and a metric of its own."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,), name="features"),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(CLASSES, activation="softmax", name="classes"),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(
    build: Callable[[], keras.Model],
    fit: Callable[[keras.Model, list[Any]], Any],
    directory: Path | None,
    *,
    crash_after: int | None = None,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> Outcome:
    """Run a script from its first line, as a new process would.

    Args:
        build: makes the model.
        fit: calls fit with the callbacks it is given.
        directory: the run directory; None trains without our callback.
        crash_after: steps after which it is broken off with `Crash`.
        callbacks: the user's own.
        **options: for `PeriodicCheckpoint`.
    """
    keras.utils.set_random_seed(3)
    model = build()
    members: list[Any] = [*callbacks, CrashAt(crash_after)]
    if directory is not None:
        options.setdefault("verbose", 0)
        ours = PeriodicCheckpoint(directory, **options)
        try:
            history = fit(model, [ours, *members])
        finally:
            ours.close()
    else:
        history = fit(model, members)
    return outcome_of(model, history)


def train_with_crashes(
    build: Callable[[], keras.Model],
    fit: Callable[[keras.Model, list[Any]], Any],
    directory: Path,
    crashes: Sequence[int],
    *,
    callbacks: Callable[[], Sequence[Any]] = tuple,
    **options: Any,
) -> Outcome:
    """Run a script, break it off so many times, and run it to its end."""
    for steps in crashes:
        try:
            train(
                build,
                fit,
                directory,
                crash_after=steps,
                callbacks=callbacks(),
                **options,
            )
        except Crash:
            continue
        raise AssertionError(f"the run ended before its crash after {steps} steps")
    return train(build, fit, directory, callbacks=callbacks(), **options)


def outcome_of(model: keras.Model, history: Any) -> Outcome:
    """Condense a trained model and its History."""
    digest = hashlib.sha256()
    variables = [*model.variables, *model.optimizer.variables]
    for variable in variables:
        digest.update(np.asarray(variable).tobytes())
    return Outcome(
        digest.hexdigest(),
        tuple(history.epoch),
        {name: list(values) for name, values in history.history.items()},
        int(model.optimizer.iterations.numpy()),
    )


def save_at_once(patch: pytest.MonkeyPatch) -> None:
    """Let every save be done when its step begins, however fast the steps are."""
    submit = Writer.submit

    def submit_and_wait(writer, job):
        submit(writer, job)
        writer.wait()

    patch.setattr(Writer, "submit", submit_and_wait)
