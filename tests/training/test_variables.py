"""Variables as named tensors: keys, references, pairs, and what is refused."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.errors import ArchitectureMismatch
from persist_callbacks.training import variables
from persist_callbacks.training.references import References

X = np.random.default_rng(1).standard_normal((16, 4)).astype("float32")


def sequential(optimizer="adam"):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2, name="head"),
        ]
    )
    model.compile(optimizer, "mse")
    return model


def nested(optimizer="adam"):
    """A model in a model, a layer used twice, and one in a list of a layer's own."""

    class Block(keras.layers.Layer):
        def __init__(self, **more):
            super().__init__(**more)
            self.parts = [keras.layers.Dense(4), keras.layers.Dense(4)]

        def call(self, inputs):
            for part in self.parts:
                inputs = part(inputs)
            return inputs

    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4)
    values = Block()(inner(shared(shared(inputs))))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(values))
    model.compile(optimizer, "mse")
    return model


def collected(model):
    model.optimizer.build(model.trainable_variables)
    return variables.collect(model)


def keys(model):
    return [item.info.key for item in collected(model)]


def test_keys_are_readable():
    """A key says layer and variable; an optimizer's, what it is and what it is of."""
    assert keys(sequential(keras.optimizers.SGD(0.1, momentum=0.9))) == [
        "dense/kernel",
        "dense/bias",
        "batch_normalization/gamma",
        "batch_normalization/beta",
        "batch_normalization/moving_mean",
        "batch_normalization/moving_variance",
        "dropout/seed_generator/seed_generator_state",
        "head/kernel",
        "head/bias",
        "sgd/iteration",
        "sgd/learning_rate",
        "sgd/dense/kernel/momentum",
        "sgd/dense/bias/momentum",
        "sgd/batch_normalization/gamma/momentum",
        "sgd/batch_normalization/beta/momentum",
        "sgd/head/kernel/momentum",
        "sgd/head/bias/momentum",
        "metrics/loss/total",
        "metrics/loss/count",
    ]
    adam = keys(sequential("adam"))
    assert "adam/dense/kernel/momentum" in adam
    assert "adam/dense/kernel/velocity" in adam


@pytest.mark.parametrize("build", [sequential, nested])
def test_keys_do_not_depend_on_what_was_built_before(build):
    """Auto-numbered names start anew, in whatever process and order."""
    keras.backend.clear_session()
    first = keys(build())
    for _ in range(11):
        keras.layers.Dense(1), keras.layers.Dropout(0.1)
    sequential(), nested()
    assert keys(build()) == first
    assert len(set(first)) == len(first)
    assert not [key for key in first if "_11" in key or "dense_7" in key]


def test_two_variables_of_one_name():
    """Layers that bear the same name in different places get keys of their own."""

    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.one = keras.layers.Dense(2, name="twin")
            self.other = keras.layers.Dense(2, name="twin")

        def call(self, inputs):
            return self.one(inputs) + self.other(inputs)

    model = Twins()
    model.compile("sgd", "mse")
    model(X)
    found = keys(model)
    assert len(set(found)) == len(found)
    assert [key for key in found if key.endswith("kernel")][:1] == ["twin/kernel"]


def test_variables_that_keras_does_not_track():
    """A tf.Variable and a generator in a layer's attribute are part of training too."""

    class Counting(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.count = tf.Variable(0, name="count", trainable=False)
            self.generator = tf.random.Generator.from_seed(1)

        def call(self, inputs):
            return inputs

    model = keras.Sequential([keras.Input((4,)), Counting(), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    others = [i for i in collected(model) if i.info.role == "other"]
    assert [item.info.shape for item in others] in ([(), (3,)], [(3,), ()])
    assert "other/count" in [item.info.key for item in others]
    layer = model.layers[0]
    captured = References(others).take().open()
    layer.count.assign(5)
    expected = layer.generator.normal([2])
    variables.restore([(item.info.key, item) for item in others], captured)
    assert int(layer.count) == 0
    np.testing.assert_array_equal(layer.generator.normal([2]), expected)


class Growing(keras.regularizers.Regularizer):
    def __init__(self):
        self.factor = keras.Variable(0.1, trainable=False)

    def __call__(self, weight):
        return self.factor * keras.ops.sum(keras.ops.square(weight))


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self):
        self.rate = keras.Variable(0.1, trainable=False)

    def __call__(self, step):
        return self.rate


class Sum(keras.metrics.Metric):
    """A metric with a variable that is not Keras'."""

    def __init__(self):
        super().__init__(name="total")
        self.total = tf.Variable(0.0)

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(tf.reduce_sum(y_pred))

    def result(self):
        return self.total.value()

    def reset_state(self):
        self.total.assign(0.0)


def with_objects_of_the_users(wrap=lambda optimizer: optimizer):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(2, kernel_regularizer=Growing())]
    )
    optimizer = keras.optimizers.SGD(Falling(), name="own")
    model.compile(wrap(optimizer), "mse", metrics=[Sum()])
    return model


@pytest.mark.parametrize(
    "wrap", [lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer]
)
def test_variables_in_objects_that_hang_on_the_models_parts(wrap):
    """Those of a regularizer, a schedule and a metric, by names that tell of them."""
    models = [with_objects_of_the_users(wrap) for _ in range(2)]
    for model in models:
        glance = variables.glance(model)
        model.train_on_batch(X, np.ones((16, 2), "float32"))
        assert variables.glance(model) != glance
        assert keys(model)[-2:] == [
            "other/dense/kernel_regularizer/factor",
            "other/sgd/_learning_rate/rate",
        ]
        assert "metrics/total/total" in keys(model)
    saved = [item.info for item in collected(models[0])]
    pairs, left_out = variables.match(saved, collected(models[1]), where="here")
    assert (len(pairs), left_out) == (len(saved), [])


def test_a_metric_in_an_attribute_keeps_its_key():
    """Found before, as any other of the model's attributes."""
    model = with_objects_of_the_users()
    model.total = Sum()
    found = {item.info.key: item.info.role for item in collected(model)}
    assert found["other/Variable"] == "other"
    assert "metrics/total/total" not in found


@pytest.mark.parametrize("role", ["other", "metric"])
def test_variables_that_an_older_version_did_not_see(role):
    """Those that it saw are put back all the same, and the rest is said."""
    model = with_objects_of_the_users()
    model.own = tf.Variable(1.0)
    live = collected(model)
    last = [item for item in live if item.info.role == role][-1]
    saved = [item.info for item in live if item is not last]
    pairs, left_out = variables.match(saved, live, where="here")
    assert [key for key, _ in pairs] == [info.key for info in saved]
    assert len(left_out) == 1
    assert f"checkpoint has nothing, model has {last.info.key}" in left_out[0]


class Keeper:
    """A plain object, of those by which repositories average weights and losses."""

    def __init__(self, source):
        self.source = source
        self.view = keras.Model(source.inputs, source.layers[0].output)
        self.shadow = keras.models.clone_model(source)
        self.shadow.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        self.shadow.optimizer.build(self.shadow.trainable_variables)
        self.late = keras.Sequential([keras.layers.Dense(1)])
        self.by = {"a": [keras.metrics.Mean(), keras.metrics.Mean()]}


class Kept(keras.Model):
    """Reaches layers and metrics by plain objects, and itself by one of them."""

    def __init__(self):
        super().__init__()
        self.student = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(3),
                keras.layers.Dropout(0.5, seed=1),
            ]
        )
        self.student.keeper = Keeper(self.student)
        self.keeper = self.student.keeper
        self.keeper.shadow.__dict__["owner"] = self
        # As is done to hide one from Keras.
        self.__dict__["target"] = keras.layers.Dense(1)
        self.target.build((None, 2))

    def call(self, inputs):
        return self.student(inputs)


def kept():
    model = Kept()
    model.compile("sgd", "mse")
    return model


HELD = [
    "other/keeper/shadow/dense/kernel",
    "other/keeper/shadow/dense/bias",
    "other/keeper/shadow/dropout/seed_generator/seed_generator_state",
    "other/keeper/shadow/sgd/iteration",
    "other/keeper/shadow/sgd/learning_rate",
    "other/keeper/shadow/sgd/dense/kernel/momentum",
    "other/keeper/shadow/sgd/dense/bias/momentum",
    "other/keeper/shadow/metrics/loss/total",
    "other/keeper/shadow/metrics/loss/count",
    "other/keeper/by/a/0/total",
    "other/keeper/by/a/0/count",
    "other/keeper/by/a/1/total",
    "other/keeper/by/a/1/count",
    "other/target/kernel",
    "other/target/bias",
]
LATE = ["other/keeper/late/dense/kernel", "other/keeper/late/dense/bias"]


def test_layers_and_metrics_that_the_users_objects_hold():
    """What they have is listed once, after all that the model itself has."""
    keras.layers.Dense(1), keras.metrics.Mean()
    model = kept()
    live = collected(model)
    found = [item.info.key for item in live]
    assert sorted(found[-len(HELD) :]) == sorted(HELD)
    assert len({id(item.variable) for item in live}) == len(live)
    own = {id(variable.value) for variable in model.variables}
    others = [item for item in live if item.info.role == "other"]
    assert [item.info.key for item in others] == found[-len(HELD) :]
    assert not own & {id(item.variable) for item in others}
    # Where Keras knows of none, the same is left out.
    assert [item.info.key for item in variables.collect(model, held=False)] == [
        item.info.key for item in live if item.info.role != "other"
    ]


def test_a_held_layer_that_is_built_by_its_first_use():
    """As long as it is not, the others are put back by their keys."""
    models = [kept() for _ in range(2)]
    for model in models:
        assert not set(LATE) & set(keys(model))
    models[0].keeper.late(X)
    saved = [item.info for item in collected(models[0])]
    pairs, (sentence,) = variables.match(saved, collected(models[1]), where="here")
    missing = set(LATE)
    assert [key for key, _ in pairs] == [i.key for i in saved if i.key not in missing]
    assert all(key == item.info.key for key, item in pairs)
    assert "checkpoint has other/keeper/late/dense/kernel float32[4, 1]" in sentence
    assert "shadow" not in sentence
    models[1].keeper.late(X)
    pairs, left_out = variables.match(saved, collected(models[1]), where="here")
    assert (len(pairs), left_out) == (len(saved), [])


def test_a_key_counts_for_more_than_a_place():
    """Of two alike, the one that the checkpoint has not was made before the other."""
    live = [
        variables.LiveVariable(
            variables.VariableInfo(f"other/{name}", "other", (), "float32"),
            tf.Variable(0.0),
        )
        for name in ("late", "mean")
    ]
    pairs, (sentence,) = variables.match([live[1].info], live, where="here")
    assert pairs == [("other/mean", live[1])]
    assert "model has other/late" in sentence


def test_a_checkpoint_without_what_is_held():
    """As of an older version: its others are put back, and the rest is said."""
    model = kept()
    model.own = tf.Variable(1.0, name="own")
    live = collected(model)
    saved = [item.info for item in live if item.info.key not in HELD]
    assert saved[-1].key == "other/own"
    pairs, (sentence,) = variables.match(saved, live, where="here")
    assert [key for key, _ in pairs] == [info.key for info in saved]
    assert sentence.startswith("other variables differ: checkpoint has nothing")


def test_a_glance_sees_what_is_held():
    """A layer of a loss, say, of a model of Keras' own parts alone."""
    model = sequential()
    model.keeper = Keeper(model)
    seen = variables.glance(model)
    assert seen == variables.glance(model)
    model.keeper.late(X)
    assert seen != variables.glance(model)


def test_a_set_of_layers_is_in_the_order_of_their_names():
    """Each process has another order of its own."""
    model = sequential()
    layers = [keras.layers.Dense(1, name=f"part_{i}") for i in range(8, 12)]
    for layer in layers:
        layer.build((None, 2))
    model.__dict__["parts"] = set(reversed(layers))
    found = [i.variable for i in collected(model) if i.info.shape == (2, 1)]
    assert [id(kernel) for kernel in found] == [id(x.kernel.value) for x in layers]


def embedding(optimizer):
    model = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(50, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize(
    ("build", "kind", "jit_compile"),
    [
        (sequential, "Adam", True),
        (sequential, "SGD", False),
        (embedding, "Adam", False),
        (embedding, "SGD", True),
    ],
)
def test_what_was_captured_does_not_change(build, kind, jit_compile):
    """References are taken, and 20 further steps write elsewhere."""
    optimizers = {
        "Adam": lambda: keras.optimizers.Adam(0.1),
        "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    }
    model = build(optimizers[kind]())
    model.compile(model.optimizer, "mse", jit_compile=jit_compile)
    x = X if build is sequential else np.arange(48).reshape(16, 3).astype("int32")
    y = np.ones((16, 2), "float32")
    model.train_on_batch(x, y)
    live = variables.collect(model)
    captured = References(live).take().open()
    held = {key: np.array(tensor, copy=True) for key, tensor in captured.items()}
    for _ in range(20):
        model.train_on_batch(x, y)
    changed = 0
    for item in live:
        key = item.info.key
        np.testing.assert_array_equal(np.asarray(captured[key]), held[key])
        changed += not np.array_equal(item.variable.numpy(), held[key])
    # All but learning rate and the like, that is.
    assert changed >= len(live) - 3
    # And what was taken can be put back.
    variables.restore([(item.info.key, item) for item in live], captured)
    for item in live:
        np.testing.assert_array_equal(item.variable.numpy(), held[item.info.key])


def test_disable_copy_on_read_keeps_an_embedding_from_being_copied():
    """After a sparse read, what is captured shares the variable's buffer again."""
    variable = tf.Variable(tf.zeros([64, 8]))
    variable.sparse_read([1, 2])
    info = variables.VariableInfo("table", "model", (64, 8), "float32")
    references = References([variables.LiveVariable(info, variable)])
    variable.sparse_read([3])
    one, other = (references.take().open()["table"] for _ in range(2))
    assert np.asarray(one).ctypes.data == np.asarray(other).ctypes.data
    before = np.array(one)
    variable.scatter_update(tf.IndexedSlices(tf.ones([1, 8]), tf.constant([5])))
    np.testing.assert_array_equal(np.asarray(one), before)
    assert variable.numpy()[5].tolist() == [1.0] * 8


def test_a_distributed_variable_within_its_scope():
    """There it has no memory of its own; its first replica's is what it is."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        variable = tf.Variable([1.0, 2.0])
        info = variables.VariableInfo("x", "model", (2,), "float32")
        references = References([variables.LiveVariable(info, variable)])
        taken = references.take().open()["x"]
        variable.assign([3.0, 4.0])
        np.testing.assert_array_equal(taken, [1.0, 2.0])
        np.testing.assert_array_equal(references.take().open()["x"], [3.0, 4.0])


def test_what_is_on_another_device_comes_to_the_host():
    """By a copy, which nothing that happens there changes."""
    variable = tf.Variable(tf.range(5.0))
    elsewhere = SimpleNamespace(
        handle=variable.handle,
        dtype=variable.dtype,
        shape=variable.shape,
        device="/device:GPU:0",
    )
    info = variables.VariableInfo("x", "model", (5,), "float32")
    taken = References([variables.LiveVariable(info, elsewhere)]).take().open()["x"]
    variable.assign_add(tf.ones(5))
    assert taken.device.endswith("CPU:0")
    np.testing.assert_array_equal(taken, np.arange(5.0))


def test_a_glance_sees_new_variables():
    """A metric's, an optimizer's, those of a layer; of other models it says nothing."""
    model = sequential(keras.optimizers.SGD(0.1, momentum=0.9))
    model.compile(model.optimizer, "mse", metrics=["mae"])
    seen = [variables.glance(model)]
    assert variables.glance(model) == seen[0]
    model.train_on_batch(X, np.ones((16, 2), "float32"))
    seen.append(variables.glance(model))
    model.extra = tf.Variable(1.0)
    seen.append(variables.glance(model))
    assert None not in seen
    assert len(set(seen)) == 3
    assert variables.glance(Subclassed()) is None


class Subclassed(keras.Model):
    pass


def test_match_goes_by_structure():
    """Other names of the same architecture are paired in order."""
    saved = variables.infos(collected(nested()))
    model = nested()
    live = collected(model)
    renamed = [
        variables.VariableInfo(
            f"renamed/{i}" if info.role == "model" else info.key,
            info.role,
            info.shape,
            info.dtype,
        )
        for i, info in enumerate(saved)
    ]
    pairs, left_out = variables.match(renamed, live, where="ckpt")
    assert left_out == []
    assert [item for _, item in pairs] == live
    assert [key for key, _ in pairs][:2] == ["renamed/0", "renamed/1"]


def wider():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5),
            keras.layers.Dense(2, name="head"),
        ]
    )
    model.compile("adam", "mse")
    return model


def test_a_variable_of_unknown_shape_takes_any_that_fits():
    """As a memory that grows; what does not fit is left out, as before."""
    memory = tf.Variable(np.zeros((1, 6), "float32"), shape=(None, 6))
    info = variables.VariableInfo("other/memory", "other", (1, 6), "float32")
    live = [variables.LiveVariable(info, memory)]
    saved = dataclasses.replace(info, shape=(7, 6))
    pairs, left_out = variables.match([saved], live, where="here")
    assert left_out == []
    variables.restore(pairs, {"other/memory": np.ones((7, 6), "float32")})
    assert memory.read_value().shape == (7, 6)
    pairs, left_out = variables.match(
        [dataclasses.replace(info, shape=(7, 5))], live, where="here"
    )
    assert (pairs, len(left_out)) == ([], 1)


def test_match_refuses_another_architecture():
    """Differences are listed by name, shape and dtype, the first five of them."""
    saved = variables.infos(collected(sequential()))
    with pytest.raises(ArchitectureMismatch) as raised:
        variables.match(saved, collected(wider()), where="run/ckpt-000000001")
    assert str(raised.value) == (
        "run/ckpt-000000001: expected the model variables of this program: 4, found 9 "
        "with these differences: "
        "checkpoint has dense/kernel float32[4, 3], model has dense/kernel float32[4, "
        "5]; checkpoint has dense/bias float32[3], model has dense/bias float32[5]; "
        "checkpoint has batch_normalization/gamma float32[3], model has head/kernel "
        "float32[5, 2]; checkpoint has batch_normalization/beta float32[3], model has "
        "head/bias float32[2]; checkpoint has batch_normalization/moving_mean "
        "float32[3], model has nothing; and 4 more. "
        "Build and compile the model as when the checkpoint was made, or train into "
        "another directory. What a callback of that fit had changed by then, such as "
        "layers that it unfroze, is to be done before fit now."
    )


def test_match_refuses_another_dtype():
    """Half precision is another architecture."""
    saved = variables.infos(collected(wider()))
    keras.config.set_dtype_policy("float16")
    try:
        live = collected(wider())
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ArchitectureMismatch, match=r"float32\[4, 5\].*float16\[4, 5\]"):
        variables.match(saved, live, where="ckpt")


@pytest.mark.parametrize("names", [("RMSprop", "Adagrad"), ("Adam", "AdamW")])
def test_match_refuses_another_optimizer_of_the_same_shapes(names):
    """The same shapes mean something else to an optimizer of another class."""
    one, other = (getattr(keras.optimizers, name)() for name in names)
    saved = variables.infos(collected(sequential(one)))
    live = collected(sequential(other))
    assert [i.shape for i in saved] == [i.info.shape for i in live]
    with pytest.raises(ArchitectureMismatch, match="the optimizer variables"):
        variables.match(saved, live, where="ckpt")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop()),
            keras.optimizers.LossScaleOptimizer(keras.optimizers.Adagrad()),
        ),
        (
            keras.optimizers.Adam(use_ema=True),
            keras.optimizers.Adam(gradient_accumulation_steps=2),
        ),
        (keras.optimizers.SGD(use_ema=True), keras.optimizers.SGD(momentum=0.9)),
    ],
)
def test_match_refuses_what_an_optimizer_keeps_for_something_else(one, other):
    """Averages are no gradients, whatever the optimizer's class is or hides."""
    saved = variables.infos(collected(sequential(one)))
    live = collected(sequential(other))
    with pytest.raises(ArchitectureMismatch, match="the optimizer variables"):
        variables.match(saved, live, where="ckpt")


def test_match_leaves_metrics_out():
    """Metrics that changed are no reason to refuse weights; a sentence says so."""
    model = sequential()
    model.compile("adam", "mse", metrics=["mae"])
    model.train_on_batch(X, np.ones((16, 2)))
    saved = variables.infos(variables.collect(model))
    live = collected(sequential())
    pairs, (sentence,) = variables.match(saved, live, where="ckpt")
    assert {item.info.role for _, item in pairs} == {"model", "optimizer"}
    assert sentence.startswith("metric variables differ: checkpoint has metrics/")


def test_fingerprint():
    """Equal for one architecture under any names; another for any other."""

    def printed(model):
        return variables.fingerprint(variables.infos(collected(model)), model)

    first = printed(sequential())
    assert first.startswith("sha256:")
    assert printed(sequential()) == first
    others = [nested(), wider(), sequential("sgd"), sequential("adamw")]
    assert len({first, *map(printed, others)}) == 5


def test_a_models_own_optimizers():
    """One in an attribute, as a GAN has, is saved after the compiled one."""

    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)
            self.second = keras.optimizers.SGD(0.1)

        def call(self, inputs):
            return self.dense(inputs)

    model = Two()
    model.compile("adam", "mse")
    model(X)
    model.second.build(model.trainable_variables)
    assert variables.optimizers_of(model) == [model.optimizer, model.second]
    found = [key for key in keys(model) if key.startswith(("adam/", "sgd/"))]
    assert found[0] == "adam/iteration"
    assert found[-2:] == ["sgd/iteration", "sgd/learning_rate"]


def test_flatten_layers_lists_every_layer_of_a_model():
    """`_flatten_layers` has no public name; keys are numbered by what it lists."""
    found = nested()._flatten_layers(include_self=False)
    assert sum(isinstance(layer, keras.layers.Dense) for layer in found) == 5
