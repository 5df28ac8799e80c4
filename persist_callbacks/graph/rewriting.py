"""The graph rewritten so that values stand where variables' handles stood."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.errors import UnsupportedGraph
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import function_roots, in_order
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.names import unique
from persist_callbacks.graph.ordering import CHECKS

# What hands on one of them, by reference, in TF1's loops and branches.
_BY_REFERENCE = re.compile(r"Ref(Enter|Exit|Identity|Merge|NextIteration|Switch)")
# In a function a reference names the producer's result, and the new op's is "output".
_RESULT_BEFORE = {
    "ReadVariableOp": "value",
    "VarHandleOp": "resource",
    "VarIsInitializedOp": "is_initialized",
}
_PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
_CUDNN = "Cudnn"
_INSIDE_TABLES = "Do this step in the data pipeline, and export the model without it."


@dataclass(frozen=True)
class _Held:
    """A value that stands where a variable's handle stood."""

    dtype: int
    shape: tuple[int, ...]


_Signature = tuple[_Held | None, ...]


class Rewriter:
    """One rewriting of a graph, and of the functions that it calls.

    Args:
        graph: the inference graph.

    Attributes:
        nodes: the rewritten nodes, once `rewrite` ran.
        functions: the rewritten functions by name.
        constants: checkpoint key and Const node of each variable, which has no value
            yet.
    """

    def __init__(self, graph: InferenceGraph) -> None:
        self.nodes: list[Any] = []
        self.constants: list[tuple[str, Any]] = []
        self.functions: dict[str, Any] = {}
        self._source = {
            function.signature.name: function
            for function in graph.graph_def.library.function
        }
        self._shapes = {info.name: info.shape for info in graph.variables}
        self._made: dict[tuple[str, _Signature], tuple[str, _Signature]] = {}
        self._effects: dict[str, bool] = {}

    def rewrite(self, nodes: Iterable[Any]) -> None:
        """Rewrite a graph's nodes into `nodes`.

        Args:
            nodes: NodeDefs in topological order; not changed.

        Raises:
            UnsupportedGraph: a node cannot be in a frozen graph.
        """
        self.nodes = self._body(nodes, {}, where="")

    def _body(
        self, nodes: Iterable[Any], held: dict[str, dict[int, _Held]], *, where: str
    ) -> list[Any]:
        """Rewrite nodes that come in topological order.

        Args:
            nodes: NodeDefs; not changed.
            held: node or argument name to its outputs that are values now; added to.
            where: the function they are in, for errors.
        """
        answers: list[Any] = []
        nodes = list(nodes)
        old_flow = any(node.op in nd.OLD_CONTROL_FLOW for node in nodes)
        for original in nodes:
            if original.op in CHECKS:
                continue
            node = tf.compat.v1.NodeDef()
            node.CopyFrom(original)
            inputs: list[_Held | None] = []
            for reference in node.input:
                name, port = nd.split(reference)
                if port >= 0:
                    inputs.append(held.get(name, {}).get(port))
            added = self._rewrite(node, tuple(inputs), held, where)
            if not old_flow:
                # What had effects is refused, so nothing is left to be ordered.
                data = [ref for ref in node.input if not ref.startswith("^")]
                del node.input[:]
                node.input.extend(data)
            answers.extend([*added, node])
        return answers

    def _rewrite(
        self,
        node: Any,
        inputs: _Signature,
        held: dict[str, dict[int, _Held]],
        where: str,
    ) -> list[Any]:
        """Rewrite one node in place; return nodes that must come before it."""
        if node.op in nd.VARIABLES:
            self._variable(node, held)
            return []
        if node.op in nd.BRANCHES:
            self._call(node, inputs, held, where)
            return []
        if _BY_REFERENCE.fullmatch(node.op):
            node.op = node.op.removeprefix("Ref")
            return []
        source = next((value for value in inputs if value is not None), None)
        if node.op == "IsVariableInitialized" or (
            node.op == "VarIsInitializedOp" and source is not None
        ):
            _become_true(node)
            return []
        if source is None:
            self._check(node, where)
            return []
        dtype = tf.as_dtype(source.dtype)
        if node.op == "Identity" and node.attr["T"].type == nd.RESOURCE:
            _become(node, "Identity", T=dtype)
            held[node.name] = {0: source}
        elif node.op in ("Enter", "Switch") and node.attr["T"].type == nd.RESOURCE:
            # TF1's loops and branches hand variables in, each by a node of its own.
            node.attr["T"].type = source.dtype
            held[node.name] = {0: source, 1: source}
        elif node.op == "ReadVariableOp":
            _become(node, "Identity", T=dtype)
        elif node.op == "VariableShape":
            _become(node, "Shape", T=dtype, out_type=_type(node, "out_type", tf.int32))
        elif node.op == "ResourceGather":
            return [_gather(node, dtype, in_function=bool(where))]
        elif node.op == "ResourceGatherNd":
            indices = _type(node, "Tindices", tf.int32)
            _become(node, "GatherNd", Tparams=dtype, Tindices=indices)
        elif _reads_resource(node.op):
            raise refusal(node, where)
        return []

    def _variable(self, node: Any, held: dict[str, dict[int, _Held]]) -> None:
        key = nd.variable_key(node)
        shape = self._shapes.get(key) or ()
        dtype = tf.as_dtype(node.attr["dtype"].type).base_dtype
        if node.op == "VarHandleOp":
            known = tuple(-1 if size is None else size for size in shape)
            held[node.name] = {0: _Held(dtype.as_datatype_enum, known)}
        _become(node, "Const", dtype=dtype)
        del node.input[:]
        self.constants.append((key, node))

    def _call(
        self,
        node: Any,
        inputs: _Signature,
        held: dict[str, dict[int, _Held]],
        where: str,
    ) -> None:
        """Rewrite a node that calls functions, and the functions for what it passes."""
        loop = node.op in ("While", "StatelessWhile")
        selects = node.op not in ("While", "StatelessWhile") and "Call" not in node.op
        passed = inputs[1:] if selects else inputs
        results: _Signature | None = None
        effects = False
        for attribute, called in nd.function_attributes(node):
            called.name, returned = self._function(called.name, passed)
            effects = effects or self._effects[called.name]
            if attribute == "cond":
                continue
            if results is not None and results != returned:
                raise refusal(node, where)
            results = returned
        results = results or ()
        if loop and any(a != b for a, b in zip(results, passed, strict=True)):
            raise refusal(node, where)
        for attribute, types in (
            [("T", passed)] if loop else [("Tin", passed), ("Tout", results)]
        ):
            for index, value in enumerate(types):
                if value is not None:
                    node.attr[attribute].list.type[index] = value.dtype
        # Asking for an attribute that is not there would make an empty one.
        shapes = (
            node.attr["output_shapes"].list.shape
            if "output_shapes" in node.attr
            else ()
        )
        for index, value in enumerate(results):
            if value is not None and index < len(shapes):
                shapes[index].CopyFrom(_shape(value).as_proto())
        held[node.name] = {
            index: value for index, value in enumerate(results) if value is not None
        }
        if not effects:
            node.op = nd.WITHOUT_STATE.get(node.op, node.op)

    def _function(self, name: str, passed: _Signature) -> tuple[str, _Signature]:
        """Return a copy of a function made for the values it is now passed."""
        if (name, passed) in self._made:
            return self._made[name, passed]
        source = self._source[name]
        new_name = unique(name, self.functions)
        made = tf.compat.v1.GraphDef().library.function.add()
        self.functions[new_name] = made
        made.signature.CopyFrom(source.signature)
        made.signature.name = new_name
        made.signature.is_stateful = False
        del made.signature.control_output[:]
        held: dict[str, dict[int, _Held]] = {}
        for argument, value in zip(made.signature.input_arg, passed, strict=True):
            if value is not None:
                argument.type = value.dtype
                held[argument.name] = {0: value}
        ordered = in_order(source.node_def, function_roots(source))
        made.node_def.extend(self._body(ordered, held, where=name))
        ops = {node.name: node.op for node in ordered}
        for node in made.node_def:
            references = [_to_new_result(ref, ops) for ref in node.input]
            del node.input[:]
            node.input.extend(references)
        results: list[_Held | None] = []
        for argument in made.signature.output_arg:
            reference = source.ret[argument.name]
            made.ret[argument.name] = _to_new_result(reference, ops)
            producer, port = nd.split(reference)
            value = held.get(producer, {}).get(port)
            if value is not None:
                argument.type = value.dtype
            results.append(value)
        self._effects[new_name] = any(
            (nd.has_state(node.op) and node.op not in nd.BRANCHES)
            or any(self._effects[called.name] for _, called in _calls(node))
            for node in made.node_def
        )
        self._made[name, passed] = (new_name, tuple(results))
        return self._made[name, passed]

    def _check(self, node: Any, where: str) -> None:
        """Refuse a node that reads no variable of ours and cannot be frozen itself."""
        if node.op in _PYTHON or nd.op_definition(node.op) is None:
            raise refusal(node, where)
        if node.op.startswith(_CUDNN):
            raise refusal(node, where)
        if nd.keeps_state(node) or any(True for _ in nd.function_attributes(node)):
            raise refusal(node, where)


def _calls(node: Any) -> list[tuple[str, Any]]:
    return list(nd.function_attributes(node))


def _reads_resource(op: str) -> bool:
    definition = nd.op_definition(op)
    return definition is None or any(
        argument.type == nd.RESOURCE or argument.type_attr or argument.type_list_attr
        for argument in definition.input_arg
    )


def _become(node: Any, op: str, **attrs: Any) -> None:
    """Change a node's type and attributes, keeping its name and inputs."""
    changed = nd.make_node(op, node.name, node.input, **attrs)
    node.CopyFrom(changed)


def _become_true(node: Any) -> None:
    """Change what asks for a variable's value: it has the checkpoint's."""
    # What it asked for tells where it is, if that is in a loop or branch of TF1's.
    sources = [nd.split(reference)[0] for reference in node.input]
    made = nd.constant(node.name, np.array(True), tf.bool)
    made.input.extend(f"^{source}" for source in dict.fromkeys(sources))
    node.CopyFrom(made)


def _type(node: Any, attribute: str, default: Any) -> Any:
    if attribute not in node.attr:
        return default
    return tf.as_dtype(node.attr[attribute].type)


def _shape(value: _Held) -> tf.TensorShape:
    return tf.TensorShape([None if size < 0 else size for size in value.shape])


def _gather(node: Any, dtype: Any, *, in_function: bool) -> Any:
    """Turn ResourceGather into GatherV2; return the constant that says the axis."""
    batch_dims = int(node.attr["batch_dims"].i)
    axis = nd.constant(f"{node.name}/axis", np.array(batch_dims, np.int32), tf.int32)
    indices = _type(node, "Tindices", tf.int32)
    control = [ref for ref in node.input if ref.startswith("^")]
    reference = f"{axis.name}:output:0" if in_function else axis.name
    data = [*node.input[:2], reference, *control]
    del node.input[:]
    node.input.extend(data)
    _become(
        node,
        "GatherV2",
        Tparams=dtype,
        Tindices=indices,
        Taxis=tf.int32,
        batch_dims=batch_dims,
    )
    return axis


def _to_new_result(reference: str, ops: Mapping[str, str]) -> str:
    """Return a function's reference with the result's name of the op that is there now.

    Args:
        reference: ``argument``, ``node:result:index`` or ``^node``.
        ops: node name to the op type it had.
    """
    name, *rest = reference.split(":")
    if len(rest) == 2 and rest[0] == _RESULT_BEFORE.get(ops.get(name, "")):
        return f"{name}:output:{rest[1]}"
    return reference


def refusal(node: Any, where: str) -> UnsupportedGraph:
    """Say why a node cannot be in a frozen graph, and what to do.

    Args:
        node: the NodeDef.
        where: the function it is in; empty in the graph itself.
    """
    place = f"{node.name} ({node.op})" + (f" in {where}" if where else "")
    if re.search("Assign|Apply|Scatter", node.op):
        found = "a variable that inference changes"
        advice = (
            "Name outputs that do not wait for that, or build the model so that it "
            "keeps no state, as a Keras layer does with stateful=False."
        )
    elif node.op in _PYTHON:
        found = "Python code"
        advice = "Write the step in TensorFlow or keras.ops."
    elif node.op.startswith(_CUDNN):
        found = "a recurrent layer that NVIDIA's GPUs alone can compute"
        advice = (
            "Build the layer with use_cudnn=False, or in TensorFlow 1 as a "
            "CudnnCompatibleLSTMCell or CudnnCompatibleGRUCell, and save its graph "
            "again."
        )
    elif nd.op_definition(node.op) is None:
        found = "an op that this TensorFlow does not know"
        advice = "Load the library that registers it first."
    elif nd.is_pipeline(node.op) or re.fullmatch(r"\w*Reader(V2)?", node.op):
        found = "a step of the training data's pipeline"
        advice = "Name what the model reads of it as inputs."
    elif node.op in nd.BRANCHES or list(nd.function_attributes(node)):
        found = "a call that cannot take a value in a variable's place"
        advice = "Write the loop or branch with keras.ops or tf.while_loop."
    else:
        found = "a lookup table or other resource"
        advice = _INSIDE_TABLES
    return UnsupportedGraph(
        place,
        expected="only what can become a constant",
        found=found,
        advice=advice,
    )
