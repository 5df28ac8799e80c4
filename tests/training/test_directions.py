"""Which value of a metric is the better one: by the metric itself, or by its name."""

from __future__ import annotations

import keras
import pytest

from persist_callbacks.training.directions import lower_is_better


def model_of(*metrics):
    """A model that has been measured by metrics once, which builds them."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=list(metrics))
    ones = keras.ops.ones((4, 1))
    model.compute_metrics(None, ones, ones)
    return model


def test_keras_metrics_still_tell_which_value_is_better():
    """A version that renames what they tell it by fails here, by its name."""
    for metric, direction in (
        (keras.metrics.MeanIoU(2), "up"),
        (keras.metrics.MeanSquaredError(), "down"),
    ):
        assert metric._direction == direction


@pytest.mark.parametrize("prefix", ["", "val_"])
def test_a_metric_tells_by_itself(prefix):
    """Whatever it is called, as Keras' own callbacks go by it."""
    model = model_of(
        keras.metrics.BinaryAccuracy(name="hit_loss"),
        keras.metrics.MeanSquaredError(name="score"),
    )
    assert not lower_is_better(model, f"{prefix}hit_loss")
    assert lower_is_better(model, f"{prefix}score")
    assert lower_is_better(model, f"{prefix}loss")
    assert not lower_is_better(model, f"{prefix}first_output_hit_loss")


@pytest.mark.parametrize(
    ("name", "lower"),
    [
        ("val_accuracy", False),
        ("val_mean_io_u", False),
        ("one_hot_mean_io_u_1", False),
        ("binary_iou", False),
        ("val_pearson_correlation", False),
        ("sensitivity_at_specificity", False),
        ("val_f1_score", False),
        ("val_loss", True),
        ("iou_loss", True),
        ("perplexity", True),
        ("kl_divergence", True),
    ],
)
def test_otherwise_the_name_tells(name, lower):
    """Of values that a callback or a step puts into the logs."""
    assert lower_is_better(model_of(), name) is lower
