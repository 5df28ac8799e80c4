"""Everything in which two equal runs must agree, as JSON that can be compared."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf

_DECISIONS: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: ("_global_train_batch",),
}


def outcome_of(
    model: keras.Model, history: Any, callbacks: Iterable[Any], files: Path
) -> str:
    """Condense a trained model, its History, its callbacks and what they wrote.

    Args:
        model: the trained model.
        history: what ``fit`` returned.
        callbacks: the user's callbacks.
        files: the folder that they write below.

    Returns:
        JSON text, a field for each thing that could differ.
    """
    optimizers = [
        value
        for value in (model.optimizer, *vars(model).values())
        if isinstance(value, keras.optimizers.Optimizer)
    ]
    unique = {id(optimizer): optimizer for optimizer in optimizers}.values()
    outcome: dict[str, Any] = {
        "model variables": _digest(model.variables),
        "optimizer variables": _digest(v for o in unique for v in o.variables),
        "metric variables": _digest(model.metrics_variables),
        "iterations": [int(_number(o.iterations)) for o in unique],
        "learning rate": [repr(_number(o.learning_rate)) for o in unique],
        "epochs": list(history.epoch),
        "history": {k: [repr(v) for v in vs] for k, vs in history.history.items()},
        "stop_training": bool(model.stop_training),
        "generators": [
            repr(random.random()),
            repr(np.random.random()),
            repr(float(tf.random.uniform(()))),
            repr(float(tf.random.get_global_generator().uniform(()))),
        ],
    }
    for number, callback in enumerate(callbacks):
        state = _decisions(callback)
        if state:
            outcome[f"callback {type(callback).__name__} {number}"] = state
    for path in sorted(files.rglob("*")):
        if path.is_file() and "tfevents" not in path.name:
            outcome[f"file {path.relative_to(files)}"] = _content(path)
    events = sorted(files.rglob("*tfevents*"), key=lambda path: path.stat().st_mtime)
    if events:
        outcome["scalars"] = _scalars(events, files)
    return json.dumps(outcome, indent=1)


def _digest(variables: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    count = 0
    for variable in variables:
        value = np.asarray(keras.ops.convert_to_numpy(variable))
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
        count += 1
    return f"{count}:{digest.hexdigest()[:24]}"


def _number(variable: Any) -> float:
    # The plain way fails for the variables of a distribution strategy.
    return float(keras.ops.convert_to_numpy(variable))


def _decisions(callback: Any) -> dict[str, str]:
    state: dict[str, str] = {}
    for kind, names in _DECISIONS.items():
        if isinstance(callback, kind):
            state.update({name: repr(getattr(callback, name)) for name in names})
    if getattr(callback, "best_weights", None) is not None:
        arrays = [np.asarray(weights).tobytes() for weights in callback.best_weights]
        state["best_weights"] = hashlib.sha256(b"".join(arrays)).hexdigest()[:24]
    if hasattr(callback, "get_state"):
        state["get_state"] = repr(callback.get_state())
    return state


def _content(path: Path) -> Any:
    if path.suffix != ".h5":
        return path.read_text().splitlines()
    digest = hashlib.sha256()

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            digest.update(name.encode())
            digest.update(np.asarray(item).tobytes())

    with h5py.File(path) as file:
        file.visititems(visit)
    return digest.hexdigest()[:24]


def _scalars(paths: Iterable[Path], files: Path) -> dict[str, dict[str, str]]:
    """Read what TensorBoard shows: for each tag and step the value written last."""
    shown: dict[str, dict[str, str]] = {}
    for path in paths:
        folder = str(path.parent.relative_to(files))
        for record in tf.compat.v1.io.tf_record_iterator(str(path)):
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(tf.make_ndarray(value.tensor))
                    by_step = shown.setdefault(f"{folder} {value.tag}", {})
                    by_step[str(event.step)] = repr(number)
    return shown
