"""Variables read before the loops and branches that use them, not within.

TensorFlow 1's converter knows no variables inside of functions: a loop that is handed
values, not handles, is one that it freezes.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.graph.canonical import canonical, in_order
from persist_callbacks.graph.inference import InferenceGraph
from persist_callbacks.graph.names import unique
from persist_callbacks.graph.ordering import without_order
from persist_callbacks.graph.rewriting import Rewriter


def read_outside_functions(graph: InferenceGraph) -> InferenceGraph:
    """Hand functions the values of variables in place of their handles.

    Args:
        graph: the inference graph; not changed.

    Returns:
        A graph that computes the same; the graph itself if no function takes a handle.

    Raises:
        UnsupportedGraph: something in the graph cannot be a constant.
    """
    handles = {node.name for node in graph.graph_def.node if node.op == "VarHandleOp"}
    calls = [n for n in graph.graph_def.node if any(nd.function_attributes(n))]
    if not any(nd.split(ref)[0] in handles for node in calls for ref in node.input):
        return graph
    inputs = [info.name for info in graph.inputs]
    outputs = [info.name for info in graph.outputs]
    rewriter = Rewriter(graph)
    # A seed that a layer draws and makes no use of is nobody's to refuse.
    nodes = without_order(graph.graph_def, outputs)
    rewriter.rewrite(in_order(nodes, [*inputs, *outputs]))
    taken = {node.name for node in rewriter.nodes}
    reads: dict[str, str] = {}
    for _, node in rewriter.constants:
        reads[node.name] = unique(f"{node.name}/value", taken)
        taken.add(reads[node.name])
    result = tf.compat.v1.GraphDef()
    result.versions.CopyFrom(graph.graph_def.versions)
    result.library.function.extend(rewriter.functions.values())
    originals = {node.name: node for node in graph.graph_def.node}
    for node in rewriter.nodes:
        made = result.node.add()
        if node.name in reads:
            made.CopyFrom(originals[node.name])
            dtype = tf.as_dtype(made.attr["dtype"].type)
            read = nd.make_node(
                "ReadVariableOp", reads[node.name], [node.name], dtype=dtype
            )
            result.node.append(read)
            continue
        made.CopyFrom(node)
        del made.input[:]
        made.input.extend(reads.get(reference, reference) for reference in node.input)
    return dataclasses.replace(
        graph, graph_def=canonical(result, inputs=inputs, outputs=outputs)
    )
