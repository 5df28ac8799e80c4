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
# A result may lie in a constant of the graph, which the caller must not be able to
# write to, so it is copied; but not a big one of an op that gives memory of its own.
_CHEAP_BYTES = 2**16
_FRESH = frozenset(
    [
        *("Add", "AddV2", "AvgPool", "BatchMatMulV2", "BatchMatMulV3", "BiasAdd"),
        *("ConcatV2", "Conv2D", "Einsum", "LogSoftmax", "MatMul", "MaxPool", "Mul"),
        *("Relu", "Relu6", "Sigmoid", "Softmax", "Sub", "Tanh"),
    ]
)


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
    run = session._make_callable_from_options(options)
    fresh = [_is_fresh(graph, name) for name in computed]

    def call(*arrays: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        return [
            result if own and result.nbytes > _CHEAP_BYTES else np.array(result)
            for result, own in zip(run(*arrays), fresh, strict=True)
        ]

    def call_and_echo(*arrays: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        known = dict(zip(inputs, map(np.array, arrays), strict=True))
        known.update(zip(computed, call(*arrays), strict=True))
        return [known[name] for name in outputs]

    return call if len(computed) == len(outputs) else call_and_echo


def _is_fresh(graph: Any, name: str) -> bool:
    operation = graph.get_operation_by_name(name)
    while operation.type == "Identity":
        operation = operation.inputs[0].op
    # TensorFlow folds what depends on no input into a constant of its own.
    return operation.type in _FRESH and not all(
        tensor.op.type == "Const" for tensor in operation.inputs
    )
