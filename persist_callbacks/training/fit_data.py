"""The data that ``fit`` goes through: what it is, and how often it was begun anew.

Keras keeps it in an ``EpochIterator`` that has no public name; it is touched here
alone, and ``tests/training/test_fit_loop.py`` fails by name when a version moves it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from persist_callbacks.training import (
    orders,
    pipeline,
    preview,
    python_data,
    randomness,
)
from persist_callbacks.training.orders import Order, Orders
from persist_callbacks.training.python_data import has_protocol
from persist_callbacks.training.shuffles import Seeds


@dataclass(frozen=True)
class Passed:
    """How often a run has begun its data anew.

    Args:
        iterators: iterators over the data that were made, the one in use included.
        epochs: epochs that the data were told the end of.
        validation_iterators: iterators over the validation data that are done with.
        validation_epochs: validations that those data were told the end of.
        drawn: iterators over the data that were drawn from, the one in use included.
        validation_drawn: likewise of the validation data.
    """

    iterators: int = 0
    epochs: int = 0
    validation_iterators: int = 0
    validation_epochs: int = 0
    drawn: int = 0
    validation_drawn: int = 0


@dataclass(frozen=True)
class Beginning:
    """What an iterator over the data began with, and moves as it reads ahead.

    Args:
        variables: values of the variables that the pipeline has captured.
        random: state of Python's and NumPy's generators, where Python makes batches.
        own: state of a ``PyDataset``, see `python_data`.
        seeds: state of an iterator that was made before, and has taken the last seeds
            from the data set; None where nothing but their number tells.
        has_caches: whether a saved state brings back what is cached in memory.
        order: what a ``PyDataset`` changes at epochs' ends, see `orders`.
    """

    variables: tuple[Any, ...] = ()
    random: dict[str, Any] | None = None
    own: dict[str, Any] | None = None
    seeds: Any = None
    has_caches: bool = False
    order: Order = field(default_factory=Order)


# Of which something is saved, or more is known; Keras has others for loaders of batches
# that other libraries make.
_KNOWN_ADAPTERS = (
    "ArrayDataAdapter",
    "GeneratorDataAdapter",
    "PyDatasetAdapter",
    "TFDatasetAdapter",
)


class _FirstBatch:
    """The first batch that ``fit`` draws from a ``PyDataset``, seen as it passes by.

    Args:
        adapter: Keras' ``PyDatasetAdapter``, whose ``_standardize_batch`` every batch
            goes through, on a thread of the pipeline's. Those of Keras 3.7 do not:
            there, it is never seen.
    """

    def __init__(self, adapter: Any) -> None:
        self._rows: Any = None
        whole = adapter._standardize_batch

        def seen(batch: Any) -> Any:
            vars(adapter).pop("_standardize_batch", None)
            result = whole(batch)
            self._rows = preview.rows_of_batch(result)
            return result

        # An attribute of the instance stands before the method of its class.
        adapter._standardize_batch = seen

    def __call__(self) -> Any:
        """Return its first rows of inputs; None before it was drawn."""
        return self._rows


class FitData:
    """Training or validation data inside a running ``fit``.

    A data set that reshuffles takes new seeds for each iterator over it, and a
    ``PyDataset`` may shuffle itself at each epoch's end: in which order the third epoch
    goes through the data depends on how many there were before. So they are counted,
    and a process that goes on makes up for those of the processes before it.

    Args:
        epoch_iterator: Keras' ``EpochIterator``.
        shuffle: fit's argument.
        given: the data as the user gave them.
    """

    def __init__(
        self, epoch_iterator: Any, shuffle: Any = False, given: Any = None
    ) -> None:
        self._source = epoch_iterator
        self._shuffle = shuffle
        self._given = given
        # Of other data, fit learns their length as it comes to their end.
        self._tells_length = epoch_iterator.num_batches is not None
        self._epochs = 0
        self._forgotten: python_data.ForgottenChanges | None = None
        self._calls_python: bool | None = None
        self._drawn_from: weakref.ref[Any] | None = None
        self._marks_end = False
        self._end: Beginning | None = None

    @classmethod
    def of(cls, fit_locals: Mapping[str, Any]) -> FitData | None:
        """Find the training data among what a frame of ``fit`` holds."""
        source = fit_locals.get("epoch_iterator")
        return (
            None
            if source is None
            else cls(source, fit_locals.get("shuffle"), fit_locals.get("x"))
        )

    def is_of(self, fit_locals: Mapping[str, Any]) -> bool:
        """Whether these are the data of the ``fit`` that a frame belongs to."""
        return fit_locals.get("epoch_iterator") is self._source

    @property
    def batches_per_epoch(self) -> int | None:
        """Batches in an epoch, None while that is unknown."""
        known = self._source.num_batches
        return int(known) if known and int(known) > 0 else None

    @property
    def learnt_length(self) -> int | None:
        """Batches in an epoch of data that do not tell, since fit has come to an end.

        It takes the one that was not there for one more.
        """
        return None if self._tells_length else self.batches_per_epoch

    @property
    def is_python(self) -> bool:
        """Whether Python code makes the batches, or has a part in them."""
        kind = type(self._source.data_adapter).__name__
        if kind in ("GeneratorDataAdapter", "PyDatasetAdapter"):
            return True
        if self._calls_python is None:
            self._calls_python = pipeline.calls_python(self._dataset)
        return self._calls_python

    @property
    def draws_in_turn(self) -> bool:
        """Whether Python code draws for the batches, as each is made, and before none.

        A generator may draw for many at once, and the first ones were made before they
        were drawn; workers are ahead by as many as there is room for.
        """
        return self._py_dataset is not None and not self._works_ahead

    @property
    def _enqueuer(self) -> Any:
        """Keras' queue of what workers make; None where none are at work."""
        return getattr(self._source.data_adapter, "enqueuer", None)

    @property
    def _works_ahead(self) -> bool:
        """Whether workers make batches before they are drawn."""
        return self._enqueuer is not None

    @property
    def unsaved_randomness(self) -> str | None:
        """What draws random numbers that the state of an iterator does not hold."""
        if isinstance(self._shuffle, str) and self._is_arrays:
            return f"shuffle={self._shuffle!r} keeps no state that can be saved"
        if pipeline.draws_from_generators(self._dataset):
            # TensorFlow says so too, but not once a buffer after it holds all the rest.
            return "a generator that a function draws from is not in its state"
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
    def _orders(self) -> Orders | None:
        return _orders_of(self._py_dataset)

    @property
    def _dataset(self) -> Any:
        data = self._source._distributed_dataset
        return data.data if isinstance(data, _Counted) else data

    def buffered(self) -> pipeline.Buffered:
        """Estimate what the state of an iterator holds of the data."""
        return pipeline.buffered(self._dataset)

    def cache_files(self, *, at_once: bool = False) -> list[str]:
        """List the files that a ``tf.data`` pipeline caches in, by the user's names.

        Args:
            at_once: only those that the first batch is drawn from.
        """
        return pipeline.cache_files(self._given, at_once=at_once)

    @property
    def writes_snapshots(self) -> bool:
        """Whether a ``tf.data`` pipeline keeps its elements by ``Dataset.snapshot``."""
        return pipeline.writes_snapshots(self._dataset)

    @property
    def runs_functions(self) -> bool:
        """Whether functions of a ``tf.data`` pipeline make the batches."""
        return pipeline.runs_functions(self._dataset)

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
                "the same batches again, and callbacks draw from neither random nor "
                "np.random"
            )
        if kind not in _KNOWN_ADAPTERS and self.is_python:
            doubts.append(
                f"a {type(self._given).__name__} is gone through anew on resume, and "
                "the random generators that it draws from are not saved: exact if it "
                "gives the same batches in every epoch"
            )
        if kind == "TFDatasetAdapter" and self.is_python:
            doubts.append(
                "Python code has a part in the tf.data pipeline: exact if it gives the "
                "same again, and draws from no random generator of its own, and "
                "callbacks from neither random nor np.random"
            )
        if kind == "TFDatasetAdapter" and self.seeds.hidden:
            doubts.append(
                "a function in the tf.data pipeline draws from another data set: if "
                "that one reshuffles, the epochs after the resumed one may come in "
                "another order"
            )
        if self._orders is not None:
            doubts += self._orders.doubts()
            known = self._source.data_adapter.num_batches
            parts = self._source.steps_per_epoch
            if parts is not None and parts != known and self._orders.saved():
                doubts.append(
                    "the data change at an epoch's end while batches of theirs have "
                    f"been read ahead, as epochs are of {parts} batches"
                    + (f" and the data of {known}" if known else "")
                    + ": exact if fit is not given steps_per_epoch"
                )
        if source is not None and not has_protocol(source):
            held = [path for path, _ in python_data.generators(source)]
            if held and (source.workers or 0) > 1:
                doubts.append(
                    f"{source.workers} workers share random generators of the data "
                    f"({', '.join(held)}): exact if __getitem__ does not draw from them"
                )
        return doubts

    @functools.cached_property
    def seeds(self) -> Seeds:
        """The generators of seeds in the pipeline."""
        data = self._dataset
        # Distributed data tell nothing; what they were made of has the generators.
        return Seeds(data if isinstance(data, tf.data.Dataset) else self._given)

    def note_drawn(self, iterator: Any) -> None:
        """Take note that an iterator of these data has been drawn from."""
        data = self._source._distributed_dataset
        known = None if self._drawn_from is None else self._drawn_from()
        if known is not iterator and isinstance(data, _Counted):
            self._drawn_from = weakref.ref(iterator)
            data.tally.drawn += 1

    @property
    def iterators_drawn(self) -> int:
        """Iterators over the data that this run has drawn from so far."""
        data = self._source._distributed_dataset
        return data.drawn if isinstance(data, _Counted) else 0

    def element_spec(self) -> Any:
        """Return the structure of ``tf.TypeSpec`` of one batch.

        Of several replicas, which have their parts of it, one's.
        """
        spec = getattr(self._dataset, "element_spec", None)
        return keras.tree.map_structure(
            lambda leaf: getattr(leaf, "_value_specs", (leaf,))[0], spec
        )

    def preview(self) -> Callable[[], Any]:
        """Return what gives a few real rows of the inputs, with no effect on training.

        It gives None where there are none to be had, and of a ``PyDataset`` as long as
        ``fit`` has not drawn a batch: to ask it for one could change what it gives.
        """
        adapter = self._source.data_adapter
        if self._py_dataset is not None:
            return _FirstBatch(adapter)
        rows = None
        if self._is_arrays:
            rows = preview.rows_of_arrays(adapter._inputs, self.batch_rows())
        elif type(adapter).__name__ == "GeneratorDataAdapter":
            # Drawn by Keras to see what they are like, and kept for the first steps.
            rows = preview.rows_of_batch(adapter._first_batches[0])
        elif not self.is_python and isinstance(self._dataset, tf.data.Dataset):
            rows = preview.rows_of_dataset(self._dataset, self.batch_rows())
        return lambda: rows

    def batch_rows(self) -> int | None:
        """Return how many rows a batch has at most; None where nothing tells."""
        adapter = self._source.data_adapter
        if self._is_arrays:
            return int(adapter.batch_size)
        batch = self.element_spec()
        if type(adapter).__name__ == "GeneratorDataAdapter":
            batch = adapter._first_batches[0]
        first = next(iter(keras.tree.flatten(batch)), None)
        shape = tf.TensorShape(getattr(first, "shape", None))
        known = shape[0] if shape.rank else None
        # Distributed data tell nothing; what they were made of does.
        return known or next(
            filter(None, map(pipeline.batch_rows, (self._dataset, self._given))), None
        )

    def spare_iterator(self) -> Any:
        """Make an iterator over the data that counts for nothing.

        It moves the seeds of a reshuffling data set on, as each iterator does; who
        makes one sees to it that they are put back.
        """
        return iter(self._dataset)

    @property
    def kept_iterator(self) -> Any:
        """The iterator that one more epoch would go on with, maybe a new one.

        None where it would make its own.
        """
        source = self._source
        return None if source.steps_per_epoch is None else source._current_iterator

    @property
    def waiting_iterator(self) -> Any:
        """The iterator that fit has made at an epoch's end, and will never use.

        None where it makes none: of data whose length it does not know.
        """
        source = self._source
        return source._current_iterator if source.steps_per_epoch is None else None

    def keep(self, iterator: Any, drawn: int) -> None:
        """Have fit go on with an iterator that it takes for one at its end.

        Args:
            iterator: of these data, with ``steps_per_epoch``.
            drawn: batches that are drawn from it once it is at its place.
        """
        source = self._source
        if source.steps_per_epoch is not None and iterator is not None:
            source._current_iterator, source._steps_seen = iterator, drawn

    def expect_length(self, batches: int | None) -> None:
        """Tell fit the length of epochs that an earlier process has learnt.

        Of data whose length is not known, fit learns it in its first epoch; it goes
        through no more of them from then on, and makes iterators otherwise.

        Args:
            batches: the `learnt_length` of then.
        """
        if not self._tells_length:
            self._source._num_batches = batches

    def forget_length(self) -> None:
        """Let fit learn it anew where it was told of an end that it has not come to.

        With ``steps_per_epoch``: it has counted the batches of one epoch alone, and
        would end all that follow there.
        """
        source = self._source
        if source.steps_per_epoch is not None:
            source._num_batches = source.data_adapter.num_batches

    def add_seen(self, batches: int) -> None:
        """Tell fit of batches that were drawn from its iterator in earlier epochs.

        With ``steps_per_epoch``, one iterator serves several epochs, and fit counts its
        batches to know when data of known length are at their end.

        Args:
            batches: how many, before the epoch that is under way.
        """
        if self._source.steps_per_epoch is not None:
            self._source._steps_seen += batches

    def forget_read_ahead(self) -> None:
        """Drop what workers have made of an epoch of which no step drew any batch.

        Keras keeps what is left at an epoch's end, and gives it out first in the next.
        """
        if self._works_ahead:
            self._enqueuer.ready_queue.queue.clear()

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

    def beginning_now(self) -> Beginning:
        """What an iterator would begin with that is made now."""
        data = self._source._distributed_dataset
        return data.beginning_now() if isinstance(data, _Counted) else Beginning()

    def put_back_order(self, beginning: Beginning) -> None:
        """Put a ``PyDataset``'s order back, after fit told it of the epoch's end again.

        Args:
            beginning: what the iterator in use goes on with.
        """
        data = self._source._distributed_dataset
        if isinstance(data, _Counted):
            data.put_back_order(beginning)

    def catch_up(self, iterators: int, drawn: int, beginning: Beginning) -> None:
        """Bring data that no epoch is left for to where an earlier process left them.

        Another ``fit`` may go through them afterwards.

        Args:
            iterators: how many there were.
            drawn: how many of them were drawn from.
            beginning: what a further one would begin with.
        """
        data = self._source._distributed_dataset
        if isinstance(data, _Counted):
            data.catch_up(iterators, drawn, beginning)

    def variables(self) -> list[Any]:
        """List the small variables that functions of the pipeline have captured.

        Such as the state of a ``tf.random.Generator`` that a map draws from: it goes on
        over epochs, and the pipeline, which reads ahead, moves it at its own pace.
        """
        return pipeline.captured_variables(self._dataset)

    def count_iterators(
        self,
        made_before: int,
        beginning: Beginning | None = None,
        *,
        drawn_before: int = 0,
        run: str = "",
        filling: Callable[[int], None] = lambda number: None,
        where: str = "data",
    ) -> None:
        """Count the iterators that fit makes, and make up for earlier ones first.

        Args:
            made_before: how many there were before the first that fit makes from now
                on; more than none only in a process that goes on with a run.
            drawn_before: how many of them were drawn from.
            beginning: what that one is to begin with; None for what there is.
            run: what they count for; those that this very process has made for it over
                the same data set, in another call of fit, count too.
            filling: called with the number of each batch that is drawn to fill a cache
                in memory with what the first epoch had left in it.
            where: the beginning of the names of the data's tensors.
        """
        if isinstance(self._source._distributed_dataset, _Counted):
            return
        # Whatever makes fit's iterators, in any version, makes them from this.
        self._source._distributed_dataset = _Counted(
            self._dataset,
            self.variables(),
            (made_before, drawn_before),
            beginning,
            with_random=self.is_python,
            source=self._py_dataset,
            tally=self._tally(run),
            seeds=self.seeds,
            filling=filling,
            where=where,
        )

    def share_seeds(
        self,
        validation: Any,
        passed: Passed,
        run: str,
        filling: Callable[[int], None],
    ) -> None:
        """Have validation data take their seeds first, if they share these data's.

        As parts of one shuffled data set do. Each iterator over either takes the next
        seeds, so that the data can only go on where they were after those of the
        validations that are done.

        Args:
            validation: what ``fit`` is given to validate on.
            passed: what went before.
            run: what its iterators count for.
            filling: as of `count_iterators`.
        """
        if not passed.validation_iterators:
            return
        if not isinstance(validation, tf.data.Dataset):
            return
        seeds = Seeds(validation)
        # Where the first epoch is gone through to fill a cache, its seeds come first.
        if self.seeds.fills_cache or not self.seeds.shares(seeds):
            return
        _Counted(
            validation,
            (),
            (0, 0),
            None,
            with_random=False,
            source=None,
            tally=_tally_of(validation, run),
            seeds=seeds,
            filling=filling,
        ).catch_up(passed.validation_iterators, passed.validation_drawn, None)

    def _tally(self, run: str) -> _Tally:
        if not isinstance(self._given, tf.data.Dataset):
            # Of anything else, each fit makes a pipeline of its own.
            return _Tally()
        return _tally_of(self._given, run)

    def count_epochs(self, ended_before: int) -> None:
        """Count the epochs' ends that the data see, and make up for earlier ones now.

        Args:
            ended_before: how many the data of an earlier process had seen.
        """
        self._epochs = ended_before
        self._end_epochs(ended_before)
        adapter, data = self._source.data_adapter, self._source._distributed_dataset
        tell: Callable[[], None] = adapter.on_epoch_end

        def told() -> None:
            self._epochs += 1
            if self._works_ahead:
                # As the adapter does first: what workers change is not the end's doing.
                self._enqueuer.stop()
            with self._finding_order("on_epoch_end"):
                tell()
            if isinstance(data, _Counted):
                if self.kept_iterator is not None:
                    data.order_changes()
                if self._marks_end:
                    self._end = data.beginning_now(randomness.capture())
            if self._forgotten is not None:
                self._forgotten.own_part_ends()

        adapter.on_epoch_end = told
        if isinstance(data, _Counted) and self._py_dataset is not None:
            self._count_begins(adapter, data)

    def _count_begins(self, adapter: Any, data: _Counted) -> None:
        begin: Callable[[], None] = adapter.on_epoch_begin
        works_ahead = self._works_ahead

        def begin_after() -> None:
            if works_ahead:
                data.work_begins(with_random=bool(adapter.shuffle))
            with self._finding_order("on_epoch_begin"):
                begin()
            known = None if self._drawn_from is None else self._drawn_from()
            kept = self.kept_iterator
            if kept is not None and kept is not known and not works_ahead:
                # It was made before the last epoch's end, and is drawn from now.
                data.begin_anew()

        adapter.on_epoch_begin = begin_after

    def count_validations(
        self, ended_before: int, beginning: Beginning, training: FitData, *, begun: bool
    ) -> None:
        """Count as `count_epochs` does, of data to validate on, once they are told.

        Every validation begins by telling its data of an epoch's end. Of the first one
        in a process, which this is called in, nobody could count it.

        Args:
            ended_before: how many the data of an earlier process had seen.
            beginning: how these left them.
            training: the data that the model is trained on, which may be the same.
            begun: whether that process had told them of this validation too.
        """
        source, orders = self._py_dataset, self._orders
        end, training._end = training._end, None
        training._marks_end = False
        if orders is not None and begun + ended_before == 0:
            orders.find_since_noted()
        if source is None or orders is None or begun + ended_before == 0:
            self.count_epochs(ended_before + bool(ended_before))
            return
        now = randomness.capture()
        self._end_epochs(ended_before + (begun and ended_before > 0))
        if end is not None and not begun and training._py_dataset is source:
            beginning = end
        left_out = []
        if beginning.own is not None:
            left_out += python_data.restore(source, beginning.own)
        if not begun and end is not None and end.own is not None:
            # What both have is where training has brought it, but that fit has drawn
            # from it since, to look at a batch.
            python_data.put_back_shared(training._py_dataset, end.own, source)
        left_out += orders.put_back(beginning.order)
        if not begun:
            # What fit has done since the epoch's end, it has done to other data.
            now = now if end is None or end.random is None else end.random
        randomness.restore(now)
        if not begun:
            with self._finding_order("on_epoch_end"):
                source.on_epoch_end()
        self.count_epochs(0)
        self._epochs = ended_before + bool(ended_before)
        data = self._source._distributed_dataset
        if isinstance(data, _Counted):
            data.left_out += left_out

    def beginning_of_validation(self, beginning: Beginning) -> Beginning:
        """Return what of a beginning is left to do once a validation's data are told.

        Args:
            beginning: how an earlier process had left the data, before that.
        """
        if self._orders is None:
            return beginning
        return dataclasses.replace(beginning, own=None, order=Order())

    def mark_end(self) -> None:
        """Keep how the next epoch's end leaves the data, for `count_validations`."""
        self._marks_end = True

    def _end_epochs(self, count: int) -> None:
        """Begin and end epochs of a ``PyDataset``, for what that does to it."""
        python = self._py_dataset
        if python is None or has_protocol(python):
            return
        for number in range(count):
            with contextlib.ExitStack() as stack:
                if number == 0:
                    stack.enter_context(self._finding_order())
                python.on_epoch_begin()
                python.on_epoch_end()

    def _finding_order(self, *hooks: str) -> contextlib.AbstractContextManager[None]:
        found = self._orders
        return contextlib.nullcontext() if found is None else found.found_here(*hooks)

    def order_doubts(self) -> list[str]:
        """Say what of a ``PyDataset``'s order is not saved; a sentence each."""
        if self._orders is None:
            return []
        self.beginning_now()
        return self._orders.doubts()

    def watch(
        self, saved: Callable[[], Collection[int]], beside: FitData | None = None
    ) -> None:
        """Look from now on for what changes in the data and is not put back.

        Args:
            saved: gives the ids of the variables that are saved with the model.
            beside: other data, watched already, which may be of the same data set.
        """
        data = self._py_dataset
        if beside is not None and beside._py_dataset is data:
            self._forgotten = beside._forgotten
        elif data is not None and not has_protocol(data):
            found = orders.of(data)
            self._forgotten = python_data.ForgottenChanges(data, saved, found.saved)

    def callbacks_end_epoch(self) -> None:
        """Take note that every callback was told of an epoch's end."""
        if self._forgotten is not None:
            self._forgotten.others_part_ends()

    def forgotten(self) -> list[str]:
        """Name what has changed in the data and is not put back, once."""
        return [] if self._forgotten is None else self._forgotten.found()


def note_order(dataset: Any) -> None:
    """Take note of data's order as the script made it: of data to validate on, say."""
    found = _orders_of(dataset)
    if found is not None:
        found.note()


def _orders_of(dataset: Any) -> Orders | None:
    is_one = isinstance(dataset, keras.utils.PyDataset)
    return orders.of(dataset) if is_one and not has_protocol(dataset) else None


@dataclass
class _Tally:
    """How many iterators over a data set a run has made, and drawn from."""

    iterators: int = 0
    drawn: int = 0


# By data set, and by what they count for.
_TALLIES: weakref.WeakKeyDictionary[Any, dict[str, _Tally]] = (
    weakref.WeakKeyDictionary()
)


def _tally_of(dataset: Any, run: str) -> _Tally:
    return _TALLIES.setdefault(dataset, {}).setdefault(run, _Tally())


class _Counted:
    """A data set that counts the iterators over it."""

    def __init__(
        self,
        data: Any,
        variables: Sequence[Any],
        before: tuple[int, int],
        beginning: Beginning | None,
        *,
        with_random: bool,
        source: Any,
        tally: _Tally,
        seeds: Seeds,
        filling: Callable[[int], None],
        where: str = "data",
    ) -> None:
        self.data = data
        self.tally = tally
        self._seeds = seeds
        self._filling = filling
        self.beginning = Beginning()
        self._variables = variables
        self._before = before
        self._begin_with = beginning
        self._with_random = with_random
        self._source = source
        self._orders = _orders_of(source)
        self._where = where
        # The generators' state before the epoch, where that is what its order is by.
        self._random_before: dict[str, Any] | None = None
        # Sentences for the report, of what could not be put back.
        self.left_out: list[str] = []

    @property
    def made(self) -> int:
        """Those of earlier processes too, which the first one here makes up for."""
        return max(self.tally.iterators, self._before[0])

    @property
    def drawn(self) -> int:
        """As `made`, of those that were drawn from."""
        return max(self.tally.drawn, self._before[1])

    def work_begins(self, *, with_random: bool) -> None:
        """Put back what workers go by, who start before an iterator is made.

        Args:
            with_random: whether their batches are ordered by Python's generator, in
                their own time.
        """
        wanted = self._begin_with
        if wanted is not None and self._orders is not None:
            self._orders.put_back(wanted.order)
        if with_random:
            if wanted is not None and wanted.random is not None:
                randomness.restore(wanted.random)
            self._random_before = randomness.capture()

    def order_changes(self) -> None:
        """Take the order that an iterator in use goes on by."""
        order = self._order()
        self.beginning = dataclasses.replace(self.beginning, order=order)

    def begin_anew(self) -> None:
        """Take what an iterator begins with that was made before."""
        self.beginning = self.beginning_now()

    def put_back_order(self, beginning: Beginning) -> None:
        """Put an order back that fit has changed since, by one more epoch's end."""
        if self._orders is not None:
            self._orders.put_back(beginning.order)

    def __iter__(self) -> Any:
        wanted, self._begin_with = self._begin_with, None
        if wanted is not None and self._seeds_have_moved_on(wanted):
            self.left_out.append(
                "the order of the data: this process has begun the same data set anew "
                "since, which has moved its seeds on, so that what comes is another "
                "epoch's order; exact over a data set that is made anew"
            )
        self.catch_up(*self._before, wanted)
        self.tally.iterators += 1
        self.beginning = self.beginning_now(self._random_before)
        return iter(self.data)

    def _seeds_have_moved_on(self, wanted: Beginning) -> bool:
        """Whether more were taken than there were, and no saved state brings them back.

        As after a fit that was broken off in a notebook.
        """
        is_saved = wanted.seeds is not None or wanted.has_caches
        is_ahead = self.tally.iterators > self._before[0]
        return is_ahead and not is_saved and self._seeds.reshuffles

    def catch_up(self, iterators: int, drawn: int, beginning: Beginning | None) -> None:
        while self.tally.iterators < iterators:
            made = iter(self.data)
            self.tally.iterators += 1
            if self.tally.drawn < drawn and self._must_go_through(beginning):
                self.tally.drawn += 1
                for number, _ in enumerate(made):
                    self._filling(number)
        if self.tally.drawn < drawn:
            self._seeds.catch_up(drawn - self.tally.drawn)
            self.tally.drawn = drawn
        if beginning is None:
            return
        early = self._random_before is not None
        if beginning.seeds is not None:
            try:
                pipeline.set_iterator_state(iter(self.data), beginning.seeds)
            except (tf.errors.OpError, ValueError):
                self.left_out.append(
                    "the state of the data's shuffling, which is another pipeline's: "
                    "their orders begin anew"
                )
        now, then = self._variables, beginning.variables
        if len(now) == len(then):
            for variable, value in zip(now, then, strict=True):
                variable.assign(value)
        elif then:
            self.left_out.append(
                f"the data's functions hold {len(now)} variables, such as the state of "
                f"random generators, where there were {len(then)}: none is put back"
            )
        if beginning.random is not None and self._with_random and not early:
            randomness.restore(beginning.random)
        if beginning.own is not None and self._source is not None:
            self.left_out += python_data.restore(self._source, beginning.own)
        if self._orders is not None:
            self.left_out += self._orders.put_back(beginning.order)

    def _order(self) -> Order:
        return Order() if self._orders is None else self._orders.take(self._where)

    def _must_go_through(self, beginning: Beginning | None) -> bool:
        """Whether the next epoch is gone through for what it leaves.

        That is the order in which a cache was filled, or how many seeds were taken; a
        saved state has both.
        """
        if beginning is not None and beginning.has_caches:
            return False
        is_first = self.tally.drawn == 0 and self._seeds.fills_cache
        return is_first or self._seeds.must_be_drawn

    def beginning_now(self, random: dict[str, Any] | None = None) -> Beginning:
        if self._begin_with is not None:
            # The first iterator puts it back: until then there is something else.
            owed = self._begin_with
            if owed.own is not None or self._source is None:
                return owed
            # But of validation data, which had theirs back when they were told.
            return dataclasses.replace(
                owed, own=python_data.capture(self._source), order=self._order()
            )
        if random is None and self._with_random:
            random = randomness.capture()
        return Beginning(
            tuple(variable.numpy() for variable in self._variables),
            random,
            None if self._source is None else python_data.capture(self._source),
            order=self._order(),
        )
