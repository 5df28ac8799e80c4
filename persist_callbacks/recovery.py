"""From a checkpoint on disk back into live training; shared by the faces."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import keras

from persist_callbacks.errors import (
    ArchitectureMismatch,
    ArgumentError,
    DataMismatch,
    ModelNotBuilt,
    ModelNotCompiled,
    PersistError,
)
from persist_callbacks.storage import bundle, progress
from persist_callbacks.storage.checkpoints import Committed
from persist_callbacks.storage.layout import STATE
from persist_callbacks.storage.store import Store
from persist_callbacks.training import (
    callback_state,
    data_position,
    fit_loop,
    json_values,
    model_building,
    randomness,
    settings,
)
from persist_callbacks.training import state as training_state
from persist_callbacks.training import variables as training_variables
from persist_callbacks.training.fit_data import Beginning
from persist_callbacks.training.orders import Order
from persist_callbacks.training.state import BEFORE_TRAIN_END, TrainingState


@dataclass(frozen=True)
class ResumeReport:
    """What a resume put back, from where, and what it could not.

    Args:
        checkpoint: the checkpoint's folder.
        age: seconds since it was committed.
        restored: what was put back, a phrase each.
        data: how the position in the data is found again.
        not_restored: what was not, and why; a sentence each.
        passed_over: newer checkpoints that are damaged, and what is wrong with them.
        lost: steps that were trained after the checkpoint and are trained again; None
            if that is not known, as after a power loss.
        lost_seconds: wall time between the checkpoint and the last of them.
        doubts: what may keep the run from being as if it had not been interrupted.
    """

    checkpoint: Path
    age: float
    restored: tuple[str, ...]
    data: str
    not_restored: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    lost: int | None = None
    lost_seconds: float = 0.0
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"  restored: {', '.join(self.restored)}", f"  data: {self.data}"]
        lines += [f"  not restored: {reason}" for reason in self.not_restored]
        lines += [f"  passed over: {reason}" for reason in self.passed_over]
        lines += [f"  in doubt: {doubt}" for doubt in self.doubts]
        if self.lost is not None:
            lost = _count(self.lost, "step") if self.lost else "nothing"
            span = f", {_span(self.lost_seconds)} of training" if self.lost else ""
            lines.append(f"  lost: {lost}{span}")
        return "\n".join(lines)


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on.

    Args:
        step: training steps done since the run began.
        epoch: zero-based epoch of the next step; fits ``fit(initial_epoch=...)``.
        batch: zero-based batch of the next step within the epoch.
        path: the checkpoint's folder.
        history: values by metric name, as in ``History.history``.
        report: what was put back; prints well.
    """

    step: int
    epoch: int
    batch: int
    path: Path
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    report: ResumeReport | None = None

    def as_event(self) -> dict[str, Any]:
        """Give the fields that the journal keeps of a resume."""
        event: dict[str, Any] = {
            "checkpoint": self.path.name,
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
        }
        if self.report is not None:
            event["restored"] = list(self.report.restored)
            event["data"] = self.report.data
            event["not_restored"] = list(self.report.not_restored)
            event["lost"] = self.report.lost
            event["doubts"] = list(self.report.doubts)
        return event

    def __str__(self) -> str:
        age = "" if self.report is None else f", saved {_ago(self.report.age)}"
        head = (
            f"Resuming from {self.path.name} in {self.path.parent}{age}: "
            f"epoch {self.epoch + 1}, batch {self.batch}, step {self.step}"
        )
        return head if self.report is None else f"{head}\n{self.report}"


class Recovery:
    """One checkpoint, ready to be put back into a live program.

    Args:
        store: the run directory.
        committed: the checkpoint.
        passed_over: newer ones that are damaged, and why.

    Raises:
        CheckpointDamaged: the training state cannot be read.
    """

    def __init__(
        self,
        store: Store,
        committed: Committed,
        passed_over: Sequence[tuple[Path, PersistError]] = (),
    ) -> None:
        self.committed = committed
        self.state: TrainingState = training_state.load(
            store.load_state(committed), committed.path / STATE
        )
        self._passed_over = tuple(str(error) for _, error in passed_over)
        # Read now, before the run that goes on writes over it.
        self._reached = progress.read(store.directory)
        self._tensors: dict[str, Any] | None = None
        # Sentences for the report, by the part that they are about: a part that is put
        # back twice, once the model is whole, speaks of the second time alone.
        self._left_out: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def check_architecture(self, model: Any) -> None:
        """Refuse a built model of another architecture before anything is touched.

        Args:
            model: the Keras model; one that is not built yet passes.

        Raises:
            ArchitectureMismatch: its variables do not fit.
        """
        if not model_building.is_built(model):
            return
        roles: list[training_variables.Role] = ["model"]
        optimizers = training_variables.optimizers_of(model)
        self._build_optimizer(model, early=True)
        if optimizers and all(optimizer.built for optimizer in optimizers):
            roles.append("optimizer")
        live = training_variables.collect(model)
        training_variables.match(
            self.state.variables, live, where=self.committed.path, roles=roles
        )

    def check_data(
        self, batches_per_epoch: int | None, steps_per_execution: int
    ) -> None:
        """Refuse to go on in the middle of an epoch that is not the same one.

        Args:
            batches_per_epoch: of the data that ``fit`` was given, as far as known.
            steps_per_execution: of the model.

        Raises:
            DataMismatch: the position would be another one in this data.
        """
        before, batch = self.state.batches_per_epoch, self.state.position.batch
        if batch % steps_per_execution:
            raise DataMismatch(
                self.committed.path,
                expected=f"a steps_per_execution that divides {batch}, the batch of an "
                "epoch that it was saved before",
                found=str(steps_per_execution),
                advice="Compile the model with the same steps_per_execution as before.",
            )
        if batches_per_epoch is None or before == batches_per_epoch:
            return
        if before is None and batch <= batches_per_epoch:
            return
        if batch:
            raise DataMismatch(
                self.committed.path,
                expected=f"{before or batch} batches in an epoch, as when it was saved",
                found=f"{batches_per_epoch} in the data given to fit",
                advice=(
                    f"It was saved before batch {batch} of an epoch. Give fit the same "
                    "data and batch size, or resume from a checkpoint at the end of an "
                    "epoch with persist_callbacks.resume, fit(initial_epoch=...) and "
                    "another directory for PeriodicCheckpoint."
                ),
            )
        self._left_out["length"] = [
            f"the epoch's length: {before} batches before, {batches_per_epoch} now"
        ]

    def put_back_variables(
        self,
        model: Any,
        *,
        build: Callable[[bool], None] | None = None,
        training_goes_on: bool = True,
        metrics: bool = True,
        but: Sequence[Any] = (),
        early: bool = False,
    ) -> bool:
        """Assign all saved values to the model, its optimizers, metrics and seeds.

        Args:
            model: the Keras model.
            build: called once when variables are missing: makes them. It is told
                whether metrics alone lack some.
            training_goes_on: for a finished run, whether to put back the values from
                before train end, on which further training depends.
            metrics: whether the variables of metrics are wanted too; few metrics carry
                anything over an epoch's end.
            but: variables that are left as they are, since a replay moves them.
            early: whether it is done again before the first step, which makes what is
                missing yet: optimizers that the model drives itself, say.

        Returns:
            Whether all of them, but for those of metrics, were there to be assigned to.

        Raises:
            ArchitectureMismatch: the variables do not fit.
            ModelNotBuilt: an optimizer of the model's own is not built, where nothing
                builds it any more.
        """
        self._build_optimizer(model, early=early or build is not None)
        try:
            pairs, left_out, of_metrics = self._match(model, metrics)
        except ArchitectureMismatch:
            if build is None and not early:
                self._require_own_optimizers(model)
                raise
            pairs, left_out, of_metrics = [], ["the optimizer is not whole"], []
            if build is None:
                pairs = self._match_model(model)
        if build is not None and (left_out or of_metrics):
            build(not left_out)
            pairs, left_out, of_metrics = self._match(model, metrics)
        tensors = self.tensors()
        if training_goes_on:
            replaced = {
                key: tensors[BEFORE_TRAIN_END + key]
                for key in self.state.replaced_at_end
            }
            tensors = {**tensors, **replaced}
        left_alone = {id(variable) for variable in but}
        pairs = [pair for pair in pairs if id(pair[1].variable) not in left_alone]
        _assign(model, pairs, tensors)
        self._counts = Counter(item.info.role for _, item in pairs)
        self._left_out["variables"] = left_out + of_metrics
        return not left_out

    def made_to_fit(self, model: Any) -> bool:
        """Give a compiled optimizer its variables, which costs little.

        Returns:
            Whether all that was saved, but for metrics, is there to be assigned to.
        """
        self._build_optimizer(model, early=True)
        try:
            _, left_out, _ = self._match(model, metrics=False)
        except ArchitectureMismatch:
            return False
        return not left_out

    @property
    def place(self) -> str:
        """Where the run stands, in words."""
        position = self.state.position
        if not position.batch:
            return f"the end of epoch {position.epoch}, step {position.step}"
        place = f"epoch {position.epoch + 1}, batch {position.batch}"
        if self.state.in_validation:
            return f"{place}, step {position.step}, before its end"
        return f"{place}, step {position.step}"

    @property
    def ended_an_epoch(self) -> bool:
        """Whether it was captured at an epoch's end, before the next one's begin."""
        return self.committed.record.finished

    def put_back_model(self, model: Any) -> None:
        """Assign the saved values of the model alone, as it is used for prediction.

        Raises:
            ArchitectureMismatch: the variables do not fit.
        """
        pairs = self._match_model(model)
        keys = [key for key, _ in pairs]
        _assign(model, pairs, bundle.read(self.committed.prefix, keys))

    def put_back_callbacks(
        self, callbacks: Iterable[Any], *, step_has_begun: bool = False
    ) -> None:
        """Give each callback the state that it had.

        Args:
            callbacks: the callbacks of this run.
            step_has_begun: whether they have had the begin hooks of the next step.
        """
        self._left_out["callbacks"] = callback_state.restore(
            callbacks,
            self.state.callbacks,
            self.tensors(),
            step_has_begun=step_has_begun,
        )

    def put_back_seeds(self, *, but: Collection[str] = ()) -> None:
        """Put the generators of Python, NumPy and TensorFlow back.

        Args:
            but: which are left as they are, see `randomness.restore`.
        """
        self._left_out["seeds"] = randomness.restore(self.state.random, but=but)

    def note_data(self, left_out: Sequence[str]) -> None:
        """Take note of what of the data's own state could not be put back."""
        self._left_out["data"] = list(left_out)

    def note_settings(self, now: Mapping[str, str]) -> dict[str, str]:
        """Take note of what this script asks for that the one before did not.

        Returns:
            What it asks for: a learning rate that was saved, and that the model has got
            back by now, nobody has asked for.
        """
        before, asked = self.state.settings, dict(now)
        rates = [
            settings.text(float(self.tensors()[info.key]))
            for info in self.state.variables
            if info.role == "optimizer" and info.key.endswith("/learning_rate")
        ]
        if asked.get(settings.RATE) in rates and settings.RATE in before:
            asked[settings.RATE] = before[settings.RATE]
        # A rate that a schedule computes is no variable, nor is another setting.
        was_saved = f"{settings.RATE} was "
        self._left_out["settings"] = [
            f"{difference}; what was saved goes on"
            if rates and difference.startswith(was_saved)
            else difference
            for difference in settings.differences(before, asked)
        ]
        return asked

    def can_rehearse(self, steps: int) -> bool:
        """Whether steps can be taken before the restore without losing the place.

        Args:
            steps: how many batches they draw.
        """
        data = self.state.data
        # Once its epoch is over, nothing more is drawn from the iterator.
        is_used_up = self.state.in_validation and data.begins
        return is_used_up or data.way == "iterator" or data.drawn >= steps

    def data_beginning(self) -> Beginning:
        """Return what the iterator of the next step began with, or is to begin with."""
        data = self.state.data
        values = tuple(self.tensors()[key] for key in data.variable_keys())
        # That of an iterator under way is put back into fit's own, once it has one.
        seeds = self._iterator_state() if data.begins else None
        return Beginning(
            values,
            data.random,
            data.own,
            seeds,
            has_caches=data.way == "iterator",
            order=self._order(data.order),
        )

    def validation_beginning(self) -> Beginning:
        """Return what the next iterator over the validation data is to begin with."""
        data = self.state.data
        values = tuple(self.tensors()[key] for key in data.validation_keys())
        order = self._order(data.validation_order)
        return Beginning(values, own=data.validation_own, order=order)

    def _order(self, record: dict[str, Any]) -> Order:
        names = json_values.array_names(record)
        return Order(record, {name: self.tensors()[name] for name in names})

    def data_end(self) -> Beginning:
        """Return what a data set is left with by a run that has no epoch left."""
        return dataclasses.replace(self.data_beginning(), seeds=self._iterator_state())

    @property
    def iterators_made(self) -> int:
        """How many iterators there were before the checkpoint."""
        data = self.state.data
        return data.passed.iterators - data.begins

    def _iterator_state(self) -> Any:
        return self.tensors().get(data_position.KEY)

    def last_logs(self) -> dict[str, Any]:
        """Return the logs of the last step before the checkpoint."""
        logs: dict[str, Any] = json_values.decode(self.state.last_logs)
        return logs

    def tensors(self) -> dict[str, Any]:
        """Return all tensors of the checkpoint by key, read once."""
        if self._tensors is None:
            keys = [info.key for info in self.state.variables]
            keys += training_state.further_keys(self.state)
            self._tensors = bundle.read(self.committed.prefix, keys)
        return self._tensors

    def forget_tensors(self) -> None:
        """Give the memory back, once everything is restored."""
        self._tensors = None

    def point(
        self, *, in_fit: bool, newest: bool = True, doubts: Sequence[str] = ()
    ) -> ResumePoint:
        """Say where the run goes on and what was put back so far.

        Args:
            in_fit: whether ``fit`` goes on, whose data are brought to their place.
            newest: whether it goes on from as far as it can: what was trained after an
                older checkpoint is given up, not lost.
            doubts: about the data; a sentence each.
        """
        position = self.state.position
        lost, lost_seconds = self._lost() if newest else (None, 0.0)
        return ResumePoint(
            step=position.step,
            epoch=position.epoch,
            batch=position.batch,
            path=self.committed.path,
            history=self._history(),
            report=ResumeReport(
                checkpoint=self.committed.path,
                age=max(0.0, time.time() - self.committed.record.saved_at),
                restored=tuple(self._restored()),
                data=self._data(in_fit),
                not_restored=tuple(
                    reason for part in self._left_out.values() for reason in part
                ),
                passed_over=self._passed_over,
                lost=lost,
                lost_seconds=lost_seconds,
                doubts=tuple(doubts),
            ),
        )

    def _match(
        self, model: Any, metrics: bool
    ) -> tuple[list[tuple[str, training_variables.LiveVariable]], list[str], list[str]]:
        """Give pairs, and sentences on what could not be paired: of metrics apart."""
        live = training_variables.collect(model, randomness.seed_variables())
        pairs: list[tuple[str, training_variables.LiveVariable]] = []
        left_out: dict[bool, list[str]] = {False: [], True: []}
        # In the roles' order, in which they are assigned too: with several replicas
        # metrics that come last are not what they were.
        for role in get_args(training_variables.Role):
            if role == "metric" and not metrics:
                continue
            found, missing = training_variables.match(
                self.state.variables, live, where=self.committed.path, roles=[role]
            )
            pairs += found
            left_out[role == "metric"] += missing
        return pairs, left_out[False], left_out[True]

    def _match_model(self, model: Any) -> list[tuple[str, Any]]:
        pairs, _ = training_variables.match(
            self.state.variables,
            training_variables.collect(model),
            where=self.committed.path,
            roles=("model",),
        )
        return list(pairs)

    def _require_own_optimizers(self, model: Any) -> None:
        """Say so where optimizers that nobody has built are what keeps it from fitting.

        Raises:
            ArchitectureMismatch: the model does not fit in itself.
            ModelNotBuilt: optimizers beside the compiled one have no variables yet.
        """
        self._match_model(model)
        unbuilt = [
            f"{type(each).__name__} {each.name!r}"
            for each in training_variables.optimizers_of(model)
            if not each.built and each is not getattr(model, "optimizer", None)
        ]
        if unbuilt:
            raise ModelNotBuilt(
                self.committed.path,
                expected="optimizers that have their variables, as it has them",
                found=f"without: {', '.join(unbuilt)}",
                advice="Call optimizer.build(variables) of each first, with the "
                "variables that it trains.",
            ) from None

    def _build_optimizer(self, model: Any, *, early: bool) -> None:
        """Make the compiled optimizer's variables, as fit's own train step would.

        A train step of the user's may give it a part of the weights only; that is left
        to the step itself, where one comes. One that had none when it was saved, since
        others do its work, stays as it is.
        """
        optimizer = getattr(model, "optimizer", None)
        if optimizer is None or optimizer.built or not model_building.is_built(model):
            return
        if early and type(model).train_step is not keras.Model.train_step:
            return
        live = training_variables.infos(training_variables.collect(model, held=False))
        # It comes first, and behind what it has without them another one, or nothing.
        first = slice(len(optimizer.variables) + 1)
        unlike = training_variables.differences(
            [info for info in self.state.variables if info.role == "optimizer"][first],
            [info for info in live if info.role == "optimizer"][first],
        )
        if unlike:
            optimizer.build(model.trainable_variables)

    def _lost(self) -> tuple[int | None, float]:
        """Count the steps, and the seconds, between the checkpoint and the end."""
        reached, record = self._reached, self.committed.record
        # Less is what a power loss leaves of a file that is never synced.
        if reached is None or reached.step < self.state.position.step:
            return None, 0.0
        return (
            reached.step - self.state.position.step,
            max(0.0, reached.at - record.saved_at),
        )

    def _history(self) -> dict[str, list[Any]]:
        for saved in self.state.callbacks:
            if saved.kind == "History":
                values: dict[str, list[Any]]
                values = callback_state.values_of(saved, self.tensors())["history"]
                return values
        return {}

    def _restored(self) -> Iterable[str]:
        counts = self._counts or Counter(info.role for info in self.state.variables)
        kinds = [f"{number} {role}" for role, number in counts.items() if number]
        if kinds:
            yield " + ".join(kinds) + " variables"
        epochs = max((len(values) for values in self._history().values()), default=0)
        yield f"History of {_count(epochs, 'epoch')}"
        if "callbacks" in self._left_out:
            yield from sorted(
                saved.kind for saved in self.state.callbacks if saved.kind != "History"
            )
        yield "seeds of Python, NumPy and TensorFlow"

    def _data(self, in_fit: bool) -> str:
        data = self.state.data
        if not in_fit:
            done = self.state.position.batch
            return f"the caller's to bring to batch {done} of the epoch"
        if self.state.in_validation:
            return "after the last step of the epoch, before its end"
        if data.begins:
            return "from the beginning of the epoch"
        if data.way == "iterator" and data.redrawn:
            return f"by the iterator's state and replay of {data.redrawn} batches"
        if data.way == "iterator":
            return "by the iterator's own state"
        return f"by replay of {data.drawn} batches ({data.reason})"


def _assign(
    model: Any,
    pairs: Iterable[tuple[str, training_variables.LiveVariable]],
    tensors: Mapping[str, Any],
) -> None:
    training_variables.restore(pairs, tensors)
    if training_variables.renew_constants(model):
        fit_loop.trace_anew(model)


def require_trainable(model: Any, where: object, *, built: bool = True) -> None:
    """Refuse a model that nothing can be restored into.

    Args:
        model: the Keras model.
        where: the argument or directory, for the message.
        built: whether it must have its variables by now.

    Raises:
        ArgumentError: it is no model.
        ModelNotCompiled: it has no optimizer, not among its attributes either.
        ModelNotBuilt: it has no variables yet.
    """
    if not all(hasattr(model, name) for name in ("name", "built", "variables")):
        raise ArgumentError(
            where,
            expected="a Keras model",
            found=repr(model),
            advice="Build and compile it as when the run was started.",
        )
    if not training_variables.optimizers_of(model):
        raise ModelNotCompiled(
            where,
            expected="a compiled model",
            found=f"{type(model).__name__} {model.name!r} without an optimizer",
            advice="Call model.compile(...) first, with the optimizer that trains it: "
            "one that the model does not hold is not saved.",
        )
    if built and not model_building.is_built(model):
        raise ModelNotBuilt(
            where,
            expected="a built model",
            found=f"{type(model).__name__} {model.name!r} without variables",
            advice="Begin it with keras.Input(...), or call it on one batch first.",
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _ago(seconds: float) -> str:
    return f"{_span(seconds)} ago"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
