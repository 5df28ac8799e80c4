"""A traced function to a graph whose variables are known by checkpoint key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.errors import UnsupportedGraph
from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import canonical
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.names import make_legal, unique
from persist_callbacks.graph.rewriting import refusal
from persist_callbacks.graph.tables import live_table, replace_lookups
from persist_callbacks.records import TensorInfo

# What is captured without a name gets a number that counts over the whole process.
_COUNTED = re.compile(r"(.*/|)\d+")


def to_inference_graph(
    concrete: Any,
    keys: Mapping[int, str],
    *,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    originals: Mapping[str, str],
) -> InferenceGraph:
    """Turn a traced function into a graph of our own: names, variables, results.

    Args:
        concrete: a ConcreteFunction of dense tensors that returns a flat list.
        keys: ``id()`` of each tf.Variable that it may read to its checkpoint key.
        inputs: the arguments' names, legal and unique.
        outputs: the results' names, legal and unique.
        originals: graph name to the user's name, where they differ.

    Raises:
        UnsupportedGraph: it reads a resource that is none of these variables.
    """
    func_graph = concrete.graph
    traced = _without_tables(func_graph)
    placeholders = [tensor.op.name for tensor in func_graph.inputs]
    mapping = dict(zip(placeholders, inputs, strict=False))
    reserved = {*inputs, *outputs}
    replaced, variables = _replace_captures(func_graph, traced, keys, reserved)
    mapping.update({old: node.name for old, node in replaced.items()})
    taken = {*mapping.values(), *reserved}
    for node in traced.node:
        if node.name not in mapping:
            mapping[node.name] = unique(node.name, taken)
            taken.add(mapping[node.name])

    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(traced.versions)
    result.library.CopyFrom(traced.library)
    for node in {new.name: new for new in replaced.values()}.values():
        result.node.add().CopyFrom(node)
    for node in traced.node:
        if node.name in replaced:
            continue
        copy = result.node.add()
        copy.CopyFrom(node)
        copy.name = mapping[node.name]
        del copy.input[:]
        copy.input.extend(_renamed(reference, mapping) for reference in node.input)
    for name, tensor in zip(outputs, concrete.outputs, strict=True):
        source = _renamed(tensor.name, mapping)
        node = nd.make_node("Identity", name, [source], T=tensor.dtype)
        result.node.add().CopyFrom(node)
    return InferenceGraph(
        graph_def=canonical(result, inputs=inputs, outputs=outputs),
        inputs=tuple(
            _info(name, tensor)
            for name, tensor in zip(inputs, func_graph.inputs, strict=False)
        ),
        outputs=tuple(
            _info(name, tensor)
            for name, tensor in zip(outputs, concrete.outputs, strict=True)
        ),
        variables=variables,
        original_names=dict(originals),
    )


def _without_tables(func_graph: Any) -> Any:
    """Return the graph with what reads lookup tables made of constants, where it can.

    What cannot be rewritten still reads its table, and is refused as that later.
    """
    graph_def = func_graph.as_graph_def()
    tables = {}
    variables = {id(variable.handle) for variable in func_graph.variables}
    for outer, inner in func_graph.captures:
        if outer.dtype == tf.resource and id(outer) not in variables:
            for reader in _readers(graph_def, inner.op.name):
                table = live_table(outer, reader)
                if table is not None:
                    tables[inner.op.name] = table
    return replace_lookups(graph_def, tables)


def _readers(graph_def: Any, name: str) -> list[Any]:
    return [
        node
        for node in graph_def.node
        if name in {nd.split(reference)[0] for reference in node.input}
    ]


def _replace_captures(
    func_graph: Any, traced: Any, keys: Mapping[int, str], reserved: set[str]
) -> tuple[dict[str, Any], tuple[TensorInfo, ...]]:
    """Find the node that each captured tensor becomes; return them and the variables.

    A variable captured twice becomes one node.
    """
    by_handle = {id(variable.handle): variable for variable in func_graph.variables}
    nodes: dict[str, Any] = {}
    variables: dict[str, tuple[Any, TensorInfo]] = {}
    taken = set(reserved)
    for outer, inner in func_graph.captures:
        placeholder = inner.op.name
        if outer.dtype != tf.resource:
            name = placeholder
            if (counted := _COUNTED.fullmatch(name)) is not None:
                name = unique(f"{counted[1]}captured", taken)
                taken.add(name)
            nodes[placeholder] = nd.constant(name, np.asarray(outer), outer.dtype)
            continue
        variable = by_handle.get(id(outer))
        key = None if variable is None else keys.get(id(variable))
        if variable is None and not _readers(traced, placeholder):
            continue
        if variable is None or key is None:
            raise _not_a_variable(traced, placeholder, variable)
        if key not in variables:
            (name,) = make_legal([key], taken, {})
            dtype = variable.dtype
            node = nd.make_node(
                "VarHandleOp",
                name,
                dtype=dtype,
                shape=variable.shape,
                shared_name=key.encode(),
            )
            variables[key] = (
                node,
                TensorInfo(key, tuple(variable.shape.as_list()), dtype.name),
            )
        nodes[placeholder] = variables[key][0]
    return nodes, tuple(variables[key][1] for key in sorted(variables))


def _not_a_variable(traced: Any, placeholder: str, variable: Any) -> UnsupportedGraph:
    """Say which layer reads a resource that no checkpoint holds."""
    readers = _readers(traced, placeholder)
    for node in readers:
        if "Assign" in node.op:
            return refusal(node, "")
    reader = readers[0] if readers else None
    where = placeholder if reader is None else f"{reader.name} ({reader.op})"
    if variable is not None:
        return UnsupportedGraph(
            where,
            expected="variables that belong to the model",
            found=f"{variable.name!r}, which no layer tracks",
            advice="Make it with self.add_weight in the layer that reads it.",
        )
    return UnsupportedGraph(
        where,
        expected="variables and constants only",
        found="a resource that cannot be a constant, such as a lookup table",
        advice="Do this step in the data pipeline, and export the model without it.",
    )


def _renamed(reference: str, mapping: Mapping[str, str]) -> str:
    """Return an input reference with its node's new name."""
    name, port = nd.split(reference)
    if port < 0:
        return f"^{mapping[name]}"
    return mapping[name] if port == 0 else f"{mapping[name]}:{port}"


def _info(name: str, tensor: Any) -> TensorInfo:
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return TensorInfo(name, shape, tensor.dtype.name)
