"""Ways to feed ``fit``: seven batches an epoch, four epochs, of fifty small rows."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from soak.models import BATCH, FEATURES

EPOCHS, ROWS = 4, 50

Fit = Callable[[keras.Model, list[Any]], Any]


def rows(count: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Make the same small classification problem each time."""
    random = np.random.default_rng(5)
    x = random.standard_normal((count, FEATURES)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32") + (x[:, 0] > 1)


def arrays(**more: Any) -> Fit:
    """Feed NumPy arrays, with further arguments for ``fit``."""

    def fit(model: keras.Model, callbacks: list[Any]) -> Any:
        x, y = rows()
        options = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, **more}
        return model.fit(x, y, callbacks=callbacks, **options)

    return fit


def feed(make: Callable[[], Any], **more: Any) -> Fit:
    """Feed whatever ``make`` gives, with further arguments for ``fit``."""

    def fit(model: keras.Model, callbacks: list[Any]) -> Any:
        options = {"epochs": EPOCHS, "verbose": 0, **more}
        options = {
            name: value() if callable(value) else value
            for name, value in options.items()
        }
        given = make()
        data = given if isinstance(given, list) else [given]
        return model.fit(*data, callbacks=callbacks, **options)

    return fit


def in_scope(fit: Fit) -> Fit:
    """Call ``fit`` within the strategy's scope, as many a script does."""

    def inside(model: keras.Model, callbacks: list[Any]) -> Any:
        with model.distribute_strategy.scope():
            return fit(model, callbacks)

    return inside


def slices() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(rows())


def reshuffled() -> tf.data.Dataset:
    return slices().shuffle(ROWS).batch(BATCH)


def small_buffer() -> tf.data.Dataset:
    return slices().shuffle(10).batch(BATCH)


def same_order() -> tf.data.Dataset:
    return slices().shuffle(ROWS, seed=4, reshuffle_each_iteration=False).batch(BATCH)


def repeated() -> tf.data.Dataset:
    return slices().shuffle(ROWS).repeat().batch(BATCH)


def repeated_inside() -> tf.data.Dataset:
    return slices().repeat().shuffle(20).batch(BATCH).prefetch(2)


def interleaved() -> tf.data.Dataset:
    x, y = rows()

    def part(start: Any) -> tf.data.Dataset:
        whole = tf.data.Dataset.from_tensor_slices((x, y))
        return whole.skip(start).take(10)

    return (
        tf.data.Dataset.range(0, ROWS, 10)
        .shuffle(5)
        .interleave(part, cycle_length=3, block_length=2, num_parallel_calls=2)
        .map(lambda row, label: (row * 1.5, label), num_parallel_calls=2)
        .batch(BATCH)
        .prefetch(tf.data.AUTOTUNE)
    )


def cached() -> tf.data.Dataset:
    return slices().map(lambda a, b: (a + 1.0, b)).cache().shuffle(ROWS).batch(BATCH)


def cached_shuffle() -> tf.data.Dataset:
    return slices().shuffle(ROWS).batch(BATCH).cache()


def unknown_length() -> tf.data.Dataset:
    kept = slices().shuffle(ROWS).filter(lambda row, label: row[0] > -1.3)
    return kept.batch(BATCH).prefetch(2)


def shuffled_in_two_places() -> tf.data.Dataset:
    return slices().shuffle(ROWS).batch(BATCH).shuffle(3).prefetch(1)


def rounds_of_batches() -> tf.data.Dataset:
    """Let go of the shuffle at each round's end, for some of the steps."""
    batches = slices().shuffle(ROWS).batch(BATCH)
    return batches.map(lambda a, b: (a * 2.0, b), num_parallel_calls=2).repeat()


def shuffled_files() -> tf.data.Dataset:
    """Shuffle what is read from, and what was read."""

    def part(start: Any) -> tf.data.Dataset:
        return slices().skip(start).take(10)

    starts = tf.data.Dataset.range(0, ROWS, 10).shuffle(5)
    mixed = starts.interleave(part, cycle_length=2).shuffle(20)
    return mixed.batch(BATCH).prefetch(2)


def generator_in_map() -> tf.data.Dataset:
    """Augment by a ``tf.random.Generator``, whose state is a variable of its own."""
    generator = tf.random.Generator.from_seed(7)

    def augment(row: Any, label: Any) -> Any:
        return row + generator.normal((FEATURES,)) * 0.1, label

    return slices().shuffle(ROWS).map(augment).batch(BATCH)


def global_generator_in_map() -> tf.data.Dataset:
    """Augment by TensorFlow's global generator."""
    generator = tf.random.get_global_generator()

    def augment(row: Any, label: Any) -> Any:
        return row + generator.normal((FEATURES,)) * 0.1, label

    return slices().map(augment).batch(BATCH).prefetch(2)


def stateless_augmentation() -> tf.data.Dataset:
    """Augment by seeds that come with the elements."""
    seeds = tf.data.Dataset.random(seed=9, rerandomize_each_iteration=True).batch(2)

    def augment(pair: Any, seed: Any) -> Any:
        row, label = pair
        noise = tf.random.stateless_normal((FEATURES,), tf.cast(seed, tf.int32))
        return row + 0.1 * noise, label

    return tf.data.Dataset.zip((slices().shuffle(ROWS), seeds)).map(augment).batch(8)


def stateful_augmentation() -> tf.data.Dataset:
    """Augment by ``tf.random.uniform``, whose state is inside the op."""

    def augment(row: Any, label: Any) -> Any:
        return row + tf.random.uniform((FEATURES,)) * 0.1, label

    return slices().shuffle(ROWS).map(augment).batch(BATCH)


def layer_in_map() -> tf.data.Dataset:
    """Augment by a Keras layer that keeps a seed generator."""
    noise = keras.layers.GaussianNoise(0.1, seed=5)

    def augment(row: Any, label: Any) -> Any:
        return noise(row, training=True), label

    return slices().shuffle(ROWS).batch(BATCH).map(augment)


def python_in_map() -> tf.data.Dataset:
    """Call Python for each row."""

    def double(row: Any) -> Any:
        return row.numpy() * 2.0

    def mapped(row: Any, label: Any) -> Any:
        doubled = tf.py_function(double, [row], tf.float32)
        doubled.set_shape((FEATURES,))
        return doubled, label

    return slices().shuffle(ROWS).map(mapped).batch(BATCH)


def from_generator() -> tf.data.Dataset:
    """Read a Python generator anew in each epoch, behind a shuffle."""

    def each() -> Iterator[Any]:
        yield from zip(*rows(), strict=True)

    signature = (
        tf.TensorSpec((FEATURES,), tf.float32),
        tf.TensorSpec((), tf.int64),
    )
    made = tf.data.Dataset.from_generator(each, output_signature=signature)
    return made.shuffle(ROWS).batch(BATCH)


class Batches(keras.utils.PyDataset):
    """The rows by the batch; ``draw`` says what is random about them.

    Args:
        draw: empty for nothing; ``own`` or ``global`` shuffles the rows in
            ``on_epoch_end`` by a generator of its own or by NumPy's global one;
            ``python`` by Python's; ``augment`` adds noise from its own generator.
    """

    def __init__(self, draw: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.x, self.y = rows()
        self.draw = draw
        self.order = np.arange(ROWS)
        self.random = np.random.default_rng(8)

    def __len__(self) -> int:
        return -(-ROWS // BATCH)

    def __getitem__(self, index: int) -> Any:
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        x = self.x[chosen]
        if self.draw == "augment":
            x = x + self.random.standard_normal(x.shape).astype("float32") * 0.1
        return x, self.y[chosen]

    def on_epoch_end(self) -> None:
        if self.draw == "own":
            self.random.shuffle(self.order)
        elif self.draw == "global":
            np.random.shuffle(self.order)


def sharing(model: keras.Model, callbacks: list[Any]) -> Any:
    """Train and validate on data sets that draw from one generator, by turns."""
    given, held = (Batches("augment", workers=1) for _ in range(2))
    held.random = given.random
    return model.fit(
        given,
        validation_data=held,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )


class Counting(Batches):
    """Draws from a source that nobody else can find, and saves it itself."""

    def __init__(self, draw: str = "", **options: Any) -> None:
        super().__init__(draw, **options)
        source = self.random
        # A closure: no attribute leads to it.
        self.random = _Hidden(lambda shape: source.standard_normal(shape))
        self._state = lambda: source.bit_generator.state
        self._assign = lambda state: setattr(source.bit_generator, "state", state)

    def get_state(self) -> dict[str, Any]:
        """Give the generator's state, whose integers have 128 bits."""
        return {"words": repr(self._state())}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put it back."""
        self._assign(ast.literal_eval(state["words"]))


class Visiting(Batches):
    """Fades each row by how often it was given, and all by how many batches were."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.visits = np.zeros(ROWS, "int32")
        self.stage = {"n": 0}

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        self.visits[chosen] += 1
        self.stage["n"] += 1
        return x / self.visits[chosen][:, None] + 0.01 * self.stage["n"], y


class Mixing(Batches):
    """Shuffles at an epoch's end, and draws by the same generator for each batch.

    It is its own: what has read ahead for a run that was broken off in this process
    may go on to draw from those of all.

    Args:
        kind: ``array`` of rows; ``names``, a list that is shuffled by Python;
            ``classes``, an array for each; ``begin``, at an epoch's begin.
    """

    def __init__(self, kind: str = "array", **options: Any) -> None:
        super().__init__(**options)
        self.kind = kind
        self.python = random.Random(4)
        self.names = [f"row {number}" for number in range(ROWS)]
        self.classes = {0: self.order[: ROWS // 2], 1: self.order[ROWS // 2 :]}

    def __getitem__(self, index: int) -> Any:
        if self.kind == "names":
            self.order = np.array([int(name[4:]) for name in self.names])
        x, y = super().__getitem__(index)
        noise = self.random.standard_normal(x.shape).astype("float32")
        return x * self.python.random() + noise * 0.1, y

    def on_epoch_begin(self) -> None:
        if self.kind == "begin":
            self.random.shuffle(self.order)

    def on_epoch_end(self) -> None:
        if self.kind == "array":
            self.random.shuffle(self.order)
        elif self.kind == "names":
            self.python.shuffle(self.names)
        elif self.kind == "classes":
            for chosen in self.classes.values():
                self.random.shuffle(chosen)


class _Hidden:
    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.standard_normal = draw


def batches(draw: str = "", **options: Any) -> Callable[[], Batches]:
    return lambda: Batches(draw, **options)


def python_generator() -> Iterator[Any]:
    """Draw batches without end from a generator with a seed of its own."""
    x, y = rows()
    random = np.random.default_rng(6)
    while True:
        chosen = random.integers(0, ROWS, BATCH)
        yield x[chosen], y[chosen]


def python_generator_by_globals() -> Iterator[Any]:
    """Draw batches without end from NumPy's global generator."""
    x, y = rows()
    while True:
        chosen = np.random.randint(0, ROWS, BATCH)
        yield x[chosen], y[chosen]


def frame() -> list[Any]:
    """Make a data frame and a series."""
    import pandas

    x, y = rows()
    names = [f"f{index}" for index in range(FEATURES)]
    return [pandas.DataFrame(x, columns=names), pandas.Series(y)]


def ragged_tensor() -> tf.RaggedTensor:
    x, _ = rows()
    lengths = 1 + np.arange(ROWS) % FEATURES
    return tf.RaggedTensor.from_tensor(tf.constant(x), lengths=lengths)


def ragged_rows() -> tf.data.Dataset:
    both = tf.data.Dataset.from_tensor_slices((ragged_tensor(), rows()[1]))
    return both.shuffle(ROWS).batch(BATCH)


def sparse_tensor() -> list[Any]:
    x, y = rows()
    return [tf.sparse.from_dense(np.where(x > 0, x, 0).astype("float32")), y]


def sparse_matrix() -> list[Any]:
    import scipy.sparse

    x, y = rows()
    return [scipy.sparse.csr_matrix(np.where(x > 0, x, 0).astype("float32")), y]


def tokens() -> list[Any]:
    x, y = rows()
    return [np.clip((x * 2 + 6).astype("int32"), 0, 11), y]


def sequences() -> list[Any]:
    x, y = rows(6 * BATCH)
    return [x.reshape(-1, 3, 2), y]


def two_inputs() -> list[Any]:
    x, y = rows()
    size = np.abs(x).sum(axis=1, keepdims=True)
    return [{"left": x, "right": x[::-1]}, {"classes": y, "size": size}]


def two_classes() -> list[Any]:
    x, y = rows()
    return [x, (y > 0).astype("float32")[:, None]]


def divergent() -> list[Any]:
    x, _ = rows()
    return [x, x.sum(axis=1, keepdims=True)]


def held_out() -> tuple[np.ndarray, np.ndarray]:
    x, y = rows(70)
    return x[ROWS:], y[ROWS:]


def held_out_reshuffled() -> tf.data.Dataset:
    """Validation data in another order each time, most of it in each."""
    return tf.data.Dataset.from_tensor_slices(held_out()).shuffle(20).batch(6)


def long_epochs() -> tf.data.Dataset:
    """Give 25 batches an epoch, in another order each time."""
    whole = tf.data.Dataset.from_tensor_slices(rows(4 * ROWS))
    return whole.shuffle(ROWS).batch(BATCH).prefetch(2)
