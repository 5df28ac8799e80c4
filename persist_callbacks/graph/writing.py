"""Nodes that stand in another's place, under names that nothing else in a graph has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.names import unique


def rewritten(graph_def: Any, write: Callable[[Any, Writer], None]) -> Any:
    """Return a graph in which other nodes stand in the place of some.

    Args:
        graph_def: a GraphDef; not changed.
        write: is given each node and a writer for its place; a node for which it writes
            nothing stays.
    """
    taken = {node.name for node in graph_def.node}
    result = nd.empty_like(graph_def)
    for node in graph_def.node:
        writer = Writer(node.name, taken)
        write(node, writer)
        if not writer.is_left_out:
            result.node.extend(writer.made or [node])
    return result


class Writer:
    """Writes the nodes that take a node's place, each after those that it reads.

    Args:
        name: the node's name; what is written bears it, or names that begin with it.
        taken: names in use; added to.

    Attributes:
        made: the NodeDefs so far.
        is_left_out: whether the place stays empty.
    """

    def __init__(self, name: str, taken: set[str]) -> None:
        self.made: list[Any] = []
        self.is_left_out = False
        self._name = name
        self._taken = taken

    def leave_out(self) -> None:
        """Let nothing take the node's place, since nothing reads it any more."""
        self.is_left_out = True

    def add(self, op: str, part: str, *inputs: str, **attrs: Any) -> str:
        """Write a node and return its name.

        Args:
            op: the type.
            part: how its name goes on; nothing for the one that takes the place.
            inputs: references.
            attrs: as for ``nodes.make_node``.
        """
        return self._write(nd.make_node(op, part, inputs, **attrs))

    def constant(self, part: str, value: Any, dtype: tf.DType | None = None) -> str:
        """Write a Const and return its name.

        Args:
            part: how its name goes on.
            value: what becomes an array.
            dtype: TensorFlow's dtype; None for the array's own.
        """
        array = np.asarray(value)
        return self._write(nd.constant(part, array, dtype or tf.as_dtype(array.dtype)))

    def convolution(
        self, part: str, source: str, weights: Any, dtype: tf.DType = tf.float32
    ) -> str:
        """Multiply each pixel's channels with a matrix; return the node's name.

        Args:
            part: how its name goes on.
            source: pictures as NHWC.
            weights: channels before and after.
            dtype: of pictures and weights.
        """
        filters = weights.reshape(1, 1, *weights.shape)
        name = self.constant(f"{part}/filters" if part else "filters", filters, dtype)
        options = {"strides": [1, 1, 1, 1], "padding": b"VALID"}
        return self.add("Conv2D", part, source, name, T=dtype, **options)

    def copy(self, node: Any, part: str, *inputs: str) -> str:
        """Write a node like another that reads something else; return its name.

        Args:
            node: a NodeDef; not changed.
            part: how its name goes on.
            inputs: references.
        """
        made = tf.compat.v1.NodeDef()
        made.CopyFrom(node)
        made.name = part
        del made.input[:]
        made.input.extend(inputs)
        return self._write(made)

    def _write(self, node: Any) -> str:
        if node.name:
            node.name = unique(f"{self._name}/{node.name}", self._taken)
            self._taken.add(node.name)
        else:
            node.name = self._name
        self.made.append(node)
        return str(node.name)
