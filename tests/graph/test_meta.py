"""meta.py and saver.py: the inference graph to and from a .meta."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from persist_callbacks.errors import CheckpointDamaged, TensorNotFound
from persist_callbacks.graph.canonical import serialize
from persist_callbacks.graph.compare import compare, generate
from persist_callbacks.graph.freeze import freeze
from persist_callbacks.graph.meta import from_meta, to_meta
from persist_callbacks.graph.trace import run_live
from persist_callbacks.records import GraphNames, TensorInfo

v1 = tf.compat.v1


def save(made: zoo.Traced, folder: Path) -> str:
    """Write values and .meta as a checkpoint does; return the prefix."""
    prefix = str(folder / "model.ckpt")
    # A stranger's tensor beside ours must not disturb the restoring.
    values = {**made.values, "optimizer/iterations": np.int64(3)}
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    Path(f"{prefix}.meta").write_bytes(to_meta(made.graph))
    return prefix


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_meta_keeps_the_whole_graph(kind: str) -> None:
    """What is read back is what was written, and so is the PB frozen of it."""
    made = zoo.shared(kind)
    back = from_meta(to_meta(made.graph), "model.ckpt.meta")
    assert back == made.graph
    again = zoo.Traced(made.model, back, made.values)
    assert serialize(again.frozen()) == serialize(made.frozen())


def test_meta_bytes_are_the_same_each_time() -> None:
    """Two traces of one architecture give one .meta."""
    first, second = (zoo.traced(zoo.dicts).graph for _ in range(2))
    assert to_meta(first) == to_meta(second)


def test_meta_keeps_the_users_names_and_order() -> None:
    """Names that a graph cannot hold, and the order of outputs, survive."""
    x = keras.Input((2,), name="my input")
    model = keras.Model(x, [keras.layers.Dense(1)(x), keras.layers.Dense(2)(x)])
    graph = zoo.traced(model, GraphNames(outputs=("z score", "a"))).graph
    back = from_meta(to_meta(graph), "m")
    assert [info.name for info in back.outputs] == ["z_score", "a"]
    assert back.original_names == {"my_input": "my input", "z_score": "z score"}


@pytest.mark.parametrize("kind", ["cnn", "recurrent", "dicts", "mixed_precision"])
def test_tf1_script_restores_and_runs(kind: str, tmp_path: Path) -> None:
    """import_meta_graph, restore, run: a TF1 script gets the live model's outputs."""
    made = zoo.shared(kind)
    prefix = save(made, tmp_path)
    sample = generate(made.graph.inputs)
    with tf.Graph().as_default(), v1.Session() as session:
        saver = v1.train.import_meta_graph(f"{prefix}.meta", clear_devices=True)
        # What many scripts do first, and what must not undo or need a checkpoint.
        session.run(v1.global_variables_initializer())
        saver.restore(session, prefix)
        assert len(v1.global_variables()) == len(made.graph.variables)
        found = session.run(
            {name: f"{name}:0" for name in made.outputs},
            {f"{name}:0": value for name, value in sample.items()},
        )
    live = run_live(made.model, made.graph, sample)
    tolerance = 2e-2 if kind == "mixed_precision" else 1e-5
    comparison = compare(live, found, atol=tolerance, rtol=tolerance)
    assert comparison.agrees, str(comparison)


def test_tf1_saver_saves_under_the_same_keys(tmp_path: Path) -> None:
    """The imported Saver's own save writes the keys it restores."""
    made = zoo.traced(zoo.mlp)
    prefix = save(made, tmp_path)
    with tf.Graph().as_default(), v1.Session() as session:
        saver = v1.train.import_meta_graph(f"{prefix}.meta")
        saver.restore(session, prefix)
        copy = saver.save(session, str(tmp_path / "copy"), write_meta_graph=False)
    reader = tf.train.load_checkpoint(copy)
    keys = {info.name for info in made.graph.variables}
    assert set(reader.get_variable_to_shape_map()) == keys
    for key in keys:
        np.testing.assert_array_equal(reader.get_tensor(key), made.values[key])


def test_newer_attributes_are_stripped() -> None:
    """No attribute at its default is left, which TF 1.15 would refuse."""
    meta = v1.MetaGraphDef.FromString(to_meta(zoo.traced(zoo.cnn).graph))
    attributes = {key for node in meta.graph_def.node for key in node.attr}
    assert not attributes & {"debug_name", "grad_a", "explicit_paddings", "Tshape"}
    assert not {key for key in attributes if key.startswith("_")}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "one without a graph"),
        (b"\xff" * 40, "40 bytes that are none"),
        (b"<html>not found</html>", "bytes that are none"),
    ],
)
def test_bytes_that_are_no_meta(data: bytes, message: str) -> None:
    """Anything else than a MetaGraphDef is refused with the file's name."""
    with pytest.raises(CheckpointDamaged, match=rf"m\.meta: .*{message}"):
        from_meta(data, "m.meta")


def test_meta_whose_signature_names_nothing() -> None:
    """A signature that points beside the graph is damage, not a KeyError."""
    meta = v1.MetaGraphDef.FromString(to_meta(zoo.traced(zoo.mlp).graph))
    kept = [node for node in meta.graph_def.node if node.name != "dense_1"]
    del meta.graph_def.node[:]
    meta.graph_def.node.extend(kept)
    with pytest.raises(CheckpointDamaged, match="signature that names 'dense_1'"):
        from_meta(meta.SerializeToString(), "m")


def test_foreign_tf1_meta(tmp_path: Path) -> None:
    """A TF1 .meta of old-style variables freezes, once the outputs are named."""
    with tf.Graph().as_default(), v1.Session() as session:
        v1.disable_resource_variables()
        try:
            x = v1.placeholder(tf.float32, [None, 2], name="x")
            w = v1.get_variable("w", initializer=tf.constant([[1.0], [2.0]]))
        finally:
            v1.enable_resource_variables()
        tf.matmul(x, w, name="y")
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "old"))
    graph = from_meta((tmp_path / "old.meta").read_bytes(), "old.meta")
    assert graph.inputs == (TensorInfo("x", (None, 2), "float32"),)
    assert graph.outputs == ()
    values = {"w": np.array([[1.0], [2.0]], np.float32)}
    with pytest.raises(TensorNotFound, match=r"likely ones are: y \(MatMul\)"):
        freeze(graph, values)
    frozen = freeze(graph, values, outputs=["y"])
    assert {node.op for node in frozen.node} == {
        "Placeholder",
        "Const",
        "Identity",
        "MatMul",
    }
