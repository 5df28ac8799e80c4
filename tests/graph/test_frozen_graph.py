"""frozen.py, feeding.py, pb.py: a PB is loaded, described, run, or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import pytest
import tensorflow as tf
import zoo

from persist_callbacks.errors import ArgumentError, InputMismatch, NotAFrozenGraph
from persist_callbacks.graph.canonical import serialize
from persist_callbacks.graph.frozen import (
    FrozenGraph,
    from_graph_def,
    load_frozen_graph,
)
from persist_callbacks.graph.signature import signature_path
from persist_callbacks.records import TensorInfo

v1 = tf.compat.v1
BIG = np.random.default_rng(0).random((512, 8, 8), dtype=np.float32)


def graph_of(build: Any) -> Any:
    """Build a TF1-style graph and return its GraphDef."""
    graph = tf.Graph()
    with graph.as_default():
        build()
    return graph.as_graph_def()


def two_inputs() -> None:
    a = v1.placeholder(tf.float32, [None, 2], name="a")
    n = v1.placeholder(tf.int32, [None], name="n")
    tf.add(a, tf.cast(n, tf.float32)[:, None], name="sum")
    tf.multiply(n, 2, name="twice")


@pytest.fixture
def pair() -> FrozenGraph:
    return from_graph_def(graph_of(two_inputs), None, None)


@pytest.fixture
def cnn() -> FrozenGraph:
    made = zoo.traced(zoo.cnn)
    return from_graph_def(made.frozen(), made.graph.inputs, made.graph.outputs)


A = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
N = np.array([10, 20, 30], np.int32)
SUM = A + N[:, None]


def test_it_describes_itself(cnn: FrozenGraph) -> None:
    """Inputs, outputs and op types with their counts."""
    assert cnn.inputs == (TensorInfo("image", (None, 12, 12, 3), "float32"),)
    assert cnn.outputs == (TensorInfo("predictions", (None, 3), "float32"),)
    assert cnn.ops["Conv2D"] == 1
    assert cnn.op_count == sum(cnn.ops.values()) > len(cnn.ops)
    assert cnn.path is None
    assert repr(cnn).startswith("FrozenGraph(in memory: image float32[?, 12, 12, 3] ->")


@pytest.mark.parametrize(
    "call",
    [
        lambda g: g(A, N),
        lambda g: g({"a": A, "n": N}),
        lambda g: g({"a:0": A, "n:0": N}),
        lambda g: g(a=A, n=N),
        lambda g: g(A, n=N),
        lambda g: g.predict([A, N]),
        lambda g: g.predict({"a": A, "n": N}),
        lambda g: g.predict((A, N), batch_size=2),
        lambda g: g.predict((A, N), batch_size=100),
    ],
)
def test_ways_to_call(pair: FrozenGraph, call: Any) -> None:
    """Positions, names, dicts and batches all give the same dict of arrays."""
    result = call(pair)
    np.testing.assert_array_equal(result["sum"], SUM)
    np.testing.assert_array_equal(result["twice"], N * 2)


def test_one_output_is_the_array_itself(cnn: FrozenGraph) -> None:
    """With a single output there is no dict to unpack."""
    sample = np.zeros((2, 12, 12, 3))
    assert cnn(sample).shape == (2, 3)
    assert cnn.predict(sample, batch_size=1).shape == (2, 3)


def test_a_list_of_one_array_is_that_array(cnn: FrozenGraph) -> None:
    """As Keras takes it; a list of rows is still rows."""
    sample = np.random.default_rng(0).random((2, 12, 12, 3))
    expected = cnn(sample)
    for given in ([sample], (tf.constant(sample),), list(sample)):
        np.testing.assert_array_equal(cnn.predict(given, batch_size=2), expected)
    with pytest.raises(InputMismatch, match=r"found float64\[1, 1, 2, 12, 12, 3\]"):
        cnn.predict([[sample]])


@pytest.mark.parametrize(
    ("a", "n"),
    [
        (A.astype(np.float64), N.astype(np.int64)),
        (A.astype(np.float16), N.astype(np.uint8)),
        (A.astype(np.int8), N),
        (A.tolist(), N.tolist()),
        (tf.constant(A), tf.constant(N)),
    ],
)
def test_casts_that_keep_the_meaning(pair: FrozenGraph, a: Any, n: Any) -> None:
    """Wider or narrower numbers of a kind, lists and tensors are taken."""
    np.testing.assert_array_equal(pair(a, n)["sum"], SUM)


def test_no_rows(pair: FrozenGraph) -> None:
    """An empty batch gives empty results."""
    result = pair.predict({"a": np.zeros((0, 2)), "n": []}, batch_size=4)
    assert result["sum"].shape == (0, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": A}, r"n: expected an array for each input: a float32\[\?, 2\], n int32"),
        ({"a": A, "n": N, "c": N}, "c: expected each of these once"),
        ({"a": A, "a:0": A, "n": N}, "'a:0' again"),
        ({"a": A[0], "n": N}, r"found float32\[2\]. Add the batch dimension"),
        ({"a": A[:, :1], "n": N}, r"float32\[\?, 2\], found float32\[3, 1\]. Reshape"),
        (
            {"a": A, "n": N + 0.5},
            r"n: expected n int32\[\?\], found float64\[3\]. Cast",
        ),
        ({"a": A, "n": np.array([2**40] * 3)}, r"n: .*found int64\[3\]. Cast"),
        ({"a": np.array([["x", "y"]]), "n": N}, r"a: .*found <U1\[1, 2\]"),
        ({"a": A * 1j, "n": N}, r"a: .*complex"),
        ({"a": [[1.0], [1.0, 2.0]], "n": N}, "rows of different lengths"),
    ],
)
def test_inputs_that_do_not_fit(pair: FrozenGraph, arrays: Any, message: str) -> None:
    """A wrong name, shape or dtype says what was expected and what came."""
    with pytest.raises(InputMismatch, match=message):
        pair(arrays)


def test_too_many_arrays(cnn: FrozenGraph) -> None:
    """More arrays than inputs are not dropped."""
    with pytest.raises(InputMismatch, match=r"expected 1 arrays: image .*found 2"):
        cnn(np.zeros(1), np.zeros(1))


def test_sizes_that_do_not_fit_together(pair: FrozenGraph) -> None:
    """What only the graph itself can find out is an error of ours as well."""
    for call in (pair, pair.predict):
        with pytest.raises(InputMismatch, match=r"can compute with, found .*\[3,2\]"):
            call({"a": A, "n": N[:2]})


def test_batches_that_cannot_be_cut(pair: FrozenGraph) -> None:
    """Arrays of different lengths, and sizes below one, are refused."""
    with pytest.raises(InputMismatch, match="a: 3, n: 2"):
        pair.predict((A, N[:2]), batch_size=2)
    for size in (0, -1, 2.0, "2", True):
        with pytest.raises(ArgumentError, match="batch_size: expected a positive"):
            pair.predict((A, N), batch_size=cast(int, size))
    np.testing.assert_array_equal(
        pair.predict((A, N), batch_size=cast(int, np.int64(2)))["sum"], SUM
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda x: tf.reshape(x, [-1, 64]) * 1.0,
        lambda x: tf.reshape(x, [-1, 64]) + np.zeros(64, np.float32),
        lambda x: tf.nn.bias_add(tf.reshape(x, [-1, 64]), np.zeros(64, np.float32)),
        lambda x: tf.cond(x[0, 0, 0] > 9.0, lambda: x * 2.0, lambda: np.ones_like(BIG)),
        lambda x: tf.reshape(tf.constant(BIG), [tf.shape(x)[0], -1]) * 1.0,
    ],
)
def test_results_are_the_callers_own(build: Any) -> None:
    """Neither what was fed nor the graph's constants lie in them, however large."""

    def graph() -> None:
        x = v1.placeholder(tf.float32, [None, 8, 8], name="x")
        y = build(x)
        tf.identity(y, name="y")
        tf.identity(y, name="z")

    infos = [TensorInfo(name, None, "float32") for name in ("y", "z", "x")]
    loaded = from_graph_def(graph_of(graph), None, infos)
    fed = BIG.copy()
    found = cast(dict[str, Any], loaded(fed))
    expected = {name: array.copy() for name, array in found.items()}
    for array in found.values():
        assert not np.shares_memory(array, fed)
        array[...] = 777.0
    np.testing.assert_array_equal(fed, BIG)
    again = cast(dict[str, Any], loaded(fed))
    for name, array in again.items():
        np.testing.assert_array_equal(array, expected[name])


def test_what_is_fed_can_be_asked_for() -> None:
    """Alone or beside others; text comes back as bytes, as all text does."""

    def graph() -> None:
        words = v1.placeholder(tf.string, [None], name="words")
        tf.strings.length(words, name="length")

    graph_def = graph_of(graph)
    for names in (["words"], ["length", "words"]):
        infos = [TensorInfo(name, None, "") for name in names]
        found = from_graph_def(graph_def, None, infos)(np.array(["\xe9", "ab"]))
        array = found if len(names) == 1 else cast(dict[str, Any], found)["words"]
        assert array.tolist() == ["\xe9".encode(), b"ab"]


def test_strings_in_and_out() -> None:
    """Text goes in as str or bytes and comes out as bytes."""

    def build() -> None:
        words = v1.placeholder(tf.string, [None], name="words")
        tf.strings.upper(words, name="loud")

    graph = from_graph_def(graph_of(build), None, None)
    assert graph(["ab", "c"]).tolist() == [b"AB", b"C"]
    assert graph(np.array([b"ab"], object)).tolist() == [b"AB"]


def test_threads_may_share_it(cnn: FrozenGraph) -> None:
    """Calls from several threads give each its own result."""
    from concurrent.futures import ThreadPoolExecutor

    samples = [np.full((1, 12, 12, 3), i, np.float32) for i in range(8)]
    alone = [cnn(sample) for sample in samples]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(cnn, samples), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_two_graphs_of_one_architecture_side_by_side() -> None:
    """Loops of two models with other sizes do not get in each other's way."""

    def model(units: int) -> zoo.Traced:
        x = keras.Input((4, 3), name="x")
        return zoo.traced(keras.Model(x, keras.layers.LSTM(units, name="y")(x)))

    sample = np.ones((2, 4, 3), np.float32)
    made = [model(2), model(5)]
    loaded = [from_graph_def(m.frozen(), None, None) for m in made]
    for one, graph in zip(made, loaded, strict=True):
        np.testing.assert_allclose(graph(sample), one.model(sample), atol=1e-6)
    # TensorFlow 2's own way to load a PB, which shares functions over the process.
    for one in made:
        graph_def = one.frozen()
        wrapped = v1.wrap_function(
            lambda g=graph_def: tf.import_graph_def(g, name=""), []
        )
        run = wrapped.prune("x:0", "y:0")
        np.testing.assert_allclose(
            run(tf.constant(sample)), one.model(sample), atol=1e-6
        )


def test_loading_a_pb_without_a_signature(tmp_path: Path) -> None:
    """Placeholders are inputs and what nothing reads is an output."""
    path = tmp_path / "model.pb"
    path.write_bytes(serialize(graph_of(two_inputs)))
    graph = load_frozen_graph(str(path))
    assert [str(info) for info in graph.inputs] == ["a float32[?, 2]", "n int32[?]"]
    assert [info.name for info in graph.outputs] == ["sum", "twice"]
    assert graph.path == path
    assert graph.signature is None


def test_loading_without_keras_models_or_our_tracing(tmp_path: Path) -> None:
    """A process that only predicts imports none of the modules that know models."""
    path = tmp_path / "model.pb"
    path.write_bytes(serialize(graph_of(two_inputs)))
    script = (
        "import sys; from persist_callbacks import load_frozen_graph\n"
        f"g = load_frozen_graph({str(path)!r})\n"
        "assert g([[1.0, 2.0]], [3])['twice'].tolist() == [6]\n"
        "ours = {m for m in sys.modules if m.startswith('persist_callbacks.')}\n"
        "assert not {m for m in ours if '.training' in m or '.storage' in m}, ours\n"
        "assert 'persist_callbacks.graph.trace' not in ours\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def saved_model_bytes() -> bytes:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    saved.meta_graphs.add().graph_def.CopyFrom(graph_of(two_inputs))
    return bytes(saved.SerializeToString())


def variable_bytes() -> bytes:
    return serialize(
        graph_of(lambda: v1.get_variable("w", [2], use_resource=True).read_value())
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found an empty file"),
        (b"<!DOCTYPE html><html></html>", "HTML or XML text. The download failed"),
        (b"\n  <html>", "HTML"),
        (bytes(range(256)) * 4, "1024 bytes that are no GraphDef"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "found"),
        (saved_model_bytes, r"SavedModel's saved_model\.pb.*tf\.saved_model\.load"),
        (variable_bytes, r"'w'.*VarHandleOp.*Freeze it: persist_callbacks\.freeze"),
    ],
)
def test_files_that_are_no_pb(tmp_path: Path, data: Any, message: str) -> None:
    """Whatever else the file is, the error says so and what to do."""
    path = tmp_path / "model.pb"
    path.write_bytes(data() if callable(data) else data)
    with pytest.raises(NotAFrozenGraph, match=message) as caught:
        load_frozen_graph(path)
    assert str(path) in str(caught.value)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    """A missing file and a folder are each called what they are."""
    with pytest.raises(NotAFrozenGraph, match="found no file"):
        load_frozen_graph(tmp_path / "gone.pb")
    with pytest.raises(NotAFrozenGraph, match="found a folder"):
        load_frozen_graph(tmp_path)


def test_a_pb_cut_short(tmp_path: Path) -> None:
    """Half a PB is refused, wherever it was cut."""
    data = serialize(zoo.traced(zoo.mlp).frozen())
    path = tmp_path / "model.pb"
    for length in (1, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(NotAFrozenGraph):
            load_frozen_graph(path)


def test_names_that_are_not_in_the_graph() -> None:
    """Inputs or outputs that the graph lacks are refused by name."""
    with pytest.raises(NotAFrozenGraph, match="a graph with 'z'"):
        from_graph_def(
            graph_of(two_inputs), None, [TensorInfo("z", (None,), "float32")]
        )


def test_signature_path() -> None:
    """The signature's name follows the PB's."""
    assert signature_path("a/model.pb") == Path("a/model.signature.json")
    assert signature_path("a/model.v1.pb") == Path("a/model.v1.signature.json")
    assert signature_path("a/frozen") == Path("a/frozen.signature.json")


def test_a_result_is_the_callers_own() -> None:
    """What is written into a result reaches neither the graph nor what it was fed."""

    def build() -> None:
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        fixed = tf.constant(np.arange(6000, dtype=np.float32), name="numbers")
        tf.identity(fixed, name="fixed")
        tf.reshape(fixed, [3, 2000], name="shaped")
        tf.identity(x, name="echo")
        flag = tf.reduce_sum(x) > 0
        tf.identity(tf.cond(flag, lambda: fixed, lambda: fixed[:9]), name="branch")

    names = ["fixed", "shaped", "echo", "branch"]
    infos = [TensorInfo(name, None, "float32") for name in names]
    graph = from_graph_def(graph_of(build), None, infos)
    fed = np.ones((4000, 3), np.float32)
    first = graph(fed)
    kept = {name: array.copy() for name, array in first.items()}
    for array in first.values():
        array[:] = -5.0
    assert (fed == 1.0).all()
    for name, array in graph(fed).items():
        np.testing.assert_array_equal(array, kept[name])


def test_arrays_of_any_layout() -> None:
    """Strided, transposed and foreign-endian arrays are fed by their values."""
    graph = from_graph_def(graph_of(two_inputs), None, None)
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    n = np.arange(10, dtype=np.int32)
    for a in (x[::2, :2], x[:5, :2].astype(">f4"), np.asfortranarray(x[:5, 2:])):
        found = graph(a, n[:5])
        again = graph(np.ascontiguousarray(a, np.float32), n[:5].copy())
        for name, array in again.items():
            np.testing.assert_array_equal(found[name], array)


def test_session_callables_are_where_we_call_them() -> None:
    """A TensorFlow that moves them fails here by name."""
    with v1.Session(graph=tf.Graph()) as session:
        assert callable(session._make_callable_from_options)
