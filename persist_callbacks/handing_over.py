"""What a run of this process has left behind, for the next one in the same directory.

A further `fit` there goes on with what the checkpoint holds. In the process that wrote
it the model may have got other weights meanwhile, of another model's training, say;
they would be gone without a word. Or it is another model altogether: the next fold of a
cross validation, which would get the weights of the fold before.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

from persist_callbacks.storage import shards

# By the model's identity, as a user's class need not be hashable; and of each, by the
# run directory that it was trained into.
_LEFT: dict[int, tuple[weakref.ref[Any], dict[Path, str]]] = {}
# By the run directory, the model whose run there was the last to end.
_TRAINED: dict[Path, weakref.ref[Any]] = {}


def note(model: Any, run: Path) -> None:
    """Take note of the weights that a run ends with; reads all of them.

    Args:
        model: the Keras model, after all callbacks' train end.
        run: the run directory.
    """
    number = id(model)
    if _of(model) is None:
        gone = weakref.ref(model, lambda _: _LEFT.pop(number, None))
        _LEFT[number] = gone, {}
    _LEFT[number][1][run] = _digest(model)
    _TRAINED[run] = weakref.ref(model)


def was_changed(model: Any, run: Path) -> bool:
    """Whether weights differ from those that this process's last run left there.

    Asked as another run goes on with it; what was left is forgotten by that.

    Args:
        model: the Keras model.
        run: the run directory.

    Returns:
        False too where no such run of this model has ended by itself.
    """
    left = (_of(model) or {}).pop(run, None)
    return left is not None and left != _digest(model)


def is_of_another(model: Any, run: Path) -> bool:
    """Whether the last run that ended there was of another model of this process.

    Args:
        model: the Keras model.
        run: the run directory.

    Returns:
        False too where no run of this process has ended there by itself.
    """
    trained = _TRAINED.get(run)
    return trained is not None and trained() is not model


def _of(model: Any) -> dict[Path, str] | None:
    known, left = _LEFT.get(id(model), (None, None))
    return left if known is not None and known() is model else None


def _digest(model: Any) -> str:
    # Not seeds and metrics, which an evaluation moves.
    values = (weight.numpy() for weight in model.weights)
    return shards.digest_of(value for value in values if shards.is_plain(value))
