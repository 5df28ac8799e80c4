"""From graph and values to a PB on disk: the one way that every export goes."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import EncodeError

from persist_callbacks import paths
from persist_callbacks.errors import (
    ArgumentError,
    InputMismatch,
    PersistWarning,
    TensorNotFound,
    UnsupportedGraph,
    VerificationFailed,
)
from persist_callbacks.graph import frozen as frozen_graphs
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.batch_norms import norms_by_batch
from persist_callbacks.graph.batching import fix_batch, known_sizes
from persist_callbacks.graph.canonical import canonical, in_order, serialize
from persist_callbacks.graph.compare import Comparison, generate
from persist_callbacks.graph.cutting import feed_as_placeholders
from persist_callbacks.graph.freeze import (
    check_names,
    freeze,
    resolve_outputs,
    take_defaults,
)
from persist_callbacks.graph.frozen import FrozenGraph, from_graph_def
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.signature import (
    ComparedOutput,
    ComparisonRecord,
    Signature,
    SignatureTensor,
    checksum,
    signature_path,
)
from persist_callbacks.graph.targets import finished
from persist_callbacks.records import TensorInfo
from persist_callbacks.storage import durable
from persist_callbacks.storage.placing import check_place, file_not_writable

# Sizes tried for a dimension that is open besides the batch: some models need room
# for their strides, others take only short sequences.
_OPEN_SIZES = (8, 32, 224)
# Rows that are made up, where training has no fewer at a time.
_ROWS = 4
# How TensorFlow says that this machine's processor cannot compute an op at all.
_NO_KERNEL = re.compile(r"No OpKernel was registered|only support(s|ed) .*\bND?HWC\b")
# And of a convolution in groups; or of channels that do not suit, where they are open.
_NO_GROUPS = re.compile(r"must have the same depth|must match last dimension")
_PROTOBUF_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class BuiltGraph:
    """A frozen graph that runs, and is on no disk yet.

    Args:
        frozen: the graph, loaded from the very bytes.
        data: the PB's bytes.
        original_names: graph name to the user's name, where a graph cannot hold it.
    """

    frozen: FrozenGraph
    data: bytes
    original_names: Mapping[str, str]


def build(
    graph: InferenceGraph,
    values: Mapping[str, np.ndarray[Any, Any]],
    *,
    outputs: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    target: str = "portable",
    batch_size: int | None = None,
    most_rows: int | None = None,
) -> BuiltGraph:
    """Freeze and simplify a graph, load the result in a clean graph and run it once.

    Args:
        graph: the inference graph.
        values: an array for each variable, by checkpoint key.
        outputs: nodes that are wanted; None for the graph's own outputs.
        inputs: the inputs to keep, in this order; None for the graph's own, or with
            ``outputs`` given for those that they need. One that has a default is kept
            only if it is named.
        target: ``portable`` or ``tensorflow``, as `targets` has them.
        batch_size: rows of every input; None for an open number.
        most_rows: that training has at a time, of which more may need more memory than
            there is; None where that is not known.

    Raises:
        ArgumentError: the batch size is not one that the inputs can have.
        TensorNotFound: an output or input is not in the graph, or one is missing.
        UnsupportedGraph: something cannot be a constant, the PB is too big, or a
            processor cannot compute it.
        CheckpointDamaged: a variable has no value.
        ArchitectureMismatch: a value has another shape or dtype than its variable.
        VerificationFailed: the frozen graph does not run.
    """
    wanted = resolve_outputs(graph, outputs)
    check_names("inputs", inputs)
    graph = take_defaults(graph, [name.removesuffix(":0") for name in inputs or ()])
    make = partial(
        _unfinished,
        *(graph, values, wanted, inputs),
        narrowed=outputs is not None,
        batch_size=batch_size,
    )
    frozen, kept = make()
    names = [info.name for info in kept]
    told = norms_by_batch(in_order(frozen.node, wanted))
    simple = finished(frozen, target, inputs=names, outputs=wanted)
    # Each of them holds all weights once more.
    del frozen
    # The passes write some norms otherwise, and show others that a flag decides.
    _warn_of_norms(told or norms_by_batch(simple.node))
    data = _serialized(simple)
    del simple
    clean = tf.compat.v1.GraphDef.FromString(data)
    known = {info.name: info for info in graph.outputs}
    described = frozen_graphs.describe(clean, [n for n in wanted if n not in known])
    known.update({info.name: info for info in described})
    results = [known[name] for name in wanted]
    if batch_size is not None:
        results = known_sizes(results, frozen_graphs.describe(clean, wanted))
    loaded = from_graph_def(clean, kept, results, for_one_run=True)

    def without_passes() -> FrozenGraph:
        plain = finished(make()[0], "tensorflow", inputs=names, outputs=wanted)
        return from_graph_def(plain, kept, results, for_one_run=True)

    _rehearse(loaded, without_passes, target, most_rows)
    return BuiltGraph(loaded, data, graph.original_names)


def _unfinished(
    graph: InferenceGraph,
    values: Mapping[str, np.ndarray[Any, Any]],
    outputs: Sequence[str],
    inputs: Sequence[str] | None,
    *,
    narrowed: bool,
    batch_size: int | None,
) -> tuple[Any, tuple[TensorInfo, ...]]:
    """Freeze a graph, fed as it is wanted; return it and its inputs."""
    frozen = freeze(graph, values, outputs=outputs)
    _refuse_reaching_out(frozen)
    kept = _inputs(graph, frozen, outputs, inputs, narrowed=narrowed)
    if batch_size is not None:
        frozen, kept = fix_batch(frozen, kept, batch_size)
    return feed_as_placeholders(frozen, kept), kept


def made_up(
    frozen: FrozenGraph, most_rows: int | None = None
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Make up arrays for a graph, in several sizes where its dimensions are open.

    One row alone too, after several: some models take no more.

    Args:
        frozen: the graph.
        most_rows: that training has at a time; None where that is not known.
    """
    rows = min(_ROWS, most_rows or _ROWS)
    takes_any = any(
        info.shape is None or info.shape[:1] == (None,) for info in frozen.inputs
    )
    is_open = any(
        info.shape is None or None in info.shape[1:] for info in frozen.inputs
    )
    for size in _OPEN_SIZES if is_open else _OPEN_SIZES[:1]:
        for batch in (rows, 1) if rows > 1 and takes_any else (rows,):
            yield generate(frozen.inputs, batch=batch, open_size=size)


def run_on_made_up(frozen: FrozenGraph) -> Any:
    """Run a graph on made-up arrays; None if it takes none of them."""
    for arrays in made_up(frozen):
        with contextlib.suppress(tf.errors.OpError, InputMismatch):
            return frozen(arrays)
    return None


def check_path(pb_path: Path) -> None:
    """Refuse a path that no PB, or no signature beside it, could be written to.

    Args:
        pb_path: the PB, absolute.

    Raises:
        DirectoryNotWritable: it says why.
    """
    check_place(pb_path)
    check_place(signature_path(pb_path))


def write(
    built: BuiltGraph,
    path: str | os.PathLike[str],
    *,
    comparison: Comparison | None = None,
) -> FrozenGraph:
    """Write a built graph and its signature, each whole or not at all.

    PB and signature are durable on return. At no instant does a signature lie beside
    a PB that it is not about.

    Args:
        built: from `build`.
        path: the PB.
        comparison: with the live model, for the signature.

    Returns:
        The graph, loaded anew from the file.

    Raises:
        DirectoryNotWritable: the folder cannot be made or written, or something else
            than a file is in the PB's place.
    """
    pb_path = paths.absolute(path, "path")
    check_path(pb_path)
    frozen = built.frozen
    signature = Signature(
        inputs=tuple(_described(built, info) for info in frozen.inputs),
        outputs=tuple(_described(built, info) for info in frozen.outputs),
        op_count=frozen.op_count,
        size=len(built.data),
        checksum=checksum(built.data),
        tensorflow=tf.__version__,
        comparison=None if comparison is None else _record(comparison),
    )
    beside = signature_path(pb_path)
    try:
        durable.make_folder(pb_path.parent)
        if beside.exists():
            durable.remove_file(beside)
        durable.replace_file(pb_path, built.data)
        durable.replace_file(beside, signature.to_json())
    except OSError as error:
        reason = error.strerror or str(error)
        raise file_not_writable(pb_path, reason, error.errno) from error
    return frozen_graphs.load_frozen_graph(pb_path)


def _refuse_reaching_out(graph_def: Any) -> None:
    """Refuse what reads files or runs Python; folding constants would run it."""
    for node in nd.every_node(graph_def):
        if nd.reaches_out(node):
            raise UnsupportedGraph(
                node.name,
                expected="an inference graph that computes, and no more",
                found=f"{node.op}, which reads files or runs Python",
                advice="Take it out of the model; prepare the data before.",
            )


def _warn_of_norms(names: Sequence[str]) -> None:
    """Tell of norms that were built to be trained, as TF1's scripts do it."""
    if names:
        _tell_of_training("normalizes by the batch that it is given", names)


def _warn_of_draws(
    frozen: FrozenGraph, arrays: Mapping[str, Any], results: Any
) -> None:
    """Tell of a graph that gives other numbers for the same input."""
    drawing = [name for name, op, _ in frozen.operations() if nd.draws(op)]
    if not drawing:
        return
    first, again = (
        list(each.values()) if isinstance(each, dict) else [each]
        for each in (results, frozen(arrays))
    )
    pairs = zip(first, again, strict=True)
    if any(one.tobytes() != other.tobytes() for one, other in pairs):
        _tell_of_training("gives other numbers in each run", drawing)


def _tell_of_training(what: str, names: Sequence[str]) -> None:
    warnings.warn(
        f"The frozen graph {what}, as in training: {', '.join(names[:3])}. If it shall "
        "not, freeze the graph that the model is used with, or name the node after "
        "that as an input.",
        PersistWarning,
        stacklevel=5,
    )


def _serialized(graph_def: Any) -> bytes:
    """Return a PB's bytes."""
    try:
        data = serialize(graph_def)
        found = f"{len(data)} bytes"
    except (EncodeError, ValueError) as error:
        data, found = b"", str(error)
    if not 0 < len(data) <= _PROTOBUF_LIMIT:
        raise UnsupportedGraph(
            "graph",
            expected="a PB of less than 2 GiB, protobuf's limit",
            found=found,
            advice="Export in float16 or bfloat16, or serve the checkpoint itself.",
        )
    return data


def _inputs(
    graph: InferenceGraph,
    frozen: Any,
    outputs: Sequence[str],
    wanted: Sequence[str] | None,
    *,
    narrowed: bool,
) -> tuple[TensorInfo, ...]:
    """Return the inputs that the frozen graph shall have."""
    if wanted is None and not narrowed:
        return graph.inputs
    by_name = {info.name: info for info in graph.inputs}
    needed_nodes = canonical(frozen, inputs=[], outputs=outputs).node
    needed = [node.name for node in needed_nodes if node.name in by_name]
    listed = ", ".join(by_name) or "none"
    if wanted is None:
        return tuple(info for info in graph.inputs if info.name in needed)
    by_user = {original: name for name, original in graph.original_names.items()}
    names = [name.removesuffix(":0") for name in wanted]
    names = [name if name in by_name else by_user.get(name, name) for name in names]
    for name in names:
        if name not in by_name:
            raise TensorNotFound(
                name,
                expected=f"an input of the graph: {listed}",
                found="no input or node of that name",
                advice="Name one of these, or a node that shall be one.",
            )
    if len(set(names)) < len(names):
        raise ArgumentError(
            "inputs",
            expected="each input once",
            found=", ".join(wanted),
            advice="Give the inputs in the order in which the PB shall take them.",
        )
    left_out = [name for name in needed if name not in names]
    if left_out:
        raise TensorNotFound(
            left_out[0],
            expected=f"every input that the outputs need: {', '.join(needed)}",
            found=f"inputs without it: {', '.join(names) or 'none'}",
            advice="Name it too, or ask for outputs that do not need it.",
        )
    return tuple(by_name[name] for name in names)


def _rehearse(
    frozen: FrozenGraph,
    without_passes: Callable[[], FrozenGraph],
    target: str,
    most_rows: int | None,
) -> None:
    """Run a graph once on made-up arrays.

    Args:
        frozen: the graph.
        without_passes: gives the same before any pass went over it, which tells
            whether it is the passes or the model that does not take them.
        target: what it is made for.
        most_rows: as for `made_up`.
    """
    failure: tf.errors.OpError | InputMismatch | None = None
    refused: dict[str, np.ndarray[Any, Any]] = {}
    too_large = 0
    for arrays in made_up(frozen, most_rows):
        try:
            results = frozen(arrays)
        except (tf.errors.OpError, InputMismatch) as error:
            failure = failure or error
            refused = arrays if isinstance(error, InputMismatch) else {}
            too_large += isinstance(error, tf.errors.ResourceExhaustedError)
            if too_large > 1:
                # Not even one row, and what comes next is no smaller.
                break
        else:
            fewer = any(
                arrays[name].shape[:1] < each.shape[:1]
                for name, each in refused.items()
            )
            if fewer and _runs(without_passes(), refused):
                break
            _warn_of_draws(frozen, arrays, results)
            return
    assert failure is not None
    known = isinstance(failure, InputMismatch)
    reason = failure.found if known else frozen_graphs.reason_of(failure)
    sizes = [info.shape for info in frozen.inputs]
    is_open = any(shape is None or None in shape[1:] for shape in sizes)
    if _NO_KERNEL.search(reason) or (not is_open and _NO_GROUPS.search(reason)):
        if target == "portable":
            raise UnsupportedGraph(
                "frozen graph",
                expected="ops that TensorFlow computes on every processor",
                found=reason,
                advice="Build the layer otherwise; or, to run it where TensorFlow has "
                'that op, on a GPU say, give target="tensorflow".',
            ) from failure
        why = f": TensorFlow here cannot compute it: {reason}. Try it where it can."
    elif too_large:
        why = f", for which there is no memory: {reason}. Try it where there is more."
    # Pictures in a format, say, or indices and sizes that belong together.
    elif is_open or (known and run_on_made_up(without_passes()) is None):
        why = (
            f", whose {'open dimensions' if is_open else 'values'} it does not take: "
            f"{reason}. Try it on input of your own."
        )
    else:
        raise VerificationFailed(
            "frozen graph",
            expected="a graph that runs on input of its shapes",
            found=reason,
            advice="Please report this with the model's layers.",
        ) from failure
    warnings.warn(
        f"The frozen graph could not be tried out on made-up input{why}",
        PersistWarning,
        stacklevel=4,
    )


def _runs(frozen: FrozenGraph, arrays: Mapping[str, np.ndarray[Any, Any]]) -> bool:
    """Whether a graph takes some arrays."""
    try:
        frozen(arrays)
    except (tf.errors.OpError, InputMismatch):
        return False
    return True


def _described(built: BuiltGraph, info: TensorInfo) -> SignatureTensor:
    original = built.original_names.get(info.name)
    return SignatureTensor(info.name, info.shape, info.dtype, original)


def _record(comparison: Comparison) -> ComparisonRecord:
    return ComparisonRecord(
        atol=comparison.atol,
        rtol=comparison.rtol,
        outputs=tuple(
            ComparedOutput(output.name, output.absolute, output.relative)
            for output in comparison.outputs
        ),
        of_largest=comparison.of_largest,
    )
