"""Graphs that OpenCV takes amiss unless they are written for it, and others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo
from elsewhere import check, said_of

from persist_callbacks.graph.decoding import rows_to_pictures
from persist_callbacks.graph.freeze import freeze
from persist_callbacks.graph.frozen import count_ops
from persist_callbacks.graph.simplify import simplify

L = keras.layers


def reading(
    build: Callable[..., Any], *shapes: tuple[int, ...]
) -> Callable[[], keras.Model]:
    def model() -> keras.Model:
        inputs = [
            keras.Input(shape, name=f"x{place}") for place, shape in enumerate(shapes)
        ]
        return keras.Model(inputs, build(*inputs))

    return model


def conv(filters: int, **options: Any) -> Any:
    return L.Conv2D(filters, 3, padding="same", bias_initializer="ones", **options)


def dense(units: int, **options: Any) -> Any:
    return L.Dense(units, bias_initializer="ones", **options)


def pictures(rows: Any, activation: str | None = None) -> Any:
    """Height, width and channels all differ."""
    return L.Reshape((4, 3, 5))(dense(60, activation=activation)(rows))


def generator(rows: Any) -> Any:
    y = L.LeakyReLU()(L.BatchNormalization()(L.Dense(60, use_bias=False)(rows)))
    y = L.Conv2DTranspose(6, 4, strides=2, padding="same")(L.Reshape((4, 3, 5))(y))
    return L.Conv2DTranspose(3, 4, strides=2, padding="same", activation="tanh")(y)


def autoencoder(x: Any) -> Any:
    code = dense(7)(L.Flatten()(L.Conv2D(4, 3, strides=2, padding="same")(x)))
    y = L.UpSampling2D()(pictures(code, "relu"))
    return conv(3, activation="sigmoid")(y)


def with_a_skip(x: Any) -> Any:
    code = L.Flatten()(L.Conv2D(4, 3, strides=2, padding="same")(x))
    return conv(3)(L.Concatenate()([x, L.Reshape((4, 6, 2))(dense(48)(code))]))


def two_readers(rows: Any) -> Any:
    hidden = dense(60, activation="relu")(rows)
    return [conv(2)(L.Reshape((4, 3, 5))(hidden)), dense(2)(hidden)]


HELPED = {
    "an input of pictures and of numbers": reading(
        lambda x: L.Concatenate()(
            [L.GlobalAveragePooling2D()(conv(4)(x)), dense(3)(L.Flatten()(x))]
        ),
        (8, 6, 3),
    ),
    "numbers of a pooling": reading(
        lambda x: dense(3)(L.Flatten()(L.MaxPooling2D()(x))), (8, 6, 3)
    ),
    "a part pooled": reading(lambda x: L.MaxPooling2D()(L.Cropping2D(1)(x)), (8, 6, 3)),
    "grey as colours": reading(
        lambda x: conv(2)(L.Concatenate()([x, x, x])), (8, 6, 1)
    ),
    "parts of an input": reading(
        lambda x: conv(2)(x[..., :1]) + conv(2)(x[..., 1:]), (8, 6, 3)
    ),
    "a generator": reading(generator, (7,)),
    "an autoencoder": reading(autoencoder, (8, 6, 3)),
    "a skip beside a decoder": reading(with_a_skip, (4, 6, 3)),
    "a part of rows made pictures": reading(
        lambda z: conv(2)(pictures(z, "relu")[:, 1:-1, :, :3]), (7,)
    ),
    "rows that others read": reading(two_readers, (7,)),
    "rows made pictures, an output": reading(
        lambda z: [pictures(z), conv(2)(pictures(z))], (7,)
    ),
    "an input of rows": reading(
        lambda x: dense(2)(L.Flatten()(conv(4)(L.Reshape((8, 6, 3))(x)))), (144,)
    ),
    "an input without channels": reading(
        lambda x: L.MaxPooling2D()(conv(2)(L.Reshape((8, 6, 1))(x))), (8, 6)
    ),
    "an input of pictures made others": reading(
        lambda x: conv(2)(L.Reshape((4, 6, 6))(x)), (8, 6, 3)
    ),
    "rows put together": reading(
        lambda x, y: conv(2)(L.Reshape((4, 3, 5))(L.Concatenate()([x, y]))),
        (40,),
        (20,),
    ),
    "a product of rows": reading(
        lambda x: conv(2)(pictures(x, "relu") * pictures(x, "sigmoid")), (7,)
    ),
    "a gate of rows": reading(
        lambda x: conv(2)(
            L.Reshape((4, 3, 5))(dense(60)(x) * dense(60, activation="sigmoid")(x))
        ),
        (7,),
    ),
    "the last of a sequence": reading(lambda x: x[:, -1], (5, 4)),
    "layers at each time": reading(
        lambda x: L.Flatten()(L.TimeDistributed(dense(5))(x)), (3, 4)
    ),
    "one channel": reading(lambda x: conv(3)(x)[..., 1], (8, 6, 3)),
}


def simplified(model: Callable[[], keras.Model], **options: Any) -> Any:
    made = zoo.traced(model)
    inputs = [info.name for info in made.graph.inputs]
    outputs = [info.name for info in made.graph.outputs]
    graph_def = freeze(made.graph, made.values)
    return simplify(graph_def, inputs=inputs, outputs=outputs, **options)


@pytest.mark.parametrize("model", HELPED.values(), ids=HELPED)
def test_what_stood_in_the_way(model: Callable[[], keras.Model]) -> None:
    """Without the pass OpenCV is said not to read it, and with it is."""
    assert not said_of("opencv", simplified(model, without=["suit_opencv"])).loads
    assert said_of("opencv", simplified(model)).loads


@pytest.mark.parametrize("model", HELPED.values(), ids=HELPED)
def test_what_opencv_gives_then(
    model: Callable[[], keras.Model], tmp_path: Path
) -> None:
    """It is the live model's."""
    check("opencv", model, tmp_path)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "tensorflow"])
def test_what_others_give(runtime: str, tmp_path: Path) -> None:
    """It is written for OpenCV, and others read it as well."""
    check(runtime, HELPED["a skip beside a decoder"], tmp_path)


@pytest.mark.parametrize("size", [1, 2])
def test_a_fixed_batch(size: int, tmp_path: Path) -> None:
    """A pixel of a known batch would be an output that nobody asked for."""

    def model() -> keras.Model:
        z = keras.Input(batch_shape=(size, 7), name="x0")
        return keras.Model(z, conv(2)(pictures(z, "relu")))

    check("opencv", model, tmp_path, rows=size, near=1e-5)


def excited(x: Any) -> Any:
    y = conv(4)(x)
    weights = dense(4, activation="sigmoid")(L.GlobalAveragePooling2D()(y))
    return L.GlobalMaxPooling2D()(y * L.Reshape((1, 1, 4))(weights))


@pytest.mark.parametrize("size", [1, 2])
def test_single_pixels_of_a_fixed_batch(size: int, tmp_path: Path) -> None:
    """A squeeze and excitation, exported for as many rows."""
    model = reading(excited, (8, 6, 3))
    check("opencv", model, tmp_path, rows=size, batch_size=size, near=1e-5)


AFTER_A_DECODER = {
    "resized": lambda z: L.Flatten()(L.UpSampling2D()(pictures(z))),
    "padded": lambda z: dense(2)(L.Flatten()(L.ZeroPadding2D(1)(pictures(z)))),
}


@pytest.mark.parametrize("build", AFTER_A_DECODER.values(), ids=AFTER_A_DECODER)
def test_numbers_of_what_nothing_tells(
    build: Callable[[Any], Any], tmp_path: Path
) -> None:
    """A resize and a border do not say that they are of pictures."""
    check("opencv", reading(build, (7,)), tmp_path)


LEFT_ALONE = {
    "one that it reads": reading(lambda x: L.Flatten()(conv(2)(x)), (8, 6, 3)),
    "one scaled by rows": reading(
        lambda x, c: conv(4)(x) * L.Reshape((1, 1, 4))(dense(4)(c)), (8, 6, 3), (5,)
    ),
    "one row": reading(lambda z: conv(2)(L.Reshape((1, 6, 5))(dense(30)(z))), (7,)),
    "axes turned": reading(
        lambda z: conv(2)(L.Permute((2, 3, 1))(L.Reshape((5, 4, 3))(dense(60)(z)))),
        (7,),
    ),
    "products of rows and pictures": reading(
        lambda x, c: conv(2)(conv(4)(x) * L.Reshape((8, 6, 4))(dense(192)(c))),
        (8, 6, 3),
        (5,),
    ),
    "a loop": reading(lambda x: L.LSTM(3)(x), (5, 2)),
    "an op that it lacks": reading(
        lambda x: dense(2)(L.Flatten()(L.MaxPooling2D()(keras.ops.log1p(x)))), (8, 6, 3)
    ),
}


@pytest.mark.parametrize("model", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_left_alone(model: Callable[[], keras.Model]) -> None:
    """Nothing is written that does not help."""
    assert simplified(model) == simplified(model, without=["suit_opencv"])


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("told_after", [False, True])
def test_the_same_numbers(told_after: bool, apart: bool) -> None:
    """Bit for bit, and the graph that was given is as it was."""
    graph_def = simplified(HELPED["rows that others read"], without=["suit_opencv"])
    before = graph_def.SerializeToString(deterministic=True)
    changed = rows_to_pictures(graph_def, told_after=told_after, apart=apart)
    assert graph_def.SerializeToString(deterministic=True) == before
    assert len(changed.node) > len(graph_def.node)
    fed = np.random.default_rng(1).normal(size=(3, 7)).astype("float32")
    fed[0, 0], fed[1] = np.nan, -0.0
    given = [_run(each, fed) for each in (graph_def, changed)]
    for one, other in zip(*given, strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(np.signbit(one), np.signbit(other))


@pytest.mark.parametrize(("width", "together"), [(7, False), (90, True)])
def test_a_bias_of_rows_that_grow_longer(
    width: int, together: bool, tmp_path: Path
) -> None:
    """It is added apart from the product: TensorFlow takes longer for both in one."""

    def compute(z: Any) -> Any:
        rows = L.BatchNormalization()(L.Dense(60, use_bias=False)(z))
        return conv(2)(L.Reshape((5, 4, 3))(L.LeakyReLU()(rows)))

    model = reading(compute, (width,))
    before = simplified(model, without=["suit_opencv"])
    after = simplified(model)
    (product,) = (node.name for node in after.node if node.op == "MatMul")
    (reader,) = (node.op for node in after.node if product in node.input)
    assert reader == ("BiasAdd" if together else "Reshape")
    fed = np.random.default_rng(1).normal(size=(3, width)).astype("float32")
    np.testing.assert_allclose(_run(after, fed)[0], _run(before, fed)[0], atol=1e-6)
    check("opencv", model, tmp_path)


def test_what_tells_costs_tensorflow_nothing() -> None:
    """What is there for OpenCV's sake is folded before TensorFlow runs anything."""
    graph_def = simplified(HELPED["rows that others read"], without=["suit_opencv"])
    changed = rows_to_pictures(graph_def, told_after=True)
    assert count_ops(changed)["FusedBatchNorm"] > 0
    traced = tf.compat.v1.RunMetadata()
    _run(changed, np.zeros((3, 7), "float32"), traced)
    (ran,) = traced.partition_graphs
    assert not {op for op in count_ops(ran) if "BatchNorm" in op or "Pool" in op}


def test_long_rows_do_not_make_a_small_pb_large(tmp_path: Path) -> None:
    """Constants as long as the rows would be most of it."""
    model = reading(lambda x: conv(2)(L.Reshape((96, 80, 3))(x)), (96 * 80 * 3,))
    graph_def = simplified(model)
    assert graph_def != simplified(model, without=["suit_opencv"])
    assert graph_def.ByteSize() < 10_000
    check("opencv", model, tmp_path)


def _run(graph_def: Any, fed: Any, traced: Any = None) -> Any:
    read = {ref.split(":")[0] for node in graph_def.node for ref in node.input}
    outputs = sorted(node.name for node in graph_def.node if node.name not in read)
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.import_graph_def(graph_def, name="")
        options = tf.compat.v1.RunOptions(output_partition_graphs=traced is not None)
        fetched = [f"{name}:0" for name in outputs]
        return session.run(fetched, {"x0:0": fed}, options, traced)


def upsampled(rows: Any) -> Any:
    """Pictures by transposed convolutions alone, of rows that are a pixel."""
    pixel = L.Reshape((1, 1, 7))(dense(7, activation="tanh")(rows))
    y = L.Conv2DTranspose(5, (4, 3), bias_initializer="ones")(pixel)
    return L.Conv2DTranspose(4, 4, strides=2, padding="same", activation="relu")(y)


def test_a_product_with_an_input_of_a_fixed_batch() -> None:
    """OpenCV 4 does not read it; of one of any number of rows it does."""

    def two(size: int | None) -> keras.Model:
        x, k = (
            keras.Input(batch_shape=(size, 8, 6, channels), name=name)
            for name, channels in (("x", 3), ("k", 1))
        )
        return keras.Model([x, k], x * (1 - k) + conv(3)(x * k) * k)

    assert said_of("opencv", simplified(lambda: two(None))).loads
    assert not said_of("opencv", simplified(lambda: two(2))).loads


TAKEN_FOR_ROWS = {
    "numbers": lambda z: dense(2)(L.Flatten()(upsampled(z))),
    "channels": lambda z: (lambda y: L.Concatenate()([y, conv(3)(y)]))(upsampled(z)),
    "a part": lambda z: conv(2)(upsampled(z)[:, 1:-1, :, :3]),
    "a softmax": lambda z: L.Softmax()(upsampled(z)),
}


@pytest.mark.parametrize("build", TAKEN_FOR_ROWS.values(), ids=TAKEN_FOR_ROWS)
def test_pictures_that_it_takes_for_rows(build: Callable[[Any], Any]) -> None:
    """OpenCV computes garbage of them, or nothing: they are said not to be read."""
    assert not said_of("opencv", simplified(reading(build, (7,)))).loads


def test_pictures_of_a_pixel(tmp_path: Path) -> None:
    """Where nobody asks for their axes it computes them right, and that is said."""
    check("opencv", reading(upsampled, (7,)), tmp_path)
