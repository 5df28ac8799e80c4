"""Seeds and generators of Python, NumPy, TensorFlow and Keras, taken and put back."""

from __future__ import annotations

import base64
import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Words = dict[str, Any]
# The generators that code in Python draws from, by their names in a record.
OF_PYTHON = frozenset({"python", "numpy"})
# Objects that draw, each by a state that is a variable.
HOLDERS = (keras.random.SeedGenerator, tf.random.Generator)


@dataclass(frozen=True)
class Taken:
    """What the process-wide generators held, as they give it.

    Args:
        python: from ``random.getstate``.
        numpy: from ``np.random.get_state``.
        tensorflow: the global seed and the stream of eager seeds; None without a seed.
    """

    python: tuple[Any, ...]
    numpy: Any
    tensorflow: tuple[int | None, tuple[Any, ...]] | None

    def record(self) -> Words:
        """Write it down, for `restore`; JSON-ready. On any thread.

        Longer than to take it, by some hundred microseconds.
        """
        record: Words = {"python": _stream(self.python), "numpy": None}
        # Whoever has put another bit generator behind np.random's functions is not
        # served by a guess at its state; the resume report says so.
        if self.numpy["bit_generator"] == "MT19937":
            record["numpy"] = {
                "words": _pack(self.numpy["state"]["key"]),
                "position": int(self.numpy["state"]["pos"]),
                "has_gauss": int(self.numpy["has_gauss"]),
                "gauss": float(self.numpy["gauss"]),
            }
        record["tensorflow"] = None
        if self.tensorflow is not None:
            seed, stream = self.tensorflow
            record["tensorflow"] = {"seed": seed, **_stream(stream)}
        return record


def take() -> Taken:
    """Take the state of every process-wide generator that is not a variable.

    On the train thread; some tens of microseconds.
    """
    stream = eager_seed_stream()
    return Taken(
        python=random.getstate(),
        numpy=np.random.get_state(legacy=False),
        tensorflow=None if stream is None else (_global_seed(), stream.getstate()),
    )


def capture() -> Words:
    """Take the generators' state and write it down at once, see `Taken.record`."""
    return take().record()


def restore(record: dict[str, Any], *, but: Collection[str] = ()) -> list[str]:
    """Put generators back.

    Args:
        record: from `capture`.
        but: which of `OF_PYTHON` are left as they are.

    Returns:
        A sentence for each generator that could not be put back.
    """
    left_out = []
    if "python" not in but:
        random.setstate(_python_state(record["python"]))
    if "numpy" not in but:
        if record["numpy"] is None:
            left_out.append("NumPy's global generator is not an MT19937: not restored")
        else:
            _set_numpy_state(record["numpy"])
    if record["tensorflow"] is not None:
        saved = record["tensorflow"]
        if _global_seed() != saved["seed"]:
            # Every op's seed is a pair: the global one, and one from the stream.
            tf.random.set_seed(saved["seed"])
        stream = eager_seed_stream()
        assert stream is not None
        stream.setstate(_python_state(saved))
    return left_out


def seed_variables() -> list[tuple[str, Any]]:
    """List the global generators whose state is a variable, where they exist.

    Returns:
        Keys and variables: the generator behind Keras' unseeded random functions and
        that of ``tf.random.get_global_generator``.
    """
    found: list[tuple[str, Any]] = []
    generator = _keras_global_generator()
    if generator is not None:
        found.append(("random/keras_global", generator.state))
    state = _tensorflow_global_state()
    if state is not None:
        found.append(("random/tensorflow_global", state))
    return found


def eager_seed_stream() -> random.Random | None:
    """Return the generator that seeds eager random ops and new data sets.

    TensorFlow draws an op seed from it whenever a random op is made eagerly under a
    global seed; it has no public name. None while no global seed is set.
    """
    from tensorflow.python.eager import context

    # Without a global seed there is no generator, not even an attribute for it.
    if _global_seed() is None:
        return None
    stream: random.Random = context.context()._rng
    return stream


def _global_seed() -> int | None:
    from tensorflow.python.eager import context

    seed = context.global_seed()
    return None if seed is None else int(seed)


def _keras_global_generator() -> Any:
    from keras.src.backend.common import global_state

    return global_state.get_global_attribute("global_seed_generator")


def _tensorflow_global_state() -> Any:
    from tensorflow.python.ops import stateful_random_ops

    generator = stateful_random_ops.global_generator
    return None if generator is None else generator.state


def _set_numpy_state(saved: Words) -> None:
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": _unpack(saved["words"]), "pos": saved["position"]},
            "has_gauss": saved["has_gauss"],
            "gauss": saved["gauss"],
        }
    )


def _stream(state: tuple[Any, ...]) -> Words:
    version, words, gauss = state
    return {"version": version, "words": _pack(words), "gauss": gauss}


def _pack(words: Any) -> str:
    return base64.b64encode(np.asarray(words, dtype="<u4").tobytes()).decode()


def _unpack(text: str) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.frombuffer(base64.b64decode(text), dtype="<u4").astype(np.uint32)


def _python_state(saved: Words) -> tuple[Any, ...]:
    words = tuple(int(word) for word in _unpack(saved["words"]))
    return (saved["version"], words, saved["gauss"])
