"""Variables that nothing saves: found by their values, at little cost."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.training.stray_variables import StrayVariables


def found_of(variables, times=1):
    """Change each variable, and list what is found by so many looks."""
    stray = StrayVariables(variables)
    for variable in variables:
        variable.assign(variable + 1)
    return [each for _ in range(times) for each in stray.found()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "complex64"])
def test_each_is_found_once(dtype):
    moved = tf.Variable(tf.zeros([2, 3], dtype), name="moved")
    assert found_of([moved, moved], 3) == [f"moved {dtype}[2, 3]"]


def test_those_that_are_saved_are_left_out():
    kept = tf.Variable(1)
    stray = StrayVariables([kept], {id(kept)})
    kept.assign(2)
    assert stray.found() == []


def test_one_of_any_rank_is_found():
    moved = tf.Variable([1.0], shape=tf.TensorShape(None), name="moved")
    assert found_of([moved]) == ["moved float32"]


def test_one_that_holds_no_numbers_does_no_harm():
    """Such as a list of tensors, which NumPy does not take."""
    listed = tf.raw_ops.EmptyTensorList(
        element_shape=[2], max_num_elements=3, element_dtype=tf.float32
    )
    moved = tf.Variable(1.0, name="moved")
    stray = StrayVariables([tf.Variable(listed), moved])
    moved.assign(2.0)
    assert stray.found() == ["moved float32[]"]


def test_of_many_a_few_are_looked_at_at_a_time():
    """And all of them by and by."""
    many = [tf.Variable(0, name=f"moved_{number}") for number in range(250)]
    stray = StrayVariables(many)
    many[-1].assign(1)
    looks = [stray.found() for _ in range(4)]
    assert looks == [[], [], ["moved_249 int32[]"], []]


def test_a_look_does_not_copy_a_large_one(monkeypatch):
    """A sparse update leaves it in a mode in which each plain read does."""
    table = tf.Variable(tf.zeros([50, 4]))
    table.scatter_nd_add([[3]], [[1.0] * 4])
    places = set()
    read = tf.raw_ops.ReadVariableOp

    def noted(**arguments):
        value = read(**arguments)
        places.add(np.asarray(value).ctypes.data)
        return value

    monkeypatch.setattr(tf.raw_ops, "ReadVariableOp", noted)
    stray = StrayVariables([table])
    stray.found()
    value = read(resource=table.handle, dtype=table.dtype)
    assert places == {np.asarray(value).ctypes.data}
