"""Every kind of model that an export must take, or refuse by name before step one.

Each function here builds one, uncompiled. Those in `REFUSED` cannot be a graph of
constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import zoo

L = keras.layers
ops = keras.ops


def functional(*shape: int | None, dtype: str = "float32", name: str = "x") -> Any:
    return keras.Input(shape, dtype=dtype, name=name)


def head(x: Any, y: Any) -> keras.Model:
    return keras.Model(x, L.Dense(2, name="head")(y))


# Dense and convolutional


def batch_norm_mlp() -> keras.Model:
    x = functional(5)
    return head(x, L.Dropout(0.5)(L.BatchNormalization()(L.Dense(8)(x))))


def separable_cnn() -> keras.Model:
    x = functional(12, 12, 3)
    y = L.SeparableConv2D(6, 3, activation="relu6")(x)
    y = L.DepthwiseConv2D(3, depth_multiplier=2)(y)
    y = L.Conv2D(4, 3, padding="same")(L.ZeroPadding2D(1)(y))
    y = L.GlobalMaxPooling2D(keepdims=True)(y)
    return head(x, L.Flatten()(L.DepthwiseConv2D(3, padding="same")(y)))


def grouped_and_dilated_cnn() -> keras.Model:
    x = functional(16, 16, 4)
    y = L.Conv2D(8, 3, groups=4, padding="same")(x)
    y = L.Conv2D(8, 1, groups=2, activation="relu")(y)
    y = L.Conv2D(4, 3, dilation_rate=2)(y)
    y = L.Conv2D(4, 3, strides=2, padding="same")(y)
    return head(x, L.GlobalAveragePooling2D()(y))


def conv1d() -> keras.Model:
    x = functional(None, 4)
    y = L.Conv1D(4, 3, padding="causal", activation="tanh")(x)
    y = L.AveragePooling1D(2)(L.SeparableConv1D(4, 3)(y))
    return head(x, L.GlobalAveragePooling1D()(y))


def conv3d() -> keras.Model:
    x = functional(6, 8, 8, 2)
    y = L.MaxPooling3D()(L.Conv3D(4, 3, padding="same")(x))
    return head(x, L.Flatten()(L.BatchNormalization()(y)))


def unet() -> keras.Model:
    x = functional(16, 16, 3)
    down = L.Conv2D(4, 3, padding="same", activation="relu")(x)
    deep = L.Conv2D(8, 3, padding="same", activation="relu")(L.MaxPooling2D()(down))
    up = L.Conv2DTranspose(4, 2, strides=2, padding="same")(deep)
    wide = L.UpSampling2D(2, interpolation="bilinear")(deep)
    y = L.Concatenate()([down, up, wide])
    return keras.Model(x, L.Conv2D(2, 1, activation="softmax", name="mask")(y))


def growing() -> keras.Model:
    """Transposed convolutions whose filters stick out, fit and leave gaps."""
    x = functional(5, 4, 3)
    y = L.Conv2D(3, 1, activation="relu")(x)
    for kernel, strides in ((3, 2), (2, 2), (1, 2), ((3, 2), (1, 2))):
        y = L.Conv2DTranspose(4, kernel, strides=strides, activation="relu")(y)
    return keras.Model(x, L.Conv2D(2, 1, name="grown")(y))


def parts_of_pictures() -> keras.Model:
    """Crops, parts of channels and every second row, of what a convolution gives."""
    x = functional(9, 9, 3)
    y = L.Conv2D(6, 3, activation="leaky_relu")(x)
    y = L.Cropping2D(((1, 0), (0, 1)))(y)
    y = L.Concatenate()([y[..., :2], y[:, :, :, 3:5]])
    return keras.Model(x, L.Conv2D(2, 1, name="cut")(y[:, ::2, 1:-1]))


def prelu_and_quotients() -> keras.Model:
    """A slope for each channel, a constant over a tensor, scales beside a residual."""
    x = functional(8, 8, 3)
    y = L.Conv2D(4, 3, padding="same")(x)
    y = L.PReLU(alpha_initializer="random_normal", shared_axes=[1, 2])(y)
    y = y + L.ReLU()(y) * np.array([0.5, -1.0, 2.0, 0.1], np.float32)
    y = 2.0 / (1.5 + L.Activation("sigmoid")(y))
    y = L.PReLU(alpha_initializer="random_normal")(L.Dense(4)(L.Flatten()(y)))
    return head(x, y + 1.0 / (2.0 + ops.tanh(y)))


def residual() -> keras.Model:
    x = functional(8, 8, 4)
    y = x
    for _ in range(2):
        z = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(y)))
        y = L.Add()([y, L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(z))])
    return head(x, L.GlobalAveragePooling2D()(y))


def squeeze_and_excite() -> keras.Model:
    x = functional(8, 8, 4)
    gate = L.GlobalAveragePooling2D(keepdims=True)(x)
    gate = L.Conv2D(4, 1, activation="sigmoid")(L.Conv2D(2, 1, activation="silu")(gate))
    return head(x, L.Flatten()(L.Multiply()([x, gate])))


def mobilenet() -> keras.Model:
    return keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), alpha=0.35, weights=None, classes=4
    )


def shapes() -> keras.Model:
    x = functional(6, 6, 2)
    y = L.Cropping2D(1)(L.ZeroPadding2D(2)(x))
    y = L.Reshape((16, 8))(y)
    y = L.Permute((2, 1))(y)
    y = L.RepeatVector(2)(L.Flatten()(y))
    return head(x, L.UpSampling1D(2)(y))


def activations() -> keras.Model:
    x = functional(6)
    kinds = ["gelu", "silu", "mish", "elu", "selu", "softplus", "softsign", "relu6"]
    kinds += ["exponential", "hard_sigmoid", "hard_silu", "log_softmax", "leaky_relu"]
    branches = [L.Dense(2, activation=kind)(x) for kind in kinds]
    branches += [L.PReLU()(L.Dense(2)(x)), L.ELU(0.5)(x), L.ReLU(4.0, 0.1, 0.2)(x)]
    return head(x, L.Concatenate()(branches))


def merges() -> keras.Model:
    x, y = functional(4), functional(4, name="y")
    kinds = [L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum]
    merged = [kind()([x, y]) for kind in kinds]
    merged.append(L.Dot(1, normalize=True)([x, y]))
    return head([x, y], L.Concatenate()(merged))


def normalizations() -> keras.Model:
    x = functional(4, 4, 8)
    y = L.GroupNormalization(2)(L.LayerNormalization(axis=[1, 2])(x))
    y = L.UnitNormalization()(y)
    y = L.SpectralNormalization(L.Conv2D(4, 3))(y)
    return head(x, L.Flatten()(L.BatchNormalization()(y)))


# Recurrent


def lstm() -> keras.Model:
    x = functional(None, 4)
    return head(x, L.LSTM(5)(x))


def gru() -> keras.Model:
    x = functional(7, 4)
    return head(x, L.GRU(5, reset_after=False)(L.GRU(3, return_sequences=True)(x)))


def simple_rnn_backwards() -> keras.Model:
    x = functional(7, 4)
    return head(x, L.SimpleRNN(3, go_backwards=True)(x))


def unrolled_lstm() -> keras.Model:
    x = functional(5, 4)
    return head(x, L.LSTM(3, unroll=True)(x))


def bidirectional() -> keras.Model:
    x = functional(None, 4)
    y = L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="sum")(x)
    return head(x, L.Bidirectional(L.GRU(3))(y))


def masked_rnn() -> keras.Model:
    x = functional(6, 4)
    return head(x, L.LSTM(3)(L.Masking(0.0)(x)))


def encoder_decoder() -> keras.Model:
    source = functional(None, 4, name="source")
    target = functional(None, 3, name="target")
    _, *state = L.LSTM(5, return_state=True)(source)
    y, *_ = L.LSTM(5, return_sequences=True, return_state=True)(
        target, initial_state=state
    )
    return head([source, target], y)


def conv_lstm() -> keras.Model:
    x = functional(4, 6, 6, 2)
    return head(x, L.Flatten()(L.ConvLSTM2D(2, 3)(x)))


def time_distributed() -> keras.Model:
    x = functional(4, 6, 6, 2)
    inner = keras.Sequential([L.Conv2D(3, 3), L.GlobalAveragePooling2D()])
    return head(x, L.LSTM(3)(L.TimeDistributed(inner)(x)))


@keras.saving.register_keras_serializable("kinds")
class MinimalCell(L.Layer):
    """A recurrent cell of one's own."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = self.state_size = units

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight((shape[-1] + self.units, self.units))

    def call(self, inputs: Any, states: Any) -> Any:
        y = ops.tanh(ops.concatenate([inputs, states[0]], -1) @ self.kernel)
        return y, [y]


def custom_cell() -> keras.Model:
    x = functional(None, 4)
    return head(x, L.RNN([MinimalCell(3), L.GRUCell(4)])(x))


# Attention


def transformer() -> keras.Model:
    ids = functional(None, dtype="int32", name="ids")
    y = L.Embedding(20, 8, mask_zero=True)(ids)
    y = y + L.Embedding(64, 8)(ops.cumsum(ops.ones_like(ids), -1) - 1)
    for _ in range(2):
        y = L.LayerNormalization()(y + L.MultiHeadAttention(2, 4, dropout=0.1)(y, y))
        z = L.Dense(8)(L.Dense(16, activation="gelu")(y))
        y = L.LayerNormalization()(y + L.Dropout(0.1)(z))
    return head(ids, L.GlobalAveragePooling1D()(y))


def causal_decoder() -> keras.Model:
    x = functional(6, 8)
    memory = functional(5, 8, name="memory")
    y = L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    y = L.LayerNormalization()(x + y)
    return head([x, memory], L.MultiHeadAttention(2, 4)(y, memory))


def attention_layers() -> keras.Model:
    x, y = functional(6, 4), functional(5, 4, name="y")
    joined = [L.Attention(use_scale=True)([x, y]), L.AdditiveAttention()([x, y])]
    return head([x, y], L.Concatenate()(joined))


def grouped_query_attention() -> keras.Model:
    x = functional(6, 8)
    return head(x, L.GroupQueryAttention(4, 4, 2)(x, x))


def vision_transformer() -> keras.Model:
    x = functional(16, 16, 3)
    y = L.Reshape((16, 8))(L.Conv2D(8, 4, strides=4)(x))
    y = y + L.Embedding(16, 8)(ops.arange(16))
    y = L.LayerNormalization(epsilon=1e-6)(y + L.MultiHeadAttention(2, 4)(y, y))
    return head(x, y[:, 0])


# Embeddings and preprocessing


def embedding_bag() -> keras.Model:
    ids = functional(4, dtype="int32", name="ids")
    return head(ids, ops.mean(L.Embedding(30, 6)(ids), axis=1))


def tied_embedding() -> keras.Model:
    ids = functional(None, dtype="int32", name="ids")
    table = L.ReversibleEmbedding(20, 6) if hasattr(L, "ReversibleEmbedding") else None
    table = table or L.Embedding(20, 6)
    y = L.Dense(6, activation="tanh")(table(ids))
    if not hasattr(L, "ReversibleEmbedding"):
        return head(ids, y)
    return keras.Model(ids, table(y, reverse=True))


def normalization() -> keras.Model:
    layer = L.Normalization()
    layer.adapt(np.arange(15, dtype="float32").reshape(3, 5))
    x = functional(5)
    return head(x, layer(x))


def picture_preprocessing() -> keras.Model:
    x = functional(None, None, 3, dtype="uint8", name="picture")
    y = L.Rescaling(1 / 127.5, -1)(L.Resizing(16, 16)(x))
    y = L.CenterCrop(12, 12)(y)
    return head(x, L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(y)))


def discretization() -> keras.Model:
    x = functional(3)
    bins = L.Discretization([-0.5, 0.0, 0.5], output_mode="one_hot")
    # Keras 3.7 gives it the shape of what it is called with.
    y = L.Lambda(bins, output_shape=(4,))(x[:, :1])
    # As integers, Keras 3.7 makes those of the inputs too, in a graph alone.
    z = L.Embedding(4, 2)(L.Discretization([0.0], dtype="float32")(x))
    return head(x, L.Concatenate()([y, z[:, 0]]))


def category_encoding() -> keras.Model:
    x = functional(3, dtype="int32")
    modes = [L.CategoryEncoding(4, m)(x) for m in ("multi_hot", "count")]
    return head(x, L.Concatenate()(modes))


def hashing() -> keras.Model:
    words = functional(1, dtype="string", name="words")
    ids = functional(1, dtype="int64", name="ids")
    y = L.Embedding(50, 3)(L.Hashing(50, salt=[3, 4])(words))
    z = L.Hashing(8, output_mode="one_hot")(ids)
    return head([words, ids], L.Concatenate()([L.Flatten()(y), z]))


def string_lookup() -> keras.Model:
    words = functional(1, dtype="string", name="words")
    ids = L.StringLookup(vocabulary=["a", "b"], num_oov_indices=2)(words)
    return head(words, L.Flatten()(L.Embedding(6, 3)(ids)))


def integer_lookup() -> keras.Model:
    ids = functional(1, dtype="int64", name="ids")
    y = L.IntegerLookup(vocabulary=[1, 7, -3], output_mode="one_hot")(ids)
    return head(ids, y)


def _text(**options: Any) -> Any:
    layer = L.TextVectorization(max_tokens=20, **options)
    layer.adapt(np.array(["a b c", "B a, c! d", "a"]))
    return layer


def text_to_ids() -> keras.Model:
    words = functional(1, dtype="string", name="text")
    ids = _text(output_sequence_length=4)(words)
    return head(words, L.GRU(3)(L.Embedding(20, 4, mask_zero=True)(ids)))


def text_to_tf_idf() -> keras.Model:
    words = functional(1, dtype="string", name="text")
    return head(words, _text(output_mode="tf_idf", ngrams=2)(words))


def spectrogram() -> keras.Model:
    x = functional(512)
    y = L.MelSpectrogram(
        num_mel_bins=8, sampling_rate=1000, sequence_stride=64, fft_length=128
    )(x)
    return head(x, L.Flatten()(y))


def einsum_dense() -> keras.Model:
    x = functional(4, 6)
    y = L.EinsumDense("abc,cd->abd", output_shape=(4, 3), bias_axes="d")(x)
    return head(x, y)


# Structures


def siamese() -> keras.Model:
    inner = keras.Sequential([keras.Input((4,)), L.Dense(3, activation="relu")])
    x, y = functional(4, name="left"), functional(4, name="right")
    return head([x, y], ops.abs(inner(x) - inner(y)))


def several_outputs() -> keras.Model:
    x = functional(4)
    y = L.Dense(4)(x)
    return keras.Model(x, [L.Dense(2, name="kind")(y), L.Dense(1, name="size")(y)])


def outputs_on_the_way() -> keras.Model:
    """What it gives is read on, given twice, and parts of one op."""
    x = functional(8, 8, 3)
    y = L.Conv2D(4, 3, activation="relu", name="features")(x)
    pooled = L.GlobalAveragePooling2D(name="pooled")(y)
    first, second = ops.split(L.Dense(4, activation="tanh")(pooled), 2, axis=-1)
    scores = L.Dense(2, name="scores")(pooled)
    return keras.Model(x, [y, pooled, scores, scores, first, second])


def fixed_batch() -> keras.Model:
    x = keras.Input(batch_shape=(8, 5), name="x")
    return head(x, L.Dense(4)(x))


def autoencoder() -> keras.Model:
    encoder = keras.Sequential([keras.Input((6,)), L.Dense(2)], name="encoder")
    decoder = keras.Sequential([keras.Input((2,)), L.Dense(6)], name="decoder")
    return keras.Sequential([keras.Input((6,)), encoder, decoder])


class Subclassed(keras.Model):
    """Knows its inputs by the data alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = L.BatchNormalization()
        self.dense = L.Dense(3)

    def call(self, inputs: Any, training: bool = False) -> Any:
        y = self.dense(self.norm(inputs["a"], training=training))
        return {"sum": y + inputs["b"], "scaled": y * 2.0}


def subclassed() -> keras.Model:
    model = Subclassed()
    model(EXAMPLES["subclassed"])
    return model


class Branching(L.Layer):
    """A layer of one's own, with a branch and a loop over its weight."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight((shape[-1],), initializer="ones")

    def call(self, inputs: Any) -> Any:
        y = ops.cond(
            ops.sum(inputs) > 0, lambda: inputs * self.scale, lambda: inputs + 1.0
        )
        return ops.while_loop(
            lambda i, _: i < 3, lambda i, v: (i + 1, v * self.scale), (0, y)
        )[1]


def custom_layer() -> keras.Model:
    x = functional(4)
    return head(x, Branching()(x))


def lambdas() -> keras.Model:
    x = functional(6)
    y = L.Lambda(lambda v: tf.nn.l2_normalize(v, 1) * tf.sqrt(2.0))(x)
    return head(x, ops.where(y > 0, ops.sort(y), ops.flip(y, -1)))


def noise_layers() -> keras.Model:
    x = functional(6, 4)
    y = L.GaussianNoise(0.3)(L.SpatialDropout1D(0.5)(L.GaussianDropout(0.2)(x)))
    y = L.ActivityRegularization(1e-3)(L.AlphaDropout(0.2)(y))
    return head(x, L.Flatten()(y))


def augmentation() -> keras.Model:
    x = functional(8, 8, 3)
    y = L.RandomContrast(0.2)(L.RandomZoom(0.2)(L.RandomRotation(0.2)(x)))
    y = L.RandomTranslation(0.1, 0.1)(L.RandomFlip()(y))
    # These draw their seeds at inference too, for nothing.
    if hasattr(L, "MixUp"):
        y = L.MixUp()(L.RandomGrayscale()(L.RandomHue(0.2)(y)))
    return head(x, L.Flatten()(y))


def generator() -> keras.Model:
    """Rows that become pictures, and an input read as pictures and as numbers."""
    code, x = functional(7), keras.Input((4, 3, 2), name="picture")
    y = L.Reshape((4, 3, 5))(L.Dense(60, activation="relu")(code))
    y = L.Conv2DTranspose(4, 3, padding="same")(L.Concatenate()([x, y]))
    rows = L.Dense(3)(L.Flatten()(x))
    return keras.Model([code, x], L.Dense(2, name="head")(L.Flatten()(y)) + rows[:, :2])


# Other precisions


def float16() -> keras.Model:
    x = functional(5)
    y = L.LayerNormalization(dtype="mixed_float16")(
        L.Dense(8, dtype="mixed_float16")(x)
    )
    return keras.Model(x, L.Dense(2, dtype="float32", name="head")(y))


def quantized() -> keras.Model:
    """Weights of int8, and products that are int32."""
    x = functional(6, 8)
    # The same in each run: where it decides what a float is rounded to, the last bit
    # of a sum makes a difference of 1 in 127.
    same = {"kernel_initializer": keras.initializers.GlorotUniform(seed=1)}
    layers = [L.EinsumDense("abc,cd->abd", (6, 7), **same), L.Dense(5, **same)]
    model = keras.Model(x, layers[1](L.Flatten()(layers[0](x))))
    for layer in layers:
        layer.quantize("int8")
    return model


def bfloat16() -> keras.Model:
    x = functional(8, 8, 3)
    y = L.Conv2D(4, 3, dtype="mixed_bfloat16")(x)
    y = L.GlobalAveragePooling2D(dtype="mixed_bfloat16")(y)
    return keras.Model(x, L.Dense(2, dtype="float32", name="head")(y))


def float64() -> keras.Model:
    x = functional(5, dtype="float64")
    return keras.Model(x, L.Dense(2, dtype="float64")(L.Dense(3, dtype="float64")(x)))


# Refused


def drawing_layer() -> keras.Model:
    class Sampling(L.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seeds = keras.random.SeedGenerator(1)

        def call(self, inputs: Any) -> Any:
            noise = keras.random.normal(ops.shape(inputs), seed=self.seeds)
            return inputs + noise

    x = functional(4)
    return head(x, Sampling()(x))


def stateful_lstm() -> keras.Model:
    x = keras.Input(batch_shape=(8, 5, 4), name="x")
    return head(x, L.LSTM(3, stateful=True, name="memory")(x))


def python_function() -> keras.Model:
    def twice(value: Any) -> Any:
        out = tf.numpy_function(lambda v: v * np.float32(2), [value], tf.float32)
        return tf.ensure_shape(out, [None, 4])

    x = functional(4)
    return head(x, L.Lambda(twice, output_shape=(4,), name="in_python")(x))


ZOO = ["mlp", "cnn", "any_size", "recurrent", "dicts", "nested", "attention"]
OURS: list[Callable[[], keras.Model]] = [
    batch_norm_mlp, separable_cnn, grouped_and_dilated_cnn, conv1d, conv3d, unet,
    growing, prelu_and_quotients, parts_of_pictures, outputs_on_the_way,
    residual, squeeze_and_excite, mobilenet, shapes, activations, merges,
    normalizations, lstm, gru, simple_rnn_backwards, unrolled_lstm, bidirectional,
    masked_rnn, encoder_decoder, conv_lstm, time_distributed, custom_cell, transformer,
    causal_decoder, attention_layers, grouped_query_attention, vision_transformer,
    embedding_bag, tied_embedding, normalization, picture_preprocessing,
    discretization, category_encoding, hashing, string_lookup, integer_lookup,
    text_to_ids, text_to_tf_idf, spectrogram, einsum_dense, siamese, several_outputs,
    fixed_batch, autoencoder, generator, subclassed, custom_layer, lambdas,
    noise_layers, augmentation, float16, bfloat16, float64, quantized,
]  # fmt: skip
KINDS = {
    **{name: zoo.KINDS[name] for name in ZOO},
    **{kind.__name__: kind for kind in OURS},
}
# By the layer's name and what is in the way.
REFUSED = {
    drawing_layer: r"sampling.*a variable that inference changes",
    stateful_lstm: r"memory.*stateful=False",
    python_function: r"in_python.*Python code",
}
# A batch for those that do not know their inputs.
EXAMPLES = {
    "subclassed": {
        "a": np.ones((2, 4), np.float32),
        "b": np.ones((2, 3), np.float32),
    }
}
# What rounds to fewer bits than float32.
TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2, "spectrogram": 1e-4}
