"""`freeze`: a checkpoint on disk to a PB, with no model code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from persist_callbacks import exporting, paths
from persist_callbacks.errors import TensorNotFound
from persist_callbacks.graph.cutting import cut_at, with_ports
from persist_callbacks.graph.freeze import (
    check_names,
    needed_variables,
    resolve_outputs,
)
from persist_callbacks.graph.frozen import FrozenGraph
from persist_callbacks.graph.inference import InferenceGraph, Stored
from persist_callbacks.graph.meta import from_meta
from persist_callbacks.graph.targets import check_target
from persist_callbacks.locating import graph_beside, locate
from persist_callbacks.storage import bundle, checkpoints


def freeze(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    outputs: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    target: Literal["portable", "tensorflow"] = "portable",
    batch_size: int | None = None,
) -> FrozenGraph:
    """Write a checkpoint's inference graph and weights as one PB.

    Args:
        checkpoint: a run directory (its newest sound checkpoint is taken), a
            checkpoint folder, or a prefix such as ``ckpt-000001200/model.ckpt``; also
            a folder or prefix that TensorFlow 1's Saver wrote.
        path: the PB to write; its signature goes beside it.
        outputs: nodes whose results the PB shall give, ``node:1`` for a second one;
            None for the model's outputs, which a foreign graph does not say: the error
            lists what they could be.
        inputs: the inputs it shall take, in this order; None for those it needs. Any
            tensor of the graph may be one: a script of TensorFlow 1 that reads its data
            by an iterator or a queue is cut where that gives it, ``IteratorGetNext``
            or ``IteratorGetNext:1``.
        target: ``portable`` rewrites what other runtimes do not read, ``tensorflow``
            leaves every op as it is.
        batch_size: rows that it shall take, no more and no fewer; None for any number.

    Returns:
        The PB, loaded from the file and run once.

    Raises:
        ArgumentError: the target, the batch size or a path is none, or names are no
            list.
        CheckpointNotFound: there is no checkpoint, or it has no graph beside it.
        CheckpointDamaged: the checkpoint is not what its manifest says.
        TensorNotFound: an output or input is not in the graph.
        UnsupportedGraph: something in the graph cannot be a constant, or is for
            machines with a GPU alone.
        DirectoryNotWritable: the PB cannot be written to that path.
    """
    pb_path = paths.absolute(path, "path")
    exporting.check_path(pb_path)
    check_target(target, batch_size)
    check_names("inputs", inputs)
    check_names("outputs", outputs)
    graph, outputs, values = _load(
        paths.of_checkpoints(checkpoint, "checkpoint"), outputs, inputs
    )
    built = exporting.build(
        graph,
        values,
        outputs=outputs,
        inputs=inputs,
        target=target,
        batch_size=batch_size,
    )
    return exporting.write(built, pb_path)


def _load(
    path: Path, outputs: Sequence[str] | None, inputs: Sequence[str] | None
) -> tuple[InferenceGraph, Sequence[str] | None, dict[str, Any]]:
    """Read a checkpoint's graph and weights, another's if it was pruned meanwhile."""

    def find() -> tuple[Path, str]:
        prefix = locate(path, check=True)
        return Path(prefix).parent, prefix

    def read(
        prefix: str,
    ) -> tuple[InferenceGraph, Sequence[str] | None, dict[str, Any]]:
        meta = graph_beside(prefix)
        graph = cut_at(from_meta(meta.read_bytes(), meta), inputs)
        graph, named = with_ports(graph, outputs)
        wanted = resolve_outputs(graph, named)
        return graph, named, _read(prefix, graph, needed_variables(graph, wanted))

    return checkpoints.read_found(find, read)


def _read(
    prefix: str, graph: InferenceGraph, keys: Iterable[str]
) -> dict[str, np.ndarray[Any, Any]]:
    """Read variables from where the checkpoint keeps them."""
    places = {key: graph.stored.get(key, Stored(key)) for key in keys}
    try:
        tensors = bundle.read(
            prefix, sorted({place.tensor for place in places.values()})
        )
    except TensorNotFound as error:
        raise TensorNotFound(
            error.where,
            expected="a variable that the outputs need",
            found=error.found,
            advice="The Saver that wrote the checkpoint did not save it: it may be a "
            "local variable, or not in its var_list. Save again with it in var_list, "
            f"or name a tensor behind it as an input. {error.advice}",
        ) from error
    values = {}
    for key, place in places.items():
        part = tuple(slice(*(each or (None, None))) for each in place.part)
        values[key] = np.asarray(tensors[place.tensor])[part]
    return values
