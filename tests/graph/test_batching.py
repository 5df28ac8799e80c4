"""batching.py and targets.py: for how many rows, and for whom, a PB is."""

from __future__ import annotations

from typing import Any

import kinds
import numpy as np
import pytest
import zoo

from persist_callbacks import exporting
from persist_callbacks.errors import ArgumentError
from persist_callbacks.graph.batching import fit_rows, fix_batch
from persist_callbacks.graph.compare import compare, generate
from persist_callbacks.graph.freeze import freeze
from persist_callbacks.graph.frozen import count_ops
from persist_callbacks.graph.targets import TARGETS, check_target
from persist_callbacks.graph.trace import run_live
from persist_callbacks.records import TensorInfo

KINDS = ["cnn", "unet", "lstm", "transformer", "vision_transformer", "several_outputs"]


def ops_in(built: exporting.BuiltGraph) -> set[str]:
    return set(built.frozen.ops)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_batch(kind: str, target: str) -> None:
    """Inputs and outputs say the size, and the live model's numbers come out."""
    made = zoo.traced(kinds.KINDS[kind])
    built = exporting.build(made.graph, made.values, target=target, batch_size=3)
    told = [*built.frozen.inputs, *built.frozen.outputs]
    # What comes out of a loop is known when it has run.
    expected = [3, None] if kind == "lstm" else len(told) * [3]
    assert [info.shape and info.shape[0] for info in told] == expected
    sample = generate(built.frozen.inputs, open_size=16, seed=1)
    found = zoo.by_name(built.frozen(sample), made.outputs)
    comparison = compare(
        run_live(made.model, made.graph, sample), found, atol=1e-5, rtol=1e-4
    )
    assert comparison.agrees, str(comparison)


def test_a_fixed_batch_leaves_no_shape_to_compute() -> None:
    """A transposed convolution's size is a constant then."""
    made = zoo.traced(kinds.KINDS["unet"])
    assert "Shape" in ops_in(exporting.build(made.graph, made.values))
    fixed = exporting.build(made.graph, made.values, batch_size=1)
    assert not {"Shape", "Pack", "StridedSlice"} & ops_in(fixed)


def test_for_tensorflow_alone_no_op_is_rewritten() -> None:
    """The PB has the very ops of the frozen graph."""
    made = zoo.traced(kinds.KINDS["mobilenet"])
    built = exporting.build(made.graph, made.values, target="tensorflow")
    assert dict(built.frozen.ops) == count_ops(freeze(made.graph, made.values))
    assert ops_in(built) != ops_in(exporting.build(made.graph, made.values))


@pytest.mark.parametrize("shape", [None, (), (4, 2)])
def test_a_batch_that_an_input_cannot_have(shape: Any) -> None:
    """The input is named, and what it has."""
    graph_def = zoo.shared("mlp").frozen()
    with pytest.raises(ArgumentError, match=r"batch_size: .* x can have"):
        fix_batch(graph_def, [TensorInfo("x", shape, "float32")], 3)


@pytest.mark.parametrize(
    ("target", "size", "named"),
    [
        ("onnx", None, "target"),
        ("portable", 0, "batch_size"),
        ("portable", 1.0, "batch_size"),
        ("tensorflow", True, "batch_size"),
    ],
)
def test_what_no_export_is_made_for(target: str, size: Any, named: str) -> None:
    """The argument is named."""
    with pytest.raises(ArgumentError, match=f"^{named}: "):
        check_target(target, size)


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_rows_are_fitted(rows: int) -> None:
    """They are cut or repeated where their number is fixed, and left elsewhere."""
    infos = [TensorInfo("a", (3, 2), "int64"), TensorInfo("b", (None,), "int64")]
    arrays = {"a": np.arange(2 * rows).reshape(rows, 2), "b": np.arange(rows)}
    fitted = fit_rows(arrays, infos)
    assert fitted["a"][:, 0].tolist() == [2 * (row % rows) for row in range(3)]
    assert fitted["b"].tolist() == list(range(rows))
