"""What surrounds the library: Keras' backend, installed versions, the terminal."""

from __future__ import annotations

import platform
import sys

from rich.console import Console

import persist_callbacks
from persist_callbacks import standard_streams
from persist_callbacks.errors import BackendError


def require_tensorflow_backend() -> None:
    """Refuse to work with Keras on another backend than TensorFlow.

    Raises:
        BackendError: Keras runs on another backend.
    """
    import keras

    backend = keras.config.backend()
    if backend != "tensorflow":
        raise BackendError(
            "keras.config.backend()",
            expected="'tensorflow'",
            found=repr(backend),
            advice="Set KERAS_BACKEND=tensorflow before Keras is first imported.",
        )


def versions() -> dict[str, str]:
    """List the versions of what a run's numbers depend on."""
    import keras
    import tensorflow as tf

    return {
        "persist_callbacks": persist_callbacks.__version__,
        "python": platform.python_version(),
        "tensorflow": str(tf.__version__),
        "keras": str(keras.__version__),
    }


def say(message: str) -> None:
    """Print a line for the user, on whatever standard output is now.

    One that cannot be printed, for a full disk or a reader that is gone, is left out:
    that is no reason for training to end.
    """
    if sys.stdout is None:
        return
    try:
        _Lines(highlight=False, soft_wrap=True).print(message, markup=False)
    except (OSError, ValueError):
        # What is left of it in a buffer would fail again when the program ends.
        standard_streams.divert_lost()


class _Lines(Console):
    """A console that leaves it to us what becomes of a broken pipe."""

    def on_broken_pipe(self) -> None:
        """Let the error pass, where rich would end the program."""
        raise
