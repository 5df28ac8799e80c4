"""Metrics of the user's own are found, and built before the first step."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from persist_callbacks.training import lasting_metrics


class Own(keras.metrics.Mean):
    """Keeps what it has."""

    def reset_state(self):
        pass


def compiled(*, train_step=None, **options):
    kind = keras.Model
    if train_step is not None:
        kind = type("Trained", (kind,), {"train_step": train_step})
    x = keras.Input((4,))
    model = kind(x, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse", **options)
    return model


def spec(width=4):
    return tf.TensorSpec((None, width)), tf.TensorSpec((None, 1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"metrics": ["mae", keras.metrics.Mean(), lambda y, p: p]}, False),
        ({"metrics": ["mae", Own()]}, True),
        ({"weighted_metrics": {"dense": [Own()]}}, True),
    ],
)
def test_what_is_not_built_yet_is_found_in_keras_own_names(options, expected):
    """And what is built."""
    model = compiled(**options)
    assert not model._compile_metrics or not model._compile_metrics.built
    assert lasting_metrics.may_be_in(model) is expected
    assert not lasting_metrics.may_be_in(keras.Sequential())


def test_built_before_the_first_step():
    """And nothing else than Keras would: an optimizer may be the step's to build."""
    model = compiled(metrics=[own := Own()])
    lasting_metrics.build(model, None)
    # One that does not fit is the step's to complain of.
    lasting_metrics.build(model, spec(width=9))
    assert not model._compile_metrics.built
    lasting_metrics.build(model, spec())
    assert model._compile_metrics.metrics == [own]
    assert lasting_metrics.may_be_in(model)
    other = compiled(metrics=[Own()], train_step=lambda self, batch: {})
    lasting_metrics.build(other, spec())
    assert not other._compile_metrics.built
    assert not other.optimizer.built
