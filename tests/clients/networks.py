"""Networks of full size that users deploy, with weights that let every layer matter.

Weights as Keras draws them say little of a reader: signals die out on the way through
a hundred layers, and a softmax over a thousand classes gives a thousandth whatever
comes in. So batch norms get the statistics of what goes through them, layer scales are
drawn, and the last layer is scaled until its classes differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import applications, ops

L = keras.layers

BATCH = 2

# A family's members, the smallest first.
FAMILIES = {
    "ConvNeXt": ["Tiny", "Small", "Base", "Large", "XLarge"],
    "DenseNet": ["121", "169", "201"],
    "EfficientNet": ["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7"],
    "EfficientNetV2": ["B0", "B1", "B2", "B3", "S", "M", "L"],
    "InceptionResNetV2": [""],
    "InceptionV3": [""],
    "MobileNet": [""],
    "MobileNetV2": [""],
    "MobileNetV3": ["Small", "Large"],
    "NASNet": ["Mobile", "Large"],
    "ResNet": ["50", "101", "152"],
    "ResNetV2": ["50V2", "101V2", "152V2"],
    "VGG": ["16", "19"],
    "Xception": [""],
}


def transformer_encoder() -> Any:
    """Give a text encoder: 64 ids, four blocks, a class for the whole."""
    ids = keras.Input((64,), dtype="int32", name="ids")
    x = L.Embedding(1000, 128)(ids) + L.Embedding(64, 128)(ops.arange(64))
    for _ in range(4):
        y = L.MultiHeadAttention(4, 32)(x, x)
        x = L.LayerNormalization(epsilon=1e-6)(x + y)
        y = L.Dense(128)(L.Dense(512, activation="gelu")(x))
        x = L.LayerNormalization(epsilon=1e-6)(x + y)
    x = L.GlobalAveragePooling1D()(x)
    return keras.Model(ids, L.Dense(10, activation="softmax", name="predictions")(x))


def pre_norm_transformer() -> Any:
    """Give a ViT of four blocks that normalize first: 64 patches and a token."""
    pictures = keras.Input((64, 64, 3), name="pictures")
    x = L.Conv2D(96, 8, strides=8)(L.Rescaling(1 / 255)(pictures))
    x = L.Reshape((64, 96))(x)
    token = L.Embedding(1, 96)(ops.zeros_like(x[:, :1, 0], dtype="int32"))
    x = L.Concatenate(axis=1)([token, x])
    x = x + L.Embedding(65, 96)(ops.arange(65))
    for _ in range(4):
        y = L.LayerNormalization(epsilon=1e-6)(x)
        x = x + L.MultiHeadAttention(4, 24)(y, y)
        y = L.LayerNormalization(epsilon=1e-6)(x)
        x = x + L.Dense(96)(L.Dense(384, activation="gelu")(y))
    x = L.LayerNormalization(epsilon=1e-6)(x)[:, 0]
    return keras.Model(pictures, L.Dense(10, activation="softmax")(x))


def patch_transformer() -> Any:
    """Give a ViT of extracted patches, that goes on with the eight that matter most."""
    pictures = keras.Input((64, 64, 3), name="pictures")
    window, once = [1, 8, 8, 1], [1, 1, 1, 1]
    cut = L.Lambda(
        lambda x: tf.image.extract_patches(x, window, window, once, "VALID"),
        (8, 8, 192),
    )
    x = L.Dense(96)(L.Reshape((64, 192))(cut(pictures)))
    x = x + L.Embedding(64, 96)(ops.arange(64))
    y = L.LayerNormalization(epsilon=1e-6)(x)
    x = x + L.MultiHeadAttention(4, 24)(y, y)
    best = ops.top_k(L.Dense(1)(x)[..., 0], 8)[1]
    pick = L.Lambda(lambda both: tf.gather(*both, axis=-2, batch_dims=1), (8, 96))
    x = pick([x, best])
    x = L.Dense(96, activation="gelu")(x)
    return keras.Model(pictures, L.Dense(10)(L.GlobalAveragePooling1D()(x)))


def volumes_first() -> Any:
    """Give a small network over volumes whose channels come first, one in groups."""
    volumes = keras.Input((4, 10, 12, 8), name="volumes")
    first = {"data_format": "channels_first"}
    x = L.Conv3D(8, 3, activation="relu", **first)(volumes)
    x = L.Conv3D(8, 3, padding="same", groups=2, activation="relu", **first)(x)
    return keras.Model(volumes, L.Dense(10)(L.GlobalAveragePooling3D(**first)(x)))


def stacked_lstm() -> Any:
    """Give two recurrent layers over 50 steps of 32 numbers."""
    x = keras.Input((50, 32), name="sequence")
    y = L.LSTM(64, return_sequences=True)(x)
    return keras.Model(x, L.Dense(10, name="predictions")(L.LSTM(64)(y)))


def unet_transposed() -> Any:
    """Give three levels down and up, with what each way up has been tried with."""

    def block(x: Any, width: int) -> Any:
        for _ in range(2):
            x = L.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = L.ReLU()(L.BatchNormalization()(x))
        return x

    picture = x = keras.Input((128, 128, 3), name="picture")
    kept = []
    for width in (16, 32, 64):
        x = block(x, width)
        kept.append(x)
        x = L.MaxPooling2D()(x)
    x = block(x, 128)
    for width, beside in zip((64, 32, 16), reversed(kept), strict=True):
        up = L.Conv2DTranspose(width, 2, strides=2, padding="same")(x)
        x = block(L.Concatenate()([up, beside]), width)
    return keras.Model(picture, L.Conv2D(4, 1, activation="softmax", name="mask")(x))


def unet_upsampling() -> Any:
    """Give a U-Net that goes up by resizing, nearest and bilinear."""
    picture = x = keras.Input((128, 128, 3), name="picture")
    kept = []
    for width in (16, 32):
        x = L.Conv2D(width, 3, padding="same", activation="relu")(x)
        kept.append(x)
        x = L.MaxPooling2D()(x)
    for way, width, beside in (("nearest", 32, kept[1]), ("bilinear", 16, kept[0])):
        x = L.Concatenate()([L.UpSampling2D(interpolation=way)(x), beside])
        x = L.Conv2D(width, 3, padding="same", activation="relu")(x)
    return keras.Model(picture, L.Conv2D(1, 1, activation="sigmoid", name="mask")(x))


OTHERS: dict[str, Callable[[], Any]] = {
    kind.__name__: kind
    for kind in (
        *(transformer_encoder, pre_norm_transformer, patch_transformer, stacked_lstm),
        *(unet_transposed, unet_upsampling, volumes_first),
    )
}


def names(*, every: bool = False) -> dict[str, list[str]]:
    """Name networks by family: the smallest of each, or every one."""
    listed = {
        family: [_name(family, member) for member in members]
        for family, members in FAMILIES.items()
    }
    listed |= {name: [name] for name in OTHERS}
    return listed if every else {key: value[:1] for key, value in listed.items()}


def build(name: str) -> tuple[Any, dict[str, np.ndarray[Any, Any]]]:
    """Build a network by name.

    Returns:
        The model, and a batch by input name.
    """
    keras.utils.set_random_seed(1)
    if name in OTHERS:
        model = OTHERS[name]()
    else:
        # The only ones that are of any size where none is given.
        shape = (224, 224, 3) if name.startswith("MobileNetV3") else None
        model = getattr(applications, name)(weights=None, input_shape=shape)
    batch = {each.name: _made_up(each, model) for each in model.inputs}
    _awaken(model, next(iter(batch.values())))
    return model, batch


def _name(family: str, member: str) -> str:
    if family in ("ResNet", "ResNetV2"):
        return f"ResNet{member}"
    return f"{family}{member}"


def _made_up(tensor: Any, model: Any) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(0)
    shape = [BATCH, *tensor.shape[1:]]
    if "int" in tensor.dtype:
        return random.integers(0, 1000, shape).astype(tensor.dtype)
    scaled = any(isinstance(each, L.Rescaling) for each in model.layers)
    # Those that scale pictures themselves take bytes' values.
    made = random.uniform(-1, 1, shape)
    return (127.5 * (made + 1) if scaled else made).astype(tensor.dtype)


def _awaken(model: Any, batch: Any) -> None:
    """Draw and scale weights so that every layer has a part in the result."""
    random = np.random.default_rng(1)
    norms = [each for each in model.layers if isinstance(each, L.BatchNormalization)]
    for variable in model.trainable_variables:
        last = variable.path.split("/")[-1]
        if last == "gamma":
            variable.assign(random.uniform(0.6, 1.2, variable.shape))
        elif last in ("beta", "bias"):
            variable.assign(random.normal(0, 0.1, variable.shape))
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(batch, training=True)
    head = [each for each in model.layers if hasattr(each, "kernel")][-1]
    before = keras.Model(model.input, head.input)(batch, training=False)
    kernel = np.asarray(head.kernel)
    found = np.asarray(before).reshape(-1, kernel.shape[-2]) @ kernel.reshape(
        -1, kernel.shape[-1]
    )
    head.kernel.assign(kernel * (2.0 / found.std()))
