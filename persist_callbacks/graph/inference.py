"""The inference graph: a model's forward pass with its variables still variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from persist_callbacks.records import TensorInfo


@dataclass(frozen=True)
class Stored:
    """Where a checkpoint keeps a variable.

    Args:
        tensor: the tensor's key.
        part: start and stop in each dimension, None for a whole one; empty if the
            variable is all of the tensor.
    """

    tensor: str
    part: tuple[tuple[int, int] | None, ...] = ()


@dataclass(frozen=True)
class InferenceGraph:
    """A forward pass, its variables given by checkpoint key, its tensors by name.

    Args:
        graph_def: GraphDef with its function library. Each variable is one VarHandleOp
            whose ``shared_name`` is its checkpoint key. Nobody changes it.
        inputs: the placeholders, in the model's order.
        outputs: the results, in the model's order; empty if the graph does not say.
        variables: the variables that inference reads, sorted by checkpoint key.
        original_names: graph name to the user's name, where a graph cannot hold it.
        stored: where a checkpoint keeps those variables that it does not keep whole
            and under their own keys.
    """

    graph_def: Any
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    variables: tuple[TensorInfo, ...]
    original_names: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, Stored] = field(default_factory=dict)
