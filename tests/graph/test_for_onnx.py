"""for_onnx.py: the same numbers, said as tf2onnx takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import elsewhere
import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph.for_onnx import gathers_by_own_axes, patches_to_depths
from persist_callbacks.graph.frozen import count_ops, from_graph_def

raw = tf.raw_ops
RANDOM = np.random.default_rng(0)


def graph_of(build: Callable[[Any], Any], *shape: int | None) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, shape, name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def gather(axis: int, rows: int = 1) -> Callable[[Any], Any]:
    def build(x: Any) -> Any:
        indices = tf.cast(x[..., 0] > 0.5, tf.int32)
        return raw.GatherV2(params=x, indices=indices, axis=axis, batch_dims=rows)

    return build


def patches(size: int, step: int, padding: str = "VALID") -> Callable[[Any], Any]:
    return lambda x: tf.image.extract_patches(
        x, [1, size, size, 1], [1, step, step, 1], [1, 1, 1, 1], padding
    )


def assert_same(before: Any, after: Any, *shape: int) -> None:
    fed = RANDOM.random(shape, np.float32)
    found, expected = (from_graph_def(g, None, None)(fed) for g in (after, before))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("rows", [1, -1])
def test_a_gather_by_row(axis: int, rows: int) -> None:
    """Its axis is counted from the first dimension on, and so are its rows."""
    before = graph_of(gather(axis, rows), None, 4, 3)
    after = gathers_by_own_axes(before)
    (node,) = (each for each in after.node if each.op == "GatherV2")
    (axis_node,) = (each for each in after.node if each.name == node.input[2])
    said = int(tf.make_ndarray(axis_node.attr["value"].tensor))
    assert (said, node.attr["batch_dims"].i) == (axis + 3, 1)
    assert_same(before, after, 5, 4, 3)


@pytest.mark.parametrize(
    "build", [gather(2), gather(1), lambda x: tf.gather(x, [1], axis=-1)]
)
def test_another_gather_stays(build: Callable[[Any], Any]) -> None:
    """One from the first dimension on, or of the same for all rows."""
    before = graph_of(build, None, 4, 3)
    assert gathers_by_own_axes(before) == before


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_patches_side_by_side(padding: str) -> None:
    """They are pixels moved to channels, in the same order."""
    before = graph_of(patches(4, 4, padding), None, 8, 12, 3)
    after = patches_to_depths(before)
    assert "ExtractImagePatches" not in count_ops(after)
    assert_same(before, after, 2, 8, 12, 3)


@pytest.mark.parametrize(
    "build",
    [
        patches(4, 2),
        patches(3, 3),
        lambda x: patches(4, 4)(tf.cast(x, tf.int32)),
        lambda x: tf.image.extract_patches(
            x, [1, 4, 2, 1], [1, 4, 2, 1], [1, 1, 1, 1], "VALID"
        ),
    ],
)
def test_other_patches_stay(build: Callable[[Any], Any]) -> None:
    """Those that overlap, leave pixels out, are no squares or whole numbers."""
    before = graph_of(build, None, 8, 12, 3)
    assert patches_to_depths(before) == before


def test_it_is_read(tmp_path: Path) -> None:
    """Patches of any number of pictures, and of each its own ones."""
    elsewhere.interpreter_of("onnxruntime")

    def build(x: Any) -> Any:
        return gather(-1)(tf.reshape(patches(4, 4)(x), [-1, 6, 48]))

    graph_def = gathers_by_own_axes(patches_to_depths(graph_of(build, None, 8, 12, 3)))
    assert elsewhere.said_of("onnxruntime", graph_def).loads
    for node in graph_def.node:
        node.attr.pop("bad_indices_policy", None)
    data = graph_def.SerializeToString()
    fed = RANDOM.random((2, 8, 12, 3), np.float32)
    assert elsewhere.is_given("onnxruntime", graph_def, data, fed, tmp_path, 1e-6)
