"""References to the present values of variables, all taken at once.

How a value is taken is decided here, by where the variable is and how it is used:

- In the CPU's memory, by reference. A read shares the variable's buffer, and a dense
  update copies the buffer first if somebody else holds it. So what was taken never
  changes, and training pays for a copy of what is not written yet: at most one of the
  state, in the first step that follows. Under XLA an update writes to another buffer,
  which costs the same. A copy on the train thread would hold it for that long.
- A sparse update (Embedding) leaves its variable in a mode in which each plain read
  copies it; that mode is switched off first, and the next sparse update copies instead.
- In a device's memory, by one copy of all to the host, within one call: references
  would take up memory there, and one call for each variable would wait for each.
- Where replicas hold parts of a sum, by adding them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from persist_callbacks.training.variables import LiveVariable, sums_replicas


class References:
    """Takes the values of variables, in one call of a graph that reads them all.

    Args:
        live: the variables.
    """

    def __init__(self, live: Sequence[LiveVariable]) -> None:
        self._sums = [item for item in live if sums_replicas(item.variable)]
        read = [item for item in live if not sums_replicas(item.variable)]
        self._keys = [item.info.key for item in read]
        variables = [item.variable for item in read]

        def take() -> list[Any]:
            return [_value(variable) for variable in variables]

        # The function alone keeps no variable alive.
        self._variables = variables
        self._take = tf.function(take, autograph=False).get_concrete_function()
        # The first call makes it ready to run, which would hold up the first capture.
        self._take()

    def take(self) -> dict[str, Any]:
        """Take all values, on the train thread.

        Returns:
            Eager tensors by key, which never change. Drop each as soon as it is
            written: while it is held, the next update of its variable pays for a copy.
        """
        values = dict(zip(self._keys, self._take(), strict=True))
        for item in self._sums:
            values[item.info.key] = item.variable.read_value()
        return values


def _value(variable: Any) -> Any:
    handle = variable.handle
    with tf.control_dependencies([tf.raw_ops.DisableCopyOnRead(resource=handle)]):
        value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=variable.dtype)
    if _is_on_host(variable):
        return value
    with tf.device("/CPU:0"):
        return tf.identity(value)


def _is_on_host(variable: Any) -> bool:
    device = tf.DeviceSpec.from_string(variable.device or "/CPU:0")
    return device.device_type in (None, "CPU")
