"""Shapes of a graph's tensors, as TensorFlow infers them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.weights import hide_all


def inferred_shapes(
    graph_def: Any, references: Iterable[str]
) -> dict[str, tf.TensorShape]:
    """Return the shapes of tensors, as TensorFlow infers them.

    Args:
        graph_def: a GraphDef.
        references: ``node`` or ``node:1``.
    """
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(hide_all(graph_def)[0], name="")
    found = {}
    for reference in references:
        name, port = nd.split(reference)
        found[reference] = graph.get_tensor_by_name(f"{name}:{port}").shape
    return found
