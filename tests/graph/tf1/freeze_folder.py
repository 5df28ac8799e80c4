"""Freeze a checkpoint folder as scripts of TensorFlow 1 do, and run what comes out.

    python freeze_folder.py '[[FOLDER, ARRAYS, RESULTS, "OUTPUT,..."], ...]'

Knows nothing of persist_callbacks. ARRAYS is an ``.npz`` by input name; RESULTS, made
here, one by output name, all as float32. Runs in TensorFlow 1.15, and in TensorFlow 2
with its ``compat.v1``.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def freeze(folder, outputs):
    """Import the graph, restore, and turn variables into constants."""
    prefix = v1.train.latest_checkpoint(folder)
    with tf.Graph().as_default() as graph, v1.Session() as session:
        saver = v1.train.import_meta_graph(prefix + ".meta", clear_devices=True)
        session.run(v1.global_variables_initializer())
        saver.restore(session, prefix)
        return v1.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), outputs
        )


def run(graph_def, outputs, arrays):
    """Run a frozen graph in a graph of its own."""
    left = [n.name for n in graph_def.node if "Variable" in n.op or "VarHandle" in n.op]
    if left:
        raise SystemExit("variables are left: " + ", ".join(left))
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        tf.import_graph_def(graph_def, name="")
        feed = {name + ":0": arrays[name] for name in arrays.files}
        return session.run({name: name + ":0" for name in outputs}, feed)


def main(folder, arrays, results, names):
    # What session.run takes for a name of a tensor is the user's own.
    outputs = names.split(",")
    frozen = freeze(folder, outputs)
    with np.load(arrays) as loaded:
        found = run(frozen, outputs, loaded)
    np.savez(results, **{name: np.float32(array) for name, array in found.items()})


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        main(*job)
