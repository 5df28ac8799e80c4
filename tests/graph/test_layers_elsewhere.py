"""A layer or two in other runtimes, each the least that one of them once got wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import kinds
import numpy as np
import pytest
import tensorflow as tf
from elsewhere import check

L = keras.layers
Layers = Callable[[Any], Any]


def of_pictures(build: Layers, *shape: int | None) -> Callable[[], keras.Model]:
    def model() -> keras.Model:
        x = keras.Input(shape, name="x")
        return keras.Model(x, build(x))

    return model


@pytest.mark.parametrize("options", [{}, {"strides": 2, "padding": "same"}])
@pytest.mark.parametrize("biased", [False, True])
def test_volumes(options: dict[str, Any], biased: bool, tmp_path: Path) -> None:
    """OpenCV takes them for pictures if it is not told the order of their axes."""
    layer = L.Conv3D(
        2, 3, use_bias=biased, bias_initializer="ones", activation="relu", **options
    )
    check("opencv", of_pictures(layer, 5, 6, 7, 2), tmp_path)


@pytest.mark.parametrize("runtime", ["tensorflow", "openvino", "onnxruntime"])
@pytest.mark.parametrize("options", [{"groups": 2}, {"data_format": "channels_first"}])
def test_volumes_in_groups_or_by_channels_first(
    options: dict[str, Any], runtime: str, tmp_path: Path
) -> None:
    """Most have no kernel for them, nor has TensorFlow itself without XLA."""
    layer = L.Conv3D(4, 3, bias_initializer="ones", activation="relu", **options)
    check(runtime, of_pictures(layer, 4, 6, 7, 4), tmp_path)


@pytest.mark.parametrize("shape", [(1, 1, 8), (1, 4, 2), (16, 1, 2)])
def test_depthwise_over_one_row(shape: tuple[int, int, int], tmp_path: Path) -> None:
    """OpenCV reads beyond such a picture for a filter of 3x3."""
    depthwise = L.DepthwiseConv2D(3, padding="same", bias_initializer="ones")
    check("opencv", of_pictures(depthwise, *shape), tmp_path)


@pytest.mark.parametrize(
    "build",
    [
        L.Conv2D(4, 3, groups=2, activation="relu", bias_initializer="ones"),
        lambda x: L.BatchNormalization()(L.Conv2D(4, 3, groups=2, use_bias=False)(x)),
    ],
)
def test_groups_with_a_bias(build: Layers, tmp_path: Path) -> None:
    """OpenCV takes a bias for each group, and none for the groups joined."""
    model = of_pictures(lambda x: build(L.Conv2D(4, 3)(x)), 8, 6, 3)
    check("opencv", model, tmp_path)


def test_a_class_that_is_masked(tmp_path: Path) -> None:
    """OpenCV finds the largest of the others, and gives nothing that is no number."""
    mask = np.array([-np.inf, 0, -1e30, 0], np.float32)

    def build(x: Any) -> Any:
        return L.Softmax()(L.Lambda(lambda y: y + mask)(L.Conv2D(4, 1)(x)))

    check("opencv", of_pictures(build, 6, 5, 3), tmp_path)


def passed_on(dtype: str) -> keras.Model:
    x, key = keras.Input((4,), name="x"), keras.Input((2,), name="key", dtype=dtype)
    return keras.Model([x, key], {"score": L.Dense(2)(x), "key_out": key})


def mapped() -> keras.Model:
    x = keras.Input((6, 4), name="x")
    return keras.Model(x, keras.ops.map(keras.ops.tanh, x))


@pytest.mark.parametrize(
    ("runtime", "model"),
    [
        ("openvino", mapped),
        ("openvino", lambda: passed_on("bool")),
        ("openvino", lambda: passed_on("int32")),
        ("onnxruntime", lambda: passed_on("int32")),
        ("onnxruntime", lambda: passed_on("bool")),
        ("tensorflow", lambda: passed_on("int32")),
    ],
)
def test_outputs_by_name(
    runtime: str, model: Callable[[], keras.Model], tmp_path: Path
) -> None:
    """What no arithmetic gives has its name too: a loop's result, keys passed on."""
    check(runtime, model, tmp_path)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [8, None])
@pytest.mark.parametrize(
    "layer", [lambda **o: L.Conv2D(4, 3, **o), lambda **o: L.DepthwiseConv2D(3, **o)]
)
def test_a_border_and_one_of_its_own(
    layer: Any, size: int | None, padding: str, tmp_path: Path
) -> None:
    """OpenCV joins the two, and would leave out the first one."""

    def build(x: Any) -> Any:
        y = L.Conv2D(3, 1, activation="relu")(x)
        y = L.ZeroPadding2D(((1, 2), (2, 0)))(y)
        return L.GlobalMaxPooling2D()(layer(padding=padding)(y))

    check("opencv", of_pictures(build, size, size, 3), tmp_path)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "tensorflow"])
def test_quantized_layers(runtime: str, tmp_path: Path) -> None:
    """Products of int8 are more than 8 bits."""
    check(runtime, kinds.quantized, tmp_path)


@pytest.mark.parametrize("runtime", ["opencv", "openvino", "onnxruntime"])
def test_output_padding(runtime: str, tmp_path: Path) -> None:
    """ONNX has no transposed convolution that gives more than its filter reaches."""
    layer = L.Conv2DTranspose(3, 3, strides=2, output_padding=1)
    check(runtime, of_pictures(layer, 5, 4, 3), tmp_path)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("kernel", [1, 2])
def test_output_padding_that_fills_no_stride(
    runtime: str, kernel: int, tmp_path: Path
) -> None:
    """The filter reaches neither the output's end nor the stride's."""
    layer = L.Conv2DTranspose(
        3, kernel, strides=4, padding="same", output_padding=(kernel + 1, 2)
    )
    check(runtime, of_pictures(layer, 5, 4, 3), tmp_path)


@pytest.mark.parametrize("runtime", ["opencv", "onnxruntime"])
def test_local_response_normalization(runtime: str, tmp_path: Path) -> None:
    """OpenCV's defaults are others than TensorFlow's."""
    layer = L.Lambda(tf.nn.local_response_normalization, output_shape=(6, 5, 8))
    check(runtime, of_pictures(layer, 6, 5, 8), tmp_path)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "tensorflow"])
def test_a_classifier_that_tells_the_class(runtime: str, tmp_path: Path) -> None:
    """Keras looks at the bits of floats for the largest, and other runtimes cannot."""

    def build(x: Any) -> Any:
        return keras.ops.argmax(L.Dense(5, bias_initializer="ones")(x), axis=-1)

    check(runtime, of_pictures(build, 7), tmp_path)
