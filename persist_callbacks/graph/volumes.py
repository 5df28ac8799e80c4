"""Convolutions of volumes, as a processor computes them.

Of those in groups, or by channels first, Keras has XLA compute each, in a call of its
own; no reader of a PB does so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.writing import Writer, rewritten

_TO_LAST, _TO_FIRST = (0, 2, 3, 4, 1), (0, 4, 1, 2, 3)


def volumes_by_channels_last(graph_def: Any) -> Any:
    """Transpose what a convolution takes as NCDHW, and back what it gives.

    Args:
        graph_def: a GraphDef; not changed.
    """

    def write(node: Any, writer: Writer) -> None:
        if node.op != "Conv3D" or nd.has_channels_last(node):
            return
        types = {"T": tf.as_dtype(node.attr["T"].type), "Tperm": tf.int32}
        to_last = writer.constant("to_last", np.array(_TO_LAST, np.int32))
        to_first = writer.constant("to_first", np.array(_TO_FIRST, np.int32))
        source = writer.add("Transpose", "last", node.input[0], to_last, **types)
        result = writer.copy(node, "convolution", source, *node.input[1:])
        made = writer.made[-1]
        del made.attr["data_format"]
        for key in ("dilations", "strides"):
            if key in node.attr:
                sizes = node.attr[key].list.i
                made.attr[key].list.i[:] = [sizes[axis] for axis in _TO_LAST]
        writer.add("Transpose", "", result, to_first, **types)

    return rewritten(graph_def, write)


def has_calls_of_volumes(graph_def: Any) -> bool:
    """Whether a function that the graph may call convolves volumes.

    Args:
        graph_def: a GraphDef.
    """
    return any(
        node.op == "Conv3D"
        for function in graph_def.library.function
        for node in function.node_def
    )
