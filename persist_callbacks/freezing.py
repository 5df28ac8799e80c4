"""`freeze`: a checkpoint on disk to a PB, with no model code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from persist_callbacks import exporting
from persist_callbacks.graph.freeze import needed_variables, resolve_outputs
from persist_callbacks.graph.frozen import FrozenGraph
from persist_callbacks.graph.inference import InferenceGraph, Stored
from persist_callbacks.graph.meta import from_meta
from persist_callbacks.locating import graph_beside, locate
from persist_callbacks.storage import bundle


def freeze(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    outputs: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
) -> FrozenGraph:
    """Write a checkpoint's inference graph and weights as one PB.

    Args:
        checkpoint: a run directory (its newest sound checkpoint is taken), a
            checkpoint folder, or a prefix such as ``ckpt-000001200/model.ckpt``; also
            a folder or prefix that TensorFlow 1's Saver wrote.
        path: the PB to write; its signature goes beside it.
        outputs: nodes whose results the PB shall give; None for the model's outputs,
            which a foreign graph does not say: the error lists what they could be.
        inputs: the inputs it shall take, in this order; None for those it needs.

    Returns:
        The PB, loaded from the file and run once.

    Raises:
        CheckpointNotFound: there is no checkpoint, or it has no graph beside it.
        CheckpointDamaged: the checkpoint is not what its manifest says.
        TensorNotFound: an output or input is not in the graph.
        UnsupportedGraph: something in the graph cannot be a constant.
    """
    prefix = locate(Path(checkpoint), check=True)
    meta = graph_beside(prefix)
    graph = from_meta(meta.read_bytes(), meta)
    wanted = resolve_outputs(graph, outputs)
    values = _read(prefix, graph, needed_variables(graph, wanted))
    built = exporting.build(graph, values, outputs=outputs, inputs=inputs)
    return exporting.write(built, path)


def _read(
    prefix: str, graph: InferenceGraph, keys: Iterable[str]
) -> dict[str, np.ndarray[Any, Any]]:
    """Read variables from where the checkpoint keeps them."""
    places = {key: graph.stored.get(key, Stored(key)) for key in keys}
    tensors = bundle.read(prefix, sorted({place.tensor for place in places.values()}))
    values = {}
    for key, place in places.items():
        part = tuple(slice(*(each or (None, None))) for each in place.part)
        values[key] = tensors[place.tensor].numpy()[part]
    return values
