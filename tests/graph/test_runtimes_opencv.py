"""What OpenCV is said to read of small graphs, and what it does with them.

Each graph here is one use of an op. OpenCV 5 runs them where it is there, twice, and
gives the numbers just where the table says so; what OpenCV 4 alone refuses is marked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import elsewhere
import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.graph import nodes as nd

CLIENTS = Path(__file__).parents[1] / "clients"
PICTURES, ROWS, SERIES, VOLUMES = (2, 8, 6, 3), (2, 6), (2, 6, 3), (2, 4, 5, 6, 3)
EYE = np.eye(3, dtype=np.float32)
THREE = np.array([1, 2, 3], np.float32)
WINDOW = np.linspace(-1, 1, 81, dtype=np.float32).reshape(3, 3, 3, 3)
raw = tf.raw_ops


class Case(NamedTuple):
    """A graph, and how it is fed."""

    build: Callable[[Any], Any]
    shape: tuple[int, ...] = PICTURES
    op: str = ""
    reason: str = ""
    only_in_4: bool = False
    dtype: tf.DType = tf.float32
    fixed: bool = False
    stated: bool = False


def maps(x: Any, filters: Any = WINDOW, padding: str = "SAME", strides: int = 1) -> Any:
    """A convolution, after which it knows how pictures lie."""
    return tf.nn.conv2d(x, filters, strides, padding)


def volumes(x: Any, channels: int) -> Any:
    filters = np.random.default_rng(1).uniform(size=(2, 2, 2, 3, channels))
    return tf.nn.conv3d(x, filters.astype(np.float32), [1] * 5, "SAME")


def flat(x: Any) -> Any:
    return tf.reshape(x, [-1, int(np.prod(x.shape[1:]))])


def bordered(x: Any, *sides: int, **options: Any) -> Any:
    above, below, left, right = sides
    border = [[0, 0], [above, below], [left, right], [0, 0]]
    return tf.pad(x, border, **options)


def mean(x: Any, *axes: int, keepdims: bool = False) -> Any:
    return tf.reduce_mean(x, list(axes), keepdims=keepdims)


def tokens(x: Any) -> Any:
    return tf.reshape(maps(x), [-1, 48, 3])


def halves(x: Any) -> Any:
    """A convolution in two groups, its bias added to both."""
    parts = [maps(each, WINDOW[:, :, :1]) for each in tf.split(maps(x), 3, 3)]
    return tf.concat(parts, 3)


REFUSED = {
    "larger_of_two": Case(
        lambda x: tf.maximum(x, 0.5), ROWS, "Maximum", "smaller of two before"
    ),
    "clipped_the_other_way": Case(
        lambda x: tf.minimum(tf.maximum(x, 0.2), 0.6), ROWS, "Minimum", "smaller of two"
    ),
    "half_a_clip_read_twice": Case(
        lambda x: (
            lambda y: tf.maximum(y, 0.2) @ np.ones((6, 2), "f") + flat(y)[:, :2]
        )(tf.minimum(x, 0.6)),
        ROWS,
        "Minimum",
        "no clip",
    ),
    "sequence_turned_round": Case(
        lambda x: x[:, ::-1], SERIES, "StridedSlice", "turned round"
    ),
    "first_of_batch": Case(
        lambda x: tf.transpose(x, [1, 0, 2])[0] @ EYE,
        SERIES,
        "StridedSlice",
        "along the first dimension",
    ),
    "volume_padded": Case(
        lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [1, 1], [0, 0]]),
        VOLUMES,
        "Pad",
        "no pictures",
    ),
    "sequence_mirrored": Case(
        lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 0]], mode="REFLECT"),
        SERIES,
        "MirrorPad",
        "no pictures",
    ),
    "numbers_of_a_sequence": Case(
        lambda x: tf.nn.relu(x) * THREE[None], SERIES, "Mul", "neither rows nor"
    ),
    "difference_from_the_batch": Case(
        lambda x: x - tf.reduce_mean(x, 0, keepdims=True), ROWS, "Sub", "differ"
    ),
    "pictures_made_others": Case(
        lambda x: tf.nn.relu(tf.reshape(x, [-1, 4, 6, 6])), op="Reshape", reason="told"
    ),
    "padded_twice": Case(
        lambda x: maps(bordered(x, 1, 1, 1, 1)), op="Pad", reason="leaves out"
    ),
    "padded_twice_depthwise": Case(
        lambda x: tf.nn.depthwise_conv2d(
            bordered(x, 1, 1, 0, 0), WINDOW[..., :1], [1, 1, 1, 1], "SAME"
        ),
        op="Pad",
        reason="leaves out",
    ),
    "mirrored_edge": Case(
        lambda x: bordered(x, 1, 1, 2, 2, mode="SYMMETRIC"),
        op="MirrorPad",
        reason="repeats the edge",
    ),
    "mirrored_by_what_is_computed": Case(
        lambda x: bordered(x, 0, tf.shape(x)[1] % 5, 0, 0, mode="REFLECT"),
        op="MirrorPad",
        reason="an input 1 that is computed",
    ),
    "up_to_what_is_computed": Case(
        lambda x: tf.strided_slice(x, [0, 0, 0], tf.shape(x) // [1, 2, 1]),
        SERIES,
        "StridedSlice",
        "an input 2 that is",
    ),
    "every_one_of_what_is_computed": Case(
        lambda x: tf.strided_slice(x, [0, 0, 0], [2, 6, 3], tf.shape(x) // [2, 3, 3]),
        SERIES,
        "StridedSlice",
        "an input 3 that is",
    ),
    "as_many_as_is_computed": Case(
        lambda x: tf.slice(x, [0, 0, 0], tf.shape(x) // [1, 2, 1]),
        SERIES,
        "Slice",
        "an input 2 that is",
    ),
    "mean_of_series": Case(
        lambda x: mean(x, 1, keepdims=True), SERIES, "Mean", "no pictures"
    ),
    "mean_of_tokens": Case(
        lambda x: mean(tokens(x), 1, 2), op="Mean", reason="no pictures"
    ),
    "mean_of_rows": Case(
        lambda x: mean(x, 1, keepdims=True), ROWS, "Mean", "no pictures"
    ),
    "mean_over_columns": Case(
        lambda x: mean(maps(x), 2), op="Mean", reason="over columns"
    ),
    "largest_of_columns": Case(
        lambda x: tf.reduce_max(maps(x), 2), op="Max", reason="over columns"
    ),
    "mean_over_rows_then_flat": Case(
        lambda x: flat(mean(maps(x), 1)), op="Reshape", reason="what was pictures"
    ),
    "mean_over_rows_then_joined": Case(
        lambda x: tf.concat([mean(maps(x), 1)] * 2, -1),
        op="ConcatV2",
        reason="what was pictures",
    ),
    "input_flat_and_convolved": Case(
        lambda x: tf.concat([flat(x), flat(maps(x))], -1),
        op="Reshape",
        reason="does not know that",
    ),
    "input_flat_and_scaled": Case(
        lambda x: flat(x * THREE), op="Reshape", reason="does not know that"
    ),
    "pool_then_flat": Case(
        lambda x: flat(tf.nn.max_pool2d(x, 2, 2, "VALID")),
        op="Reshape",
        reason="does not know that",
    ),
    "resized_then_flat": Case(
        lambda x: flat(tf.raw_ops.ResizeBilinear(images=x, size=[4, 4])),
        op="Reshape",
        reason="does not know that",
    ),
    "pool_then_joined": Case(
        lambda x: tf.concat([tf.nn.max_pool2d(x, 2, 2, "VALID")] * 2, -1),
        op="ConcatV2",
        reason="nothing has told it",
    ),
    "volume_not_said_so": Case(
        lambda x: tf.nn.conv3d(x, WINDOW[None], [1] * 5, "VALID"),
        VOLUMES,
        "Conv3D",
        "not said",
    ),
    "volume_split": Case(
        lambda x: tf.add(*tf.split(volumes(x, 4), 2, 4)),
        VOLUMES,
        "Split",
        "another axis",
        stated=True,
    ),
    "volume_flat": Case(
        lambda x: flat(tf.nn.conv3d(x, WINDOW[None], [1] * 5, "VALID")),
        VOLUMES,
        "Reshape",
        "volumes",
        stated=True,
    ),
    "one_of_several": Case(
        lambda x: tokens(x)[:, 0], op="StridedSlice", reason="keeps the dimension"
    ),
    "one_of_several_softmax": Case(
        lambda x: tf.nn.softmax(tf.nn.relu(tokens(x)[:, 0])),
        op="StridedSlice",
        reason="keeps the dimension",
    ),
    "the_last_of_several": Case(
        lambda x: flat(tokens(x)[:, -1]), op="StridedSlice", reason="takes for none"
    ),
    "a_part_by_ellipsis": Case(
        lambda x: x[..., :2], SERIES, "StridedSlice", "each dimension"
    ),
    "a_part_of_nothing": Case(
        lambda x: tf.concat([x, x[:, :0]], -1), ROWS, "StridedSlice", "of nothing"
    ),
    "one_gate_for_all_channels": Case(
        lambda x: maps(x) * maps(mean(x, 1, 2, keepdims=True), WINDOW[:1, :1, :, :1]),
        op="Mul",
        reason="that differ",
        only_in_4=True,
    ),
    "channels_by_a_sum": Case(
        lambda x: maps(x, WINDOW[..., :1]) + THREE,
        op="AddV2",
        reason="more numbers than",
    ),
    "rows_by_a_sum": Case(lambda x: x[:, :1] + THREE, ROWS, "AddV2", "more numbers"),
    "sum_with_a_vector": Case(
        lambda x: tf.nn.relu(maps(x)) + THREE, op="AddV2", reason="no product"
    ),
    "difference_of_a_vector": Case(
        lambda x: maps(x) * THREE - THREE, op="Sub", reason="no product"
    ),
    "bias_of_a_sum": Case(
        lambda x: tf.nn.bias_add(x + maps(x), THREE),
        op="BiasAdd",
        reason="no product",
    ),
    "bias_of_parts": Case(
        lambda x: tf.nn.bias_add(halves(x), np.tile(THREE, 3)),
        op="BiasAdd",
        reason="no product",
    ),
    "product_with_bias_and_without": Case(
        lambda x: both(x),
        op="Mul",
        reason="only some of its readers",
    ),
    "bias_a_row": Case(
        lambda x: raw.BiasAdd(value=maps(x), bias=np.ones(8, "f"), data_format="NCHW"),
        op="BiasAdd",
        reason="one number a row",
    ),
    "sum_with_a_matrix": Case(
        lambda x: x + np.ones((6, 3), np.float32), SERIES, "AddV2", "no product"
    ),
    "expanded": Case(
        lambda x: tf.expand_dims(mean(maps(x), 1, 2), 1),
        op="ExpandDims",
        reason="leave open",
    ),
    "expanded_input": Case(
        lambda x: tf.expand_dims(x, -1) * 2.0,
        SERIES,
        "ExpandDims",
        "one of an input",
        fixed=True,
        only_in_4=True,
    ),
    "convolved_series": Case(
        lambda x: tf.nn.conv1d(tf.nn.relu(x), WINDOW[0], 1, "SAME"),
        SERIES,
        "Squeeze",
        "rows made pictures",
        fixed=True,
    ),
    "laid_along_a_new_axis": Case(
        lambda x: tf.stack([x, x * 2.0], 1), ROWS, "Pack", "a new axis"
    ),
    "turned_then_convolved": Case(
        lambda x: maps(tf.transpose(maps(x), [0, 3, 1, 2]), np.ones((1, 1, 6, 2), "f")),
        op="Conv2D",
        reason="NCHW already",
    ),
    "turned_then_mean": Case(
        lambda x: mean(tf.transpose(maps(x), [0, 3, 1, 2]), 1, 2),
        op="Mean",
        reason="NCHW already",
    ),
    "turned_back_unturned": Case(
        lambda x: tf.transpose(maps(x), [0, 2, 3, 1]),
        op="Transpose",
        reason="another order",
    ),
    "doubles": Case(
        lambda x: maps(x, WINDOW.astype(np.float64)),
        op="Const",
        reason="float64",
        dtype=tf.float64,
    ),
    "whole_numbers": Case(
        lambda x: tf.identity(x), ROWS, "Placeholder", "int32", dtype=tf.int32
    ),
    "bytes": Case(
        lambda x: raw.ResizeBilinear(images=x, size=[4, 4]),
        op="Placeholder",
        reason="uint8",
        dtype=tf.uint8,
    ),
    "boxes": Case(
        lambda x: tf.image.crop_and_resize(x, [[0.0, 0, 0.5, 0.5]], [1], [2, 2]),
        op="CropAndResize",
        reason="boxes",
    ),
    "pieces": Case(
        lambda x: tf.space_to_batch(maps(x), [2, 2], [[0, 0], [0, 0]]) * 2.0,
        op="SpaceToBatchND",
        reason="no convolution",
    ),
    "fixed_sizes": Case(
        lambda x: maps(x) * tf.sigmoid(maps(x)),
        op="Mul",
        reason="OpenCV 4 takes for NCHW",
        fixed=True,
        only_in_4=True,
    ),
}

READ = {
    "clipped": Case(lambda x: tf.clip_by_value(x, 0.2, 0.6), ROWS),
    "pictures_clipped": Case(lambda x: maps(tf.clip_by_value(maps(x), -0.2, 0.6))),
    "every_other_of_a_sequence": Case(lambda x: x[:, ::2], SERIES),
    "softmax_of_a_sequence": Case(lambda x: tf.nn.softmax(x), SERIES),
    "softmax_of_tokens": Case(lambda x: tf.nn.softmax(tokens(x))),
    "sequence_padded": Case(lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 0]]), SERIES),
    "padded_then_valid": Case(lambda x: maps(bordered(x, 1, 1, 2, 2), padding="VALID")),
    "padded_then_one_by_one": Case(
        lambda x: maps(bordered(x, 1, 1, 2, 2), WINDOW[:1, :1])
    ),
    "padded_unevenly_then_same": Case(lambda x: maps(bordered(x, 1, 0, 0, 2))),
    "mirrored": Case(lambda x: bordered(maps(x), 1, 1, 2, 2, mode="REFLECT")),
    "mean_over_rows": Case(lambda x: mean(maps(x), 1)),
    "mean_over_rows_kept": Case(lambda x: flat(mean(maps(x), 1, keepdims=True))),
    "mean_of_pictures": Case(lambda x: mean(maps(x), 1, 2)),
    "largest_kept": Case(lambda x: tf.reduce_max(maps(x), [1, 2], keepdims=True)),
    "mean_of_the_input": Case(lambda x: mean(x, 1, 2)),
    "input_convolved_and_added": Case(lambda x: flat(x + maps(x))),
    "pool_of_one_channel": Case(
        lambda x: flat(tf.nn.max_pool2d(x, 2, 2, "VALID")), (2, 8, 6, 1)
    ),
    "pool_said_so": Case(
        lambda x: flat(tf.nn.max_pool2d(x, 2, 2, "VALID")), stated=True
    ),
    "input_flat_and_convolved_said_so": Case(
        lambda x: tf.concat([flat(x), flat(maps(x))], -1), stated=True
    ),
    "volumes_joined": Case(
        lambda x: tf.concat([volumes(x, 4), volumes(x, 2)], 4), VOLUMES, stated=True
    ),
    "volume_said_so": Case(
        lambda x: tf.nn.conv3d(x, WINDOW[None], [1] * 5, "VALID"), VOLUMES, stated=True
    ),
    "one_of_several_multiplied": Case(
        lambda x: tf.matmul(tf.nn.relu(tokens(x)[:, 0] * 0.5), EYE)
    ),
    "two_of_several_joined": Case(
        lambda x: flat(tf.concat([tokens(x)[:, 0], tokens(x)[:, 3]], -1))
    ),
    "a_part_from_behind": Case(lambda x: x[:, -3:], SERIES),
    "product_and_sum": Case(lambda x: tf.nn.relu(maps(x)) * THREE + THREE),
    "product_and_sum_of_series": Case(
        lambda x: x * np.ones((6, 3), "f") + np.ones((6, 3), "f"), SERIES
    ),
    "bias": Case(lambda x: tf.nn.bias_add(maps(x), THREE)),
    "spread_over_pixels": Case(lambda x: maps(x) * mean(maps(x), 1, 2, keepdims=True)),
    "turned": Case(lambda x: flat(tf.transpose(maps(x), [0, 3, 1, 2]))),
    "expanded_rows": Case(lambda x: tf.expand_dims(x * 2.0, 1), ROWS, fixed=True),
    "fixed_sizes_said_so": Case(
        lambda x: maps(x) * tf.sigmoid(maps(x)), fixed=True, stated=True
    ),
    "fixed_sizes_before_convolutions": Case(
        lambda x: maps(x * tf.sigmoid(x)), fixed=True
    ),
}


def both(x: Any) -> Any:
    """A product with a vector, with another added and without."""
    product = x * THREE
    return tf.add(raw.AddV2(x=product, y=THREE), tf.nn.relu(product))


def graph_of(case: Case) -> Any:
    """The graph of a case as a PB has it: numbers as bytes, no default layouts."""
    graph = tf.Graph()
    batch = case.shape[0] if case.fixed else None
    with graph.as_default():
        x = tf.compat.v1.placeholder(case.dtype, [batch, *case.shape[1:]], name="x")
        y = case.build(x)
        y.op._set_attr("_output", tf.compat.v1.AttrValue(b=True))
    graph_def = graph.as_graph_def()
    for node in graph_def.node:
        if node.op == "Const":
            dtype = tf.as_dtype(node.attr["dtype"].type)
            node.CopyFrom(nd.constant(node.name, nd.constant_value(node), dtype))
        if not case.stated and node.attr["data_format"].s != b"NCHW":
            del node.attr["data_format"]
        if "_output" in node.attr:
            node.attr.pop("_output")
            output = node.name
    for node in graph_def.node:
        node.input[:] = ["y" if each == output else each for each in node.input]
        node.name = "y" if node.name == output else node.name
    return graph_def


def said_of(graph_def: Any) -> dict[str, str]:
    """Why OpenCV does not read a graph, by op."""
    verdict = elsewhere.said_of("opencv", graph_def)
    return {each.op: each.reason for each in verdict.obstacles}


def is_given(case: Case, folder: Path) -> bool:
    """Whether OpenCV gives TensorFlow's numbers."""
    elsewhere.interpreter_of("opencv")
    graph_def = graph_of(case)
    # Now: to import it writes all defaults into it.
    data = graph_def.SerializeToString()
    numbers = np.random.default_rng(0).uniform(0, 9, case.shape)
    fed = numbers.astype(case.dtype.as_numpy_dtype)
    return elsewhere.is_given("opencv", graph_def, data, fed, folder, 1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_said_to_stand_in_the_way(name: str) -> None:
    """Its op is named, with the reason."""
    case = REFUSED[name]
    said = said_of(graph_of(case))
    assert case.reason in said.get(case.op, ""), said


@pytest.mark.parametrize("name", READ)
def test_what_is_said_to_load(name: str) -> None:
    """Nothing stands in the way of what differs little from what is refused."""
    assert said_of(graph_of(READ[name])) == {}


@pytest.mark.parametrize("name", [*REFUSED, *READ])
def test_what_it_gives(name: str, tmp_path: Path) -> None:
    """It gives the numbers where it is said to, and nowhere else."""
    case = (REFUSED | READ)[name]
    if case.only_in_4:
        pytest.skip("OpenCV 4 alone refuses it")
    assert is_given(case, tmp_path) == (name in READ)


def test_several_outputs() -> None:
    """Pictures made of rows are not given by their name beside another output."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 6], name="x")
        wide = tf.matmul(x, np.ones((6, 16), np.float32))
        tf.reshape(wide, [-1, 4, 4, 1], name="picture")
        tf.nn.relu(wide, name="code")
    said = said_of(graph.as_graph_def())
    assert "by their name" in said["Reshape"]


def test_an_output_that_is_a_constant() -> None:
    """It has no layer, so it is not to be had."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 6], name="x")
        tf.nn.relu(x, name="y")
        tf.constant([1.0, 2.0], name="labels")
    assert "constant" in said_of(graph.as_graph_def())["Const"]
