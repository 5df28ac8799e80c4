"""What scripts of TensorFlow 1 build: control edges, references, their own functions.

The graphs are built by this TensorFlow's ``compat.v1``; both kinds of variables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import function

from persist_callbacks.errors import UnsupportedGraph
from persist_callbacks.graph.candidates import likely_outputs
from persist_callbacks.graph.freeze import freeze, take_defaults
from persist_callbacks.graph.frozen import FrozenGraph, from_graph_def
from persist_callbacks.graph.meta import from_meta

v1 = tf.compat.v1
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4) - 3

KINDS = pytest.mark.parametrize(
    "resource", [False, True], ids=["reference", "resource"]
)


def variable(name: str, *shape: int, **options: Any) -> Any:
    initializer = v1.random_normal_initializer(seed=len(name))
    return v1.get_variable(name, shape, initializer=initializer, **options)


def frozen_of(
    build: Callable[[Any], Any], *, resource: bool = False
) -> tuple[FrozenGraph, Any]:
    """Freeze what a function of rows gives; also what a session gives for ``ROWS``."""
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None, 4], name="x")
            with v1.variable_scope("", use_resource=resource):
                tf.identity(build(x), name="y")
            variables = [*v1.global_variables(), *v1.local_variables()]
            session.run(v1.variables_initializer(variables))
            values = {v.op.name: session.run(v) for v in variables}
            result = session.run("y:0", {x: ROWS})
            meta = v1.train.export_meta_graph()
    finally:
        v1.enable_control_flow_v2()
    graph = take_defaults(from_meta(meta.SerializeToString(), "m.meta"), [])
    frozen = freeze(graph, values, outputs=["y"])
    return from_graph_def(frozen, graph.inputs, None), result


# Changes behind a control edge alone.


def added_before(x: Any) -> Any:
    memory = variable("memory", 4)
    with tf.control_dependencies([v1.assign_add(memory, [5.0] * 4)]):
        return x + memory.read_value()


def written_after(x: Any) -> Any:
    memory = variable("memory", 4)
    with tf.control_dependencies([v1.assign(memory, tf.tanh(x[0] + memory))]):
        return x * memory


def changed_where_the_input_says(x: Any) -> Any:
    memory = variable("memory", 4)
    changed = v1.cond(
        tf.reduce_sum(x) > 0, lambda: v1.assign(memory, x[0]), lambda: memory + 0.0
    )
    with tf.control_dependencies([changed]):
        return x + memory.read_value()


@KINDS
@pytest.mark.parametrize(
    "build", [added_before, written_after, changed_where_the_input_says]
)
def test_a_change_of_what_is_read_is_refused(build: Any, resource: bool) -> None:
    """A constant would give other numbers than the session that the script has."""
    with pytest.raises(UnsupportedGraph, match=r"Assign.*changes\. Name outputs"):
        frozen_of(build, resource=resource)


def scattered(x: Any) -> Any:
    memory = variable("memory", 4)
    with tf.control_dependencies([v1.scatter_update(memory, [1], [7.0])]):
        return x + memory.read_value()


def changed_twice(x: Any) -> Any:
    memory = variable("memory", 4)
    once = v1.assign(memory, [1.0] * 4)
    with tf.control_dependencies([v1.assign_sub(once, [3.0] * 4)]):
        return x + memory.read_value()


@pytest.mark.parametrize("build", [scattered, changed_twice])
def test_other_changes_by_reference_are_refused(build: Any) -> None:
    """Of some rows, or of what an assignment gives."""
    with pytest.raises(UnsupportedGraph, match=r"(ScatterUpdate|Assign).*changes"):
        frozen_of(build)


def steps_counted(x: Any) -> Any:
    step, w = v1.train.get_or_create_global_step(), variable("w", 4, 2)
    with tf.control_dependencies([v1.assign_add(step, 1)]):
        return tf.matmul(x, w)


def loss_averaged(x: Any) -> Any:
    y = tf.matmul(x, variable("w", 4, 2))
    average = tf.train.ExponentialMovingAverage(0.9)
    with tf.control_dependencies([average.apply([tf.reduce_mean(y)])]):
        return tf.identity(y)


def metric_updated(x: Any) -> Any:
    y = tf.matmul(x, variable("w", 4, 2))
    with tf.control_dependencies([v1.metrics.mean(y)[1]]):
        return tf.identity(y)


def trained_beside(x: Any) -> Any:
    w = variable("w", 4, 2)
    y = tf.matmul(x, w)
    v1.train.AdamOptimizer().minimize(tf.reduce_mean(y))
    return y


def averages_moved_in_training(x: Any) -> Any:
    """A batch norm of contrib's, whose averages are moved as soon as it runs."""
    training = v1.placeholder_with_default(False, [], name="training")
    mean = variable("mean", 4)

    def by_the_batch() -> Any:
        found = tf.reduce_mean(x, 0)
        with tf.control_dependencies([v1.assign_sub(mean, (mean - found) * 0.1)]):
            return x - found

    return v1.cond(training, by_the_batch, lambda: x - mean)


@KINDS
@pytest.mark.parametrize(
    "build",
    [
        *(steps_counted, loss_averaged, metric_updated, trained_beside),
        averages_moved_in_training,
    ],
)
def test_a_change_that_no_output_sees_is_left_out(build: Any, resource: bool) -> None:
    """What counts, averages and trains beside the forward pass, or for a flag."""
    frozen, expected = frozen_of(build, resource=resource)
    np.testing.assert_allclose(frozen({"x": ROWS}), expected, rtol=1e-6)
    assert not [op for op in frozen.ops if "Assign" in op or "Variable" in op]


# Variables that are asked whether they have a value.


def initialized_value(x: Any) -> Any:
    w = variable("w", 4, 2)
    # What TF1's `initialized_value` makes.
    there = v1.is_variable_initialized(w)
    return tf.matmul(x, v1.cond(there, w.read_value, lambda: w.initial_value))


def asked_outside(x: Any) -> Any:
    w = variable("w", 4)
    there = v1.is_variable_initialized(w)
    return v1.cond(there, lambda: x * w, lambda: x) + tf.cast(there, tf.float32)


def asked_in_a_loop(x: Any) -> Any:
    w = variable("w", 4)

    def step(y: Any) -> Any:
        return v1.cond(v1.is_variable_initialized(w), lambda: y * w + 1, lambda: y)

    return v1.while_loop(lambda y: tf.reduce_sum(y) < 40, step, [tf.abs(x)])


@KINDS
@pytest.mark.parametrize("build", [initialized_value, asked_outside, asked_in_a_loop])
def test_a_variable_has_the_value_of_the_checkpoint(build: Any, resource: bool) -> None:
    """It is not asked for any more, and what stands for none is gone."""
    frozen, expected = frozen_of(build, resource=resource)
    np.testing.assert_allclose(frozen({"x": ROWS}), expected, rtol=1e-5)
    assert not [op for op in frozen.ops if "Initialized" in op or "Ref" in op]


# Calls by the functions' own names.


def called_in_a_call(x: Any) -> Any:
    @function.Defun(tf.float32)
    def inner(a: Any) -> Any:
        return a * tf.sigmoid(a), a + 1.0

    @function.Defun(tf.float32)
    def outer(a: Any) -> Any:
        first, second = inner(a)
        return first - second, inner(second)[1]

    first, second = outer(tf.matmul(x, variable("w", 4, 3)))
    return first + 2.0 * second


def called_in_a_loop(x: Any) -> Any:
    @function.Defun(tf.float32)
    def halved(a: Any) -> Any:
        return a * 0.5

    w = variable("w", 4)
    return v1.while_loop(
        lambda y: tf.reduce_sum(y) > 1,
        lambda y: tf.ensure_shape(halved(y), y.shape),
        [tf.abs(x * w)],
    )


@KINDS
@pytest.mark.parametrize("build", [called_in_a_call, called_in_a_loop])
def test_functions_called_by_their_own_names(build: Any, resource: bool) -> None:
    """TF1's `Defun` makes an op of each; within functions results have names."""
    frozen, expected = frozen_of(build, resource=resource)
    np.testing.assert_allclose(frozen({"x": ROWS}), expected, rtol=1e-5)
    assert {op for op in frozen.ops if "Call" in op} == {"PartitionedCall"}


# What is listed of a graph that trains.


def squared_difference(y: Any, target: Any) -> Any:
    return tf.reduce_mean(tf.math.squared_difference(y, target), name="loss")


def square_of_difference(y: Any, target: Any) -> Any:
    return tf.reduce_sum(tf.square(target - y), name="loss")


def power_of_difference(y: Any, target: Any) -> Any:
    return tf.reduce_mean((y - target) ** 2, name="loss")


@pytest.mark.parametrize(
    "loss", [squared_difference, square_of_difference, power_of_difference]
)
def test_what_a_squared_loss_is_of_is_likely(loss: Any) -> None:
    """Ahead of the loss; a norm's squares are of the model's own."""
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        target = v1.placeholder(tf.int32, [None, 3], name="target")
        h = tf.matmul(x, variable("w", 4, 3))
        mean, spread = v1.nn.moments(h, [1], keep_dims=True)
        h = tf.nn.batch_normalization(h, mean, spread, None, None, 1e-3)
        y = tf.add(h, variable("b", 3), name="predictions")
        v1.train.AdamOptimizer().minimize(loss(y, tf.cast(target, tf.float32)))
    found = likely_outputs(graph.as_graph_def(), ["x", "target"])
    assert found == ["predictions", "loss"]


def test_metrics_and_checks_are_not_likely() -> None:
    """Neither what they count nor what they look at; what they are of is."""
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        label = v1.placeholder(tf.int64, [None], name="label")
        y = tf.nn.softmax(tf.matmul(x, variable("w", 4, 3)), name="predictions")
        checks = [v1.assert_less(label, np.int64(3)), v1.assert_non_negative(y)]
        best = tf.argmax(y, 1, name="best")
        with tf.control_dependencies(checks):
            v1.metrics.accuracy(label, best)
        v1.metrics.mean(y)
    found = likely_outputs(graph.as_graph_def(), ["x", "label"])
    # Whether the best is right needs the label too, and so comes after both.
    assert found == ["best", "predictions", "Cast"]
