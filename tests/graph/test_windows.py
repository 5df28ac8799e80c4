"""windows.py: filters and borders of convolutions, with the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.graph.windows import crop_filters, pads_into_convolutions
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1


def graph_of(build: Callable[[Any], Any], *shape: int | None) -> Any:
    graph = tf.Graph()
    with graph.as_default():
        x = v1.placeholder(tf.float32, [None, *shape], name="x")
        tf.identity(build(x), name="y")
    return graph.as_graph_def()


def run(graph_def: Any, *shape: int) -> Any:
    pictures = np.random.default_rng(0).standard_normal((2, *shape))
    wanted = [TensorInfo("y", None, "float32")]
    return from_graph_def(graph_def, None, wanted)(pictures.astype(np.float32))


def filters(*shape: int) -> Any:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def sizes(graph_def: Any) -> list[list[int]]:
    """The filters' rows and columns."""
    by_name = {node.name: node for node in graph_def.node}
    ops = ("Conv2D", "DepthwiseConv2dNative")
    found = [by_name[node.input[1]] for node in graph_def.node if node.op in ops]
    shapes = [node.attr["value"].tensor.tensor_shape for node in found]
    return [[dim.size for dim in shape.dim][:2] for shape in shapes]


@pytest.mark.parametrize("convolution", [tf.nn.conv2d, tf.nn.depthwise_conv2d])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (4, 3), (1, 5)])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1)])
def test_filters_over_one_pixel(
    convolution: Any, stride: int, kernel: tuple[int, int], size: tuple[int, int]
) -> None:
    """Rows and columns that meet zeros alone go; what is left gives the same."""
    strides = [1, stride, stride, 1]
    before = graph_of(
        lambda x: convolution(x, filters(*kernel, 3, 2), strides, "SAME"), *size, 3
    )
    after = crop_filters(before)
    (kept,) = sizes(after)
    assert kept == [1 if n == 1 else k for n, k in zip(size, kernel, strict=True)]
    np.testing.assert_allclose(run(after, *size, 3), run(before, *size, 3), atol=1e-6)


def test_a_dilated_filter_over_one_pixel() -> None:
    """One that has a row in the middle is cropped to it; one that has none is not."""

    def build(x: Any) -> Any:
        odd = tf.nn.conv2d(x, filters(3, 3, 3, 2), 1, "SAME", dilations=2)
        return odd + tf.nn.conv2d(x, filters(2, 2, 3, 2), 1, "SAME", dilations=2)

    before = graph_of(build, 1, 1, 3)
    after = crop_filters(before)
    assert sorted(sizes(after)) == [[1, 1], [2, 2]]
    np.testing.assert_allclose(run(after, 1, 1, 3), run(before, 1, 1, 3), atol=1e-6)


@pytest.mark.parametrize(
    ("padding", "size"), [("SAME", (None, 4)), ("SAME", (4, 4)), ("VALID", (4, 1))]
)
def test_filters_that_stay(padding: str, size: tuple[int | None, int]) -> None:
    """Where more than a pixel is met, or none is padded, all of a filter counts."""
    before = graph_of(lambda x: tf.nn.conv2d(x, filters(3, 1, 3, 2), 1, padding),
                      *size, 3)  # fmt: skip
    assert crop_filters(before) == before


BORDER = [[0, 0], [1, 2], [0, 3], [0, 0]]


@pytest.mark.parametrize("convolution", [tf.nn.conv2d, tf.nn.depthwise_conv2d])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", range(3, 7))
def test_borders(
    convolution: Any, kernel: tuple[int, int], stride: int, size: int
) -> None:
    """One Pad of both, whatever the strides and sizes, and the very same pictures."""
    strides = [1, stride, stride, 1]
    before = graph_of(
        lambda x: convolution(
            tf.pad(x, BORDER), filters(*kernel, 3, 2), strides, "SAME"
        ),
        *(size, 5, 3),
    )
    after = pads_into_convolutions(before)
    assert count_ops(after)["Pad"] == 1
    (made,) = (node for node in after.node if "padding" in node.attr)
    assert made.attr["padding"].s == b"VALID"
    np.testing.assert_allclose(
        run(after, size, 5, 3), run(before, size, 5, 3), atol=1e-5
    )


def test_borders_of_any_size_with_dilation() -> None:
    """With strides of one they need not be known."""

    def build(x: Any) -> Any:
        padded = tf.pad(x, BORDER, constant_values=0.0)
        return tf.nn.conv2d(padded, filters(3, 2, 3, 2), 1, "SAME", dilations=(2, 3))

    before = graph_of(build, None, None, 3)
    after = pads_into_convolutions(before)
    assert [n.attr["padding"].s for n in after.node if n.op == "Conv2D"] == [b"VALID"]
    for size in (2, 5):
        found, expected = run(after, size, 4, 3), run(before, size, 4, 3)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_border_that_others_read_stays_too() -> None:
    """Each convolution has a Pad of its own, and what else reads the first reads it."""

    def build(x: Any) -> Any:
        padded = tf.pad(x, BORDER)
        made = tf.nn.conv2d(padded, filters(3, 3, 3, 3), 1, "SAME")
        return made + tf.nn.conv2d(padded, filters(2, 2, 3, 3), 1, "SAME") + padded

    before = graph_of(build, 4, 4, 3)
    after = pads_into_convolutions(before)
    assert count_ops(after)["Pad"] == 3
    np.testing.assert_allclose(run(after, 4, 4, 3), run(before, 4, 4, 3), atol=1e-5)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: tf.nn.conv2d(tf.pad(x, BORDER), filters(3, 3, 3, 2), 2, "SAME"),
        lambda x: tf.nn.conv2d(tf.pad(x, BORDER), filters(3, 3, 3, 2), 1, "VALID"),
        lambda x: tf.nn.conv2d(
            tf.pad(x, BORDER, constant_values=1.0), filters(3, 3, 3, 2), 1, "SAME"
        ),
        lambda x: tf.nn.conv2d(
            tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 1]]), filters(3, 3, 4, 2), 1, "SAME"
        ),
        lambda x: tf.nn.conv2d(
            tf.pad(x, BORDER, mode="SYMMETRIC"), filters(3, 3, 3, 2), 1, "SAME"
        ),
        lambda x: tf.nn.conv2d(
            tf.pad(x, tf.shape(x)[1:2] * BORDER), filters(3, 3, 3, 2), 1, "SAME"
        ),
    ],
)
def test_other_borders_stay(build: Callable[[Any], Any]) -> None:
    """Those of open sizes with strides, of other numbers, and of channels."""
    before = graph_of(build, None, None, 3)
    assert pads_into_convolutions(before) == before
