"""The inference graph of a live model, for checkpoints and for the export."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from persist_callbacks.errors import PersistError, PersistWarning
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.meta import to_meta
from persist_callbacks.graph.trace import trace
from persist_callbacks.records import GraphNames
from persist_callbacks.training import randomness, variables


@runtime_checkable
class HasInferenceGraph(Protocol):
    """A callback that has traced the model, with the names that the user wants."""

    @property
    def inference_graph(self) -> InferenceGraph | None:
        """The graph, once it is there."""


def trace_live(
    model: Any, names: GraphNames | None = None, *, specs: Any = None
) -> InferenceGraph:
    """Trace a model's inference graph and leave no mark on training.

    Args:
        model: a built Keras model.
        names: how inputs and outputs are to be called.
        specs: its inputs' structure, where the model does not know it by itself.

    Returns:
        The graph; its variables bear the keys that checkpoints use.

    Raises:
        PersistError: the model cannot be traced or exported, or a name is not there.
    """
    # A graph reads a variable that replicas hold by the part of the first.
    keys = {
        id(variables.first_part(item.variable)): item.info.key
        for item in variables.collect(model, randomness.seed_variables(), held=False)
    }
    # Tracing may draw seeds; training with and without us shall be the same.
    seeds = randomness.capture()
    try:
        return trace(model, keys, names or GraphNames(), specs=specs)
    finally:
        randomness.restore(seeds)


def meta_of(model: Any, siblings: Iterable[Any], *, specs: Any = None) -> bytes | None:
    """Give the MetaGraphDef that goes beside a model's checkpoints.

    Args:
        model: a built Keras model.
        siblings: the callbacks beside; one that has traced the graph already lends it.
        specs: its inputs' structure, where the model does not know it by itself.

    Returns:
        The serialised proto; None, with a warning, for a model that cannot be traced:
        its checkpoints resume all the same, and cannot be frozen without its code.
    """
    for sibling in siblings:
        if isinstance(sibling, HasInferenceGraph) and sibling.inference_graph:
            return to_meta(sibling.inference_graph)
    try:
        return to_meta(trace_live(model, specs=specs))
    except PersistError as error:
        warnings.warn(
            f"The checkpoints carry no graph and cannot be frozen later without the "
            f"model's code. {error}",
            PersistWarning,
            stacklevel=2,
        )
        return None
