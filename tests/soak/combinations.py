"""The combinations whose resume must be exact: what users put together in a ``fit``."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from soak import feeds, models
from soak.feeds import BATCH, Fit, arrays, feed

optimizers, schedules = keras.optimizers, keras.optimizers.schedules
Make = Callable[[Path], list[Any]]


def _no_callbacks(directory: Path) -> list[Any]:
    return []


@dataclass(frozen=True)
class Combination:
    """A model, a way to feed it and the user's callbacks.

    Args:
        build: makes the compiled model.
        fit: calls ``fit`` with the callbacks that it is given.
        callbacks: makes the user's callbacks, which write below a folder.
        options: for `PeriodicCheckpoint`.
        ours: where our callback stands in the list: ``first`` or ``last``.
        devices: logical CPU devices, to be set up before anything else.
        needs: modules without which it cannot run here.
        pace: seconds that each batch takes longer, at least, where it is killed.
    """

    build: Callable[[], keras.Model] = models.seeded
    fit: Fit = field(default_factory=arrays)
    callbacks: Make = _no_callbacks
    options: Mapping[str, Any] = field(default_factory=lambda: {"every_steps": 3})
    ours: str = "first"
    devices: int = 1
    needs: tuple[str, ...] = ()
    pace: float = 0.0

    def missing(self) -> list[str]:
        """List what it needs and is not here."""
        missing = [n for n in self.needs if importlib.util.find_spec(n) is None]
        version = tuple(int(part) for part in keras.__version__.split(".")[:2])
        if self.devices > 1 and version < (3, 10):
            # Older ones give MirroredStrategy's seed generators a mean to take.
            missing.append("Keras 3.10")
        return missing


class LossMemory(keras.callbacks.Callback):
    """A user's callback by the protocol: its state decides over the learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = np.zeros((2,))
        self.seen: list[int] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append(batch)
        self.mean = 0.9 * self.mean + 0.1 * float(logs["loss"])
        if len(self.seen) % 5 == 0:
            rate = self.model.optimizer.learning_rate
            rate.assign(0.005 + 0.001 * float(self.mean[0]))

    def get_state(self) -> dict[str, Any]:
        return {"mean": self.mean, "seen": self.seen}

    def set_state(self, state: dict[str, Any]) -> None:
        self.mean, self.seen = np.array(state["mean"]), list(state["seen"])


_REPLAYED = {"every_steps": 3, "data_state": "replay"}


def _early(**options: Any) -> Any:
    return keras.callbacks.EarlyStopping(**{"restore_best_weights": True, **options})


def _stops_soon(directory: Path) -> list[Any]:
    return [_early(monitor="loss", patience=2, min_delta=0.5)]


def _stops_by_validation(directory: Path) -> list[Any]:
    return [_early(monitor="val_loss", patience=1, start_from_epoch=1)]


def _plateau(directory: Path) -> list[Any]:
    return [
        keras.callbacks.ReduceLROnPlateau(
            "loss", factor=0.5, patience=1, min_delta=0.5, cooldown=1
        )
    ]


def _best(directory: Path) -> list[Any]:
    return [
        keras.callbacks.ModelCheckpoint(
            directory / "best.weights.h5",
            monitor="val_accuracy",
            save_best_only=True,
            save_weights_only=True,
        )
    ]


def _every_few_batches(directory: Path) -> list[Any]:
    return [
        keras.callbacks.ModelCheckpoint(
            directory / "newest.weights.h5", save_weights_only=True, save_freq=4
        )
    ]


def _decay(directory: Path) -> list[Any]:
    # Takes the rate that there is: applied twice in an epoch, it would show.
    return [keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr * 0.8)]


def _csv(append: bool) -> Make:
    return lambda directory: [
        keras.callbacks.CSVLogger(directory / "log.csv", append=append)
    ]


def _tensorboard(frequency: str) -> Make:
    return lambda directory: [
        keras.callbacks.TensorBoard(directory / "board", update_freq=frequency)
    ]


def _backup(directory: Path) -> list[Any]:
    return [keras.callbacks.BackupAndRestore(directory / "backup")]


def _swap(on_epoch: bool) -> Make:
    return lambda directory: [keras.callbacks.SwapEMAWeights(swap_on_epoch=on_epoch)]


def _lambda(directory: Path) -> list[Any]:
    log = directory / "lambda.txt"

    def write(epoch: int, logs: Any) -> None:
        lines = log.read_text().splitlines() if log.exists() else []
        log.write_text("\n".join([*lines[:epoch], f"{epoch} {logs['loss']!r}"]))

    return [keras.callbacks.LambdaCallback(on_epoch_end=write)]


def _several(directory: Path) -> list[Any]:
    return [
        *_best(directory),
        *_plateau(directory),
        *_decay(directory),
        LossMemory(),
        _early(monitor="loss", patience=2, min_delta=0.5),
        LossMemory(),
    ]


def _ema(**more: Any) -> Callable[[], keras.Model]:
    return models.with_optimizer(
        lambda: optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9, **more)
    )


def _optimizer_combinations() -> dict[str, Combination]:
    made = {
        "SGD": lambda: optimizers.SGD(0.05),
        "SGD, momentum": lambda: optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        "RMSprop": lambda: optimizers.RMSprop(0.01, momentum=0.5, centered=True),
        "Adam": lambda: optimizers.Adam(0.01, amsgrad=True, clipnorm=1.0),
        "AdamW": lambda: optimizers.AdamW(0.01),
        "Adadelta": lambda: optimizers.Adadelta(0.5),
        "Adagrad": lambda: optimizers.Adagrad(0.05),
        "Adamax": lambda: optimizers.Adamax(0.01),
        "Adafactor": lambda: optimizers.Adafactor(0.05),
        "Nadam": lambda: optimizers.Nadam(0.01),
        "Ftrl": lambda: optimizers.Ftrl(0.05),
        "Lion": lambda: optimizers.Lion(0.005),
    }
    for name in ("Lamb", "Muon", "ScheduleFreeAdamW"):
        if hasattr(optimizers, name):
            made[name] = functools.partial(getattr(optimizers, name), 0.01)
    return {
        f"optimizer {name}": Combination(models.with_optimizer(make))
        for name, make in made.items()
    }


_VALIDATION = {"validation_data": feeds.held_out}

DATA = {
    "arrays, shuffled": Combination(),
    "arrays, not shuffled": Combination(fit=arrays(shuffle=False)),
    "arrays, not shuffled, nothing random": Combination(
        models.plain, arrays(shuffle=False)
    ),
    "arrays, shuffle=batch": Combination(fit=arrays(shuffle="batch")),
    "arrays, steps_per_epoch": Combination(fit=arrays(steps_per_epoch=5)),
    "sample_weight": Combination(fit=arrays(sample_weight=np.linspace(0, 1, 50))),
    "class_weight": Combination(fit=arrays(class_weight={0: 1.0, 1: 0.5, 2: 2.0})),
    "validation_split": Combination(fit=arrays(validation_split=0.2, epochs=5)),
    "validation_freq=2": Combination(
        fit=arrays(validation_split=0.2, validation_freq=2)
    ),
    "tf.data reshuffled": Combination(fit=feed(feeds.reshuffled)),
    "tf.data reshuffled, replayed": Combination(
        fit=feed(feeds.reshuffled), options=_REPLAYED
    ),
    "tf.data repeated, replayed": Combination(
        fit=feed(feeds.repeated, steps_per_epoch=7), options=_REPLAYED
    ),
    "arrays, shuffled, replayed": Combination(options=_REPLAYED),
    "tf.data small buffer": Combination(fit=feed(feeds.small_buffer)),
    "tf.data same order": Combination(fit=feed(feeds.same_order)),
    "tf.data repeated": Combination(fit=feed(feeds.repeated, steps_per_epoch=7)),
    "tf.data repeated inside": Combination(
        fit=feed(feeds.repeated_inside, steps_per_epoch=7)
    ),
    "tf.data interleaved": Combination(fit=feed(feeds.interleaved)),
    "tf.data cached": Combination(fit=feed(feeds.cached)),
    "tf.data shuffled, then cached": Combination(fit=feed(feeds.cached_shuffle)),
    "tf.data unknown length": Combination(fit=feed(feeds.unknown_length)),
    "tf.data shuffled twice": Combination(fit=feed(feeds.shuffled_in_two_places)),
    "tf.data shuffled twice, replayed": Combination(
        fit=feed(feeds.shuffled_in_two_places), options=_REPLAYED
    ),
    "tf.data shuffled files": Combination(fit=feed(feeds.shuffled_files)),
    "tf.data rounds of batches": Combination(
        fit=feed(feeds.rounds_of_batches, steps_per_epoch=7)
    ),
    "tf.data cached shuffle, replayed": Combination(
        fit=feed(feeds.cached_shuffle), options=_REPLAYED
    ),
    "tf.random.Generator in map": Combination(fit=feed(feeds.generator_in_map)),
    "tf.random global generator in map": Combination(
        fit=feed(feeds.global_generator_in_map)
    ),
    "stateless augmentation": Combination(fit=feed(feeds.stateless_augmentation)),
    "stateful augmentation": Combination(fit=feed(feeds.stateful_augmentation)),
    "Keras layer in map": Combination(fit=feed(feeds.layer_in_map)),
    "py_function in map": Combination(fit=feed(feeds.python_in_map)),
    "from_generator": Combination(fit=feed(feeds.from_generator)),
    "validation reshuffled": Combination(
        fit=feed(feeds.reshuffled, validation_data=feeds.held_out_reshuffled)
    ),
    "validation goes on": Combination(
        fit=feed(
            feeds.reshuffled,
            validation_data=lambda: feeds.held_out_reshuffled().repeat(),
            validation_steps=2,
        )
    ),
    "PyDataset": Combination(fit=feed(feeds.batches(workers=1), shuffle=False)),
    "PyDataset, shuffled by fit": Combination(fit=feed(feeds.batches(workers=1))),
    "PyDataset, 2 workers": Combination(
        fit=feed(feeds.batches(workers=2), shuffle=False)
    ),
    "PyDataset, 2 workers, shuffled by fit": Combination(
        fit=feed(feeds.batches(workers=2))
    ),
    "PyDataset shuffles itself": Combination(
        fit=feed(feeds.batches("own", workers=1), shuffle=False)
    ),
    "PyDataset shuffles itself, 2 workers": Combination(
        fit=feed(feeds.batches("own", workers=2), shuffle=False)
    ),
    "PyDataset shuffles by np.random": Combination(
        fit=feed(feeds.batches("global", workers=1), shuffle=False)
    ),
    **{
        f"PyDataset mixes: {kind}": Combination(
            fit=feed(functools.partial(feeds.Mixing, kind, workers=1), shuffle=False)
        )
        for kind in ("array", "names", "classes", "begin")
    },
    "PyDataset mixes, steps_per_epoch": Combination(
        fit=feed(feeds.Mixing, shuffle=False, steps_per_epoch=len(feeds.Mixing()))
    ),
    "PyDataset mixes, for validation": Combination(
        fit=feed(
            feeds.Mixing,
            shuffle=False,
            validation_data=functools.partial(feeds.Mixing, "names"),
        )
    ),
    "PyDataset augments": Combination(
        fit=feed(feeds.batches("augment", workers=1), shuffle=False)
    ),
    "PyDataset augments, own methods": Combination(
        fit=feed(lambda: feeds.Counting("augment", workers=1), shuffle=False)
    ),
    "PyDatasets share a generator": Combination(fit=feeds.sharing),
    "PyDataset counts in an array": Combination(
        fit=feed(lambda: feeds.Visiting(workers=1), shuffle=False)
    ),
    "PyDataset for validation": Combination(
        fit=arrays(validation_data=feeds.Batches(workers=1))
    ),
    "Python generator": Combination(
        fit=feed(feeds.python_generator, steps_per_epoch=7)
    ),
    "Python generator, np.random": Combination(
        fit=feed(feeds.python_generator_by_globals, steps_per_epoch=7)
    ),
    "pandas": Combination(fit=feed(feeds.frame, batch_size=BATCH), needs=("pandas",)),
    "ragged tf.data": Combination(models.ragged, feed(feeds.ragged_rows)),
    "sparse tensor": Combination(
        models.sparse, feed(feeds.sparse_tensor, batch_size=BATCH)
    ),
    "sparse matrix": Combination(
        models.sparse,
        feed(feeds.sparse_matrix, batch_size=BATCH, shuffle=False),
        needs=("scipy",),
    ),
}

MODELS = {
    "seeds of all layers": Combination(models.many_seeds),
    "batch normalisation": Combination(models.batch_averages),
    "stateful RNN": Combination(
        models.stateful_rnn,
        feed(feeds.sequences, batch_size=BATCH, shuffle=False, epochs=5),
    ),
    "embedding, attention": Combination(
        models.attention, feed(feeds.tokens, batch_size=BATCH)
    ),
    "EMA": Combination(_ema()),
    "EMA, overwriting": Combination(_ema(ema_overwrite_frequency=5)),
    "gradient accumulation": Combination(
        models.with_optimizer(
            lambda: optimizers.Adam(0.01, gradient_accumulation_steps=3)
        )
    ),
    "mixed_float16, loss scale": Combination(models.mixed_precision),
    **_optimizer_combinations(),
    "two optimizers": Combination(models.two_optimizers),
    "two optimizers, unbuilt": Combination(models.two_optimizers_unbuilt),
    "averages in a plain object": Combination(models.mean_teacher),
    "averages in a plain object, unbuilt": Combination(models.mean_teacher_unbuilt),
    "schedule, exponential": Combination(
        models.with_optimizer(
            lambda: optimizers.Adam(schedules.ExponentialDecay(0.02, 4, 0.8))
        )
    ),
    "schedule, cosine restarts": Combination(
        models.with_optimizer(
            lambda: optimizers.SGD(schedules.CosineDecayRestarts(0.1, 6), 0.9)
        )
    ),
    "jit_compile=True": Combination(models.compiled_with(jit_compile=True)),
    "jit_compile=False": Combination(models.compiled_with(jit_compile=False)),
    "run_eagerly": Combination(models.compiled_with(run_eagerly=True)),
    "steps_per_execution=3": Combination(models.compiled_with(steps_per_execution=3)),
    "steps_per_execution=3, unknown length": Combination(
        models.compiled_with(steps_per_execution=3), feed(feeds.unknown_length)
    ),
    "steps_per_execution=3, PyDataset": Combination(
        models.compiled_with(steps_per_execution=3),
        feed(feeds.batches(workers=1), shuffle=False),
    ),
    "subclassed": Combination(models.subclassed),
    "subclassed, unbuilt": Combination(models.subclassed_unbuilt),
    "draws from the global generator": Combination(models.draws_unseeded),
    "unbuilt Sequential": Combination(models.unbuilt_sequential),
    "frozen layers": Combination(models.frozen_layers),
    "shared layers": Combination(
        models.shared_layers, feed(feeds.two_inputs, batch_size=BATCH)
    ),
    "nested": Combination(models.nested),
    "more metrics": Combination(
        models.more_metrics, feed(feeds.two_classes, batch_size=BATCH)
    ),
    "MirroredStrategy, arrays": Combination(models.mirrored, devices=2),
    "MirroredStrategy, subclassed": Combination(models.mirrored_subclassed, devices=2),
    "MirroredStrategy, in its scope": Combination(
        models.mirrored, feeds.in_scope(arrays()), devices=2
    ),
    "MirroredStrategy, tf.data": Combination(
        models.mirrored, feed(feeds.reshuffled), devices=2
    ),
    "MirroredStrategy, steps_per_epoch": Combination(
        models.mirrored, feed(feeds.repeated, steps_per_epoch=7), devices=2
    ),
}

CALLBACKS = {
    "EarlyStopping": Combination(fit=arrays(epochs=9), callbacks=_stops_soon),
    "EarlyStopping by validation": Combination(
        fit=arrays(validation_split=0.2, epochs=6), callbacks=_stops_by_validation
    ),
    "ReduceLROnPlateau": Combination(fit=arrays(epochs=6), callbacks=_plateau),
    "ModelCheckpoint best": Combination(
        fit=arrays(validation_split=0.2), callbacks=_best
    ),
    "ModelCheckpoint save_freq": Combination(callbacks=_every_few_batches),
    "LearningRateScheduler": Combination(callbacks=_decay),
    "LearningRateScheduler, ours last": Combination(callbacks=_decay, ours="last"),
    "CSVLogger": Combination(callbacks=_csv(append=False)),
    "CSVLogger, ours last": Combination(callbacks=_csv(append=False), ours="last"),
    "CSVLogger append": Combination(callbacks=_csv(append=True)),
    "TensorBoard": Combination(callbacks=_tensorboard("epoch"), needs=("tensorboard",)),
    "TensorBoard, batches and validation": Combination(
        fit=arrays(validation_split=0.2, epochs=5),
        callbacks=_tensorboard("batch"),
        needs=("tensorboard",),
    ),
    "BackupAndRestore beside": Combination(callbacks=_backup),
    "BackupAndRestore beside, ours last": Combination(callbacks=_backup, ours="last"),
    "TerminateOnNaN": Combination(
        models.diverging,
        feed(feeds.divergent, batch_size=BATCH, epochs=8),
        lambda directory: [keras.callbacks.TerminateOnNaN()],
    ),
    "SwapEMAWeights": Combination(
        _ema(), feed(feeds.reshuffled, **_VALIDATION), _swap(False)
    ),
    "SwapEMAWeights on epoch": Combination(
        _ema(), feed(feeds.reshuffled, **_VALIDATION), _swap(True)
    ),
    "LambdaCallback": Combination(callbacks=_lambda),
    "user's protocol": Combination(callbacks=lambda directory: [LossMemory()]),
    "several": Combination(
        fit=arrays(validation_split=0.2, epochs=8), callbacks=_several
    ),
    "several, ours last": Combination(
        fit=arrays(validation_split=0.2, epochs=8), callbacks=_several, ours="last"
    ),
}

SAVING = {
    # The first save is due once a hundredth of the wall time pays for it.
    "no trigger": Combination(options={}, pace=0.4),
    "every epoch": Combination(options={"every_epochs": 1}),
    "every second": Combination(
        fit=feed(feeds.reshuffled, **_VALIDATION),
        options={"every_seconds": 0.05, "monitor": "val_loss", "keep_last": 1},
    ),
}

COMBINATIONS: dict[str, Combination] = {**DATA, **MODELS, **CALLBACKS, **SAVING}


def _of_a_long_run(directory: Path) -> list[Any]:
    return [*_csv(append=True)(directory), *_best(directory), LossMemory()]


# What is killed a hundred times: longer than it lives in all of them together.
SOAK = Combination(
    fit=feed(feeds.long_epochs, epochs=200, validation_data=feeds.held_out_reshuffled),
    callbacks=_of_a_long_run,
    options={"every_steps": 5, "keep_last": 2, "monitor": "val_loss"},
)


def find(name: str) -> Combination:
    """Return a combination by its name; ``soak`` is the one that is no part of all."""
    return SOAK if name == "soak" else COMBINATIONS[name]
