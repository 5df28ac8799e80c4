"""What a script asked for, so that a rerun that asks for something else is told.

None of it is restored: the checkpoint's variables are what training goes on with. The
values are those from before anything was put back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

# Arguments of fit that change what its steps do.
_ARGUMENTS = ("batch_size", "class_weight", "shuffle")
_LONGEST = 80
# By which json says that a value is none of its own: odd keys, circles, a deep nest.
_REFUSED = (TypeError, ValueError, RecursionError)
RATE = "the optimizer's learning_rate"


def describe(model: Any, fit_arguments: Mapping[str, Any]) -> dict[str, str]:
    """Describe how a model is to be trained.

    Args:
        model: the compiled Keras model, as the script made it.
        fit_arguments: of ``fit``, by name; empty in a loop of the user's own.

    Returns:
        Texts by the name of what they describe, equal for equal scripts.
    """
    found: dict[str, str] = {}
    for name in _ARGUMENTS:
        if name in fit_arguments:
            found[f"fit's {name}"] = text(fit_arguments[name])
    found["the loss"] = text(getattr(model, "loss", None))
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        for name, value in _config(optimizer).items():
            if name != "name":
                found[f"the optimizer's {name}"] = text(value)
    layers = getattr(model, "layers", None) or []
    for number, layer in enumerate(layers):
        config = {k: v for k, v in _config(layer).items() if k != "name"}
        kind = type(layer).__name__
        found[f"layer {number} ({kind})"] = _digest(config)
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Say what a rerun asks for that the run before did not; a sentence each.

    Args:
        before: of the run that was saved; empty if it did not say.
        now: of this one.
    """
    sentences = []
    for name in before.keys() & now.keys():
        if before[name] == now[name]:
            continue
        if name.startswith("layer "):
            sentences.append(f"{name} has other settings than before")
        else:
            sentences.append(f"{name} was {before[name]} and is {now[name]} now")
    return sorted(sentences)


def _config(what: Any) -> dict[str, Any]:
    # A class of the user's may have none, or fail at it.
    with contextlib.suppress(Exception):
        config = what.get_config()
        if isinstance(config, dict):
            return config
    return {}


def text(value: Any) -> str:
    """Put a setting into words, the same for equal ones."""
    if hasattr(value, "get_config"):
        config = {k: v for k, v in _config(value).items() if k != "name"}
        return f"{type(value).__name__} {_short(config)}"
    if isinstance(value, type) or callable(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return _short(value)


def _short(value: Any) -> str:
    text = _json(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({_digest(value)})"


def _digest(value: Any) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()[:12]


def _json(value: Any) -> str:
    with contextlib.suppress(*_REFUSED):
        return _dumps(value)
    with contextlib.suppress(*_REFUSED):
        return _dumps(_with_texts_as_keys(value))
    return _dumps(type(value).__qualname__)


def _dumps(value: Any) -> str:
    # What is no plain value is told by its class: a repr may hold an address.
    return json.dumps(value, sort_keys=True, default=_of_class)


def _with_texts_as_keys(value: Any) -> Any:
    """Give dicts keys that JSON takes: of labels, they may be numbers of NumPy's."""
    if isinstance(value, dict):
        return {_key(key): _with_texts_as_keys(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_texts_as_keys(item) for item in value]
    return value


def _key(key: Any) -> str:
    return str(key) if isinstance(key, (str, np.generic)) else _json(key)


def _of_class(value: Any) -> Any:
    with contextlib.suppress(Exception):
        return float(value)
    return type(value).__qualname__
