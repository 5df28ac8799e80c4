"""What we rely on in Keras and TensorFlow that has no public name, each by its name.

A version that moves one of these fails the test that is named for it.
"""

from __future__ import annotations

import inspect
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.distribute.values import PerReplicaSpec

from persist_callbacks.training import fit_loop, model_building
from persist_callbacks.training.fit_data import FitData
from persist_callbacks.training.fit_loop import FitLoop, Tail, UnsavedOps

X = np.random.default_rng(1).standard_normal((20, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def linear(**options):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", **options)
    return model


def fit(model, *callbacks, epochs=1, data=None, **more):
    """Five steps an epoch."""
    more.setdefault("verbose", 0)
    if data is None:
        more["batch_size"] = 4
    x, y = (X, Y) if data is None else (data, None)
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **more)


class At(keras.callbacks.Callback):
    """Calls functions from the hooks that they are given for, with itself."""

    def __init__(self, **hooks):
        super().__init__()
        for name, call in hooks.items():
            setattr(self, name, self._hook(call))

    def _hook(self, call):
        return lambda *args, **kwargs: call(self)


def loop_in(model=None, look=lambda loop: None, **more):
    """Run a fit and look at its loop from on_train_begin."""
    seen = []

    def begin(callback):
        loop = FitLoop.around(callback)
        seen.append((loop, look(loop)))

    fit(model or linear(), At(on_train_begin=begin), **more)
    return seen[0]


# -- the list of callbacks


def test_callback_list_is_the_self_of_the_frame_that_calls_a_hook():
    """The loop is found from a hook, with all callbacks in their order."""
    first, third = At(), At()
    loops = []
    second = At(on_train_begin=lambda me: loops.append(FitLoop.around(me)))
    fit(linear(), first, second, third)
    assert loops[0].callbacks[:3] == [first, second, third]
    assert isinstance(loops[0].callbacks[3], keras.callbacks.History)


def test_callback_list_reaches_a_callback_appended_in_on_train_begin():
    """One that is appended while on_train_begin goes round is called in that round."""
    order = []

    class Late(Tail):
        def on_train_begin(self, logs=None):
            order.append("tail")

    def begin(callback):
        order.append("first")
        FitLoop.around(callback).run_last(Late(0))

    fit(
        linear(),
        At(on_train_begin=begin),
        At(on_train_begin=lambda me: order.append("second")),
    )
    assert order == ["first", "second", "tail"]


HOOKS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_epoch_end",
    "on_train_end",
)


def test_tails_run_last_and_by_rank():
    """In every hook, whoever put them in first, and though two callbacks do."""
    order = []

    def noting(name):
        return {
            hook: (lambda me, hook=hook: order.append((hook, name)))
            for hook in HOOKS
            if hook != "on_train_begin"
        }

    class Noting(Tail):
        def __getattribute__(self, name):
            if name in HOOKS:
                return lambda *args, **kwargs: order.append((name, self.rank))
            return super().__getattribute__(name)

    def adds(*ranks):
        def begin(callback):
            for rank in ranks:
                FitLoop.around(callback).run_last(Noting(rank))

        return begin

    fit(
        linear(),
        At(on_train_begin=adds(10), **noting("a")),
        At(on_train_begin=adds(0, 20), **noting("b")),
        steps_per_epoch=1,
    )
    for hook in HOOKS[1:]:
        assert [who for name, who in order if name == hook] == ["a", "b", 0, 10, 20]
    assert [who for name, who in order if name == "on_train_begin"] == [0, 10, 20]


def test_one_that_runs_first():
    """In every hook after the present one, before whoever was first in the list."""
    order = []

    class First(Tail):
        def on_train_begin(self, logs=None):
            order.append("too early")

        def on_epoch_end(self, epoch, logs=None):
            order.append("ours")

    fit(
        linear(),
        At(on_epoch_end=lambda me: order.append("theirs")),
        At(on_train_begin=lambda me: FitLoop.around(me).run_first(First(0))),
        steps_per_epoch=1,
    )
    assert order == ["ours", "theirs"]


def test_a_tail_that_is_there_already_does_not_cut_off_later_ones():
    """A list that serves two fits: the second callback's tail is reached as well."""
    order = []

    class Late(Tail):
        def on_train_begin(self, logs=None):
            order.append(self.rank)

    one, other = Late(1), Late(2)
    model = linear()
    callbacks = keras.callbacks.CallbackList(
        [
            At(on_train_begin=lambda me: FitLoop.around(me).run_last(one)),
            At(on_train_begin=lambda me: FitLoop.around(me).run_last(other)),
        ],
        model=model,
    )
    for _ in range(2):
        callbacks.on_train_begin()
    assert order == [1, 2, 1, 2]


def test_dropped_tails_are_gone():
    """A tail that is taken out while the list is gone through stays out."""
    order = []

    class Late(Tail):
        def on_epoch_end(self, epoch, logs=None):
            order.append(self.rank)
            if self.rank == 0:
                self.loop.drop_tails([self])

    def begin(callback):
        for rank in (0, 1):
            tail = Late(rank)
            tail.loop = FitLoop.around(callback)
            tail.loop.run_last(tail)

    fit(linear(), At(on_train_begin=begin), epochs=2)
    assert order == [0, 1, 1]


def test_no_list_no_loop():
    """A hook that is called by hand has no loop around it."""
    found = []
    callback = At(on_train_begin=lambda me: found.append(FitLoop.around(me)))
    callback.set_model(linear())
    callback.on_train_begin()
    assert found == [None]


def test_a_loop_of_the_users_own():
    """A CallbackList outside of fit is a loop that does not drive the model."""
    found = []
    model = linear()
    callback = At(on_train_begin=lambda me: found.append(FitLoop.around(me)))
    listed = keras.callbacks.CallbackList([callback], model=model, epochs=3, steps=7)
    listed.on_train_begin()
    (loop,) = found
    assert not loop.drives_model
    assert (loop.epochs, loop.batches_per_epoch) == (3, 7)
    assert not loop.is_fitting()


def test_callback_list_hooks_can_be_replaced_on_the_instance():
    """Batches before the first that is not done are seen by the progress bar alone."""
    bar, user, other = [], [], []

    class Bar(keras.callbacks.ProgbarLogger):
        def on_train_batch_end(self, batch, logs=None):
            bar.append(batch)

    class Sees(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            user.append(("begin", batch))

        def on_train_batch_end(self, batch, logs=None):
            user.append(("end", batch))

    def begin(callback):
        FitLoop.around(callback).mute_batches_before(3)

    fit(linear(), At(on_train_begin=begin), Bar(), Sees(), epochs=2)
    assert bar == [0, 1, 2, 3, 4] * 2
    assert user[:4] == [("begin", 3), ("end", 3), ("begin", 4), ("end", 4)]
    assert len(user) == 4 + 2 * 5
    assert other == []


# -- fit


def test_fit_reads_initial_epoch_after_on_train_begin():
    """`_initial_epoch` of the model decides where fit begins; and is put back."""
    model = linear()
    history = fit(
        model,
        At(
            on_train_begin=lambda me: FitLoop.around(me).start_at(2),
            on_epoch_begin=lambda me: setattr(me.model, "_initial_epoch", None),
        ),
        epochs=4,
    )
    assert history.epoch == [2, 3]
    loop, _ = loop_in(model)
    loop.start_at(5)
    loop.forget_start()
    assert fit(model, epochs=2).epoch == [0, 1]


def test_fit_calls_the_train_function_that_is_on_the_model():
    """`model.train_function` may be replaced in on_train_begin; fit takes its logs."""
    calls, given = [], []

    def step(run, iterator):
        calls.append(iterator)
        return {"loss": -1.0} if len(calls) < 3 else run(iterator)

    model = linear()
    fit(
        model,
        At(on_train_begin=lambda me: FitLoop.around(me).wrap_train_function(step)),
        keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: given.append(dict(logs))
        ),
    )
    assert len(calls) == 5
    assert len({id(iterator) for iterator in calls}) == 1
    assert isinstance(calls[0], tf.data.Iterator)
    assert [logs["loss"] for logs in given[:2]] == [-1.0, -1.0]
    assert given[2]["loss"] >= 0.0
    assert int(model.optimizer.iterations.numpy()) == 3


@pytest.mark.parametrize("inner_first", [True, False])
def test_wrappers_come_off_in_either_order(inner_first):
    """Two callbacks wrap the train function; each takes off its own."""
    model = linear()
    model.make_train_function()
    original = model.train_function
    order = []

    def step(name):
        def take(run, iterator):
            order.append(name)
            return run(iterator)

        return take

    listed = keras.callbacks.CallbackList([], model=model)
    inner, outer = FitLoop(listed, model, None), FitLoop(listed, model, None)
    inner.wrap_train_function(step("inner"))
    outer.wrap_train_function(step("outer"))
    dataset = tf.data.Dataset.from_tensors((X, Y)).repeat()
    iterator = iter(dataset)
    model.train_function(iterator)
    assert order == ["outer", "inner"]
    first, last = (inner, outer) if inner_first else (outer, inner)
    first.unwrap_train_function()
    model.train_function(iterator)
    assert order[2:] == ["outer" if inner_first else "inner"]
    last.unwrap_train_function()
    assert model.train_function is original
    # More than once is no error.
    last.unwrap_train_function()
    assert model.train_function is original


class Noisy(keras.Model):
    """Draws in its train step, by whatever way it is given."""

    def __init__(self, draw):
        super().__init__()
        self.inner, self.draw = keras.layers.Dense(1), draw

    def call(self, x, training=False):
        return self.inner(x) + (self.draw(tf.shape(x)) if training else 0.0)


@pytest.mark.parametrize(
    ("kind", "jit", "expected"),
    [
        ("op", False, ["RandomStandardNormal"]),
        ("op", True, ["RandomStandardNormal"]),
        ("keras", False, []),
        ("keras", True, []),
        # XLA takes none of these kinds.
        ("generator", False, []),
        ("table", False, ["LookupTableInsertV2"]),
        ("looked up", False, []),
        ("queue", False, ["QueueDequeueV2", "QueueEnqueueV2"]),
        ("iterator", False, []),
    ],
)
def test_list_all_concrete_functions_tells_of_unsaved_ops(kind, jit, expected):
    """Of a train function that is traced, and of what it calls."""
    seed, generator = keras.random.SeedGenerator(1), tf.random.Generator.from_seed(1)
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 1.0)
    key = np.zeros(1, "int64")

    def count(shape):
        table.insert(key, table.lookup(key) + 1.0)
        return look_up(shape)

    def look_up(shape):
        return tf.ensure_shape(table.lookup(key), [1])

    queue = tf.queue.FIFOQueue(3, tf.float32, [[1]])
    iterator = iter(tf.data.Dataset.from_tensors(np.ones(1, "float32")).repeat())

    def pass_on(shape):
        queue.enqueue(np.ones(1, "float32"))
        return queue.dequeue()

    draw = {
        "table": count,
        "looked up": look_up,
        "queue": pass_on,
        "iterator": lambda shape: next(iterator),
        "op": lambda shape: tf.random.normal([1]),
        "keras": lambda shape: keras.random.normal((1,), seed=seed),
        "generator": lambda shape: generator.normal([1]),
    }[kind]
    model, found = Noisy(draw), []
    model.compile("sgd", "mse", jit_compile=jit)

    def begin(callback):
        loop = FitLoop.around(callback)
        loop.wrap_train_function(lambda run, iterator: run(iterator))
        found.append(loop)

    fit(model, At(on_train_begin=begin))
    changing = {"table", "queue"}
    names = tuple(expected)
    if kind == "iterator":
        wanted = UnsavedOps(iterates=True)
    elif kind in changing:
        wanted = UnsavedOps(changing=names)
    else:
        wanted = UnsavedOps(drawing=names)
    assert found[0].unsaved_ops() == wanted
    found[0].unwrap_train_function()
    assert found[0].unsaved_ops() == UnsavedOps()
    # Nothing has been evaluated yet.
    assert found[0].unsaved_test_ops() is None
    model.evaluate(X, Y, verbose=0)
    assert found[0].unsaved_test_ops() == UnsavedOps()


def test_stale_wrappers_are_removed():
    """Those that fits which died have left, however many there are."""
    model = linear()
    model.make_train_function()
    original = model.train_function
    listed = keras.callbacks.CallbackList([], model=model)
    for _ in range(3):
        FitLoop(listed, model, None).wrap_train_function(lambda run, it: run(it))
    fit_loop.remove_stale_wrappers(model)
    assert model.train_function is original
    fit_loop.remove_stale_wrappers(model)
    assert model.train_function is original


def test_epoch_iterator_is_a_local_of_fit():
    """The data of fit are found, and what they tell is right."""

    def look(loop):
        return loop.drives_model, loop.batches_per_epoch, loop.epochs

    loop, seen = loop_in(look=look, epochs=3)
    assert seen == (True, 5, 3)
    assert type(loop.data._source).__name__ == "TFEpochIterator"
    assert "epoch_iterator" in keras.Model.fit.__wrapped__.__code__.co_varnames


def test_length_of_a_generator_is_unknown():
    """None until an epoch has ended, and then what was learnt."""

    def generate():
        yield from [(X[:4], Y[:4])] * 3

    signature = tuple(tf.TensorSpec((4, n), tf.float32) for n in (3, 1))
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    lengths, learnt = [], []

    def note(callback):
        lengths.append(callback.loop.batches_per_epoch)
        learnt.append(callback.loop.data.learnt_length)

    callback = At(
        on_train_begin=lambda me: (setattr(me, "loop", FitLoop.around(me)), note(me)),
        on_epoch_end=note,
    )
    with pytest.warns(UserWarning, match="ran out of data"):
        fit(linear(), callback, data=dataset, epochs=2)
    # Some versions count the batch that was not there.
    assert lengths in ([None, 3, 3], [None, 4, 4])
    assert learnt == lengths


@pytest.mark.parametrize("steps", [None, 2, 9])
@pytest.mark.parametrize("known", [True, False])
def test_data_adapter_is_told_of_the_ends_that_fit_comes_to(known, steps):
    """Whether by their length or by drawing in vain; not where it is told to stop."""
    dataset = tf.data.Dataset.from_tensor_slices((X, Y))
    if not known:
        dataset = dataset.filter(lambda x, y: x[0] > -9.0)
    told = []

    def begin(callback):
        callback.loop = FitLoop.around(callback)
        callback.loop.data.count_epochs(0)
        told.append(callback.loop.data.epochs_ended)

    def epoch(callback):
        told.append(callback.loop.data.epochs_ended)

    def batch(callback):
        callback.model.stop_training = len(told) == 3

    watches = At(on_train_begin=begin, on_epoch_end=epoch, on_train_batch_end=batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        more = {"steps_per_epoch": steps} if steps else {}
        fit(linear(), watches, data=dataset.batch(4), epochs=4, **more)
    assert told == [0, 1, 2, 2]


def test_steps_per_execution():
    """How many steps one call takes is known."""
    model = linear(steps_per_execution=2)
    assert loop_in(model)[0].steps_per_execution == 2
    assert loop_in()[0].steps_per_execution == 1


def test_element_spec_of_a_batch():
    """The data tell a batch's structure, shapes and dtypes before the first step."""
    _, spec = loop_in(look=lambda loop: loop.data.element_spec())
    assert [tuple(s.shape)[1:] for s in keras.tree.flatten(spec)] == [(3,), (1,)]


def test_value_specs_of_what_replicas_are_given():
    """Each gets its part of a batch; of those one tells what a model takes."""
    parts = [tf.TensorSpec((None, size)) for size in (3, 1)]
    given = tuple(PerReplicaSpec(part, part) for part in parts)
    dataset = types.SimpleNamespace(element_spec=given)
    source = types.SimpleNamespace(_distributed_dataset=dataset, num_batches=None)
    assert FitData(source).element_spec() == tuple(parts)


def test_fit_makes_its_iterators_from_distributed_dataset():
    """Each epoch's iterator over arrays or tf.data is counted, one or many to a run."""
    slices = tf.data.Dataset.from_tensor_slices((X, Y))
    for data, more, one_for_all in (
        (None, {}, False),
        (slices.batch(4), {}, False),
        (slices.repeat().batch(4), {"steps_per_epoch": 2}, True),
    ):
        made = []

        def begin(callback):
            callback.loop = FitLoop.around(callback)
            callback.loop.data.count_iterators(0)

        def epoch(callback, made=made):
            made.append(callback.loop.data.iterators_made)

        fit(
            linear(),
            At(on_train_begin=begin, on_epoch_end=epoch),
            data=data,
            epochs=3,
            **more,
        )
        if one_for_all:
            assert made == [1, 1, 1]
        else:
            # Keras may have made the next epoch's already.
            assert made in ([1, 2, 3], [2, 3, 4], [2, 4, 6])


def test_eval_epoch_iterator_is_on_the_model():
    """The validation data are found while fit validates, and gone afterwards."""
    seen = []

    def begin(callback):
        callback.loop = FitLoop.around(callback)
        assert callback.loop.validation_data is None

    model = linear()
    fit(
        model,
        At(
            on_train_begin=begin,
            on_test_begin=lambda me: seen.append(me.loop.validation_data),
        ),
        validation_data=(X[:4], Y[:4]),
    )
    assert isinstance(seen[0], FitData)
    assert seen[0].batches_per_epoch == 1


def test_is_running_and_is_fitting():
    """A loop knows whether its hooks, or its fit, are on the stack right now."""
    seen = []
    step = []

    def begin(callback):
        callback.loop = FitLoop.around(callback)
        seen.append(callback.loop.is_running())

        def take(run, iterator):
            step.append((callback.loop.is_running(), callback.loop.is_fitting()))
            return run(iterator)

        callback.loop.wrap_train_function(take)

    callback = At(on_train_begin=begin)
    model = linear()
    fit(model, callback)
    assert seen == [True]
    assert set(step) == {(False, True)}
    assert not callback.loop.is_running()
    assert not callback.loop.is_fitting()
    # The wrapper that was left on the model is called by another fit.
    step.clear()
    fit(model)
    assert set(step) == {(False, False)}


# -- building


def test_symbolic_build_makes_every_variable_of_training():
    """`_symbolic_build` makes optimizer and metrics from the data's shapes alone."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    model_building.build_all(model, dataset.element_spec)
    assert len(model.optimizer.variables) == 2 + 2 * 2
    before = [len(model.variables), len(model.metrics_variables)]
    kernel = model.layers[0].kernel.numpy()
    assert before[1] >= 4
    model.fit(dataset, verbose=0)
    assert [len(model.variables), len(model.metrics_variables)] == before
    assert not np.array_equal(model.layers[0].kernel.numpy(), kernel)


class Halves(keras.Model):
    """Trains each of two layers by an optimizer of its own, and has no call."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Dense(2), keras.layers.Dense(1)
        self.both = [keras.optimizers.Adam(), keras.optimizers.SGD(momentum=0.9)]

    def train_step(self, batch):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_mean((self.second(self.first(x)) - y) ** 2)
        for layer, optimizer in zip((self.first, self.second), self.both, strict=True):
            weights = layer.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize("given", ["arrays", "generator"])
def test_a_traced_train_step_makes_every_variable_of_its_own(given):
    """Optimizers that Keras does not know of, too; fit's own function is left alone."""
    model = Halves()
    model.compile()
    assert not model_building.is_built(model)

    def look(loop):
        model_building.build_all(model, loop.data.element_spec())
        assert not fit_loop._traced(model.train_function)
        counts = [len(optimizer.variables) for optimizer in model.both]
        return counts, sum(int(each.iterations) for each in model.both)

    # Keras gives what is left out of a batch as an Optional; 3.7 takes no such batch.
    rest = () if keras.__version__.startswith("3.7.") else (None,)
    rows = ((X[at : at + 4], Y[at : at + 4], *rest) for at in range(0, 20, 4))
    data = rows if given == "generator" else None
    _, found = loop_in(model, look, data=data)
    assert found == ([2 + 2 * 2, 2 + 2], 0)
    assert [len(each.variables) for each in model.both] == found[0]
    # Keras never says so of one without call.
    assert model_building.is_built(model)
    assert not model.built
    assert not model.optimizer.built


def test_a_sequential_is_built_for_any_batch_size():
    """Keras would build it for the first batch's, and its graph be bound to that."""
    model = keras.Sequential([keras.layers.Dense(1)])
    spec = (tf.TensorSpec((4, 3), tf.float32), tf.TensorSpec((4, 1), tf.float32))
    model_building.build_model(model, spec)
    assert tuple(model.inputs[0].shape) == (None, 3)


def test_unknown_inputs():
    """Only of a model that does not know them itself; with the batch size open."""

    class Mine(keras.Model):
        def call(self, inputs):
            return inputs["a"]

    spec = ({"a": tf.TensorSpec((4, 3), tf.float32)}, tf.TensorSpec((4,), tf.int32))
    assert model_building.unknown_inputs(linear(), spec) is None
    found = model_building.unknown_inputs(Mine(), spec)
    assert found == {"a": tf.TensorSpec((None, 3), tf.float32)}


# -- generators


def test_eager_op_seeds_come_from_the_context():
    """`context()._rng` gives the op seeds: put back, the same ones come again."""
    from persist_callbacks.training import randomness

    tf.random.set_seed(5)
    stream = randomness.eager_seed_stream()
    state = stream.getstate()
    one = tf.random.uniform([3])
    assert stream.getstate() != state
    tf.random.set_seed(5)
    randomness.eager_seed_stream().setstate(state)
    np.testing.assert_array_equal(tf.random.uniform([3]), one)


def test_keras_global_seed_generator_is_a_global_attribute():
    """Unseeded Keras ops draw from it, and its state is a variable that we find."""
    from persist_callbacks.training import randomness

    keras.random.uniform([1])
    state = dict(randomness.seed_variables())["random/keras_global"]
    before = np.asarray(state)
    keras.random.uniform([1])
    assert not np.array_equal(np.asarray(state), before)


def test_tensorflow_global_generator_is_a_module_attribute():
    """The generator of tf.random.get_global_generator is found once it is there."""
    from persist_callbacks.training import randomness

    generator = tf.random.get_global_generator()
    found = dict(randomness.seed_variables())["random/tensorflow_global"]
    assert found is generator.state


# -- iterators


def test_iterator_resource_and_restore_from_tensors():
    """An iterator's state is serialised, and put into another over the same data."""
    from persist_callbacks.training import pipeline

    dataset = tf.data.Dataset.range(6)
    one, other = iter(dataset), iter(dataset)
    next(one), next(one)
    state = pipeline.iterator_state(one, strictly=True)
    pipeline.set_iterator_state(other, state)
    assert [int(value) for value in other] == [2, 3, 4, 5]


def test_class_of_data_adapters():
    """The adapters bear the names by which arrays and Python code are told apart."""

    class Mine(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return X[:4], Y[:4]

    def generate():
        while True:
            yield X[:4], Y[:4]

    def look(loop):
        return loop.data.is_python, loop.data.ignores_random_ops

    assert loop_in(look=look)[1] == (False, True)
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    assert loop_in(look=look, data=dataset)[1] == (False, False)
    assert loop_in(look=look, data=Mine())[1] == (True, False)
    assert loop_in(look=look, data=generate(), steps_per_epoch=2)[1] == (True, False)


def test_generator_data_adapter_keeps_first_batches():
    """What Keras has drawn of a generator to look at it is there, and drawn again."""

    def look(loop):
        return loop.data._source.data_adapter._first_batches, loop.data.preview()()

    batches = ((X[:4] + n, Y[:4]) for n in range(3))
    kept, rows = loop_in(look=look, data=batches, steps_per_epoch=2, epochs=1)[1]
    np.testing.assert_array_equal(kept[0][0], X[:4])
    np.testing.assert_array_equal(rows, X[:4])


def test_standardize_batch_of_a_py_dataset_adapter_sees_every_batch():
    """It is looked up on the instance, at each batch that fit draws.

    Keras 3.7 draws them without; there, nothing is seen.
    """

    class Mine(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return X[:4] + index, Y[:4]

    seen = []

    def look(loop):
        adapter = loop.data._source.data_adapter
        whole = adapter._standardize_batch
        adapter._standardize_batch = lambda batch: (seen.append(batch), whole(batch))[1]

    loop_in(look=look, data=Mine(), epochs=1)
    assert len(seen) == (0 if keras.__version__.startswith("3.7.") else 2)


def test_fit_has_no_finally():
    """If it had, on_train_end would tell us of a fit that dies; it does not yet."""
    source = inspect.getsource(keras.Model.fit)
    assert "finally:" not in source
