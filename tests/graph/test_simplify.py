"""simplify.py: each pass makes the graph smaller and keeps its numbers."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import zoo
from tensorflow.python.grappler import tf_optimizer

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph import simplify as passes
from persist_callbacks.graph.canonical import serialize
from persist_callbacks.graph.compare import compare, generate
from persist_callbacks.graph.freeze import freeze
from persist_callbacks.graph.frozen import count_ops, from_graph_def
from persist_callbacks.graph.runtimes import judge
from persist_callbacks.records import TensorInfo


def outputs_of(made: zoo.Traced, graph_def: Any) -> Any:
    """Run a graph on the same made-up input each time."""
    graph = from_graph_def(graph_def, made.graph.inputs, made.graph.outputs)
    return zoo.by_name(graph(generate(made.graph.inputs)), made.outputs)


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_simplified_graph_agrees_and_is_smaller(kind: str) -> None:
    """All passes together: fewer nodes, the same outputs to rounding."""
    made = zoo.shared(kind)
    plain, simple = freeze(made.graph, made.values), made.frozen()
    before, after = sum(count_ops(plain).values()), sum(count_ops(simple).values())
    assert after < before
    tolerance = 2e-2 if kind == "mixed_precision" else 1e-6
    comparison = compare(
        outputs_of(made, plain),
        outputs_of(made, simple),
        atol=tolerance,
        rtol=tolerance,
    )
    assert comparison.agrees, str(comparison)


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_simplifying_repeats_to_the_byte(kind: str) -> None:
    """The same graph gives the same bytes each time it is simplified."""
    made = zoo.shared(kind)
    assert serialize(made.frozen()) == serialize(made.frozen())


def test_batch_normalisation_folds_into_the_convolution() -> None:
    """A convolution and its batch norm leave one Conv2D and one addition."""
    ops = count_ops(zoo.traced(zoo.cnn).frozen())
    assert ops["Conv2D"] == 1
    assert "Rsqrt" not in ops
    assert "Mul" not in ops


def test_loops_stay_loops() -> None:
    """A recurrent layer stays While; nothing of TF1's Enter and Exit appears."""
    ops = count_ops(zoo.traced(zoo.recurrent).frozen())
    assert ops["StatelessWhile"] == 3
    assert not {"Enter", "Exit", "Switch", "Merge", "NextIteration"} & set(ops)


def test_no_identity_but_the_outputs() -> None:
    """Identities go; what has no node that could bear its name is a product."""
    made = zoo.traced(zoo.dicts)
    types = {node.name: node.op for node in made.frozen().node}
    assert "Identity" not in types.values()
    # One is an input, one the fifth result of a loop.
    assert (types["echo"], types["memory"]) == ("Mul", "Mul")
    assert set(made.outputs) <= set(types)


def test_outputs_of_ops_with_several_results() -> None:
    """Who reads another result of an output's op reads it still."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 5], name="x")
        _, indices = tf.math.top_k(x, 2, name="top")
        tf.add(indices, 1, name="next")
    simple = passes.simplify(
        graph.as_graph_def(), inputs=["x"], outputs=["top", "next"]
    )
    infos = [TensorInfo("top", None, "float32"), TensorInfo("next", None, "int32")]
    found = from_graph_def(simple, None, infos)([[3.0, 9.0, 1.0, 4.0, 0.0]])
    np.testing.assert_array_equal(found["top"], [[9.0, 4.0]])
    np.testing.assert_array_equal(found["next"], [[2, 4]])


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x * (0.5 * tf.math.erfc(-x)),
        lambda x: x - tf.reduce_mean(x, -1, keepdims=True),
        lambda x: tf.nn.softmax(tf.nn.conv2d(x, np.ones((1, 1, 4, 4)) / 4, 1, "SAME")),
        lambda x: tf.nn.conv2d(x, np.ones((1, 1, 2, 4), np.float32) / 2, 1, "SAME"),
        lambda x: x + np.arange(4, dtype=np.float32) * tf.tanh(x),
        lambda x: 1.0 / (2.0 + x),
    ],
)
def test_a_loop_of_tf1_stays_one(step: Any) -> None:
    """A constant that hangs on nothing in the loop would be in another frame."""
    with tf.Graph().as_default() as graph:
        tf.compat.v1.disable_control_flow_v2()
        try:
            x = tf.compat.v1.placeholder(tf.float32, [None, 3, 3, 4], name="x")
            _, y = tf.while_loop(
                lambda i, _: i < 3, lambda i, v: (i + 1, step(v)), (0, x)
            )
        finally:
            tf.compat.v1.enable_control_flow_v2()
        tf.identity(y, name="y")
    graph_def = graph.as_graph_def()
    assert "Enter" in count_ops(graph_def)
    simple = passes.simplify(graph_def, inputs=["x"], outputs=["y"])
    fed = np.random.default_rng(0).random((2, 3, 3, 4), dtype=np.float32)
    wanted = [TensorInfo("y", None, "float32")]
    expected = from_graph_def(graph_def, None, wanted)(fed)
    found = from_graph_def(simple, None, wanted)(fed)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_calls_are_inlined() -> None:
    """A function call left by a layer disappears, and its numbers stay."""

    @tf.function
    def inner(x: Any) -> Any:
        return tf.nn.relu(x) * 2.0

    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        tf.identity(inner(x) + 1.0, name="y")
    graph_def = graph.as_graph_def()
    assert "PartitionedCall" in count_ops(graph_def)
    simple = passes.simplify(graph_def, inputs=["x"], outputs=["y"])
    assert not simple.library.function
    assert "PartitionedCall" not in count_ops(simple)
    found = from_graph_def(simple, None, None)(np.array([-1.0, 2.0], np.float32))
    np.testing.assert_array_equal(found, [1.0, 5.0])


def test_an_output_that_is_no_identity_keeps_its_name() -> None:
    """An inner node wanted as output is still there by name after folding."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 2], name="x")
        scaled = tf.multiply(tf.tanh(x), 3.0, name="scaled")
        tf.nn.relu(scaled, name="y")
    simple = passes.simplify(
        graph.as_graph_def(), inputs=["x"], outputs=["scaled", "y"]
    )
    by_name = {node.name: node.op for node in simple.node}
    assert (by_name["scaled"], by_name["y"]) == ("Mul", "Relu")


def folded(x: Any, k: Any) -> Any:
    """Constants of constants, by a number that is fed."""
    weights = tf.reshape(tf.range(8.0) * 2.0, [2, 4])
    return tf.nn.relu(x @ weights + tf.zeros([4])) * k


def inlined(x: Any, k: Any) -> Any:
    """A call, in which constants fold."""
    return tf.function(lambda one, other: one * other * tf.ones([2]))(x, k)


def branched(x: Any, k: Any) -> Any:
    """A branch of TF1's, by what is fed."""
    return tf.compat.v1.cond(k > 2, lambda: x * k, lambda: x + tf.exp(tf.exp(0.0)))


@pytest.mark.parametrize("compute", [folded, inlined, branched])
def test_an_input_of_any_shape_does_not_stop_folding(compute: Any) -> None:
    """What comes out is the same as with a shape, but that the input has none."""
    made = []
    tf.compat.v1.disable_control_flow_v2()
    try:
        for shape in ([], None):
            with tf.Graph().as_default() as graph:
                x = tf.compat.v1.placeholder(tf.float32, [None, 2], name="x")
                k = tf.compat.v1.placeholder(tf.float32, shape, name="k")
                tf.compat.v1.placeholder(tf.string, shape, name="unread")
                tf.identity(compute(x, k), name="y")
            made.append(graph.as_graph_def())
    finally:
        tf.compat.v1.enable_control_flow_v2()
    inputs, outputs = ["x", "k", "unread"], ["y", "k"]
    known, unknown = (
        passes.simplify(each, inputs=inputs, outputs=outputs) for each in made
    )
    for node in unknown.node:
        if node.name in ("k", "unread") and node.op == "Placeholder":
            assert nd.stated_shape(node).rank is None
            node.attr["shape"].shape.CopyFrom(tf.TensorShape([]).as_proto())
    assert serialize(unknown) == serialize(known)
    gone = {"Exp", "Fill", "PartitionedCall", "Range", "Unstage"}
    assert not gone & set(count_ops(known))


def test_an_input_nobody_reads_stays() -> None:
    """A caller that feeds every input still can."""
    graph = tf.Graph()
    with graph.as_default():
        tf.compat.v1.placeholder(tf.float32, [None], name="unused")
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        tf.identity(x + 1.0, name="y")
    simple = passes.simplify(
        graph.as_graph_def(), inputs=["x", "unused"], outputs=["y"]
    )
    placeholders = [n.name for n in simple.node if n.op == "Placeholder"]
    assert placeholders == ["x", "unused"]


@pytest.mark.parametrize("kind", ["cnn", "attention"])
def test_constants_lie_where_readers_look(kind: str) -> None:
    """Several numbers lie in the bytes, each of them; a single one in its list."""
    for node in zoo.shared(kind).frozen().node:
        if node.op == "Const":
            proto = node.attr["value"].tensor
            dtype = tf.as_dtype(proto.dtype)
            elements = tf.TensorShape(proto.tensor_shape).num_elements()
            if elements == 1:
                assert len(proto.int_val) + len(proto.float_val) == 1, node.name
                assert not proto.tensor_content
            else:
                assert len(proto.tensor_content) == dtype.size * elements, node.name


def test_no_attribute_at_its_default() -> None:
    """Attributes newer than a reader are not there unless they say something."""
    for node in zoo.traced(zoo.attention).frozen().node:
        assert not node.device
        assert not [key for key in node.attr if key.startswith("_")]
        assert not {"grad_a", "grad_b", "debug_name"} & set(node.attr)


def computed_bias(x: Any) -> Any:
    """A bias that is fed, and one of any shape that is added to what is biased."""
    bias = tf.compat.v1.placeholder(tf.float32, [6], name="bias")
    other = tf.compat.v1.placeholder(tf.float32, name="other")
    return tf.nn.bias_add(x @ np.ones((8, 6), np.float32), bias) + other


def expanded_input(x: Any) -> Any:
    """OpenCV's rules ask for the sizes of this input, which says none."""
    other = tf.compat.v1.placeholder(tf.float32, name="other")
    return tf.expand_dims(x * other, 1)


def computed_filters(x: Any) -> Any:
    """What makes the filters, and the size, is no constant."""
    filters = tf.compat.v1.placeholder(tf.float32, name="filters")
    rows = tf.reshape(x, [-1, 2, 2, 2])
    padded = tf.pad(rows, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = tf.nn.conv2d(padded, filters, 1, "SAME") * filters
    sizes = tf.stack([tf.shape(x)[0], 4, 4, 2])
    return tf.nn.conv2d_transpose(rows, filters, sizes, 2)


def printed(x: Any) -> Any:
    """A node that has no result, which another one waits for."""
    with tf.control_dependencies([tf.print("there", output_stream=sys.stderr)]):
        return tf.identity(x)


ASKED = [computed_bias, expanded_input, computed_filters, printed]


def asked_graph(compute: Any) -> Any:
    """A graph whose nodes lack what is asked of others, and its inputs."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8], name="x")
        tf.identity(compute(x), name="y")
    placeholders = [n.name for n in graph.as_graph_def().node if n.op == "Placeholder"]
    return graph.as_graph_def(), placeholders


def odd_attributes(graph_def: Any) -> list[tuple[str, str, str]]:
    """The attributes that a node's op has not, or that have no value."""
    found = []
    for node in nd.every_node(graph_def):
        known = {attr.name for attr in nd.op_definition(node.op).attr}
        for key, value in node.attr.items():
            if key not in known and not key.startswith("_"):
                found.append((node.name, node.op, key))
            elif value.WhichOneof("value") is None:
                found.append((node.name, node.op, f"{key}: nothing"))
    return found


@pytest.mark.parametrize("case", [*zoo.KINDS, *ASKED])
def test_each_attribute_is_one_of_its_op(case: Any) -> None:
    """To ask a node for an attribute makes one, which TensorFlow 1.15 refuses."""
    if isinstance(case, str):
        simple = zoo.shared(case).frozen()
    else:
        graph_def, inputs = asked_graph(case)
        simple = passes.simplify(graph_def, inputs=inputs, outputs=["y"])
    assert odd_attributes(simple) == []
    before = serialize(simple)
    judge(simple)
    for node in nd.every_node(simple):
        nd.reaches_out(node)
    assert serialize(simple) == before


def test_nodes_are_in_topological_order() -> None:
    """Each node comes after all that it reads."""
    seen: set[str] = set()
    for node in zoo.traced(zoo.recurrent).frozen().node:
        assert {ref.split(":")[0].lstrip("^") for ref in node.input} <= seen
        seen.add(node.name)


def test_grappler_is_where_we_call_it() -> None:
    """A TensorFlow that moves its graph optimizer fails here by name."""
    assert callable(tf_optimizer.OptimizeGraph)
