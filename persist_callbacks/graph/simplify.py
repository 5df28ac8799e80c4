"""Passes that make a frozen graph small and portable, one function a pass.

Each keeps every named output's numbers to rounding. Grappler, TensorFlow's own graph
optimizer, has no public name for a GraphDef; it is touched in `_grappler` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.grappler import tf_optimizer

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.affine import merge_affine_chains
from persist_callbacks.graph.broadcasts import broadcasts_to_convolutions
from persist_callbacks.graph.canonical import canonical, in_order
from persist_callbacks.graph.enlarging import (
    repeats_to_resizes,
    transposed_convolution_sizes,
)
from persist_callbacks.graph.for_onnx import gathers_by_own_axes, patches_to_depths
from persist_callbacks.graph.for_opencv import suit_opencv
from persist_callbacks.graph.names import unique
from persist_callbacks.graph.next_weights import affine_into_next_weights
from persist_callbacks.graph.norms import differences_from_means
from persist_callbacks.graph.plainer import (
    additions_to_biases,
    quotients_to_reciprocals,
    scales_into_weights,
    sums_of_products_to_differences,
)
from persist_callbacks.graph.pointwise import dense_to_convolutions
from persist_callbacks.graph.portable import (
    cast_before_products,
    erfc_to_erf,
    name_results,
    signs_by_quotients,
    spell_out_attributes,
    split_grouped_convolutions,
)
from persist_callbacks.graph.sizes import static_reshapes
from persist_callbacks.graph.slices import spell_out_slices
from persist_callbacks.graph.softmaxes import spell_out_softmaxes
from persist_callbacks.graph.volumes import volumes_by_channels_last
from persist_callbacks.graph.weights import hide_all, hide_unfoldable, put_back
from persist_callbacks.graph.windows import crop_filters, pads_into_convolutions

# A constant that folding made of a formula, such as zeros of a big shape, is not
# written out in full beyond this.
_SPELL_OUT_BYTES = 2**26


Pass = Callable[[Any, Sequence[str], Sequence[str]], Any]

# In the order in which they run: a graph, its inputs and outputs in, a graph out.
PASSES: Mapping[str, Pass] = {
    "name_outputs": lambda g, _, outputs: name_outputs(g, outputs),
    "inline_calls": lambda g, inputs, outputs: inline_calls(
        g, inputs=inputs, outputs=outputs
    ),
    "fold_constants": lambda g, inputs, outputs: fold_constants(
        g, inputs=inputs, outputs=outputs
    ),
    "static_reshapes": lambda g, *_: static_reshapes(g),
    # What shapes were computed of is a reader no more, where a pass wants but one.
    "drop_unused": lambda g, inputs, outputs: drop_unused(g, [*inputs, *outputs]),
    "differences_from_means": lambda g, *_: differences_from_means(g),
    "dense_to_convolutions": lambda g, *_: dense_to_convolutions(g),
    "repeats_to_resizes": lambda g, *_: repeats_to_resizes(g),
    "cast_before_products": lambda g, *_: cast_before_products(g),
    "erfc_to_erf": lambda g, *_: erfc_to_erf(g),
    "signs_by_quotients": lambda g, *_: signs_by_quotients(g),
    "gathers_by_own_axes": lambda g, *_: gathers_by_own_axes(g),
    "patches_to_depths": lambda g, *_: patches_to_depths(g),
    "quotients_to_reciprocals": lambda g, *_: quotients_to_reciprocals(g),
    "merge_affine_chains": lambda g, *_: merge_affine_chains(g),
    "scales_into_weights": lambda g, *_: scales_into_weights(g),
    "additions_to_biases": lambda g, *_: additions_to_biases(g),
    "affine_into_next_weights": lambda g, *_: affine_into_next_weights(g),
    "sums_of_products_to_differences": lambda g, *_: sums_of_products_to_differences(g),
    "volumes_by_channels_last": lambda g, *_: volumes_by_channels_last(g),
    "split_grouped_convolutions": lambda g, *_: split_grouped_convolutions(g),
    "pads_into_convolutions": lambda g, *_: pads_into_convolutions(g),
    "crop_filters": lambda g, *_: crop_filters(g),
    "spell_out_softmaxes": lambda g, *_: spell_out_softmaxes(g),
    "broadcasts_to_convolutions": lambda g, *_: broadcasts_to_convolutions(g),
    "spell_out_slices": lambda g, *_: spell_out_slices(g),
    "transposed_convolution_sizes": lambda g, *_: transposed_convolution_sizes(g),
    "name_results": lambda g, _, outputs: name_results(g, outputs),
    "spell_out_constants": lambda g, *_: spell_out_constants(g),
    "canonical": lambda g, inputs, outputs: canonical(
        g, inputs=inputs, outputs=outputs
    ),
    "spell_out_attributes": lambda g, *_: spell_out_attributes(g),
    # The last one: it looks at what is written.
    "suit_opencv": lambda g, inputs, outputs: suit_opencv(
        g, inputs=inputs, outputs=outputs
    ),
}


# These write constants, which in a loop of TF1's would have to hang on something in it.
_NOT_BESIDE_LOOPS = frozenset(
    [
        *("static_reshapes", "dense_to_convolutions", "repeats_to_resizes"),
        *("erfc_to_erf", "split_grouped_convolutions", "crop_filters"),
        *("signs_by_quotients", "gathers_by_own_axes", "volumes_by_channels_last"),
        *("spell_out_softmaxes", "broadcasts_to_convolutions", "spell_out_slices"),
        *("transposed_convolution_sizes", "pads_into_convolutions"),
    ]
)


Hide = Callable[[Any], tuple[Any, dict[str, Any]]]

# What keeps large constants from passes that do not look into them.
_HIDDEN_FROM: Mapping[str, Hide] = {
    "name_outputs": hide_all,
    "inline_calls": hide_all,
    "fold_constants": hide_unfoldable,
    "name_results": hide_all,
    "spell_out_constants": hide_all,
    "canonical": hide_all,
    "spell_out_attributes": hide_all,
}


def simplify(
    graph_def: Any,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    without: Collection[str] = (),
) -> Any:
    """Return a smaller graph that computes the same.

    Args:
        graph_def: a frozen GraphDef; not changed.
        inputs: placeholders, all kept.
        outputs: nodes that are kept by name.
        without: names of passes to leave out, to see what each is for.

    Returns:
        A GraphDef; the same bytes for the same graph and weights.
    """
    hide: Hide | None = None
    hidden: dict[str, Any] = {}
    left_out = set(without)
    if any(node.op in ("Enter", "RefEnter") for node in graph_def.node):
        left_out |= _NOT_BESIDE_LOOPS
    for name, run in PASSES.items():
        if name in left_out:
            continue
        if _HIDDEN_FROM.get(name) is not hide:
            # Each pass copies what it is given: large constants go around most.
            graph_def, hide = put_back(graph_def, hidden), _HIDDEN_FROM.get(name)
            graph_def, hidden = (graph_def, {}) if hide is None else hide(graph_def)
        graph_def = run(graph_def, inputs, outputs)
    return put_back(graph_def, hidden)


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
            references = [nd.renamed(ref, {output: inner}) for ref in reader.input]
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


def drop_unused(graph_def: Any, wanted: Sequence[str]) -> Any:
    """Leave out nodes that none of the wanted ones needs.

    Args:
        graph_def: a GraphDef; not changed.
        wanted: names of nodes.
    """
    needed = in_order(graph_def.node, wanted)
    if len(needed) == len(graph_def.node):
        return graph_def
    result = nd.empty_like(graph_def)
    result.node.extend(needed)
    return result


def spell_out_constants(graph_def: Any) -> Any:
    """Write every constant's numbers as TensorFlow's Python would write them.

    Grappler packs them in other ways, which OpenCV's reader does not take.
    """
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph_def)
    for node in nd.every_node(result):
        if node.op != "Const":
            continue
        dtype = tf.as_dtype(node.attr["dtype"].type)
        proto = node.attr["value"].tensor
        count = tf.TensorShape(proto.tensor_shape).num_elements() or 0
        there = proto.tensor_content and count > 1
        if dtype == tf.string or dtype.size * count > _SPELL_OUT_BYTES or there:
            continue
        proto.CopyFrom(nd.tensor_proto(nd.constant_value(node), dtype))
    return result


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
    """Run TensorFlow's graph optimizer with the passes named, once, and no others.

    A graph that it does not take is returned as it is.
    """
    if not graph_def.node:
        return graph_def
    meta = tf.compat.v1.MetaGraphDef()
    meta.graph_def.CopyFrom(graph_def)
    of_any_rank = _stand_in(meta.graph_def)
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
    try:
        result = tf_optimizer.OptimizeGraph(
            config, meta, verbose=False, graph_id=b"persist_callbacks"
        )
    except (ValueError, tf.errors.OpError):
        return graph_def
    for node in result.node:
        if node.name in of_any_rank:
            node.CopyFrom(of_any_rank[node.name])
    return result


def _stand_in(graph_def: Any) -> dict[str, Any]:
    """Put other nodes in the place of inputs of any rank, as TF1's scripts make them.

    Grappler takes no graph with such a Placeholder, but any other op of which it knows
    no shape. It computes none that has state.

    Args:
        graph_def: a GraphDef; changed.

    Returns:
        The inputs, by name.
    """
    found = {}
    for node in graph_def.node:
        if node.op == "Placeholder" and nd.stated_shape(node).rank is None:
            found[node.name] = tf.compat.v1.NodeDef()
            found[node.name].CopyFrom(node)
            dtypes = [tf.as_dtype(node.attr["dtype"].type)]
            node.CopyFrom(nd.make_node("Unstage", node.name, dtypes=dtypes))
    return found
