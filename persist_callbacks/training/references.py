"""References to the present values of variables, all taken at once.

How a value is taken is decided here, by where the variable is and how it is used:

- In the CPU's memory, by reference. A read shares the variable's buffer, and a dense
  update copies the buffer first if somebody else holds it. So what was taken never
  changes, and training pays for a copy of what is not written yet: at most one of the
  state, in the first step that follows. Under XLA an update writes to another buffer,
  which costs the same. A copy on the train thread would hold it for that long.
- A sparse update (Embedding) leaves its variable in a mode in which each plain read
  copies it; that mode is switched off first, and the next sparse update copies instead.
- Handles and values are handed to and from the graph as one packed tensor each: every
  argument and result of a graph costs some microseconds at each capture.
- The graph is called by its op, on this thread alone: what a function's own call binds
  and looks up, and to hand nodes to other threads, takes longer than the reads.
- In a device's memory, by one copy of all to the host, within one call: references
  would take up memory there, and one call for each variable would wait for each.
- Where replicas hold parts of a sum, by adding them up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from persist_callbacks.training.variables import (
    LiveVariable,
    first_part,
    sums_replicas,
)

_HOST = "/job:localhost/replica:0/task:0/device:CPU:0"


class Taken:
    """Values that were taken; they never change, and are unpacked by who needs them.

    Args:
        values: those that are not packed.
        keys: of those that are, in their order.
        packed: the packed ones, None for none.
        unpack: a function of the packed tensor.
    """

    def __init__(
        self,
        values: dict[str, Any],
        keys: Sequence[str],
        packed: Any,
        unpack: Callable[[Any], Sequence[Any]],
    ) -> None:
        self._values, self._keys = values, keys
        self._packed, self._unpack = packed, unpack

    def open(self) -> dict[str, Any]:
        """Hand the values over, once; on any thread.

        Returns:
            Eager tensors by key. Drop each as soon as it is written: while it is held,
            the next update of its variable pays for a copy.
        """
        values, packed = self._values, self._packed
        self._values, self._packed = {}, None
        if packed is not None:
            with tf.device(_HOST):
                values.update(zip(self._keys, self._unpack(packed), strict=True))
        return values


class References:
    """Takes the values of variables, in one call of a graph that reads them all.

    Args:
        live: the variables.
    """

    def __init__(self, live: Sequence[LiveVariable]) -> None:
        self._sums = [item for item in live if sums_replicas(item.variable)]
        read = [item for item in live if not sums_replicas(item.variable)]
        pairs = [(item.info.key, first_part(item.variable)) for item in read]
        here = [pair for pair in pairs if _is_packable(pair[1])]
        elsewhere = [pair for pair in pairs if not _is_packable(pair[1])]
        self._keys = [key for key, _ in [*here, *elsewhere]]
        variables = [variable for _, variable in here]
        others = [variable for _, variable in elsewhere]
        # The graph alone keeps no variable alive.
        self._variables = [*variables, *others]
        if not read:
            return
        handles = _pack([variable.handle for variable in variables])
        dtypes = [variable.dtype for variable in [*variables, *others]]
        shapes = [variable.shape for variable in [*variables, *others]]

        def take() -> Any:
            unpacked = _unpack(handles, [tf.resource] * len(variables))
            values = [
                _value(handle, variable)
                for handle, variable in zip(unpacked, variables, strict=True)
            ]
            values += [_value(variable.handle, variable) for variable in others]
            return _pack(values)

        def unpack(packed: Any) -> Any:
            return _unpack(packed, dtypes, shapes)

        self._take = tf.function(take, autograph=False).get_concrete_function()
        # Between devices, what is sent and what receives it need a thread each.
        self._executor = "" if others else "SINGLE_THREADED_EXECUTOR"
        # The first calls make them ready to run, which would hold up the first capture.
        packed = self._call()
        self._unpack = tf.function(unpack, autograph=False).get_concrete_function(
            tf.TensorSpec.from_tensor(packed)
        )
        self._unpack(packed)

    def take(self) -> Taken:
        """Take all values, on the train thread."""
        sums = {item.info.key: item.variable.read_value() for item in self._sums}
        if not self._keys:
            return Taken(sums, (), None, tuple)
        return Taken(sums, self._keys, self._call(), self._unpack)

    def _call(self) -> Any:
        # Results go to the device that is asked for, or to a GPU where there is one.
        with tf.device(_HOST):
            (packed,) = tf.raw_ops.StatefulPartitionedCall(
                args=self._take.captured_inputs,
                Tout=[tf.variant],
                f=self._take,
                executor_type=self._executor,
            )
        return packed


def read(handle: Any, dtype: tf.DType) -> Any:
    """Read a variable where it is, without a copy, eagerly or in a graph.

    A plain read would copy all of what a sparse update has been made to.

    Args:
        handle: the variable's.
        dtype: the variable's.
    """
    with tf.control_dependencies([tf.raw_ops.DisableCopyOnRead(resource=handle)]):
        return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)


def _value(handle: Any, variable: Any) -> Any:
    value = read(handle, variable.dtype)
    if _is_on_host(variable):
        return value
    with tf.device(_HOST):
        return tf.identity(value)


def _pack(tensors: Sequence[Any]) -> Any:
    """Make one tensor that holds references to others; None of none."""
    if not tensors:
        return None
    with tf.device(_HOST):
        return tf.raw_ops.OptionalFromValue(components=tensors)


def _unpack(packed: Any, dtypes: Sequence[Any], shapes: Any = None) -> Sequence[Any]:
    if packed is None:
        return []
    with tf.device(_HOST):
        values: Sequence[Any] = tf.raw_ops.OptionalGetValue(
            optional=packed,
            output_types=dtypes,
            output_shapes=shapes or [()] * len(dtypes),
        )
    return values


def _is_packable(variable: Any) -> bool:
    """Whether its handle may go through a packed tensor, which hides where it is."""
    device = str(variable.device)
    return device in ("", _HOST)


def _is_on_host(variable: Any) -> bool:
    device = tf.DeviceSpec.from_string(variable.device or "/CPU:0")
    return device.device_type in (None, "CPU")
