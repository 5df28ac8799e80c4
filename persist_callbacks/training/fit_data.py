"""The data that ``fit`` goes through: what it is, and how often it was begun anew.

Keras keeps it in an ``EpochIterator`` that has no public name; it is touched here
alone, and ``tests/training/test_fit_loop.py`` fails by name when a version moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from persist_callbacks.training import pipeline, preview, python_data, randomness


@dataclass(frozen=True)
class Passed:
    """How often a run has begun its data anew.

    Args:
        iterators: iterators over the data that were made, the one in use included.
        epochs: epochs that the data were told the end of.
        validation_iterators: likewise over the validation data.
    """

    iterators: int = 0
    epochs: int = 0
    validation_iterators: int = 0


@dataclass(frozen=True)
class Beginning:
    """What an iterator over the data began with, and moves as it reads ahead.

    Args:
        variables: values of the variables that the pipeline has captured.
        random: state of Python's and NumPy's generators, where Python makes batches.
        own: state of a ``PyDataset``, see `python_data`.
    """

    variables: tuple[Any, ...] = ()
    random: dict[str, Any] | None = None
    own: dict[str, Any] | None = None


class FitData:
    """Training or validation data inside a running ``fit``.

    A data set that reshuffles takes new seeds for each iterator over it, and a
    ``PyDataset`` may shuffle itself at each epoch's end: in which order the third epoch
    goes through the data depends on how many there were before. So they are counted,
    and a process that goes on makes up for those of the processes before it.

    Args:
        epoch_iterator: Keras' ``EpochIterator``.
        shuffle: fit's argument.
    """

    def __init__(self, epoch_iterator: Any, shuffle: Any = False) -> None:
        self._source = epoch_iterator
        self._shuffle = shuffle
        self._epochs = 0

    @classmethod
    def of(cls, fit_locals: Mapping[str, Any]) -> FitData | None:
        """Find the training data among what a frame of ``fit`` holds."""
        source = fit_locals.get("epoch_iterator")
        return None if source is None else cls(source, fit_locals.get("shuffle"))

    def is_of(self, fit_locals: Mapping[str, Any]) -> bool:
        """Whether these are the data of the ``fit`` that a frame belongs to."""
        return fit_locals.get("epoch_iterator") is self._source

    @property
    def batches_per_epoch(self) -> int | None:
        """Batches in an epoch, None while that is unknown."""
        known = self._source.num_batches
        return int(known) if known and int(known) > 0 else None

    @property
    def is_python(self) -> bool:
        """Whether a Python generator or ``PyDataset`` makes the batches."""
        kind = type(self._source.data_adapter).__name__
        return kind in ("GeneratorDataAdapter", "PyDatasetAdapter")

    @property
    def unsaved_randomness(self) -> str | None:
        """What draws random numbers that the state of an iterator does not hold."""
        if isinstance(self._shuffle, str) and self._is_arrays:
            return f"shuffle={self._shuffle!r} keeps no state that can be saved"
        return None

    @property
    def ignores_random_ops(self) -> bool:
        """Whether the iterator's state is whole though random ops are in its pipeline.

        Keras shuffles arrays by such an op, run once an epoch; what it has drawn is
        part of the state.
        """
        return self._is_arrays

    @property
    def _is_arrays(self) -> bool:
        return type(self._source.data_adapter).__name__ == "ArrayDataAdapter"

    @property
    def _py_dataset(self) -> Any:
        return getattr(self._source.data_adapter, "py_dataset", None)

    @property
    def _dataset(self) -> Any:
        data = self._source._distributed_dataset
        return data.data if isinstance(data, _Counted) else data

    def buffered_bytes(self) -> int | None:
        """Estimate what the state of an iterator holds of the data, in bytes."""
        return pipeline.buffered_bytes(self._dataset)

    def doubts(self) -> list[str]:
        """Say what may keep a resumed run from going through the data as it was.

        Returns:
            A sentence each; none when the data repeat themselves.
        """
        doubts = []
        drawing = sorted(set(pipeline.draws_unseeded(self._dataset)))
        if drawing:
            names = "shuffle=True" if self._is_arrays else ", ".join(drawing)
            doubts.append(
                f"no seed is set for what the data draw at random ({names}), so no two "
                "runs are alike and the next epochs of a resumed one are drawn anew: "
                "call keras.utils.set_random_seed first"
            )
        kind, source = type(self._source.data_adapter).__name__, self._py_dataset
        if kind == "GeneratorDataAdapter":
            doubts.append(
                "a Python generator is drawn from anew on resume: exact if it gives "
                "the same batches again"
            )
        if source is not None and not python_data.has_protocol(source):
            held = [path for path, _ in python_data.generators(source)]
            if held and (source.workers or 0) > 1:
                doubts.append(
                    f"{source.workers} workers share random generators of the data "
                    f"({', '.join(held)}): exact if __getitem__ does not draw from them"
                )
        return doubts

    def element_spec(self) -> Any:
        """Return the structure of ``tf.TypeSpec`` of one batch."""
        return getattr(self._dataset, "element_spec", None)

    def preview(self) -> Any:
        """Return a few real rows of the inputs; None where getting them has effects."""
        if self._is_arrays:
            return preview.rows_of_arrays(self._source.data_adapter._inputs)
        if self.is_python or not isinstance(self._dataset, tf.data.Dataset):
            return None
        return preview.rows_of_dataset(self._dataset)

    def spare_iterator(self) -> Any:
        """Make an iterator over the data that counts for nothing.

        It moves the seeds of a reshuffling data set on, as each iterator does; who
        makes one sees to it that they are put back.
        """
        return iter(self._dataset)

    def next_epoch_iterator(self, current: Any) -> Any:
        """Return the iterator that ``fit`` would use for one more epoch.

        Only to be called when no further epoch comes: making an iterator moves the
        data set's seeds on, which another epoch would notice.

        Args:
            current: the iterator that the last step was given.

        Returns:
            An iterator that stands where the next epoch would begin.
        """
        source = self._source
        if source.steps_per_epoch is not None and source._current_iterator is not None:
            return source._current_iterator
        return iter(source._distributed_dataset)

    def expect_length(self, batches: int | None) -> None:
        """Tell fit the length of epochs that an earlier process has learnt.

        Of data whose length is not known, fit learns it in its first epoch; it makes
        iterators otherwise from then on.

        Args:
            batches: batches in an epoch; None if that process did not know either.
        """
        if self._source.num_batches is None:
            self._source._num_batches = batches

    def add_seen(self, batches: int) -> None:
        """Tell fit of batches that were drawn from its iterator in earlier epochs.

        With ``steps_per_epoch``, one iterator serves several epochs, and fit counts its
        batches to know when data of known length are at their end.

        Args:
            batches: how many, before the epoch that is under way.
        """
        if self._source.steps_per_epoch is not None:
            self._source._steps_seen += batches

    @property
    def iterators_made(self) -> int:
        """Iterators over the data that this run has made so far."""
        data = self._source._distributed_dataset
        return data.made if isinstance(data, _Counted) else 0

    @property
    def epochs_ended(self) -> int:
        """Epochs that the data were told the end of in this run so far."""
        return self._epochs

    @property
    def left_out(self) -> list[str]:
        """Sentences on what of the data's own state could not be put back."""
        data = self._source._distributed_dataset
        return data.left_out if isinstance(data, _Counted) else []

    @property
    def beginning(self) -> Beginning:
        """What the iterator in use began with."""
        data = self._source._distributed_dataset
        return data.beginning if isinstance(data, _Counted) else Beginning()

    def variables(self) -> list[Any]:
        """List the small variables that functions of the pipeline have captured.

        Such as the state of a ``tf.random.Generator`` that a map draws from: it goes on
        over epochs, and the pipeline, which reads ahead, moves it at its own pace.
        """
        return pipeline.captured_variables(self._dataset)

    def count_iterators(
        self, made_before: int, beginning: Beginning | None = None
    ) -> None:
        """Count the iterators that fit makes, and make up for earlier ones first.

        Args:
            made_before: how many there were before the first that fit makes from now
                on; more than none only in a process that goes on with a run.
            beginning: what that one is to begin with; None for what there is.
        """
        if isinstance(self._source._distributed_dataset, _Counted):
            return
        # Whatever makes fit's iterators, in any version, makes them from this.
        self._source._distributed_dataset = _Counted(
            self._dataset,
            self.variables(),
            made_before,
            beginning,
            with_random=self.is_python,
            source=self._py_dataset,
        )

    def count_epochs(self, ended_before: int) -> None:
        """Count the epochs' ends that the data see, and make up for earlier ones now.

        Args:
            ended_before: how many the data of an earlier process had seen.
        """
        adapter, python = self._source.data_adapter, self._py_dataset
        self._epochs = ended_before
        if python is not None and not python_data.has_protocol(python):
            for _ in range(ended_before):
                python.on_epoch_begin()
                python.on_epoch_end()
        tell: Callable[[], None] = adapter.on_epoch_end

        def told() -> None:
            self._epochs += 1
            tell()

        adapter.on_epoch_end = told


class _Counted:
    """A data set that counts the iterators over it."""

    def __init__(
        self,
        data: Any,
        variables: Sequence[Any],
        made_before: int,
        beginning: Beginning | None,
        *,
        with_random: bool,
        source: Any,
    ) -> None:
        self.data = data
        self.made = 0
        self.beginning = Beginning()
        self._variables = variables
        self._made_before = made_before
        self._begin_with = beginning
        self._with_random = with_random
        self._source = source
        # Sentences for the report, of what could not be put back.
        self.left_out: list[str] = []

    def __iter__(self) -> Any:
        while self.made < self._made_before:
            iter(self.data)
            self.made += 1
        self.made += 1
        wanted, self._begin_with = self._begin_with, None
        if wanted is not None:
            for variable, value in zip(self._variables, wanted.variables, strict=False):
                variable.assign(value)
            if wanted.random is not None and self._with_random:
                randomness.restore(wanted.random)
            if wanted.own is not None and self._source is not None:
                self.left_out = python_data.restore(self._source, wanted.own)
        self.beginning = Beginning(
            tuple(variable.numpy() for variable in self._variables),
            randomness.capture() if self._with_random else None,
            None if self._source is None else python_data.capture(self._source),
        )
        return iter(self.data)
