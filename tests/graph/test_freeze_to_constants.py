"""freeze.py and rewriting.py: variables become constants, or the graph is refused."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from persist_callbacks.errors import (
    ArchitectureMismatch,
    CheckpointDamaged,
    TensorNotFound,
    UnsupportedGraph,
)
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import serialize
from persist_callbacks.graph.capture import to_inference_graph
from persist_callbacks.graph.freeze import check_freezable, freeze
from persist_callbacks.graph.frozen import from_graph_def
from persist_callbacks.graph.inference import InferenceGraph


def capture(function: Any, *specs: tf.TensorSpec, **variables: tf.Variable) -> Any:
    """Trace a plain function of one result over named variables."""

    def traced(*arguments: Any) -> list[Any]:
        for variable in variables.values():
            variable.value()  # raw handles alone do not tell the tracer of a variable
        return [function(*arguments)]

    concrete = tf.function(traced).get_concrete_function(*specs)
    return to_inference_graph(
        concrete,
        {id(variable): key for key, variable in variables.items()},
        inputs=tuple(f"x{index}" for index in range(len(specs))),
        outputs=("y",),
        originals={},
    )


def run(graph: InferenceGraph, *arrays: Any, **variables: tf.Variable) -> Any:
    """Freeze a captured function and run it in a clean graph."""
    values = {key: variable.numpy() for key, variable in variables.items()}
    frozen = freeze(graph, values)
    assert not [node for node in frozen.node if nd.keeps_state(node)]
    for function in frozen.library.function:
        assert not [node for node in function.node_def if nd.keeps_state(node)]
    return from_graph_def(frozen, graph.inputs, graph.outputs)(*arrays)


X = tf.TensorSpec([None, 3], tf.float32)
ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_no_variable_is_left(kind: str) -> None:
    """No node of graph or functions touches a resource after freezing."""
    made = zoo.shared(kind)
    frozen = freeze(made.graph, made.values)
    bodies = [frozen.node, *(f.node_def for f in frozen.library.function)]
    assert not [n.name for body in bodies for n in body if nd.keeps_state(n)]
    loops = {n.op for body in bodies for n in body if "While" in n.op}
    assert loops <= {"StatelessWhile"}


def test_freezing_changes_neither_graph_nor_values() -> None:
    """The same graph can be frozen again and again, with other values too."""
    made = zoo.traced(zoo.recurrent)
    before = serialize(made.graph.graph_def)
    first = serialize(freeze(made.graph, made.values))
    doubled = {key: value * 2 for key, value in made.values.items()}
    assert serialize(freeze(made.graph, doubled)) != first
    assert serialize(freeze(made.graph, made.values)) == first
    assert serialize(made.graph.graph_def) == before


def test_branches_on_variables() -> None:
    """tf.cond over two variables: each branch gets its constant."""
    a, b = tf.Variable([1.0, 2.0, 3.0]), tf.Variable([-1.0, 0.0, 1.0])

    def choose(x: Any) -> Any:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: x * a, lambda: x - b)

    graph = capture(choose, X, a=a, b=b)
    assert "If" in {node.op for node in graph.graph_def.node}
    for rows in (ROWS, -ROWS):
        np.testing.assert_allclose(run(graph, rows, a=a, b=b), choose(rows))


def test_switch_case_on_variables() -> None:
    """tf.switch_case over variables: every branch gets its constant."""
    a, b = tf.Variable(2.0), tf.Variable(5.0)

    def choose(x: Any) -> Any:
        index = tf.cast(x[0, 0], tf.int32)
        return tf.switch_case(index, [lambda: x * a, lambda: x * b, lambda: x])

    graph = capture(choose, X, a=a, b=b)
    for first in (0, 1, 2):
        rows = ROWS + first
        np.testing.assert_allclose(run(graph, rows, a=a, b=b), choose(rows))


def test_loop_in_a_call_in_a_loop() -> None:
    """Functions within functions are rewritten for what reaches them."""
    w = tf.Variable(np.eye(3, dtype=np.float32) * 0.5)

    @tf.function
    def step(x: Any) -> Any:
        return tf.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, y @ w), (0, x))[1]

    def outer(x: Any) -> Any:
        return tf.while_loop(
            lambda i, y: i < 3, lambda i, y: (i + 1, step(y) + step(y)), (0, x)
        )[1]

    graph = capture(outer, X, w=w)
    np.testing.assert_allclose(run(graph, ROWS, w=w), outer(ROWS), rtol=1e-6)


def test_one_function_for_two_variables() -> None:
    """A function called with variables of different shapes is made once for each."""
    a, b = tf.Variable([[1.0, 2.0, 3.0]]), tf.Variable([4.0, 5.0, 6.0])

    @tf.function(reduce_retracing=False)
    def read(variable: Any) -> Any:
        return variable + 1.0

    def both(x: Any) -> Any:
        return x * read(a) + read(b)

    graph = capture(both, X, a=a, b=b)
    np.testing.assert_allclose(run(graph, ROWS, a=a, b=b), both(ROWS))


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_sparse_reads(batch_dims: int) -> None:
    """ResourceGather, with and without batch dimensions, becomes GatherV2."""
    table = tf.Variable(np.arange(24, dtype=np.float32).reshape(2, 4, 3))
    indices = np.array([[1, 0], [1, 1]], np.int32)

    def gather(x: Any) -> Any:
        return tf.raw_ops.ResourceGather(
            resource=table.handle, indices=x, dtype=tf.float32, batch_dims=batch_dims
        )

    spec = tf.TensorSpec([2, None], tf.int32)
    graph = capture(gather, spec, table=table)
    np.testing.assert_array_equal(run(graph, indices, table=table), gather(indices))


def test_sparse_reads_in_a_loop() -> None:
    """A gather within a loop's body gets its axis constant in the body."""
    table = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3))

    def gather(x: Any) -> Any:
        def body(i: Any, total: Any) -> Any:
            row = tf.raw_ops.ResourceGather(
                resource=table.handle, indices=i, dtype=tf.float32
            )
            return i + 1, total + row

        return tf.while_loop(lambda i, _: i < 4, body, (0, x))[1]

    graph = capture(gather, X, table=table)
    np.testing.assert_array_equal(run(graph, ROWS, table=table), gather(ROWS))


def test_other_reads() -> None:
    """VariableShape and ResourceGatherNd read values like any tensor."""
    table = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3))

    def reads(x: Any) -> Any:
        sizes = tf.raw_ops.VariableShape(input=table.handle, out_type=tf.int32)
        picked = tf.raw_ops.ResourceGatherNd(
            resource=table.handle, indices=[[1, 2], [3, 0]], dtype=tf.float32
        )
        return x * tf.cast(sizes[0], tf.float32) + tf.reduce_sum(picked)

    graph = capture(reads, X, table=table)
    np.testing.assert_array_equal(run(graph, ROWS, table=table), reads(ROWS))


def test_a_variable_is_asked_for_in_a_loop() -> None:
    """It has the checkpoint's value; a function names the answer by its op."""
    w = tf.Variable(3.0)

    def body(y: Any) -> Any:
        there = tf.raw_ops.VarIsInitializedOp(resource=w.handle)
        return (tf.where(there, y * w, y),)

    def asked(x: Any) -> Any:
        return tf.while_loop(lambda y: tf.reduce_sum(y) < 99, body, (x,))[0]

    graph = capture(asked, X, w=w)
    np.testing.assert_array_equal(run(graph, ROWS, w=w), asked(ROWS))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int8", "bool"])
def test_constants_are_exact_in_every_dtype(dtype: str) -> None:
    """A variable's bits are the constant's bits, whatever the dtype."""
    kind = tf.as_dtype(dtype)
    value = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind.as_numpy_dtype)
    variable = tf.Variable(value)
    graph = capture(lambda x: tf.identity(variable), X, v=variable)
    found = run(graph, ROWS, v=variable)
    assert found.dtype == value.dtype
    np.testing.assert_array_equal(found, value)


# What is left of an input times a variable.
A_PRODUCT = {"Placeholder", "Const", "Identity", "Mul"}


def test_debug_ops_are_dropped() -> None:
    """Assertions and prints, which compute nothing, do not reach the PB."""
    w = tf.Variable(2.0)

    def checked(x: Any) -> Any:
        tf.debugging.assert_less(tf.reduce_max(x), 100.0)
        tf.print("seen", tf.shape(x))
        return x * w

    graph = capture(checked, X, w=w)
    frozen = freeze(graph, {"w": np.float32(2.0)})
    assert {node.op for node in frozen.node} == A_PRODUCT


def test_a_change_of_what_no_output_reads_is_left_out() -> None:
    """A seed that is drawn for nothing, and what the next draw waits for."""
    w, seed = tf.Variable(2.0), tf.Variable(1.0)

    def drawn(x: Any) -> Any:
        seed.assign(seed + 1.0)
        seed.assign_add(seed)
        return x * w

    graph = capture(drawn, X, w=w, seed=seed)
    assert [n.op for n in graph.graph_def.node if "Assign" in n.op] != []
    frozen = freeze(graph, {"w": np.float32(2.0)})
    assert {node.op for node in frozen.node} == A_PRODUCT


def read_before(x: Any, memory: Any, w: Any) -> Any:
    found = x * w + memory
    memory.assign(memory + 1.0)
    return found


def read_after(x: Any, memory: Any, w: Any) -> Any:
    memory.assign(w + 1.0)
    return x + memory


def read_by_a_branch(x: Any, memory: Any, w: Any) -> Any:
    found = tf.cond(tf.reduce_sum(x) > 0, lambda: x + memory, lambda: x)
    memory.assign(w)
    return found


def added_up(x: Any, memory: Any, w: Any) -> Any:
    return x + w * memory.assign_add(1.0)


@pytest.mark.parametrize("use", [read_before, read_after, read_by_a_branch, added_up])
def test_a_change_of_what_an_output_reads_is_refused(use: Any) -> None:
    """In this run or in the next, whether it is read directly or by a function."""
    memory, w = tf.Variable(2.0), tf.Variable(2.0)
    graph = capture(lambda x: use(x, memory, w), X, w=w, memory=memory)
    with pytest.raises(UnsupportedGraph, match=r"Assign.*inference changes"):
        check_freezable(graph)


def test_a_change_of_what_is_named_in_a_function_is_refused() -> None:
    """There a variable may be found by its name, and be no argument."""
    seed, w = tf.Variable(1.0), tf.Variable(1.0)

    def drawn(x: Any) -> Any:
        seed.assign(w)
        return tf.cond(tf.reduce_sum(x) > 0, lambda: x * w, lambda: x)

    graph = capture(drawn, X, w=w, seed=seed)
    check_freezable(graph)
    for function in graph.graph_def.library.function:
        made = nd.make_node("VarHandleOp", "inner", dtype=tf.float32)
        made.attr["shape"].shape.SetInParent()
        made.attr["shared_name"].s = b"seed"
        function.node_def.append(made)
    with pytest.raises(UnsupportedGraph, match=r"Assign.*inference changes"):
        check_freezable(graph)


def test_assignment_in_a_loop_is_refused() -> None:
    """An assignment is found in a loop's body too, and named with its function."""
    counter = tf.Variable(0.0)

    def count(x: Any) -> Any:
        return tf.while_loop(
            lambda y: tf.reduce_sum(y) < 9.0,
            lambda y: y + counter.assign_add(1.0),
            (x,),
        )

    graph = capture(lambda x: count(x)[0], X, counter=counter)
    with pytest.raises(UnsupportedGraph, match=r"AssignAdd.* in \w*body.*inference ch"):
        check_freezable(graph)


def test_stack_of_resources_is_refused() -> None:
    """A queue or stack made within the graph is refused by node."""

    def stacked(x: Any) -> Any:
        handle = tf.raw_ops.StackV2(max_size=2, elem_type=tf.float32)
        return tf.raw_ops.StackPushV2(handle=handle, elem=x)

    with pytest.raises(UnsupportedGraph, match=r"StackV2.*other resource"):
        check_freezable(capture(stacked, X))


def test_recurrence_of_gpus_alone_is_refused() -> None:
    """What cuDNN computes no processor can, be the graph from wherever it is."""

    def recurrent(x: Any) -> Any:
        state, weights = tf.zeros([1, 2, 4]), tf.zeros([96])
        lengths = tf.constant([2, 2])
        made = tf.raw_ops.CudnnRNNV3(
            input=x,
            input_h=state,
            input_c=state,
            params=weights,
            sequence_lengths=lengths,
        )
        return made.output

    with pytest.raises(UnsupportedGraph, match=r"CudnnRNNV3.*GPUs.*use_cudnn=False"):
        check_freezable(capture(recurrent, tf.TensorSpec([2, 2, 3], tf.float32)))


def test_values_that_do_not_fit() -> None:
    """A missing value, another shape, another dtype: each named with both sides."""
    made = zoo.traced(zoo.mlp)
    key = next(key for key, value in made.values.items() if value.shape == (5, 4))
    short = {k: v for k, v in made.values.items() if k != key}
    with pytest.raises(CheckpointDamaged, match=f"{key}.*none for 1 of them"):
        freeze(made.graph, short)
    wrong = {**made.values, key: np.zeros((4, 5), np.float32)}
    with pytest.raises(
        ArchitectureMismatch, match=r"float32\[5, 4\], found float32\[4, 5\]"
    ):
        freeze(made.graph, wrong)
    wrong = {**made.values, key: np.zeros((5, 4), np.float64)}
    with pytest.raises(ArchitectureMismatch, match=r"found float64\[5, 4\]"):
        freeze(made.graph, wrong)


def test_too_big_for_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than a PB can hold is refused before any is copied."""
    made = zoo.traced(zoo.mlp)
    monkeypatch.setattr("persist_callbacks.graph.freeze._MAX_BYTES", 50)
    with pytest.raises(UnsupportedGraph, match=r"2 GiB.*float16"):
        freeze(made.graph, made.values)


def test_output_that_is_not_there() -> None:
    """An unknown output lists those that there are."""
    made = zoo.traced(zoo.dicts)
    with pytest.raises(TensorNotFound, match=r"logits: .*echo, memory, score"):
        freeze(made.graph, made.values, outputs=["logits"])


def test_inner_node_as_output() -> None:
    """Any node can be an output; what only the others needed is gone."""
    made = zoo.traced(zoo.cnn)
    inner = next(n.name for n in made.graph.graph_def.node if n.op == "MaxPool")
    frozen = freeze(made.graph, made.values, outputs=[inner])
    assert "MatMul" not in {node.op for node in frozen.node}
    maxpool = keras.Model(made.model.input, made.model.layers[4].output)
    sample = np.random.default_rng(0).standard_normal((2, 12, 12, 3)).astype("float32")
    graph = from_graph_def(frozen, made.graph.inputs, None)
    np.testing.assert_allclose(graph(sample), maxpool(sample), atol=1e-6)
