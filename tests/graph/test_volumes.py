"""volumes.py, and groups of them: convolutions that a processor has no kernel for."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from persist_callbacks import exporting
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.compare import compare, generate
from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.graph.portable import split_grouped_convolutions
from persist_callbacks.graph.trace import run_live
from persist_callbacks.graph.volumes import volumes_by_channels_last

v1 = tf.compat.v1
L = keras.layers
RANDOM = np.random.default_rng(0)


def graph_of(shape: Any, filters: Any, **options: Any) -> Any:
    """A graph with one convolution of volumes."""
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, *shape], name="x")
        options = {"strides": [1] * 5, "padding": "SAME", **options}
        tf.identity(tf.raw_ops.Conv3D(input=x, filter=filters, **options), name="y")
    return graph.as_graph_def()


@pytest.mark.parametrize(
    "options", [{"strides": [1, 1, 2, 1, 2]}, {"padding": "VALID"}], ids=str
)
def test_channels_first(options: Any) -> None:
    """They go last before it and first behind it, strides with them."""
    volumes = RANDOM.standard_normal((2, 3, 6, 5, 7)).astype(np.float32)
    filters = RANDOM.standard_normal((3, 2, 3, 3, 4)).astype(np.float32)
    made = volumes_by_channels_last(
        graph_of((3, 6, 5, 7), filters, data_format="NCDHW", **options)
    )
    found = from_graph_def(made, None, None)(volumes)
    turned = dict(options)
    if "strides" in options:
        turned["strides"] = [1, 2, 1, 2, 1]
    by_last = from_graph_def(graph_of((6, 5, 7, 3), filters, **turned), None, None)
    expected = by_last(volumes.transpose(0, 2, 3, 4, 1)).transpose(0, 4, 1, 2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    # What has them last already stays.
    assert volumes_by_channels_last(made) == made


def test_groups() -> None:
    """Each is a convolution of its own, joined again."""
    volumes = RANDOM.standard_normal((2, 4, 5, 3, 6)).astype(np.float32)
    filters = RANDOM.standard_normal((2, 3, 1, 2, 9)).astype(np.float32)
    split = split_grouped_convolutions(graph_of((4, 5, 3, 6), filters))
    assert count_ops(split)["Conv3D"] == 3
    found = from_graph_def(split, None, None)(volumes)
    parts = [
        tf.nn.conv3d(one, other, [1] * 5, "SAME")
        for one, other in zip(
            np.split(volumes, 3, -1), np.split(filters, 3, -1), strict=True
        )
    ]
    np.testing.assert_allclose(found, tf.concat(parts, -1), rtol=1e-5, atol=1e-5)


def last_in_groups() -> Any:
    x = keras.Input((4, 5, 6, 4), name="x")
    y = L.Conv3D(8, 3, groups=2, activation="relu")(x)
    return keras.Model(x, L.Conv3D(8, 1, groups=8, strides=2, name="y")(y))


def first_in_groups() -> Any:
    options = {"data_format": "channels_first"}
    x = keras.Input((4, None, None, 6), name="x")
    y = L.Conv3D(8, 3, dilation_rate=(1, 2, 1), padding="same", **options)(x)
    return keras.Model(x, L.Conv3D(6, 2, groups=2, **options, name="y")(y))


@pytest.mark.parametrize("target", ["portable", "tensorflow"])
@pytest.mark.parametrize("build", [last_in_groups, first_in_groups])
@pytest.mark.filterwarnings("error")
def test_what_keras_leaves_to_xla(build: Any, target: str) -> None:
    """It runs where there is no XLA, and gives what the live model gives."""
    made = zoo.traced(build)
    frozen = exporting.build(made.graph, made.values, target=target).frozen
    sample = generate(made.graph.inputs)
    live = run_live(made.model, made.graph, sample)
    found = zoo.by_name(frozen(sample), made.outputs)
    comparison = compare(live, found, atol=1e-5, rtol=1e-4)
    assert comparison.agrees, str(comparison)
    nodes = list(nd.every_node(frozen._graph.as_graph_def()))
    assert all(nd.has_channels_last(node) for node in nodes if node.op == "Conv3D")
