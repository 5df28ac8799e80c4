"""FrozenGraphExport: one verified PB when training ends."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from persist_callbacks import environment, exporting, paths, tracing
from persist_callbacks.errors import (
    ArgumentError,
    CheckpointNotFound,
    InputMismatch,
    ModelNotBuilt,
    PersistWarning,
    VerificationFailed,
)
from persist_callbacks.graph import feeding
from persist_callbacks.graph.batching import fit_rows
from persist_callbacks.graph.compare import Comparison, compare, tolerances
from persist_callbacks.graph.freeze import check_size
from persist_callbacks.graph.frozen import FrozenGraph
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.ordering import changed_variables
from persist_callbacks.graph.targets import check_target
from persist_callbacks.graph.trace import run_live
from persist_callbacks.records import GraphNames
from persist_callbacks.recovery import Recovery
from persist_callbacks.storage.store import Store
from persist_callbacks.training import model_building, variables
from persist_callbacks.training.fit_loop import FitLoop, Logs, Tail
from persist_callbacks.training.references import References

# After the checkpoint's tail: "best" is read from what that has committed.
_RANK = 10

_Arrays = dict[str, np.ndarray[Any, Any]]


class FrozenGraphExport(keras.callbacks.Callback):  # type: ignore[misc]
    """Write the model as one frozen ``.pb`` when training ends.

    The PB holds the forward pass alone, with constants for variables, its inputs and
    outputs named as the user named them. It is frozen and run once when training
    begins, so that a model that cannot be exported says so before the first step; and
    at the end it is loaded in a clean graph and compared with the live model before it
    takes the place of an older one. A signature is written beside it:
    ``model.signature.json`` for ``model.pb``.

    Args:
        path: the PB to write; its folder is made if it is not there.
        outputs: names for the model's outputs, in order or as a dict from the names
            that they have in a fresh process, or that Keras tells
            (``model.output_names``); None for the output layers' names.
        inputs: likewise for the inputs; None for the Keras inputs' names.
        which: ``last`` writes the model as it is when training ends, ``best`` the best
            checkpoint of the `PeriodicCheckpoint` beside it (one with ``monitor``).
        sample: a batch of inputs to compare on, as the model takes it: an array, a
            list, or a dict by input name; None for rows of the training data where
            they can be had without an effect on training, else made-up numbers. Of a
            ``PyDataset`` they are known once training has drawn the first batch, and
            to Keras 3.8 and newer.
        verify: whether to compare with the live model.
        atol: absolute tolerance of the comparison; None for 1e-5 and a millionth of the
            output's largest number, or twice the epsilon of half precision as that
            share, where the model computes in it.
        rtol: tolerance relative to the live model's value; None for 1e-4, or for the
            epsilon of half precision.
        target: ``portable`` for a PB that TensorFlow 1.15 and 2, OpenCV, OpenVINO and
            ONNX Runtime read; ``tensorflow`` for one in which no op is rewritten.
        batch_size: rows that the PB takes, no more and no fewer, for a runtime that
            wants to know; None for any number.

    Raises:
        ArgumentError: an argument has a value that it cannot have.
        BackendError: Keras does not run on TensorFlow.
        DirectoryNotWritable: the path cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        outputs: Sequence[str] | Mapping[str, str] | None = None,
        inputs: Sequence[str] | Mapping[str, str] | None = None,
        which: Literal["last", "best"] = "last",
        sample: Any = None,
        verify: bool = True,
        atol: float | None = None,
        rtol: float | None = None,
        target: Literal["portable", "tensorflow"] = "portable",
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        environment.require_tensorflow_backend()
        if which not in ("last", "best"):
            raise ArgumentError(
                "which",
                expected="'last' or 'best'",
                found=repr(which),
                advice="Leave it out to export the model as training leaves it.",
            )
        for name, tolerance in (("atol", atol), ("rtol", rtol)):
            is_number = isinstance(tolerance, Real) and not isinstance(tolerance, bool)
            if tolerance is not None and not (is_number and 0 <= tolerance < math.inf):
                raise ArgumentError(
                    name,
                    expected="a number of 0 or more",
                    found=repr(tolerance),
                    advice="Leave it out for the default.",
                )
        if not isinstance(verify, (bool, np.bool_)):
            raise ArgumentError(
                "verify",
                expected="True or False",
                found=repr(verify),
                advice="Leave it out to compare with the live model.",
            )
        if isinstance(sample, (str, bytes, int, float)):
            raise ArgumentError(
                "sample",
                expected="a batch of inputs: an array, a list or a dict",
                found=repr(sample),
                advice="Give one like those that the model is trained on.",
            )
        check_target(target, batch_size)
        self._target, self._batch_size = target, batch_size
        self._path = paths.absolute(path, "path")
        self._names = GraphNames(
            inputs=_names("inputs", inputs), outputs=_names("outputs", outputs)
        )
        self._which = which
        self._sample = sample
        self._verify = verify
        self._atol, self._rtol = atol, rtol
        self._graph: InferenceGraph | None = None
        # The inputs' structure, of a model that does not know it by itself.
        self._specs: Any = None
        # Gives rows of the training data, to compare on.
        self._preview: Callable[[], Any] | None = None
        # Of a batch that training draws; None where that is not known.
        self._rows: int | None = None
        self._frozen: FrozenGraph | None = None
        self._loop: FitLoop | None = None
        self._tail = _AfterOthers(self)

    @property
    def inference_graph(self) -> InferenceGraph | None:
        """The traced forward pass; None before training has begun."""
        return self._graph

    @property
    def frozen_graph(self) -> FrozenGraph | None:
        """The PB as it was loaded from its file; None before training has ended."""
        return self._frozen

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Trace and rehearse the export, before the first step."""
        # Not after hours of training.
        exporting.check_path(self._path)
        self._graph = self._frozen = None
        self._loop = FitLoop.around(self)
        data = None
        if self._loop is not None:
            self._loop.run_last(self._tail)
            if self._which == "best":
                self._checkpoints()
            data = self._loop.data if self._loop.drives_model else None
        self._preview = data.preview() if data is not None and self._verify else None
        self._rows = None if data is None else data.batch_rows()
        if self.model.built and self.model.variables:
            self._rehearse(None if data is None else data.element_spec())
        elif self._loop is not None and data is not None:
            # A model without Input tells with its first batch what it takes.
            self._loop.wrap_train_function(self._first_step)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Export, where there is no list of callbacks to do it after all others."""
        if self._loop is None:
            self.export()

    def export(self) -> FrozenGraph:
        """Freeze the model as it is now, verify it, and write PB and signature.

        Called at train end; may be called at any other time, on the train thread.

        Returns:
            The graph as it is loaded from the file.

        Raises:
            VerificationFailed: it differs from the live model beyond tolerance; an
                older PB is left in place.
            CheckpointNotFound: the best checkpoint is wanted and there is none.
        """
        if self._graph is None:
            self._rehearse(None)
        assert self._graph is not None
        live = variables.collect(self.model)
        before = None
        if self._which == "best":
            before = References(live).take().open()
            self._put_best_into_model()
        try:
            export = self._build(live)
            comparison = self._compare(export) if self._verify else None
        finally:
            if before is not None:
                variables.restore([(item.info.key, item) for item in live], before)
                variables.renew_constants(self.model)
        self._frozen = exporting.write(export, self._path, comparison=comparison)
        self._announce(self._frozen, comparison)
        return self._frozen

    def _rehearse(self, element_spec: Any) -> None:
        """Trace the model, freeze it with its present weights, run it and compare."""
        if element_spec is not None:
            self._specs = model_building.unknown_inputs(self.model, element_spec)
        elif not getattr(self.model, "inputs", None):
            self._specs = self._sample
        self._graph = tracing.trace_live(self.model, self._names, specs=self._specs)
        # Before gigabytes are copied out of the model.
        check_size(self._graph)
        export = self._build(variables.collect(self.model))
        if self._verify:
            self._compare(export)

    def _first_step(self, run: Any, iterator: Any) -> Logs:
        assert self._loop is not None
        self._loop.unwrap_train_function()
        spec = self._loop.data.element_spec()
        if spec is not None:
            self._build_model(spec)
            self._rehearse(spec)
        logs: Logs = run(iterator)
        return logs

    def _build_model(self, spec: Any) -> None:
        try:
            model_building.build_model(self.model, spec)
        except Exception as error:
            raise ModelNotBuilt(
                self._path,
                expected="a model that is built, or can be by its data's shapes",
                found=f"{type(self.model).__name__} {self.model.name!r} and batches of "
                f"{spec}: {error}",
                advice="Begin its layers with keras.Input(...), or give the data their "
                "shapes, by tf.ensure_shape say.",
            ) from error

    def _build(self, live: Sequence[variables.LiveVariable]) -> exporting.BuiltGraph:
        assert self._graph is not None
        return exporting.build(
            self._graph,
            self._values(live),
            target=self._target,
            batch_size=self._batch_size,
            most_rows=self._rows,
        )

    def _values(self, live: Sequence[variables.LiveVariable]) -> dict[str, Any]:
        assert self._graph is not None
        wanted = {info.name for info in self._graph.variables}
        return {
            item.info.key: item.variable.numpy()
            for item in live
            if item.info.key in wanted
        }

    def _compare(self, export: exporting.BuiltGraph) -> Comparison | None:
        """Compare with the live model; None if no input is known that both take."""
        results = self._results(export)
        if results is None:
            warnings.warn(
                f"{self._path} is not compared with the live model: no made-up input "
                "suits both. Give FrozenGraphExport a sample.",
                PersistWarning,
                stacklevel=2,
            )
            return None
        comparison = self._comparison(*results)
        if not comparison.agrees:
            comparison = self._compare_one_more(export, results[0]) or comparison
        if not comparison.agrees:
            raise VerificationFailed(
                self._path,
                expected="outputs like the live model's",
                found=str(comparison),
                advice=(
                    "Nothing was written. If the difference is small and meant, "
                    "give larger atol or rtol; else a layer acts differently in a "
                    "graph."
                ),
            )
        return comparison

    def _comparison(self, sample: _Arrays, live: _Arrays, found: _Arrays) -> Comparison:
        """Compare what the live model and the graph give for a batch."""
        assert self._graph is not None
        allowed = tolerances(self._graph.graph_def, self._atol, self._rtol)
        comparison = compare(live, found, **allowed)
        if not comparison.agrees:
            # Some of Keras' layers do otherwise in `predict` than when simply called.
            live = self._live(sample, traced=True)
            again = compare(live, found, **allowed)
            comparison = again if again.agrees else comparison
        return comparison

    def _compare_one_more(
        self, export: exporting.BuiltGraph, sample: _Arrays
    ) -> Comparison | None:
        """Compare on a batch and one row more; None unless they agree then.

        Keras adds one number a row as a bias where there are as many rows as channels.
        """
        is_open = [
            info.shape and info.shape[0] is None for info in export.frozen.inputs
        ]
        if not all(is_open):
            return None
        longer = {
            name: np.concatenate([array, array[:1]]) for name, array in sample.items()
        }
        try:
            found = self._found(export, longer)
            comparison = self._comparison(longer, self._live(longer), found)
        except (tf.errors.OpError, InputMismatch, ValueError):
            return None
        if not comparison.agrees:
            return None
        count = len(next(iter(sample.values())))
        warnings.warn(
            f"{self._path} gives what the live model gives for {count + 1} rows, and "
            f"not for {count}: a layer takes so many rows for something else.",
            PersistWarning,
            stacklevel=2,
        )
        return comparison

    def _results(
        self, export: exporting.BuiltGraph
    ) -> tuple[_Arrays, _Arrays, _Arrays] | None:
        """Find a batch that both take: it, and what the live model and the graph give.

        The user's sample, else rows of the training data, else made-up arrays.
        """
        failure = None
        for rows in self._samples(export):
            sample = fit_rows(rows, export.frozen.inputs)
            try:
                found = self._found(export, sample)
                live = self._live(sample)
            except (tf.errors.OpError, InputMismatch, ValueError) as error:
                # Keras' layers check for themselves what a graph may let pass.
                failure = error
                continue
            return sample, live, found
        if self._sample is not None:
            raise InputMismatch(
                "sample",
                expected="a batch that the model takes",
                found=str(failure).strip().split("\n")[0],
                advice="Give one like those that the model is trained on.",
            ) from failure
        return None

    def _found(self, export: exporting.BuiltGraph, sample: _Arrays) -> _Arrays:
        found = export.frozen(sample)
        if isinstance(found, dict):
            return found
        return {export.frozen.outputs[0].name: found}

    def _live(self, sample: _Arrays, *, traced: bool = False) -> _Arrays:
        assert self._graph is not None
        specs = self._specs
        changed = changed_variables(self._graph.graph_def)
        # A layer may draw a seed for nothing, which training would be without then.
        pairs = [
            (item.info.key, item)
            for item in (variables.collect(self.model) if changed else ())
            if item.info.key in changed
        ]
        before = {key: item.variable.numpy() for key, item in pairs}
        try:
            return run_live(self.model, self._graph, sample, specs=specs, traced=traced)
        finally:
            variables.restore(pairs, before)

    def _samples(self, export: exporting.BuiltGraph) -> Iterator[_Arrays]:
        if self._sample is not None:
            yield self._by_name(self._sample)
            return
        rows = None if self._preview is None else self._preview()
        if rows is not None:
            # A model may be fed otherwise than by its inputs' names and order.
            with contextlib.suppress(InputMismatch):
                yield self._by_name(rows)
        yield from exporting.made_up(export.frozen, self._rows)

    def _by_name(self, sample: Any) -> _Arrays:
        """Return a batch, as the model takes it, by the graph's input names."""
        assert self._graph is not None
        inputs = self._graph.inputs
        leaves = self._leaves(sample)
        if leaves is not None:
            return feeding.feed(inputs, leaves, {}, {})
        if isinstance(sample, Mapping):
            originals = {
                original: name for name, original in self._graph.original_names.items()
            }
            if isinstance(self._names.inputs, Mapping):
                # The sample is what the model takes, and may bear the model's names.
                for before, name in self._names.inputs.items():
                    originals.setdefault(before, originals.get(name, name))
            return feeding.feed(inputs, (), dict(sample), originals)
        several = isinstance(sample, (list, tuple)) and len(inputs) > 1
        return feeding.feed(inputs, tuple(sample) if several else (sample,), {}, {})

    def _leaves(self, sample: Any) -> list[Any] | None:
        """Return the arrays of a batch of inputs in inputs, in order; None for another.

        Of inputs that are a list or a dict the graph's names and order tell.
        """
        structure = self._specs
        if structure is None and getattr(self.model, "inputs", None):
            # One of layers in a row knows it only once it has been called.
            structure = getattr(self.model, "input", None)
        parts = structure.values() if isinstance(structure, Mapping) else structure
        is_list = isinstance(structure, (Mapping, list, tuple))
        if not (is_list and any(keras.tree.is_nested(part) for part in parts)):
            return None
        leaves: list[Any] = []
        try:
            keras.tree.map_structure_up_to(structure, leaves.append, sample)
        except (ValueError, TypeError, KeyError):
            return None
        return leaves

    def _checkpoints(self) -> Path:
        """Find the run directory of the `PeriodicCheckpoint` beside this callback."""
        siblings = [] if self._loop is None else self._loop.callbacks
        for sibling in siblings:
            directory = getattr(sibling, "run_directory", None)
            if isinstance(directory, Path) and getattr(sibling, "monitor", None):
                return directory
        raise ArgumentError(
            "which",
            expected="a PeriodicCheckpoint with monitor=... in the same fit, "
            "for which='best'",
            found="none among the callbacks",
            advice="Add one, or export which='last'.",
        )

    def _put_best_into_model(self) -> None:
        directory = self._checkpoints()
        store = Store.open_for_reading(directory)
        try:
            committed = store.find("best")
        except CheckpointNotFound as error:
            raise CheckpointNotFound(
                directory,
                expected="a best checkpoint, since which='best'",
                found="none with a monitored value",
                advice="Give PeriodicCheckpoint a monitor that is in the epoch's logs.",
            ) from error
        Recovery(store, committed).put_back_model(self.model)

    def _announce(self, frozen: FrozenGraph, comparison: Comparison | None) -> None:
        inputs = ", ".join(str(info) for info in frozen.inputs)
        outputs = ", ".join(str(info) for info in frozen.outputs)
        checked = (
            "not compared with the live model"
            if comparison is None
            else f"largest difference from the live model {comparison.absolute:.3g}"
        )
        environment.say(
            f"Frozen graph written to {self._path}: {frozen.op_count} ops, "
            f"{inputs} -> {outputs}, {checked}."
        )


class _AfterOthers(Tail):
    """Exports after every other callback has had its train end."""

    def __init__(self, owner: FrozenGraphExport) -> None:
        super().__init__(_RANK)
        self._owner = owner

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._owner.export()


def _names(argument: str, value: Any) -> tuple[str, ...] | Mapping[str, str] | None:
    if value is None:
        return None
    is_list = isinstance(value, Iterable) and not isinstance(value, (str, Mapping))
    names = tuple(value) if is_list else value
    if not isinstance(names, (Mapping, tuple)):
        names = (names,)
    wanted = tuple(names.values()) if isinstance(names, Mapping) else names
    expected = None
    if not all(isinstance(name, str) and name for name in (*names, *wanted)):
        expected = "names, each a string that is not empty"
    elif len(set(wanted)) < len(wanted):
        expected = "each name once"
    if expected is not None:
        raise ArgumentError(
            argument,
            expected=expected,
            found=repr(value),
            advice="Leave it out for the layers' own names.",
        )
    return names
