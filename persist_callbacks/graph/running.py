"""A graph as a function of arrays, with as little around the kernels as can be.

``Session.make_callable`` finds its tensors anew in each call, and hands each run to a
thread pool; what it stands on does neither, and has no public name. It is touched in
`function_of` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

# Up to so many operations, changing threads would take a good part of a run; in larger
# graphs, branches may run side by side.
_SMALL = 300


def function_of(
    graph: Any,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    as_it_is: bool = False,
) -> Callable[..., list[np.ndarray[Any, Any]]]:
    """Return a function from arrays, one an input, to arrays, one an output.

    It may be called from any thread. The graph and what it needs are freed with it;
    TensorFlow 2's functions would leave theirs in the process for good.

    Args:
        graph: a tf.Graph without variables.
        inputs: names of nodes to feed, in order.
        outputs: names of nodes to fetch, in order.
        as_it_is: whether TensorFlow is to spend no time on making it fast first, which
            for a graph of large weights takes longer than many runs.
    """
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = as_it_is
    session = tf.compat.v1.Session(graph=graph, config=config)
    options = config_pb2.CallableOptions()
    options.feed.extend(f"{name}:0" for name in inputs)
    # What is fed cannot be fetched, and is known.
    computed = [name for name in outputs if name not in inputs]
    options.fetch.extend(f"{name}:0" for name in computed)
    if len(graph.get_operations()) <= _SMALL:
        # The caller's own thread.
        options.run_options.inter_op_thread_pool = -1
    run = session._make_callable_from_options(options) if computed else None

    def call(*arrays: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        # A result may lie in a constant of the graph or in what it was fed: TensorFlow
        # spares the op that would have moved it. The caller may write to the copy.
        results = [np.array(result) for result in (run(*arrays) if run else ())]
        if len(computed) == len(outputs):
            return results
        known = dict(zip(inputs, map(_as_given_back, arrays), strict=True))
        known.update(zip(computed, results, strict=True))
        return [known[name] for name in outputs]

    return call


def _as_given_back(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Copy what was fed; text comes back as bytes."""
    if array.dtype.kind not in "OU":
        return np.array(array)
    made = np.empty(array.shape, object)
    made.reshape(-1)[:] = [
        each.encode() if isinstance(each, str) else each for each in array.reshape(-1)
    ]
    return made
