"""How long does one call of the PB take, beside the other ways to run the model?

    python benchmarks/prediction_latency.py [--calls 200] [--only NAME ...]

NumPy array in, NumPy array out, in one process; the ways take turns call by call, so
that what slows the machine slows all. Each cell is the median of all calls. Ends with 1
if the PB is slower than the fastest of the others by more than the given share.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import tensorflow as tf

from persist_callbacks import exporting, load_frozen_graph, tracing
from persist_callbacks.training import variables

L = keras.layers
BATCHES = (1, 32)


def mlp() -> Any:
    layers = [keras.Input((64,)), L.Dense(128, "relu"), L.Dense(128, "relu")]
    return keras.Sequential([*layers, L.Dense(10, "softmax")])


def cnn() -> Any:
    x = keras.Input((32, 32, 3))
    y = x
    for width in (16, 32, 64):
        y = L.Conv2D(width, 3, padding="same", use_bias=False)(y)
        y = L.MaxPooling2D()(L.ReLU()(L.BatchNormalization()(y)))
    return keras.Model(x, L.Dense(10, "softmax")(L.Flatten()(y)))


def lstm() -> Any:
    x = keras.Input((32, 16))
    return keras.Model(x, L.Dense(4)(L.LSTM(32)(x)))


def transformer() -> Any:
    x = keras.Input((32, 64))
    y = x
    for _ in range(2):
        y = L.LayerNormalization()(y + L.MultiHeadAttention(4, 16)(y, y))
        y = L.LayerNormalization()(y + L.Dense(64)(L.Dense(128, "gelu")(y)))
    return keras.Model(x, L.Dense(4)(L.GlobalAveragePooling1D()(y)))


def mobilenet() -> Any:
    return keras.applications.MobileNetV2((96, 96, 3), weights=None)


def inception() -> Any:
    return keras.applications.InceptionV3(weights=None, input_shape=(128, 128, 3))


KINDS = (mlp, cnn, lstm, transformer, mobilenet, inception)
MODELS = {kind.__name__: kind for kind in KINDS}


def ways(model: Any, folder: Path) -> dict[str, Callable[[Any], Any]]:
    """Name the ways to run a model, each from array to array."""
    graph = tracing.trace_live(model)
    values = {i.info.key: i.variable.numpy() for i in variables.collect(model)}
    exporting.write(exporting.build(graph, values), folder / "model.pb")
    frozen = load_frozen_graph(folder / "model.pb")
    model.export(folder / "saved", verbose=False)
    saved = tf.saved_model.load(folder / "saved")
    signature = saved.signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    (output,) = signature.structured_outputs
    function = tf.function(lambda x: model(x, training=False))
    return {
        "PB": frozen,
        "tf.function": lambda x: function(tf.constant(x)).numpy(),
        "SavedModel": lambda x: signature(**{name: tf.constant(x)})[output].numpy(),
        "predict": lambda x: model.predict(x, verbose=0),
    }


def measure(
    calls: dict[str, Callable[[Any], Any]], x: Any, rounds: int
) -> dict[str, float]:
    """Median seconds of each way."""
    expected = None
    for _ in range(3):
        for call in calls.values():
            found = call(x)
            expected = found if expected is None else expected
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    order = random.Random(0)
    for _ in range(rounds):
        # Another order each round: what a way leaves running when it returns, as
        # `predict` does, falls on the others alike. Turning the list would not do.
        order.shuffle(names)
        for name in names:
            begun = time.perf_counter()
            calls[name](x)
            taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(each) for name, each in taken.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--only", nargs="+", default=list(MODELS))
    parser.add_argument("--tolerance", type=float, default=0.05)
    given = parser.parse_args()
    slower = 0
    print(f"{'model':12} {'batch':>5}", end="")
    print(
        "".join(f"{name:>13}" for name in ("PB", "tf.function", "SavedModel")), end=""
    )
    print(f"{'predict':>13} {'PB / best':>10}")
    for name in given.only:
        keras.utils.set_random_seed(1)
        model = MODELS[name]()
        with tempfile.TemporaryDirectory() as folder:
            calls = ways(model, Path(folder))
            for batch in BATCHES:
                shape = (batch, *model.inputs[0].shape[1:])
                x = np.random.default_rng(0).standard_normal(shape).astype("float32")
                found = measure(calls, x, given.calls)
                ratio = found.pop("PB") / min(found.values())
                slower += ratio > 1 + given.tolerance
                found = {"PB": ratio * min(found.values()), **found}
                print(f"{name:12} {batch:5}", end="")
                print("".join(f"{1e3 * s:10.3f} ms" for s in found.values()), end="")
                print(f" {ratio:10.2f}", flush=True)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
