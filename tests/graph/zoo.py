"""Small models of every kind that the graph room must get right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import keras
import numpy as np

from persist_callbacks.graph.freeze import freeze
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.simplify import simplify
from persist_callbacks.graph.trace import trace
from persist_callbacks.records import GraphNames
from persist_callbacks.training.variables import renew_constants

L = keras.layers


def mlp() -> keras.Model:
    return keras.Sequential(
        [keras.Input((5,)), L.Dense(4, activation="relu"), L.Dropout(0.5), L.Dense(2)]
    )


def cnn() -> keras.Model:
    image = keras.Input((12, 12, 3), name="image")
    x = L.Conv2D(4, 3, use_bias=False)(image)
    x = L.BatchNormalization()(x)
    x = L.ReLU()(x)
    x = L.MaxPooling2D()(x)
    x = L.Dropout(0.3)(x)
    x = L.Flatten()(x)
    x = L.Dense(3, activation="softmax", name="predictions")(x)
    return keras.Model(image, x)


def any_size() -> keras.Model:
    image = keras.Input((None, None, 3), name="image")
    x = L.DepthwiseConv2D(3, padding="same")(image)
    return keras.Model(image, L.GlobalAveragePooling2D(name="pooled")(x))


def recurrent() -> keras.Model:
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = L.Embedding(20, 6, mask_zero=True)(ids)
    x = L.Bidirectional(L.LSTM(4, return_sequences=True))(x)
    x = L.GRU(3)(x)
    return keras.Model(ids, L.Dense(1, name="score")(x))


def dicts() -> keras.Model:
    inputs = {
        "b": keras.Input((7,), name="b"),
        "a": keras.Input((5, 3), name="a"),
    }
    out, state, _ = L.LSTM(4, return_state=True)(inputs["a"])
    joined = L.Concatenate()([out, inputs["b"]])
    return keras.Model(
        inputs, {"score": L.Dense(1)(joined), "memory": state, "echo": inputs["b"]}
    )


def nested() -> keras.Model:
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, L.Dense(4, activation="tanh")(inner_in))
    first, second = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    x, y = inner(first), inner(second)
    return keras.Model(
        [first, {"deep": second}],
        [L.Add(name="sum")([x, y]), {"pair": [L.Subtract(name="gap")([x, y])]}],
    )


def attention() -> keras.Model:
    x = keras.Input((6, 8))
    y = L.MultiHeadAttention(2, 4)(x, x)
    y = L.LayerNormalization()(x + y)
    return keras.Model(x, L.Dense(2, name="head")(y))


def mixed_precision() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((5,)),
            L.Dense(8, activation="gelu", dtype="mixed_float16"),
            L.BatchNormalization(dtype="mixed_float16"),
            L.Dense(2, dtype="mixed_bfloat16"),
        ]
    )


KINDS = {
    kind.__name__: kind
    for kind in (
        mlp,
        cnn,
        any_size,
        recurrent,
        dicts,
        nested,
        attention,
        mixed_precision,
    )
}


@dataclass(frozen=True)
class Traced:
    """A model with weights that are not zero, its graph, and its values by key."""

    model: Any
    graph: InferenceGraph
    values: dict[str, np.ndarray[Any, Any]]

    @property
    def inputs(self) -> list[str]:
        return [info.name for info in self.graph.inputs]

    @property
    def outputs(self) -> list[str]:
        return [info.name for info in self.graph.outputs]

    def frozen(self) -> Any:
        """Freeze, and simplify as an export does."""
        frozen = freeze(self.graph, self.values)
        return simplify(frozen, inputs=self.inputs, outputs=self.outputs)


def canonical_keys(model: Any) -> dict[int, str]:
    """Give variables keys that do not depend on the process: type and order."""
    return {
        id(variable.value): f"variable_{index}/{variable.name}"
        for index, variable in enumerate(model.variables)
    }


def shake(model: Any) -> None:
    """Give every weight a random value, the same in each run."""
    random = np.random.default_rng(7)
    for weight in model.weights:
        if "float" in weight.dtype:
            noise = random.standard_normal(weight.shape) * 0.3
            weight.assign(np.abs(noise) + 0.1 if "variance" in weight.path else noise)
    renew_constants(model)


def traced(kind: Any, names: GraphNames | None = None, *, specs: Any = None) -> Traced:
    """Build a model, or take one, and trace it."""
    model = kind() if callable(kind) and not isinstance(kind, keras.Model) else kind
    shake(model)
    keys = canonical_keys(model)
    graph = trace(model, keys, names or GraphNames(), specs=specs)
    values = {keys[id(v.value)]: np.asarray(v.value) for v in model.variables}
    return Traced(model, graph, values)


@cache
def shared(kind: str) -> Traced:
    """Return the one traced model of a kind that tests share; none may change it."""
    return traced(KINDS[kind])


def by_name(result: Any, outputs: list[str]) -> Mapping[str, np.ndarray[Any, Any]]:
    """Return a frozen graph's results as a dict, one output or several."""
    return result if isinstance(result, dict) else {outputs[0]: result}
