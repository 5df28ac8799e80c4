"""What a script asks for is described alike in each process, and compared."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from persist_callbacks.training import settings


def model(rate=0.1, units=3, drop=0.5, loss="mse", beta=0.9):
    made = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dropout(drop),
            keras.layers.Dense(units, activation="relu"),
        ]
    )
    made.compile(keras.optimizers.Adam(rate, beta_1=beta), loss)
    return made


def test_equal_scripts_are_equal():
    """Whatever else was built before, and with functions and schedules in them."""
    first = settings.describe(model(), {"batch_size": 8, "x": object()})
    model()
    assert settings.describe(model(), {"batch_size": 8}) == first
    assert settings.differences(first, first) == []
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 9, 0.5)
    described = [
        settings.describe(model(schedule, loss=lambda y, p: p), {}) for _ in range(2)
    ]
    assert described[0] == described[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate": 0.2}, "the optimizer's learning_rate was 0.1"),
        ({"beta": 0.8}, "the optimizer's beta_1 was 0.9 and is 0.8 now"),
        ({"loss": "mae"}, 'the loss was "mse" and is "mae" now'),
        ({"drop": 0.1}, "layer 0 (Dropout) has other settings than before"),
        ({"units": 5}, "layer 1 (Dense) has other settings than before"),
    ],
)
def test_what_differs_is_named(change, said):
    """One sentence, by the name that the user knows it by."""
    before, now = settings.describe(model(), {}), settings.describe(model(**change), {})
    (found,) = settings.differences(before, now)
    assert found.startswith(said)


def test_arguments_of_fit():
    """A run that did not say is not compared."""
    before = settings.describe(model(), {"batch_size": 8, "shuffle": True})
    now = settings.describe(model(), {"batch_size": 16, "shuffle": True})
    assert settings.differences(before, now) == ["fit's batch_size was 8 and is 16 now"]
    assert settings.differences({}, now) == []


def test_a_layer_that_cannot_tell():
    """It is left out, not an error."""

    class Silent(keras.layers.Layer):
        def get_config(self):
            raise RuntimeError("no config")

        def call(self, x):
            return x

    silent = keras.Sequential([keras.Input((4,)), Silent()])
    silent.compile("sgd", "mse")
    assert "layer 0 (Silent)" in settings.describe(silent, {})


def test_labels_of_numpy_and_other_keys_that_json_has_not():
    """Weights by np.unique's labels; pairs and keys of several kinds in a config."""
    labels = np.array([1, 0, 2])
    weights = {"class_weight": dict(zip(labels, [0.5, 1.5, 1.0], strict=True))}
    found = settings.describe(model(), weights)
    assert found["fit's class_weight"] == '{"0": 1.5, "1": 0.5, "2": 1.0}'
    again = dict(reversed(weights["class_weight"].items()))
    assert settings.describe(model(), {"class_weight": again}) == found
    other = settings.describe(model(), {"class_weight": {**again, labels[0]: 0.7}})
    assert len(settings.differences(found, other)) == 1

    class Odd(keras.layers.Layer):
        def get_config(self):
            return {"odd": [{(0, 1): "a", None: "b", "c": {3: 4}}]}

        def call(self, x):
            return x

    circle = {}
    circle["circle"] = circle
    assert settings.text(circle) == '"dict"'
    odd = keras.Sequential([keras.Input((4,)), Odd(), Odd(name="other")])
    odd.compile("sgd", "mse")
    described = settings.describe(odd, {})
    assert described["layer 0 (Odd)"] == described["layer 1 (Odd)"]
