"""Checkpoint folders as scripts of TensorFlow 1 wrote them, with what they predict.

    python write_folders.py FOLDER [KIND ...]

Runs in TensorFlow 1.15 on Python 3.7, where every kind can be made; those in
``folders/`` beside this file come from there. TensorFlow 2 makes most of them with its
``compat.v1``. Each kind gets a folder: the files of a ``Saver``, ``arrays.npz`` with
what was fed (``in/NAME``) and what came out (``out/NAME``).
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
IS_TF1 = tf.__version__.startswith("1.")
ROWS = np.random.RandomState(1).standard_normal((5, 4)).astype(np.float32)


def variable(name, *shape, **options):
    return v1.get_variable(
        name, shape, initializer=v1.random_normal_initializer(seed=len(name)), **options
    )


def rows():
    return v1.placeholder(tf.float32, [None, 4], name="input_holder")


def two_variables():
    """The least there is: a placeholder, two variables, a Saver."""
    x = rows()
    y = tf.add(tf.matmul(x, variable("w", 4, 3)), variable("b", 3), name="predictions")
    return {x: ROWS}, [y], {}


def resource_variables():
    x = rows()
    w = variable("w", 4, 3, use_resource=True)
    b = variable("b", 3, use_resource=True)
    return {x: ROWS}, [tf.nn.relu(tf.matmul(x, w) + b, name="predictions")], {}


def partitioned():
    """One tensor in the checkpoint, three variables in the graph."""
    ids = v1.placeholder(tf.int32, [None], name="ids")
    parts = variable("table", 10, 4, partitioner=v1.fixed_size_partitioner(3))
    found = v1.nn.embedding_lookup(parts, ids, partition_strategy="div")
    y = tf.matmul(found, variable("w", 4, 2), name="predictions")
    return {ids: np.array([0, 3, 4, 7, 9], np.int32)}, [y], {}


def partitioned_resources():
    x = rows()
    parts = variable(
        "w", 4, 6, partitioner=v1.fixed_size_partitioner(2, axis=1), use_resource=True
    )
    y = tf.matmul(x, tf.convert_to_tensor(parts), name="predictions")
    return {x: ROWS}, [y], {}


def loop():
    """TF1's own loop: Enter, Merge, Exit, with a variable read inside."""
    x = rows()
    w = variable("w", 4, 4)
    _, y = v1.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y @ w), [0, x])
    return {x: ROWS}, [tf.identity(y, name="predictions")], {}


def branches():
    """TF1's own branch: Switch and Merge, a variable in each."""
    x = rows()
    flag = v1.placeholder_with_default(True, [], name="flag")
    a, b = variable("a", 4), variable("bb", 4)
    y = v1.cond(flag, lambda: x * a, lambda: x - b)
    return {x: ROWS, flag: False}, [tf.identity(y, name="predictions")], {}


def functional_loop():
    """The loop of control flow v2, which calls functions that take variables."""
    v1.enable_control_flow_v2()
    try:
        x = rows()
        w = variable("w", 4, 4, use_resource=True)
        _, y = v1.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y @ w), [0, x])
        z = v1.cond(tf.reduce_sum(x) > 0, lambda: x @ w, lambda: x)
        return {x: ROWS}, [tf.add(y, z, name="predictions")], {}
    finally:
        v1.disable_control_flow_v2()


def renamed():
    """The checkpoint calls its variables otherwise than the graph."""
    x = rows()
    w, b = variable("w", 4, 3), variable("b", 3)
    y = tf.add(tf.matmul(x, w), b, name="predictions")
    return {x: ROWS}, [y], {"var_list": {"old/kernel": w, "old/bias": b}}


def averaged():
    """A Saver that puts an optimizer's averages in the variables' place."""
    x = rows()
    w = variable("w", 4, 3)
    average = tf.train.ExponentialMovingAverage(0.5)
    update = average.apply([w])
    y = tf.matmul(x, w, name="predictions")
    with tf.control_dependencies([update]):
        v1.assign_add(w, tf.ones_like(w), name="step")
    return {x: ROWS}, [y], {"var_list": average.variables_to_restore(), "run": "step"}


def training():
    """A training graph: devices, dropout, a loss, Adam, summaries, two outputs."""
    with tf.device("/device:GPU:0"):
        image = v1.placeholder(tf.float32, [None, 8, 8, 1], name="image")
        label = v1.placeholder(tf.int64, [None], name="label")
        keep = v1.placeholder_with_default(1.0, [], name="keep_prob")
        x = tf.nn.conv2d(
            image, variable("conv", 3, 3, 1, 4), strides=[1, 1, 1, 1], padding="SAME"
        )
        mean, spread = variable("mean", 4), tf.square(variable("spread", 4)) + 0.1
        scale, offset = variable("scale", 4), variable("offset", 4)
        x, _, _ = v1.nn.fused_batch_norm(
            x, scale, offset, mean=mean, variance=spread, is_training=False
        )
        x = v1.nn.max_pool(tf.nn.relu(x), [1, 2, 2, 1], [1, 2, 2, 1], "VALID")
        x = v1.nn.dropout(tf.reshape(x, [-1, 64]), keep_prob=keep)
        logits = tf.add(tf.matmul(x, variable("w", 64, 3)), variable("b", 3), "logits")
        scores = tf.nn.softmax(logits, name="predictions")
        best = tf.argmax(scores, 1, name="best")
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits),
            name="loss",
        )
    v1.summary.scalar("loss", loss)
    v1.summary.merge_all()
    v1.train.AdamOptimizer().minimize(loss, name="train_op")
    picture = np.random.RandomState(2).standard_normal((3, 8, 8, 1))
    return {image: picture.astype(np.float32)}, [scores, best], {}


def recurrent():
    x = v1.placeholder(tf.float32, [None, None, 4], name="sequence")
    cell = v1.nn.rnn_cell.LSTMCell(3)
    y, state = v1.nn.dynamic_rnn(cell, x, dtype=tf.float32)
    z = tf.identity(state.h, name="last")
    return {x: ROWS[None].repeat(2, 0)}, [tf.identity(y, name="all"), z], {}


def layers():
    """tf.layers with batch norm under a flag that says whether it is training."""
    image = v1.placeholder(tf.float32, [None, 8, 8, 3], name="image")
    flag = v1.placeholder_with_default(False, [], name="is_training")
    x = v1.layers.conv2d(image, 4, 3, use_bias=False)
    x = v1.layers.batch_normalization(x, training=flag)
    x = v1.layers.flatten(tf.nn.relu(x))
    y = tf.nn.sigmoid(v1.layers.dense(x, 2), name="predictions")
    picture = np.random.RandomState(3).standard_normal((3, 8, 8, 3))
    return {image: picture.astype(np.float32)}, [y], {}


def table():
    """A lookup table of words, filled from constants by an initialiser."""
    words = v1.placeholder(tf.string, [None], name="words")
    init = tf.lookup.KeyValueTensorInitializer(
        ["a", "b", "c"], [0, 1, 2], value_dtype=tf.int64
    )
    ids = tf.lookup.StaticHashTable(init, 3).lookup(words)
    y = tf.gather(variable("embedding", 4, 2), ids, name="predictions")
    return {words: np.array([b"b", b"zzz", b"a"])}, [y], {}


def sharded():
    """A checkpoint in two data files."""
    x = rows()
    with tf.device("/job:localhost/task:0/cpu:0"):
        w = variable("w", 4, 3)
    with tf.device("/cpu:0"):
        b = variable("b", 3)
    y = tf.add(tf.matmul(x, w), b, name="predictions")
    return {x: ROWS}, [y], {"sharded": True}


def old_format():
    """The format before .index files, which TensorFlow 1.0 left behind."""
    x = rows()
    y = tf.add(tf.matmul(x, variable("w", 4, 3)), variable("b", 3), name="predictions")
    return {x: ROWS}, [y], {"write_version": v1.train.SaverDef.V1}


def old_sharded():
    """The same in shards, of which the `checkpoint` file knows but a pattern."""
    fed, fetched, options = sharded()
    return fed, fetched, dict(options, write_version=v1.train.SaverDef.V1)


KINDS = [
    two_variables,
    resource_variables,
    partitioned,
    partitioned_resources,
    loop,
    branches,
    functional_loop,
    renamed,
    averaged,
    training,
    recurrent,
    layers,
    table,
    sharded,
    old_format,
    old_sharded,
]
# What TensorFlow 2 has no longer, or only with another package.
ONLY_TF1 = {"recurrent", "layers"}


def write(kind, folder):
    """Build one kind, run it, save it, and write down what it gave."""
    v1.disable_eager_execution()
    config = v1.ConfigProto(allow_soft_placement=True)
    with tf.Graph().as_default(), v1.Session(config=config) as session:
        if not IS_TF1:
            v1.disable_resource_variables()
        v1.set_random_seed(1)
        feeds, fetches, options = kind()
        options = dict(options)
        step = options.pop("run", None)
        saver = v1.train.Saver(**options)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        if step is not None:
            session.run(step)
        if not os.path.isdir(folder):
            os.makedirs(folder)
        # Absolute, as most scripts had it: the folder lies elsewhere ever after.
        path = os.path.join(os.path.abspath(folder), "model")
        saver.save(session, path, global_step=7)
        saver.restore(session, v1.train.latest_checkpoint(folder))
        results = session.run(fetches, feeds)
    arrays = {"in/" + tensor.op.name: value for tensor, value in feeds.items()}
    for index, tensor in enumerate(fetches):
        arrays["out/" + tensor.op.name] = results[index]
    np.savez(os.path.join(folder, "arrays.npz"), **arrays)


def main(target, *names):
    for kind in KINDS:
        if kind.__name__ in names or (
            not names and (IS_TF1 or kind.__name__ not in ONLY_TF1)
        ):
            write(kind, os.path.join(target, kind.__name__))


if __name__ == "__main__":
    main(*sys.argv[1:])
