"""freezing.py and exporting.py: a checkpoint folder to a PB, with no model code."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import zoo

import persist_callbacks
from persist_callbacks import exporting
from persist_callbacks.errors import (
    ArgumentError,
    CheckpointDamaged,
    CheckpointNotFound,
    DirectoryNotWritable,
    InputMismatch,
    NotAFrozenGraph,
    PersistWarning,
    TensorNotFound,
    UnsupportedGraph,
    VerificationFailed,
)
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.compare import compare, generate
from persist_callbacks.graph.frozen import load_frozen_graph
from persist_callbacks.graph.meta import to_meta
from persist_callbacks.graph.signature import signature_path
from persist_callbacks.graph.trace import run_live
from persist_callbacks.records import GraphNames, Position
from persist_callbacks.storage import bundle, layout
from persist_callbacks.storage.store import Store


def commit(directory: Path, made: zoo.Traced, *steps: int, meta: bool = True) -> Store:
    """Commit checkpoints of a traced model as a training run does."""
    with Store.open_for_writing(directory, versions={}) as store:
        for step in steps:
            staged = store.stage(step)
            values = {key: tf.constant(value) for key, value in made.values.items()}
            bundle.write(staged.prefix, values)
            staged.write(layout.STATE, b"{}")
            if meta:
                staged.write(layout.META, to_meta(made.graph))
            store.commit(
                staged,
                position=Position(0, step, step),
                fingerprint="f",
                score=None,
                finished=False,
            )
    return Store.open_for_reading(directory)


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_pb_of_a_checkpoint_is_the_pb_of_the_model(kind: str, tmp_path: Path) -> None:
    """Freezing the folder later gives the very bytes that the live export gives."""
    made = zoo.shared(kind)
    commit(tmp_path / "run", made, 3)
    later = tmp_path / "later.pb"
    live = tmp_path / "live.pb"
    persist_callbacks.freeze(tmp_path / "run", later)
    exporting.write(exporting.build(made.graph, made.values), live)
    assert later.read_bytes() == live.read_bytes()
    assert signature_path(later).read_bytes() == signature_path(live).read_bytes()


@pytest.mark.parametrize(
    "which", ["run", "run/ckpt-000000007", "run/ckpt-000000007/model.ckpt"]
)
def test_ways_to_name_a_checkpoint(which: str, tmp_path: Path) -> None:
    """A run directory means its newest checkpoint; a folder or prefix means itself."""
    made = zoo.traced(zoo.cnn, GraphNames(outputs=("p q",)))
    commit(tmp_path / "run", made, 4, 7)
    frozen = persist_callbacks.freeze(tmp_path / which, tmp_path / "new" / "m.pb")
    assert frozen.path == tmp_path / "new" / "m.pb"
    sample = generate(made.graph.inputs)
    live = run_live(made.model, made.graph, sample)
    found = {"p_q": frozen(sample)}
    assert compare(live, found, atol=1e-5, rtol=1e-4).agrees
    signature = load_frozen_graph(tmp_path / "new" / "m.pb").signature
    assert signature is not None
    assert signature.outputs[0].original == "p q"
    assert signature.op_count == frozen.op_count


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """The run's newest sound checkpoint is frozen; the damaged one only by error."""
    made = zoo.traced(zoo.mlp)
    commit(tmp_path / "run", made, 1, 2)
    newest = tmp_path / "run" / "ckpt-000000002"
    data = newest / "model.ckpt.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[10] ^= 0xFF
    data.write_bytes(content)
    persist_callbacks.freeze(tmp_path / "run", tmp_path / "m.pb")
    with pytest.raises(CheckpointDamaged, match="ckpt-000000002"):
        persist_callbacks.freeze(newest, tmp_path / "m.pb")


def test_outputs_and_inputs_can_be_chosen(tmp_path: Path) -> None:
    """A subset of outputs takes only the inputs it needs, or those named."""
    made = zoo.traced(zoo.dicts)
    commit(tmp_path / "run", made, 1)

    def freeze(**kwargs: Any) -> Any:
        return persist_callbacks.freeze(tmp_path / "run", tmp_path / "m.pb", **kwargs)

    echo = freeze(outputs=["echo"])
    assert [info.name for info in echo.inputs] == ["b"]
    np.testing.assert_array_equal(echo(np.ones((1, 7))), np.ones((1, 7)))
    both = freeze(outputs=["score:0", "echo"], inputs=["b", "a"])
    assert [info.name for info in both.inputs] == ["b", "a"]
    assert [info.name for info in both.outputs] == ["score", "echo"]
    with pytest.raises(TensorNotFound, match="every input that the outputs need"):
        freeze(inputs=["b"])
    with pytest.raises(TensorNotFound, match=r"image: expected an input of the graph"):
        freeze(inputs=["image"])
    with pytest.raises(TensorNotFound, match="logits: expected an output"):
        freeze(outputs=["logits"])
    twice = freeze(outputs=["echo", "score", "echo:0"])
    assert [info.name for info in twice.outputs] == ["echo", "score"]
    # What is fed may be asked for too.
    fed = freeze(outputs=["b", "score"])
    assert [info.name for info in fed.outputs] == ["b", "score"]
    batch = {"a": np.ones((1, 5, 3)), "b": np.full((1, 7), 3.0)}
    np.testing.assert_array_equal(fed(batch)["b"], batch["b"])
    alone = freeze(outputs=["b"])
    np.testing.assert_array_equal(alone(batch["b"]), batch["b"])


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"outputs": "score"}, r"outputs: expected a list of names.*found 'score'"),
        ({"outputs": [1]}, r"outputs: expected a list of names.*found \[1\]"),
        ({"outputs": 5}, r"outputs: expected a list of names.*found 5"),
        ({"inputs": 5}, r"inputs: expected a list of names.*found 5"),
        ({"inputs": "b"}, r"inputs: expected a list of names.*found 'b'"),
        ({"inputs": ["a", None]}, r"inputs: expected a list of names"),
        ({"inputs": ["a", "b", "a:0"]}, r"inputs: expected each input once"),
    ],
)
def test_names_that_are_none(chosen: Any, message: str, tmp_path: Path) -> None:
    """No name is read letter by letter, and no input is two arguments."""
    commit(tmp_path / "run", zoo.traced(zoo.dicts), 1)
    with pytest.raises(ArgumentError, match=message):
        persist_callbacks.freeze(tmp_path / "run", tmp_path / "m.pb", **chosen)
    assert not (tmp_path / "m.pb").exists()


def test_inner_node_gets_its_shape_described(tmp_path: Path) -> None:
    """An output that the model did not name has shape and dtype in the signature."""
    made = zoo.traced(zoo.cnn)
    inner = next(n.name for n in made.graph.graph_def.node if n.op == "MaxPool")
    commit(tmp_path / "run", made, 1)
    frozen = persist_callbacks.freeze(
        tmp_path / "run", tmp_path / "m.pb", outputs=[inner]
    )
    assert frozen.outputs[0].shape == (None, 5, 5, 4)


def test_tf1_folder(tmp_path: Path) -> None:
    """A folder that TF1's Saver wrote freezes once its outputs are named."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        w = v1.get_variable(
            "w", initializer=tf.constant([[1.0], [2.0]]), use_resource=True
        )
        tf.matmul(x, w, name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "old" / "model"), 5)
    for place in (tmp_path / "old", tmp_path / "old" / "model-5"):
        frozen = persist_callbacks.freeze(place, tmp_path / "m.pb", outputs=["y"])
        np.testing.assert_array_equal(frozen([[1.0, 1.0]]), [[3.0]])
        assert [info.name for info in frozen.inputs] == ["x"]
    with pytest.raises(TensorNotFound, match=r"likely ones are: y \(MatMul\)"):
        persist_callbacks.freeze(tmp_path / "old", tmp_path / "m.pb")
    with pytest.raises(TensorNotFound, match=r"init: .*a NoOp of that name"):
        persist_callbacks.freeze(tmp_path / "old", tmp_path / "m.pb", outputs=["init"])


def pipeline_script(directory: Path, *, queue: bool = False) -> None:
    """Save a model of TF1 that reads two features and a label by an iterator."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        a = np.arange(8, dtype=np.float32).reshape(4, 2)
        data = tf.data.Dataset.from_tensor_slices((a, a[:, 0], [0, 1, 0, 1]))
        x, shift, label = v1.data.make_one_shot_iterator(data.batch(2)).get_next()
        if queue:
            fifo = v1.PaddingFIFOQueue(9, [tf.float32, tf.float32], [[None, 2], [None]])
            x, shift = fifo.dequeue(name="next")
        w = v1.get_variable("w", initializer=[[1.0, 2.0], [3.0, 4.0]])
        logits = tf.add(tf.matmul(x, w), shift[:, None], name="logits")
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits)
        )
        v1.train.AdamOptimizer().minimize(loss)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(directory / "model"), 3)


@pytest.mark.parametrize("queue", [False, True])
def test_a_script_that_reads_its_data_in_the_graph(queue: bool, tmp_path: Path) -> None:
    """Cut where the data come in, it takes arrays; uncut it is told so."""
    pipeline_script(tmp_path / "old", queue=queue)
    node = "next" if queue else "IteratorGetNext"

    def freeze(**chosen: Any) -> Any:
        return persist_callbacks.freeze(tmp_path / "old", tmp_path / "m.pb", **chosen)

    with pytest.raises(TensorNotFound, match=r"likely ones are: logits \(Add"):
        freeze()
    with pytest.raises(UnsupportedGraph, match=rf'pipeline.*\["{node}", "{node}:1"\]'):
        freeze(outputs=["logits"])
    with pytest.raises(UnsupportedGraph, match=rf'pipeline.*inputs=\["{node}:1"\]'):
        freeze(outputs=["logits"], inputs=[node])
    frozen = freeze(outputs=["logits"], inputs=[f"{node}:1", f"{node}:0"])
    assert [info.name for info in frozen.inputs] == [f"{node}_1", node]
    assert frozen.inputs[1].shape == (None, 2)
    assert {"Placeholder", "MatMul"} <= set(frozen.ops)
    shift, x = np.array([10.0], np.float32), np.array([[1.0, 1.0]], np.float32)
    np.testing.assert_array_equal(frozen(shift, x), [[14.0, 16.0]])
    by_name = {f"{node}:1": shift, node: x}
    np.testing.assert_array_equal(frozen(by_name), [[14.0, 16.0]])
    with pytest.raises(TensorNotFound, match=r":7: .*found output 7 of a node with"):
        freeze(outputs=["logits"], inputs=[f"{node}:7"])
    with pytest.raises(TensorNotFound, match=r"absent: .*no input or node"):
        freeze(outputs=["logits"], inputs=["absent", node, f"{node}:1"])


def saved_script(build: Any, directory: Path) -> None:
    """Save a graph of TF1 with the control flow that it had."""
    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None, 3], name="x")
            w = v1.get_variable("w", initializer=tf.eye(3) * 2.0)
            tf.identity(build(x, w), name="y")
            session.run([v1.global_variables_initializer(), v1.tables_initializer()])
            v1.train.Saver().save(session, str(directory / "model"))
    finally:
        v1.enable_control_flow_v2()


def asserted(x: Any, w: Any) -> Any:
    """Checks in a loop, in a branch, and of labels that an iterator gives."""
    v1 = tf.compat.v1
    labels = v1.data.make_one_shot_iterator(tf.data.Dataset.range(3)).get_next()

    def step(i: Any, value: Any) -> Any:
        with tf.control_dependencies([v1.Assert(i < 9, [i])]):
            # It reads nothing, and is in the loop by what it waits for.
            one = tf.constant(1.0)
        with tf.control_dependencies([v1.assert_positive(one)]):
            return i + 1, tf.matmul(value, w) * one

    _, value = tf.while_loop(lambda i, _: i < 3, step, (0, x))
    checks = [v1.assert_less(labels, np.int64(5)), v1.assert_positive(x[0, 0] + 9.0)]
    with tf.control_dependencies(checks):
        return tf.cond(x[0, 0] > 0, lambda: value * 1.0, lambda: -value)


@pytest.mark.parametrize("target", ["portable", "tensorflow"])
def test_assertions_of_tf1_go(target: Any, tmp_path: Path) -> None:
    """With what only they read, and what waited for them stays where it was."""
    saved_script(asserted, tmp_path / "old")
    frozen = persist_callbacks.freeze(
        tmp_path / "old", tmp_path / "m.pb", outputs=["y"], target=target
    )
    assert not {"Assert", "IteratorGetNext"} & set(frozen.ops)
    assert {"Enter", "Switch", "Merge"} <= set(frozen.ops)
    for sign in (1.0, -1.0):
        found = frozen([[sign, 1.0, 2.0]])
        np.testing.assert_array_equal(found, [[8.0, sign * 8.0, sign * 16.0]])


def test_waiting_for_what_is_fed(tmp_path: Path) -> None:
    """It is there; what it was made of is not waited for."""

    def build(x: Any, w: Any) -> Any:
        h = tf.add(x, 1.0, name="h")
        with tf.control_dependencies([h]):
            zero = tf.constant(0.0)
        return tf.cond(tf.reduce_sum(w) > 0, lambda: h @ w + zero, lambda: h)

    saved_script(build, tmp_path / "old")
    frozen = persist_callbacks.freeze(
        tmp_path / "old", tmp_path / "m.pb", outputs=["y"], inputs=["h"]
    )
    assert [info.name for info in frozen.inputs] == ["h"]
    np.testing.assert_array_equal(frozen([[1.0, 2.0, 3.0]]), [[2.0, 4.0, 6.0]])


def test_an_output_that_is_not_a_nodes_first(tmp_path: Path) -> None:
    """It has a node of its own, and its own name besides."""

    def build(x: Any, w: Any) -> Any:
        values, _ = tf.math.top_k(x @ w, 2, name="top")
        return values

    saved_script(build, tmp_path / "old")

    def freeze(*outputs: str) -> Any:
        return persist_callbacks.freeze(
            tmp_path / "old", tmp_path / "m.pb", outputs=outputs
        )

    found = freeze("top", "top:1")([[3.0, 1.0, 2.0]])
    np.testing.assert_array_equal(found["top"], [[6.0, 4.0]])
    np.testing.assert_array_equal(found["top_1"], [[0, 2]])
    with pytest.raises(TensorNotFound, match=r"be an output.*output 2 of .* its first"):
        freeze("top:2")


def normed(x: Any, axis: int, *, keepdims: bool) -> Any:
    moments = tf.nn.moments(x, [axis], keepdims=keepdims)
    return tf.nn.batch_normalization(x, *moments, None, None, 1e-3)


def beside_a_layer_norm(x: Any, w: Any) -> Any:
    return normed(normed(x @ w, 0, keepdims=False), 1, keepdims=True)


def by_a_constant_flag(x: Any, w: Any) -> Any:
    training = tf.constant(True)
    return tf.cond(training, lambda: normed(x @ w, 0, keepdims=False), lambda: x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda x, w: tf.nn.dropout(x @ w, 0.5),
            r"other numbers in each run.*random_unif",
        ),
        (
            lambda x, w: tf.compat.v1.nn.fused_batch_norm(
                (x @ w)[:, None, None], [1.0] * 3, [0.0] * 3
            )[0],
            "normalizes by the batch",
        ),
        (lambda x, w: normed(x @ w, 0, keepdims=False), "normalizes by the batch"),
        (lambda x, w: normed(x @ w, 0, keepdims=True), "normalizes by the batch"),
        (beside_a_layer_norm, "normalizes by the batch"),
        (by_a_constant_flag, "normalizes by the batch"),
    ],
)
def test_a_graph_that_trains_is_told_of(
    build: Any, message: str, tmp_path: Path
) -> None:
    """TF1 builds two graphs, and it is the other one that is used."""
    saved_script(build, tmp_path / "old")
    with pytest.warns(PersistWarning, match=message):
        persist_callbacks.freeze(tmp_path / "old", tmp_path / "m.pb", outputs=["y"])


def test_a_norm_before_what_is_fed_is_not(tmp_path: Path) -> None:
    """It is in the PB no more."""

    def build(x: Any, w: Any) -> Any:
        return tf.identity(normed(x, 0, keepdims=False), name="h") @ w

    saved_script(build, tmp_path / "old")
    # Any warning would fail here.
    frozen = persist_callbacks.freeze(
        tmp_path / "old", tmp_path / "m.pb", outputs=["y"], inputs=["h"]
    )
    np.testing.assert_array_equal(frozen([[1.0, 2.0, 3.0]]), [[2.0, 4.0, 6.0]])


def test_input_whose_values_have_a_meaning(tmp_path: Path) -> None:
    """Made-up text is no picture; the PB is written, and it is said."""

    def build(x: Any, w: Any) -> Any:
        text = tf.compat.v1.placeholder(tf.string, [], name="text")
        return x @ w + tf.io.decode_raw(text, tf.float32)[:3]

    saved_script(build, tmp_path / "old")
    with pytest.warns(PersistWarning, match="whose values it does not take"):
        frozen = persist_callbacks.freeze(
            tmp_path / "old", tmp_path / "m.pb", outputs=["y"]
        )
    text = np.arange(3, dtype=np.float32).tobytes()
    found = frozen({"x": [[1.0, 1.0, 1.0]], "text": np.array(text, object)})
    np.testing.assert_array_equal(found, [[2.0, 3.0, 4.0]])
    with pytest.raises(InputMismatch, match=r"text: .*found object\[\]"):
        frozen({"x": [[1.0, 1.0, 1.0]], "text": np.array(3, object)})


def test_a_table_of_words_by_their_places(tmp_path: Path) -> None:
    """TF1 makes the places by a Cast of a Range, which is as good as a constant."""

    def build(x: Any, w: Any) -> Any:
        v1 = tf.compat.v1
        words = v1.placeholder(tf.string, [None], name="words")
        keys = tf.constant(["a", "b", "c"])
        places = tf.cast(tf.range(3), tf.int64)
        fill = tf.lookup.KeyValueTensorInitializer(keys, places)
        table = tf.lookup.StaticHashTable(fill, -1)
        return tf.cast(table.lookup(words), tf.float32) + tf.reduce_sum(x @ w)

    saved_script(build, tmp_path / "old")
    frozen = persist_callbacks.freeze(
        tmp_path / "old", tmp_path / "m.pb", outputs=["y"], inputs=["words", "x"]
    )
    found = frozen(np.array(["b", "z", "c"]), np.zeros((1, 3)))
    np.testing.assert_array_equal(found, [1.0, -1.0, 2.0])


def test_an_inner_tensor_is_an_input(tmp_path: Path) -> None:
    """What led there is in the PB no more, and the others' inputs are as they were."""
    made = zoo.traced(zoo.cnn)
    inner = next(n.name for n in made.graph.graph_def.node if n.op == "MaxPool")
    commit(tmp_path / "run", made, 1)
    run = tmp_path / "run"
    whole = persist_callbacks.freeze(run, tmp_path / "whole.pb")
    first = persist_callbacks.freeze(run, tmp_path / "a.pb", outputs=[inner])
    last = persist_callbacks.freeze(run, tmp_path / "b.pb", inputs=[f"{inner}:0"])
    assert [info.name for info in last.inputs] == [inner]
    assert last.op_count < whole.op_count
    sample = generate(made.graph.inputs, batch=2, seed=1)
    np.testing.assert_allclose(last(first(sample)), whole(sample), atol=1e-6)


def test_an_input_with_a_default_and_one_amidst_the_graph(tmp_path: Path) -> None:
    """What is fed is what its readers read, whatever the node was made of."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        k = v1.placeholder_with_default(1.0, [], name="k")
        w = v1.get_variable("w", initializer=[1.0, 2.0, 3.0, 4.0])
        h = tf.multiply(tf.nn.relu(x), w, name="h")
        tf.add(h * k, tf.tanh(h), name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "old" / "model"))
    h_fed = np.array([[1.0, -2.0, 3.0, 0.0]], np.float32)

    def freeze(*outputs: str, inputs: list[str]) -> Any:
        return persist_callbacks.freeze(
            tmp_path / "old", tmp_path / "m.pb", outputs=outputs, inputs=inputs
        )

    found = freeze("k", "y", inputs=["x", "k"])(h_fed, 5.0)
    assert found["k"] == 5.0
    relu = np.maximum(h_fed, 0) * [1.0, 2.0, 3.0, 4.0]
    np.testing.assert_allclose(found["y"], 5 * relu + np.tanh(relu), rtol=1e-6)
    meta = v1.MetaGraphDef.FromString((tmp_path / "old/model.meta").read_bytes())
    signature = meta.signature_def["serving_default"]
    for names, kind in ((["h", "k"], signature.inputs), (["y"], signature.outputs)):
        for name in names:
            kind[name].name, kind[name].dtype = f"{name}:0", 1
            kind[name].tensor_shape.unknown_rank = True
    (tmp_path / "old/model.meta").write_bytes(meta.SerializeToString())
    found = freeze("y", inputs=["h", "k"])(h_fed, 5.0)
    np.testing.assert_allclose(found, 5 * h_fed + np.tanh(h_fed), rtol=1e-6)


@pytest.mark.parametrize("outside", [True, False], ids=["outside", "in a graph"])
def test_a_placeholder_of_any_shape(outside: bool, tmp_path: Path) -> None:
    """As TF1's scripts make it; frozen in the midst of such a script's graph too."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, None, name="x")
        w = v1.get_variable("w", initializer=[2.0, 3.0], use_resource=False)
        tf.add(tf.nn.relu(x) * w[0], 1.0, name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "old" / "model"))
    with contextlib.nullcontext() if outside else tf.Graph().as_default():
        frozen = persist_callbacks.freeze(
            tmp_path / "old", tmp_path / "m.pb", outputs=["y"]
        )
        np.testing.assert_array_equal(frozen([-1.0, 4.0]), [1.0, 9.0])


def test_checkpoint_without_a_graph(tmp_path: Path) -> None:
    """No .meta: the error says where it was looked for and the other way to a PB."""
    commit(tmp_path / "run", zoo.traced(zoo.mlp), 1, meta=False)
    with pytest.raises(CheckpointNotFound, match=r"model\.ckpt\.meta.*FrozenGraphExp"):
        persist_callbacks.freeze(tmp_path / "run", tmp_path / "m.pb")
    assert not (tmp_path / "m.pb").exists()


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    """A path that leads nowhere, and a file, are each called what they are."""
    with pytest.raises(CheckpointNotFound, match="nothing of that name"):
        persist_callbacks.freeze(tmp_path / "gone", tmp_path / "m.pb")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointDamaged, match="found a file"):
        persist_callbacks.freeze(tmp_path / "notes.txt", tmp_path / "m.pb")


def test_pb_that_was_changed_is_refused(tmp_path: Path) -> None:
    """A PB whose bytes are not those its signature is about does not load."""
    made = zoo.traced(zoo.mlp)
    path = tmp_path / "m.pb"
    exporting.write(exporting.build(made.graph, made.values), path)
    data = bytearray(path.read_bytes())
    # One bit of a weight, so that it is a graph still.
    weight = next(value for value in made.values.values() if value.ndim == 2)
    data[data.index(weight.tobytes())] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(NotAFrozenGraph, match=r"m\.signature\.json says, found .*xxh3"):
        load_frozen_graph(path)


def test_input_by_its_original_name(tmp_path: Path) -> None:
    """A name that the graph could not hold still finds its input."""
    made = zoo.traced(zoo.cnn, GraphNames(inputs=("my image",)))
    path = tmp_path / "m.pb"
    frozen = exporting.write(exporting.build(made.graph, made.values), path)
    sample = np.zeros((1, 12, 12, 3), np.float32)
    np.testing.assert_array_equal(
        frozen({"my image": sample}), frozen({"my_image": sample})
    )


def test_a_kill_between_pb_and_signature_leaves_a_pb_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each durable call in turn, what lies there afterwards loads and runs."""
    from persist_callbacks.storage import durable

    old, new = zoo.traced(zoo.mlp), zoo.traced(zoo.mlp)
    values = {k: v * 2 if v.dtype.kind == "f" else v for k, v in new.values.items()}
    path = tmp_path / "m.pb"
    sample = np.ones((1, 5), np.float32)
    first = exporting.write(exporting.build(old.graph, old.values), path)(sample)
    built = exporting.build(new.graph, values)
    second = built.frozen(sample)
    assert not np.array_equal(first, second)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    for name in ("remove_file", "replace_file"):
        with monkeypatch.context() as patch:
            patch.setattr(durable, name, killed)
            with pytest.raises(Killed):
                exporting.write(built, path)
        np.testing.assert_array_equal(load_frozen_graph(path)(sample), first)
    whole = durable.replace_file

    def only_the_pb(target: Path, data: bytes) -> None:
        if target.suffix == ".json":
            raise Killed
        whole(target, data)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "replace_file", only_the_pb)
        with pytest.raises(Killed):
            exporting.write(built, path)
    np.testing.assert_array_equal(load_frozen_graph(path)(sample), second)


def test_path_that_cannot_be_written(tmp_path: Path) -> None:
    """A path below a file is an error of ours, with the path."""
    made = zoo.traced(zoo.mlp)
    (tmp_path / "file").write_text("")
    with pytest.raises(DirectoryNotWritable, match=r"file/m\.pb"):
        exporting.write(
            exporting.build(made.graph, made.values), tmp_path / "file" / "m.pb"
        )


def test_input_that_cannot_be_made_up_is_said(tmp_path: Path) -> None:
    """Where no made-up size fits an open dimension, the export warns and goes on."""
    import keras

    x = keras.Input((None, 2), name="x")
    y = keras.layers.Lambda(lambda v: v[:, :3] + np.zeros((1, 3, 2), "float32"))(x)
    y = keras.layers.Lambda(lambda v: v, name="y")(y)
    tall = keras.layers.Lambda(
        lambda v: tf.reshape(v, [-1, 5, 2]), output_shape=(5, 2), name="fives"
    )(x)
    made = zoo.traced(keras.Model(x, [y, tall]))
    with pytest.warns(PersistWarning, match="Try it on input of your own"):
        built = exporting.build(made.graph, made.values)
    assert built.frozen(np.ones((1, 5, 2)))["fives"].shape == (1, 5, 2)


@pytest.mark.parametrize("rows", [7, 1])
def test_a_graph_that_passes_have_broken_is_refused(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran on made-up input before, so that this is no matter of what it takes."""
    made = zoo.shared("mlp")
    (output,) = made.outputs

    def broken(graph_def: Any, target: str, **names: Any) -> Any:
        result = finished(graph_def, target, **names)
        if target == "portable":
            (node,) = (each for each in result.node if each.name == output)
            sizes = nd.constant("sizes", np.array([rows, 2], np.int32), tf.int32)
            types = {"T": tf.float32, "Tshape": tf.int32}
            made_wrong = nd.make_node(
                "Reshape", output, [node.input[0], "sizes"], **types
            )
            node.CopyFrom(made_wrong)
            result.node.append(sizes)
        return result

    finished = exporting.finished
    monkeypatch.setattr(exporting, "finished", broken)
    with pytest.raises(VerificationFailed, match="runs on input of its shapes"):
        exporting.build(made.graph, made.values)
    exporting.build(made.graph, made.values, target="tensorflow")


def test_an_op_that_nothing_here_computes() -> None:
    """It is no matter of what it is fed: every reader is promised a PB that runs."""
    import keras

    x = keras.Input((3,), name="x")
    groups = np.zeros((1, 1), np.int32)
    y = keras.layers.Lambda(
        # Of TensorFlow's processors for tensors alone.
        lambda v: tf.raw_ops.CrossReplicaSum(input=v, group_assignment=groups),
        output_shape=(3,),
        name="y",
    )(x)
    made = zoo.traced(keras.Model(x, keras.layers.Dense(1)(y)))
    with pytest.raises(UnsupportedGraph, match=r"CrossReplicaSum.*target=\"tensorflow"):
        exporting.build(made.graph, made.values)
    with pytest.warns(PersistWarning, match=r"cannot compute it: .*CrossReplicaSum"):
        exporting.build(made.graph, made.values, target="tensorflow")


def test_a_graph_that_memory_does_not_do_for() -> None:
    """That is said, and does not keep a model from training that has trained before."""
    import keras

    x = keras.Input((1,), name="x")
    y = keras.layers.Lambda(
        lambda v: tf.reduce_max(tf.tile(v, [1, 2**46]), 1, keepdims=True), name="y"
    )(x)
    made = zoo.traced(keras.Model(x, keras.layers.Dense(1)(y)))
    with pytest.warns(PersistWarning, match=r"no memory: .*more\."):
        exporting.build(made.graph, made.values)


def test_rows_that_are_made_up() -> None:
    """No more than training has, and one alone where several are not taken."""
    made = zoo.shared("mlp")
    frozen = exporting.build(made.graph, made.values).frozen
    for most, rows in ((None, [4, 1]), (3, [3, 1]), (1, [1]), (32, [4, 1])):
        found = [len(each[made.inputs[0]]) for each in exporting.made_up(frozen, most)]
        assert found == rows
    fixed = exporting.build(made.graph, made.values, batch_size=2).frozen
    assert len(list(exporting.made_up(fixed))) == 1


def test_a_checkpoint_that_is_pruned_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on deletes what is read: the newest there is then is taken."""
    made = zoo.shared(next(iter(zoo.KINDS)))
    run = tmp_path / "run"
    commit(run, made, 3)
    real = bundle.read

    def read(prefix: str, keys: Any) -> Any:
        if Path(prefix).parent.name == "ckpt-000000003":
            commit(run, made, 4)
            with Store.open_for_writing(run) as store:
                store.prune(["ckpt-000000003"])
        return real(prefix, keys)

    monkeypatch.setattr(bundle, "read", read)
    assert persist_callbacks.freeze(run, tmp_path / "model.pb").path is not None
    assert [each.record.name for each in Store.open_for_reading(run).checkpoints()] == [
        "ckpt-000000004"
    ]


def test_a_graph_that_reaches_out_is_not_run(tmp_path: Path) -> None:
    """What a .meta would have read is refused before constants are folded."""
    with tf.Graph().as_default() as graph:
        tf.identity(tf.io.read_file(str(tmp_path / "secret")), name="out")
    meta = tf.compat.v1.MetaGraphDef(graph_def=graph.as_graph_def())
    bundle.write(tmp_path / "model.ckpt", {"x": tf.range(3)})
    (tmp_path / "model.ckpt.meta").write_bytes(meta.SerializeToString())
    with pytest.raises(UnsupportedGraph, match="ReadFile, which reads files"):
        persist_callbacks.freeze(
            tmp_path / "model.ckpt", tmp_path / "m.pb", outputs=["out"]
        )


def test_target_and_batch_size_of_a_checkpoint(tmp_path: Path) -> None:
    """A folder is frozen for them as a live model is."""
    made = zoo.shared("cnn")
    commit(tmp_path / "run", made, 3)
    frozen = persist_callbacks.freeze(
        tmp_path / "run", tmp_path / "model.pb", target="tensorflow", batch_size=2
    )
    built = exporting.build(made.graph, made.values, target="tensorflow", batch_size=2)
    assert (tmp_path / "model.pb").read_bytes() == built.data
    assert frozen.inputs[0].shape == (2, 12, 12, 3)
