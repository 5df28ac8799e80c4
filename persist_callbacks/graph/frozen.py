"""A frozen PB: load it, describe it, run it. No model code, no Keras."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks import paths
from persist_callbacks.errors import ArgumentError, InputMismatch, NotAFrozenGraph
from persist_callbacks.graph import feeding
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.names import without_port
from persist_callbacks.graph.pb import ADVICE, read, refuse_state
from persist_callbacks.graph.running import function_of
from persist_callbacks.graph.signature import (
    Signature,
    checksum,
    from_json,
    signature_path,
)
from persist_callbacks.graph.weights import hide_all
from persist_callbacks.records import TensorInfo

_Array = np.ndarray[Any, Any]


class FrozenGraph:
    """A forward pass with its weights inside, callable on arrays.

    Made by `load_frozen_graph` or `from_graph_def`. Calls may come from any thread.
    """

    def __init__(
        self,
        graph_def: Any,
        graph: Any,
        inputs: tuple[TensorInfo, ...],
        outputs: tuple[TensorInfo, ...],
        *,
        path: Path | None,
        signature: Signature | None,
        for_one_run: bool = False,
    ) -> None:
        self._graph = graph
        self._for_one_run = for_one_run
        self._inputs = inputs
        self._outputs = outputs
        self._path = path
        self._signature = signature
        self._ops = count_ops(graph_def)

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """What it takes, in order."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """What it gives, in order."""
        return self._outputs

    @property
    def ops(self) -> Mapping[str, int]:
        """How many nodes of each op type it has, the most frequent first."""
        return self._ops

    @property
    def op_count(self) -> int:
        """How many nodes it has, those in loop bodies included."""
        return sum(self._ops.values())

    @property
    def originals(self) -> Mapping[str, str]:
        """The users' names of inputs to the graph's, where they differ."""
        if self._signature is None:
            return {}
        return {
            tensor.original: tensor.name
            for tensor in self._signature.inputs
            if tensor.original is not None
        }

    def operations(self) -> Iterator[tuple[str, str, tuple[TensorInfo, ...]]]:
        """Yield name, op type and outputs of each node; those in loops come last."""
        for operation in self._graph.get_operations():
            outputs = tuple(info_of(tensor) for tensor in operation.outputs)
            yield operation.name, operation.type, outputs
        for function in self._graph.as_graph_def().library.function:
            for node in function.node_def:
                yield f"{function.signature.name}/{node.name}", node.op, ()

    @property
    def path(self) -> Path | None:
        """The PB it was loaded from; None if it was made in memory."""
        return self._path

    @property
    def signature(self) -> Signature | None:
        """What the file beside the PB says; None if there is none."""
        return self._signature

    def __call__(self, *arrays: Any, **named: Any) -> _Array | dict[str, _Array]:
        """Run the graph once.

        Args:
            *arrays: one array for each input, in order; or one dict by input name.
            **named: arrays by input name.

        Returns:
            The output's array, or a dict of arrays by output name if there are several.

        Raises:
            InputMismatch: a name, shape or dtype is not what the graph takes.
        """
        return self._pack(self._run(self._feed(arrays, named)))

    def predict(
        self, x: Any, batch_size: int | None = None
    ) -> _Array | dict[str, _Array]:
        """Run the graph on arrays, in batches if a size is given.

        Args:
            x: an array; a list or tuple of arrays, one an input; or a dict by name. A
                list of one array that has all the input's dimensions is that array.
            batch_size: rows a run; None for all at once.

        Returns:
            As calling it does; batches joined along the first dimension.

        Raises:
            InputMismatch: a name, shape or dtype is not what the graph takes.
            ArgumentError: ``batch_size`` is not positive.
        """
        is_number = isinstance(batch_size, int | np.integer)
        is_number = is_number and not isinstance(batch_size, bool)
        if batch_size is not None and not (is_number and batch_size > 0):
            raise ArgumentError(
                "batch_size",
                expected="a positive number of rows",
                found=repr(batch_size),
                advice="Leave it out to run all rows at once.",
            )
        several = isinstance(x, list | tuple) and (
            len(self._inputs) > 1 or self._is_one_array(x)
        )
        feed = self._feed(tuple(x) if several else (x,), {})
        if batch_size is None:
            return self._pack(self._run(feed))
        rows = feeding.rows(feed)
        runs = [
            self._run({key: a[start : start + batch_size] for key, a in feed.items()})
            for start in range(0, max(rows, 1), batch_size)
        ]
        joined = {}
        for info in self._outputs:
            parts = [run[info.name] for run in runs]
            if len(parts) > 1 and any(part.ndim == 0 for part in parts):
                raise InputMismatch(
                    info.name,
                    expected="an output with one row for each row of input",
                    found="a single number",
                    advice="Run it without batch_size.",
                )
            joined[info.name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return self._pack(joined)

    def _is_one_array(self, x: Sequence[Any]) -> bool:
        """Whether a list holds the only input's array, as Keras takes it, not rows."""
        if len(x) != 1 or len(self._inputs) != 1:
            return False
        wanted, shape = self._inputs[0].shape, getattr(x[0], "shape", None)
        return wanted is not None and shape is not None and len(shape) == len(wanted)

    def _feed(self, arrays: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        if len(arrays) == 1 and isinstance(arrays[0], Mapping):
            named, arrays = {**arrays[0], **named}, ()
        return feeding.feed(self._inputs, arrays, named, self.originals)

    @cached_property
    def _function(self) -> Callable[..., list[_Array]]:
        """Made at the first call: many a graph is loaded to be described only."""
        return function_of(
            self._graph,
            [info.name for info in self._inputs],
            [info.name for info in self._outputs],
            as_it_is=self._for_one_run,
        )

    def _run(self, feed: Mapping[str, _Array]) -> dict[str, _Array]:
        try:
            results = self._function(*(feed[info.name] for info in self._inputs))
        except tf.errors.InvalidArgumentError as error:
            raise InputMismatch(
                "the graph's input",
                expected="arrays whose sizes and numbers it can compute with",
                found=reason_of(error),
                advice=f"It takes {', '.join(map(str, self._inputs))}; sizes that are "
                "open may depend on each other, and indices on a table's length.",
            ) from error
        return {
            info.name: _as_array(result, info)
            for info, result in zip(self._outputs, results, strict=True)
        }

    def _pack(self, results: dict[str, _Array]) -> _Array | dict[str, _Array]:
        if len(self._outputs) == 1:
            return results[self._outputs[0].name]
        return results

    def __repr__(self) -> str:
        taken = ", ".join(map(str, self._inputs))
        given = ", ".join(map(str, self._outputs))
        place = "in memory" if self._path is None else str(self._path)
        return f"FrozenGraph({place}: {taken} -> {given}; {self.op_count} ops)"


def load_frozen_graph(path: str | Path) -> FrozenGraph:
    """Load a PB into a graph of its own.

    Args:
        path: the PB. Its signature is read if it lies beside it; else every
            Placeholder is an input, and every node that nothing reads an output.

    Raises:
        ArgumentError: the path is nothing that can be one.
        NotAFrozenGraph: there is no file, or it is not a frozen graph, or not the one
            that its signature is about.
    """
    pb_path = paths.absolute(path, "path")
    graph_def, data = read(pb_path)
    beside = signature_path(pb_path)
    if not beside.is_file():
        return from_graph_def(graph_def, None, None, path=pb_path)
    signature = from_json(beside.read_bytes(), beside)
    if signature.checksum != checksum(data):
        raise NotAFrozenGraph(
            pb_path,
            expected=f"{signature.size} bytes with {signature.checksum}, as "
            f"{beside.name} says",
            found=f"{len(data)} bytes with {checksum(data)}",
            advice="The PB or its signature was changed: export it again, or remove "
            "the signature if the change was meant.",
        )
    return from_graph_def(
        graph_def,
        [tensor.info() for tensor in signature.inputs],
        [tensor.info() for tensor in signature.outputs],
        path=pb_path,
        signature=signature,
    )


def from_graph_def(
    graph_def: Any,
    inputs: Sequence[TensorInfo] | None,
    outputs: Sequence[TensorInfo] | None,
    path: str | Path | None = None,
    *,
    signature: Signature | None = None,
    for_one_run: bool = False,
) -> FrozenGraph:
    """Make a frozen graph callable, in a clean graph of its own.

    Args:
        graph_def: a GraphDef without variables; not changed.
        inputs: what it takes; None for its Placeholders.
        outputs: what it gives; None for the nodes that nothing reads.
        path: where it came from, if it came from a file.
        signature: what stands beside the file.
        for_one_run: whether it is to be tried out only, not to be run many times.

    Raises:
        NotAFrozenGraph: it has variables or tables, or TensorFlow cannot import it.
    """
    where = "graph" if path is None else str(path)
    refuse_state(graph_def, where)
    input_names = (
        [node.name for node in graph_def.node if node.op == "Placeholder"]
        if inputs is None
        else [info.name for info in inputs]
    )
    output_names = (
        _terminal(graph_def) if outputs is None else [info.name for info in outputs]
    )
    there = {node.name for node in graph_def.node}
    absent = [n for n in [*input_names, *output_names] if without_port(n) not in there]
    if absent or not output_names:
        raise NotAFrozenGraph(
            where,
            expected=f"a graph with {absent[0]!r}" if absent else "a graph with nodes",
            found="none of that name" if absent else "no node that gives a result",
            advice=ADVICE,
        )
    try:
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
        feeds = [graph.get_tensor_by_name(f"{n}:0") for n in input_names]
        fetches = [graph.get_tensor_by_name(f"{n}:0") for n in output_names]
    except (ValueError, KeyError, tf.errors.OpError) as error:
        raise NotAFrozenGraph(
            where,
            expected="a graph that this TensorFlow can import",
            found=str(error).split("\n")[0][:300],
            advice=ADVICE,
        ) from error
    if inputs is None:
        inputs = [info_of(tensor) for tensor in feeds]
    if outputs is None:
        outputs = [info_of(tensor) for tensor in fetches]
    return FrozenGraph(
        graph_def,
        graph,
        tuple(inputs),
        tuple(outputs),
        path=None if path is None else Path(path),
        signature=signature,
        for_one_run=for_one_run,
    )


def describe(graph_def: Any, names: Sequence[str]) -> tuple[TensorInfo, ...]:
    """Return shape and dtype of nodes' first outputs, as TensorFlow infers them.

    Args:
        graph_def: a GraphDef.
        names: nodes in it.
    """
    if not names:
        return ()
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(hide_all(graph_def)[0], name="")
    return tuple(info_of(graph.get_tensor_by_name(f"{name}:0")) for name in names)


def count_ops(graph_def: Any) -> dict[str, int]:
    """Return how many nodes of each op type a graph has, the most frequent first.

    Args:
        graph_def: a GraphDef; the bodies of its functions count.
    """
    counts = Counter(node.op for node in nd.every_node(graph_def))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _terminal(graph_def: Any) -> list[str]:
    """Return the nodes that nothing reads and that give a result."""
    read = {nd.split(ref)[0] for node in graph_def.node for ref in node.input}
    return [
        node.name
        for node in graph_def.node
        if node.name not in read and node.op not in ("Placeholder", "NoOp", "Const")
    ]


def _as_array(result: Any, info: TensorInfo) -> _Array:
    """Return a session's result as an array; a single string comes as bytes."""
    return np.asarray(result, dtype=object if info.dtype == "string" else None)


def info_of(tensor: Any) -> TensorInfo:
    """Return name, shape and dtype of a graph's tensor.

    Args:
        tensor: a symbolic tensor; one that refers to a variable is of its dtype.
    """
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return TensorInfo(without_port(tensor.name), shape, tensor.dtype.base_dtype.name)


def reason_of(failure: tf.errors.OpError) -> str:
    """Return the one line of a session's error that says what went wrong."""
    lines = [line.strip() for line in str(failure.message).splitlines()]
    heads = ("Graph execution error", "Detected at node", "Node:", "[[{{node")
    said = [line for line in lines if line and not line.startswith(heads)]
    return said[0] if said else type(failure).__name__
