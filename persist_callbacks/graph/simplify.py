"""Passes that make a frozen graph small and portable, one function a pass.

Each keeps every named output's numbers to rounding. Grappler, TensorFlow's own graph
optimizer, has no public name for a GraphDef; it is touched in `_grappler` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.grappler import tf_optimizer

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.affine import fold_scales_and_shifts
from persist_callbacks.graph.canonical import canonical
from persist_callbacks.graph.names import unique
from persist_callbacks.graph.plainer import (
    additions_to_biases,
    static_reshapes,
)
from persist_callbacks.graph.portable import (
    erfc_to_erf,
    name_results,
    spell_out_attributes,
    split_grouped_convolutions,
)
from persist_callbacks.graph.weights import hide_all, hide_unfoldable, put_back

# A constant that folding made of a formula, such as zeros of a big shape, is not
# written out in full beyond this.
_SPELL_OUT_BYTES = 2**26


def simplify(graph_def: Any, *, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """Return a smaller graph that computes the same.

    Args:
        graph_def: a frozen GraphDef; not changed.
        inputs: placeholders, all kept.
        outputs: nodes that are kept by name.

    Returns:
        A GraphDef; the same bytes for the same graph and weights.
    """
    # Each pass copies what it is given: large constants go around most of them.
    small, weights = hide_all(graph_def)
    small = name_outputs(small, outputs)
    small = inline_calls(small, inputs=inputs, outputs=outputs)
    small, weights = hide_unfoldable(put_back(small, weights))
    small = fold_constants(small, inputs=inputs, outputs=outputs)
    small = remove_identities(small, keep=outputs)
    small = static_reshapes(small)
    graph_def = fold_scales_and_shifts(put_back(small, weights))
    graph_def = split_grouped_convolutions(graph_def)
    small, weights = hide_all(graph_def)
    small = additions_to_biases(small)
    small = erfc_to_erf(small)
    small = name_results(small, outputs)
    small = spell_out_constants(small)
    small = canonical(small, inputs=inputs, outputs=outputs)
    small = spell_out_attributes(small)
    return put_back(small, weights)


def name_outputs(graph_def: Any, outputs: Sequence[str]) -> Any:
    """Make each output an Identity, so that folding cannot change what bears its name.

    Args:
        graph_def: a GraphDef; not changed.
        outputs: nodes that are wanted.
    """
    by_name = {node.name: node for node in graph_def.node}
    if all(by_name[name].op in ("Identity", "Placeholder") for name in outputs):
        return graph_def
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph_def)
    by_name = {node.name: node for node in result.node}
    for output in outputs:
        node = by_name[output]
        dtype = _first_output_type(node)
        if node.op in ("Identity", "Placeholder") or dtype is None:
            continue
        inner = unique(f"{output}/result", by_name)
        for reader in result.node:
            references = [_redirected(ref, {output: inner}) for ref in reader.input]
            del reader.input[:]
            reader.input.extend(references)
        node.name = inner
        by_name[inner] = node
        made = result.node.add()
        made.CopyFrom(nd.make_node("Identity", output, [inner], T=dtype))
        by_name[output] = made
    return result


def inline_calls(
    graph_def: Any, *, inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """Put the bodies of called functions in place of the calls; loops stay loops.

    Readers other than TensorFlow 2 know no function calls.
    """
    called = {node.op for node in graph_def.node} & {
        "PartitionedCall",
        "StatefulPartitionedCall",
    }
    if not called:
        return graph_def
    return _grappler(graph_def, ["function"], inputs=inputs, outputs=outputs)


def fold_constants(
    graph_def: Any, *, inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """Compute what depends on no input, and fold scales into the weights they follow.

    This is what turns a batch normalisation into the convolution before it. Grappler's
    `remap` and `layout` are left out: they make ops that only TensorFlow has. So is
    `arithmetic`: it adds a bias after a residual, where no convolution takes it in.
    """
    passes = ["constfold", "dependency", "pruning", "constfold"]
    if any(node.op == "Switch" for node in graph_def.node):
        # Removes TF1's branches that a constant flag never takes.
        passes = ["constfold", "loop", *passes]
    return _grappler(graph_def, passes, inputs=inputs, outputs=outputs)


def remove_identities(graph_def: Any, *, keep: Sequence[str]) -> Any:
    """Let readers of an Identity read what it reads.

    Args:
        graph_def: a GraphDef; not changed.
        keep: nodes that stay whatever they are.
    """
    kept = set(keep)
    redirect: dict[str, str] = {}
    by_name = {node.name: node for node in graph_def.node}
    if any(node.op in nd.OLD_CONTROL_FLOW for node in graph_def.node):
        return graph_def
    for node in graph_def.node:
        forwards = node.op in ("Identity", "StopGradient", "PreventGradient")
        if forwards and node.name not in kept and len(node.input) == 1:
            redirect[node.name] = node.input[0]
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph_def)
    del result.node[:]
    for name, node in by_name.items():
        if name in redirect:
            continue
        made = result.node.add()
        made.CopyFrom(node)
        del made.input[:]
        made.input.extend(_redirected(ref, redirect) for ref in node.input)
    return result


def spell_out_constants(graph_def: Any) -> Any:
    """Write every constant's numbers into ``tensor_content``.

    Grappler packs them in other ways, which OpenCV's reader does not take.
    """
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph_def)
    bodies = [result.node, *(function.node_def for function in result.library.function)]
    for body in bodies:
        for node in body:
            if node.op != "Const":
                continue
            dtype = tf.as_dtype(node.attr["dtype"].type)
            proto = node.attr["value"].tensor
            size = dtype.size * (tf.TensorShape(proto.tensor_shape).num_elements() or 0)
            if dtype == tf.string or size > _SPELL_OUT_BYTES or proto.tensor_content:
                continue
            proto.CopyFrom(nd.tensor_proto(nd.constant_value(node), dtype))
    return result


def _redirected(reference: str, redirect: dict[str, str]) -> str:
    """Follow an input reference to what stands in its node's place."""
    name, port = nd.split(reference)
    while port == 0 and name in redirect:
        reference = redirect[name]
        name, port = nd.split(reference)
    while port < 0 and name in redirect:
        name = nd.split(redirect[name])[0]
        reference = f"^{name}"
    return reference


def _first_output_type(node: Any) -> Any:
    """Return the dtype of a node's first output; None where its OpDef does not tell."""
    definition = nd.op_definition(node.op)
    if definition is None or not definition.output_arg:
        return None
    argument = definition.output_arg[0]
    if argument.type_list_attr:
        types = node.attr[argument.type_list_attr].list.type
        return tf.as_dtype(types[0]) if types else None
    if argument.type:
        return tf.as_dtype(argument.type)
    if argument.type_attr in node.attr:
        return tf.as_dtype(node.attr[argument.type_attr].type)
    for attr in definition.attr:
        if attr.name == argument.type_attr and attr.HasField("default_value"):
            return tf.as_dtype(attr.default_value.type)
    return None


def _grappler(
    graph_def: Any,
    passes: Sequence[str],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> Any:
    """Run TensorFlow's graph optimizer with the passes named, once, and no others."""
    if not graph_def.node:
        return graph_def
    meta = tf.compat.v1.MetaGraphDef()
    meta.graph_def.CopyFrom(graph_def)
    by_name = {node.name: node for node in graph_def.node}
    # Grappler takes for fed what the signature calls inputs, and keeps its outputs.
    signature = meta.signature_def["serving_default"]
    for kind, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for name in names:
            kind[name].name = f"{name}:0"
            dtype = _first_output_type(by_name[name])
            if dtype is not None:
                kind[name].dtype = dtype.as_datatype_enum
    config = tf.compat.v1.ConfigProto()
    options = config.graph_options.rewrite_options
    options.min_graph_nodes = -1
    # More find nothing more in any kind of model that the tests know.
    options.meta_optimizer_iterations = 1
    options.optimizers.extend(passes)
    return tf_optimizer.OptimizeGraph(
        config, meta, verbose=False, graph_id=b"persist_callbacks"
    )
