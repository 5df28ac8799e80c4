"""A live Keras model to its inference graph. The only module here that knows Keras."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from persist_callbacks.errors import ModelNotBuilt, UnsupportedGraph
from persist_callbacks.graph.capture import to_inference_graph
from persist_callbacks.graph.freeze import check_freezable
from persist_callbacks.graph.hoisting import read_outside_functions
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.names import choose, legal, make_legal, unique
from persist_callbacks.layer_names import renumber, stem
from persist_callbacks.records import GraphNames

_AUTOMATIC_INPUT = re.compile(r"(keras_tensor|input_layer)(_\d+)?(CLONE)?")


@dataclass(frozen=True)
class _Inputs:
    """What a model takes: its structure, and per leaf a name and a TensorSpec."""

    structure: Any
    names: tuple[str, ...]
    specs: tuple[tf.TensorSpec, ...]


def trace(
    model: Any,
    keys: Mapping[int, str],
    names: GraphNames = GraphNames(),  # noqa: B008 - frozen, so one for all is right
    *,
    specs: Any = None,
) -> InferenceGraph:
    """Trace a model's forward pass once, as it is called for prediction.

    Runs on the thread that owns the model: layers bear other names while it runs.

    Args:
        model: a built Keras model.
        keys: ``id()`` of each Keras variable's tf.Variable to its checkpoint key.
        names: what the inputs and outputs are to be called.
        specs: a structure of tf.TensorSpec or arrays as the model takes it, for a
            subclassed model, which does not know its inputs.

    Returns:
        The graph; the same bytes for the same architecture in every process.

    Raises:
        ModelNotBuilt: the model has no variables or no known inputs yet.
        TensorNotFound: ``names`` does not fit the model's inputs or outputs.
        UnsupportedGraph: the model cannot be traced, or holds what cannot be constant.
    """
    if not getattr(model, "built", False):
        raise ModelNotBuilt(
            f"model {model.name!r}",
            expected="a built model",
            found="one without variables",
            advice="Begin the model with keras.Input, or call it on a batch first.",
        )
    told_inputs, told_outputs = _told_names(model)
    with _names_of_a_fresh_process(model) as own_names, _without_cudnn(model):
        taken_in = _inputs_of(model, specs)
        original_names: dict[str, str] = {}
        taken: set[str] = set()
        wanted = choose(
            names.inputs, taken_in.names, argument="inputs", told=told_inputs
        )
        inputs = make_legal(wanted, taken, original_names)
        concrete, result_names = _concrete_function(model, taken_in, own_names)
    wanted = choose(names.outputs, result_names, argument="outputs", told=told_outputs)
    outputs = make_legal(wanted, taken, original_names)
    graph = to_inference_graph(
        concrete, keys, inputs=inputs, outputs=outputs, originals=original_names
    )
    check_freezable(graph)
    return read_outside_functions(graph)


def run_live(
    model: Any,
    graph: InferenceGraph,
    arrays: Mapping[str, Any],
    *,
    specs: Any = None,
    traced: bool = False,
) -> dict[str, np.ndarray[Any, Any]]:
    """Run the live model for prediction on arrays by the graph's input names.

    Runs on the thread that owns the model. Recurrent layers run as they are traced,
    without cuDNN, which rounds otherwise.

    Args:
        model: the model that the graph was traced from.
        graph: its inference graph.
        arrays: one array for each of the graph's inputs.
        specs: what `trace` was given. Without it, a model that does not know its
            inputs is handed the tensor itself, or a list of several.
        traced: whether to call it as ``predict`` does, as a function traced anew.

    Returns:
        One array for each of the graph's outputs.
    """
    values = [
        tf.convert_to_tensor(arrays[info.name], info.dtype) for info in graph.inputs
    ]
    if specs is not None or _knows_inputs(model):
        structure = _inputs_of(model, specs).structure
        packed = keras.tree.pack_sequence_as(structure, values)
    else:
        packed = values[0] if len(values) == 1 else values

    def call() -> list[Any]:
        return _flat(model(packed, training=False))[0]

    with _without_cudnn(model):
        results = tf.function(call, autograph=False)() if traced else call()
    return {
        info.name: np.asarray(result)
        for info, result in zip(graph.outputs, results, strict=True)
    }


def _knows_inputs(model: Any) -> bool:
    return bool(getattr(model, "inputs", None))


def _inputs_of(model: Any, specs: Any) -> _Inputs:
    """Return the structure, names and specs of a model's inputs."""
    if specs is not None:
        structure = specs
        leaf_names: list[Any] = [None] * len(keras.tree.flatten(specs))
        leaves = [_as_spec(leaf) for leaf in keras.tree.flatten(specs)]
    elif _knows_inputs(model):
        sequential = isinstance(model, keras.Sequential)
        structure = model.inputs[0] if sequential else model.input
        tensors = keras.tree.flatten(structure)
        for tensor in tensors:
            if getattr(tensor, "sparse", False) or getattr(tensor, "ragged", False):
                raise UnsupportedGraph(
                    f"input {tensor.name!r}",
                    expected="a dense tensor",
                    found="a sparse or ragged one",
                    advice="Export a model that takes the dense tensor.",
                )
        leaf_names = [tensor.name for tensor in tensors]
        leaves = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
    else:
        raise ModelNotBuilt(
            f"model {model.name!r}",
            expected="a model that knows its inputs, as Functional and Sequential do",
            found=f"a {type(model).__name__} that does not",
            advice="Give a sample of its input, or wrap it in keras.Model(inputs, y).",
        )
    # A dict's keys are names that the user chose; Keras' automatic ones are not.
    by_key: list[Any] = [None] * len(leaves)
    if isinstance(structure, dict) and len(structure) == len(leaves):
        # Keras sorts a dict's keys, and takes an OrderedDict's as they come.
        places = keras.tree.pack_sequence_as(structure, list(range(len(leaves))))
        by_key = sorted(places, key=lambda key: keras.tree.flatten(places[key]))
    names: list[str] = []
    chosen: set[str] = {
        name for name in leaf_names if name and not _automatic_input(name)
    }
    for name, key in zip(leaf_names, by_key, strict=True):
        if name is None or _automatic_input(name):
            name = unique(key or "input", {*names, *chosen})
        names.append(str(name))
    return _Inputs(structure, tuple(names), tuple(leaves))


def _automatic_input(name: str) -> bool:
    return bool(_AUTOMATIC_INPUT.fullmatch(name))


def _as_spec(leaf: Any) -> tf.TensorSpec:
    """Return the spec of an array with its batch dimension open, or the spec given."""
    if isinstance(leaf, tf.TensorSpec):
        return leaf
    tensor = tf.convert_to_tensor(leaf)
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


def _concrete_function(
    model: Any, inputs: _Inputs, own_names: Mapping[int, str]
) -> tuple[Any, tuple[str, ...]]:
    """Trace ``model(x, training=False)``; return it and its results' default names."""
    names: list[str] = []

    def forward(*leaves: Any) -> list[Any]:
        packed = keras.tree.pack_sequence_as(inputs.structure, list(leaves))
        with _constants_from_variables(model):
            results, keys = _flat(model(packed, training=False))
        names[:] = _result_names(model, results, keys, own_names)
        return [tf.convert_to_tensor(result) for result in results]

    specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name=f"argument_{index}")
        for index, spec in enumerate(inputs.specs)
    ]
    try:
        concrete = tf.function(forward, autograph=False).get_concrete_function(*specs)
    except Exception as error:
        # Keras colours its messages for a terminal.
        cause = re.sub(r"\x1b\[\d*m", "", str(error)).split()
        raise UnsupportedGraph(
            f"model {model.name!r}",
            expected="a model whose call can be traced as a graph",
            found=f"{type(error).__name__}: {' '.join(cause)[:300]}",
            advice="Make call(inputs, training=False) work inside a tf.function.",
        ) from error
    return concrete, tuple(names)


def _flat(result: Any) -> tuple[list[Any], list[str] | None]:
    """Return a model's results in order, and their keys if they came as a flat dict."""
    if isinstance(result, Mapping):
        keys = [key for key in sorted(result) if result[key] is not None]
        if all(keras.tree.is_nested(result[key]) is False for key in keys):
            return [result[key] for key in keys], [str(key) for key in keys]
    return [leaf for leaf in keras.tree.flatten(result) if leaf is not None], None


def _result_names(
    model: Any,
    results: list[Any],
    keys: list[str] | None,
    own_names: Mapping[int, str],
) -> tuple[str, ...]:
    """Return default names for results: dict keys, else the layers they come from."""
    if keys is not None:
        return tuple(keys)
    names: list[str] = []
    if isinstance(model, keras.Sequential):
        wanted = [_own_name(model.layers[-1], own_names)] * len(results)
    elif _knows_inputs(model) and len(model.outputs) == len(results):
        # `output_names` was fixed when the model was built; the layers know better.
        wanted = [_own_name(_producer(tensor), own_names) for tensor in model.outputs]
    else:
        wanted = ["output"] * len(results)
    for name in wanted:
        names.append(unique(name, names))
    return tuple(names)


def _told_names(model: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Return what Keras calls a model's inputs and outputs in this process, by place.

    A summary shows the layers' names, ``output_names`` those that they had at first.
    """
    if not _knows_inputs(model):
        return {}, {}
    inputs = keras.tree.flatten(model.inputs)
    makers = [str(_producer(tensor).name) for tensor in model.outputs]
    if isinstance(model, keras.Sequential):
        makers = [str(layer.name) for layer in model.layers[-1:]]
    at_first = getattr(model, "output_names", None) or []
    return (
        _places([tensor.name for tensor in inputs])
        | _places([str(_producer(tensor).name) for tensor in inputs]),
        _places(at_first if len(at_first) == len(makers) else []) | _places(makers),
    )


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names) if names.count(name) == 1}


def _producer(tensor: Any) -> Any:
    """Return the layer or operation that a Keras tensor comes from.

    ``_keras_history`` has no public name.
    """
    return tensor._keras_history.operation


def _own_name(member: Any, own_names: Mapping[int, str]) -> str:
    return own_names.get(id(member), str(member.name))


@contextmanager
def _constants_from_variables(model: Any) -> Iterator[None]:
    """Let layers compute in a graph with their variables, not with constants of them.

    A ``Normalization`` makes constants as it is adapted; a graph that is traced before
    a checkpoint is put back, or frozen with one, is to have the checkpoint's.
    """
    layers = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.Normalization) and layer.built
    ]
    constants = [(layer.mean, layer.variance) for layer in layers]
    try:
        for layer in layers:
            layer.finalize_state()
        yield
    finally:
        for layer, (mean, variance) in zip(layers, constants, strict=True):
            layer.mean, layer.variance = mean, variance


@contextmanager
def _names_of_a_fresh_process(model: Any) -> Iterator[Mapping[int, str]]:
    """Let the layers bear the names they would have, had nothing been built before.

    TensorFlow names nodes after them, so ``dense_7`` would show in the PB, and a name
    that no node can bear would make it one that cannot be loaded. Gives the layers'
    names by ``id()``, those in it as the user has them.
    ``Layer.name`` can be set, and ``_flatten_layers`` has no public name; both are
    used in this module alone.
    """
    members: dict[int, Any] = {id(model): model}
    for layer in model._flatten_layers(include_self=False, recursive=True):
        members.setdefault(id(layer), layer)
        for operation in getattr(layer, "operations", ()):
            members.setdefault(id(operation), operation)
    for operation in getattr(model, "operations", ()):
        members.setdefault(id(operation), operation)
    pairs = [(member.name, stem(type(member))) for member in members.values()]
    before: list[tuple[Any, str]] = []
    try:
        own_names = dict(zip(members, renumber(pairs), strict=True))
        for member, own_name in zip(members.values(), own_names.values(), strict=True):
            name = legal(own_name)
            if member.name != name:
                before.append((member, member.name))
                member.name = name
        yield own_names
    finally:
        for member, name in before:
            member.name = name


@contextmanager
def _without_cudnn(model: Any) -> Iterator[None]:
    """Keep LSTM and GRU, beside a GPU, from an op that no other machine has.

    They look at ``use_cudnn`` in each call; that it may be set has no public word, nor
    has ``_flatten_layers``.
    """
    before: list[tuple[Any, Any]] = []
    try:
        for layer in model._flatten_layers(include_self=False, recursive=True):
            if vars(layer).get("use_cudnn", False) is not False:
                before.append((layer, layer.use_cudnn))
                layer.use_cudnn = False
        yield
    finally:
        for layer, value in before:
            layer.use_cudnn = value
