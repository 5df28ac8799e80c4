"""A data set's own state goes through JSON and comes back."""

from __future__ import annotations

import json
import random
from collections import Counter
from threading import Lock

import keras
import numpy as np
import pytest
import tensorflow as tf

from persist_callbacks.errors import ArgumentError
from persist_callbacks.training import json_values, prints, python_data


class Noise:
    """An augmenter that a data set holds."""

    def __init__(self):
        self.rng = np.random.default_rng(1)


class Rows:
    """A data set that draws from whatever it was given."""

    def __init__(self, *sources):
        self.sources = list(sources)
        self.noise = Noise()
        self.other = {"random": random.Random(2)}

    def draw(self):
        own = [
            source.random() if isinstance(source, random.Random) else source.normal()
            for source in self.sources
        ]
        return [*own, self.noise.rng.normal(), self.other["random"].random()]


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.random.Generator(np.random.PCG64(5)),
        lambda: np.random.Generator(np.random.Philox(5)),
        lambda: np.random.Generator(np.random.SFC64(5)),
        lambda: np.random.Generator(np.random.MT19937(5)),
        lambda: np.random.RandomState(5),
        lambda: random.Random(5),
    ],
)
def test_generators_go_on(make):
    """Of every kind, wherever the data set keeps them."""
    first = Rows(make())
    first.draw()
    saved = json.loads(json.dumps(python_data.capture(first)))
    assert sorted(saved["generators"]) == ["noise.rng", "other.random", "sources.0"]
    expected = [first.draw() for _ in range(3)]
    second = Rows(make())
    assert python_data.restore(second, saved) == []
    assert [second.draw() for _ in range(3)] == expected


class Augments:
    """A data set that augments by Keras, and by TensorFlow's generator."""

    def __init__(self, *more):
        self.layer = keras.layers.GaussianNoise(0.3, seed=3)
        self.steps = keras.Sequential(
            [
                keras.layers.RandomTranslation(0.5, 0.5, seed=1),
                keras.Sequential([keras.layers.Dropout(0.5, seed=2)]),
            ]
        )
        self.seeds = keras.random.SeedGenerator(5)
        self.generator = tf.random.Generator.from_seed(4)
        self.more = more

    def draw(self):
        image = np.arange(48, dtype="float32").reshape(1, 4, 4, 3)
        drawn = [
            self.layer(image, training=True),
            self.steps(image, training=True),
            keras.random.normal((2,), seed=self.seeds),
            self.generator.normal([2]),
        ]
        return [np.asarray(each).tolist() for each in drawn]


def test_generators_of_keras_and_tensorflow_go_on():
    """Wherever they are, in layers of layers too."""
    first = Augments()
    first.draw()
    saved = json.loads(json.dumps(python_data.capture(first)))
    assert sorted(saved["generators"]) == [
        "generator",
        "layer.seeds.0",
        "seeds",
        "steps.seeds.0",
        "steps.seeds.1",
    ]
    expected = [first.draw() for _ in range(3)]
    second = Augments()
    assert python_data.restore(second, saved) == []
    assert [second.draw() for _ in range(3)] == expected


def test_a_state_of_another_kind_is_left_out():
    """Of another shape, or no state at all."""
    data = Augments()
    for wrong in ([1, 2, 3, 4, 5], "a", None):
        saved = {"generators": {"seeds": wrong, "generator": wrong}}
        assert python_data.restore(data, saved) == [
            "Augments has not the generator seeds that it had",
            "Augments has not the generator generator that it had",
        ]


@pytest.mark.parametrize(
    "wrong",
    [None, 3, [], (), {}, {"bit_generator": "PCG64"}, (3, (2**70,) * 625, None)],
)
def test_a_state_that_is_none_of_a_generator_is_left_out(wrong):
    """As a file may have it that was made to be read."""
    data = Rows(np.random.RandomState(1), np.random.default_rng(1))
    paths = ["other.random", "noise.rng", "sources.0", "sources.1"]
    wrong = json_values.encode(wrong, where="x")
    saved = {"generators": dict.fromkeys(paths, wrong)}
    left_out = python_data.restore(data, saved)
    assert left_out == [
        f"Rows has not the generator {path} that it had" for path in paths
    ]


@pytest.mark.parametrize("position", [-(2**30), -1, 625, 2**30])
@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: np.random.RandomState(1), ("state", "pos")),
        (lambda: np.random.Generator(np.random.MT19937(1)), ("state", "pos")),
        (lambda: np.random.Generator(np.random.Philox(1)), ("buffer_pos",)),
    ],
)
def test_a_position_beyond_a_generators_words_is_left_out(make, where, position):
    """Older versions of NumPy would take it, and read what lies there."""
    data = Rows(make())
    saved = python_data.capture(data)
    *outer, last = where
    place = saved["generators"]["sources.0"]
    for name in outer:
        place = place[name]
    assert last in place
    place[last] = position
    expected = Rows(make()).draw()
    assert python_data.restore(data, saved) == [
        "Rows has not the generator sources.0 that it had"
    ]
    assert data.draw() == expected


def test_what_a_trained_network_draws_by_is_not_the_datas():
    """Put back where the data begin anew, it would draw as it has drawn before."""
    trained = keras.Sequential([keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    trained.compile("sgd", "mse")
    part = keras.Sequential([keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    part.build((None, 2))
    found = dict(python_data.generators(Augments(trained, part)))
    assert not any(path.startswith("more") for path in found)
    assert len(found) == 5


class Labels(dict):
    """Labels of many pictures, which take their time to go through."""

    def items(self):
        raise AssertionError("nobody goes through them")


def test_a_long_dict_is_not_gone_through():
    """Once an epoch and more, it takes seconds; a short one may be of augmenters."""
    first = Rows()
    first.labels = Labels({f"{number}.png": number for number in range(101)})
    assert list(python_data.capture(first)["generators"]) == [
        "noise.rng",
        "other.random",
    ]


def test_generators_that_are_not_there_any_more():
    """Named in the report; the others are put back all the same."""
    first = Rows(np.random.default_rng(5), random.Random(1))
    saved = python_data.capture(first)
    expected = first.draw()[2:]
    second = Rows(random.Random(1))
    left_out = python_data.restore(second, saved)
    assert left_out == [
        "Rows has not the generator sources.0 that it had",
        "Rows has not the generator sources.1 that it had",
    ]
    assert second.draw()[1:] == expected


def test_what_has_no_state_is_left_alone():
    """The operating system's randomness, modules, and a data set that holds itself."""
    data = Rows(random.SystemRandom())
    data.module, data.itself, data.sources = np.random, data, []
    assert sorted(path for path, _ in python_data.generators(data)) == [
        "noise.rng",
        "other.random",
    ]


class Counts(Rows):
    """A data set with the two methods."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def get_state(self):
        return {"count": self.count, "order": np.arange(3)}

    def set_state(self, state):
        assert state["order"].tolist() == [0, 1, 2]
        self.count = state["count"]


def test_two_methods_of_its_own():
    """They stand before what could be found without them."""
    first = Counts()
    first.count = 7
    saved = json.loads(json.dumps(python_data.capture(first)))
    assert list(saved) == ["state"]
    second = Counts()
    assert python_data.restore(second, saved) == []
    assert second.count == 7
    assert python_data.restore(Rows(), saved) == ["Rows has no set_state() any more"]


class Growing:
    """A data set whose batches tell how many there were."""

    def __init__(self):
        self.size, self.total, self.seen, self.last, self.log = 8, 0.5, 0, 0, []

    def __getitem__(this, index):
        this._count()
        this.total = 2 * this.total
        this.last = index
        this.log += [this.size]
        return this.total + this.seen

    def _count(self):
        self.seen += 1


def test_what_a_data_set_counts_in_goes_on():
    """What is added to, and not what is only set, or the user's to choose."""
    first = Growing()
    assert first[3] == 2.0
    saved = json.loads(json.dumps(python_data.capture(first)))
    assert saved["counted"] == {"seen": 1, "total": 1.0}
    second = Growing()
    second.size = 16
    assert python_data.restore(second, saved) == []
    assert (second.size, second.last) == (16, 0)
    assert [second[0], second[1]] == [first[0], first[1]]
    assert python_data.restore(second, {"generators": {}}) == []
    assert python_data.restore(Rows(), saved) == [
        "Rows does not count in seen any more",
        "Rows does not count in total any more",
    ]


class Visiting:
    """A data set that counts in items of what it holds."""

    def __init__(self, rows=6):
        self.visits = np.zeros(rows, "int32")
        self.mean = np.zeros(2)
        self.stage, self.seen, self.names = {"n": 0}, Counter(), [0.0, "a"]
        self.cache, self.buffer, self.fresh = {}, np.zeros(3), [0]
        self.nested = {}

    def __getitem__(self, index):
        self.visits[index] += 1
        np.add.at(self.mean, [1, 1], index + 0.1)
        self.stage["n"] = self.stage["n"] + 1
        self.seen[index] += 1
        self.names[0] += 0.5
        self.cache[index] = index
        self.buffer[:] = index
        self.buffer[1:] += 1
        self.fresh = [index]
        self.fresh[0] += 1
        if self.nested:
            self.nested["a"]["n"] += 1


COUNTED = ("visits", "mean", "stage", "seen", "names", "nested")


def test_what_it_counts_in_items_goes_on():
    """In arrays, dicts and lists, which others may hold too; a cache is left alone."""
    first = Visiting()
    for index in (1, 1, 4):
        first[index]
    saved = json.loads(json.dumps(python_data.capture(first)))
    assert sorted(saved["counted"]) == sorted([*COUNTED, "buffer"])
    first[5]
    second = Visiting()
    held = vars(second).copy()
    assert python_data.restore(second, saved) == []
    second[5]
    for name in COUNTED:
        assert getattr(second, name) is held[name]
        assert repr(getattr(second, name)) == repr(getattr(first, name))
    assert second.cache == {5: 5}


class Remembering(keras.utils.PyDataset):
    """Looks batches up, in ways that name what they are kept in twice."""

    def __init__(self):
        super().__init__()
        self.kept, self.sums = {}, {}

    def __len__(self):
        return 2

    def __getitem__(self, index):
        self.kept[index] = self.kept[index] if index in self.kept else np.ones(9)
        self.kept[-1] = self.kept.get(index) or 1 if index < 0 else 1
        self.sums[index] = self.sums.get(index, 0) + self.kept[index]
        return self.kept[index]


def test_batches_that_are_kept_are_no_counts():
    """A checkpoint would hold them all; what is summed up in them is told of."""
    data = Remembering()
    changes = forgotten(data)
    data[0], data[1]
    changes.own_part_ends()
    changes.others_part_ends()
    assert python_data.capture(data)["counted"] == {}
    assert changes.found() == ["Remembering.sums"]


class Unreadable:
    def __repr__(self):
        raise ValueError("not whole yet")


def test_what_no_print_can_be_taken_of_is_left_alone():
    """Neither is training ended by it."""
    data = Remembering()
    data.parts = np.array([Unreadable()] * 3)
    changes = forgotten(data)
    changes.own_part_ends()
    assert changes.found() == []


def test_counts_of_another_kind_are_left_out():
    """Of another shape or type, or what a file that was made has in their place."""
    saved = python_data.capture(Visiting(7))
    second = Visiting()
    second.stage, second.names, second.seen["a"] = [1], {"b": 1}, 1
    assert python_data.restore(second, saved) == [
        "Visiting does not count in names any more",
        "Visiting does not count in stage any more",
        "Visiting does not count in visits any more",
    ]
    for wrong in (None, 3, "ab", [[1]], {"n": []}):
        counted = dict.fromkeys(COUNTED, wrong)
        left_out = python_data.restore(
            Visiting(), {"generators": {}, "counted": counted}
        )
        assert "Visiting does not count in visits any more" in left_out


def forgotten(data, *variables):
    ids = {id(prints.inner(each)) for each in variables}
    return python_data.ForgottenChanges(data, lambda: ids)


class Curriculum(Visiting):
    """A data set that a callback has its part in."""

    def __init__(self):
        super().__init__()
        self.difficulty, self.hard, self.labels, self.last = 1, [], None, 0
        self.order, self.indexes = np.arange(50_000), np.arange(50_000)
        self.noise, self.rate = Noise(), tf.Variable(0.5)
        self.noise.strength, self.lock = 0.2, Lock()

    def on_epoch_end(self):
        self.noise.rng.shuffle(self.indexes)


def epoch_of(data, watch, change=lambda data: None):
    """What happens in an epoch, and what is found after it."""
    data[0]
    data.last += 1
    data.on_epoch_end()
    watch.own_part_ends()
    change(data)
    watch.others_part_ends()
    return watch.found()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda data: setattr(data, "difficulty", data.difficulty + 1), "difficulty"),
        (lambda data: data.hard.append(0.3), "hard"),
        (lambda data: setattr(data, "order", data.order[::-1]), "order"),
        (lambda data: np.random.default_rng(1).shuffle(data.order), "order"),
        (lambda data: setattr(data.noise, "strength", 0.1), "noise"),
        (lambda data: data.rate.assign_add(0.1), "rate"),
    ],
)
def test_what_others_change_is_named_once(change, name):
    """In the first epoch that they do it in, and from then on no more."""
    data = Curriculum()
    watch = forgotten(data)
    assert epoch_of(data, watch) == []
    assert epoch_of(data, watch, change) == [f"Curriculum.{name}"]
    assert epoch_of(data, watch, change) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.on_epoch_end(),
        lambda data: data[3],
        lambda data: setattr(data, "labels", [1, 2]),
        lambda data: setattr(data, "more", [1, 2]),
        lambda data: setattr(data, "last", 0),
        lambda data: data.noise.rng.normal(),
        lambda data: data.visits.fill(7),
        lambda data: data.rate.assign_add(0.1),
    ],
)
def test_what_is_put_back_or_its_own_is_not_named(change):
    """Nor what was looked up in it, nor a variable of the model's."""
    data = Curriculum()
    watch = forgotten(data, data.rate)
    for _ in range(2):
        assert epoch_of(data, watch, change) == []


def test_what_is_too_large_to_be_put_back_is_named():
    """And what is not flat; not what each batch sets."""
    data = Curriculum()
    data.visits, data.buffer = np.zeros(50_000), np.zeros((50_000, 3))
    data.seen, data.nested = Counter(range(5000)), {"a": {"n": 0}}
    watch = forgotten(data)

    def all_rows(data):
        for index in range(0, 50_000, 7):
            data[index]

    all_rows(data)
    names = ["nested", "seen", "visits"]
    assert epoch_of(data, watch) == [f"Curriculum.{name}" for name in names]
    assert epoch_of(data, watch) == []


def test_a_cache_that_workers_fill_in_other_processes():
    """Here it is filled by a callback that asks for a batch."""
    data = Curriculum()
    data.use_multiprocessing = True
    watch = forgotten(data)
    watch.own_part_ends()
    data.cache[3], data.difficulty = 3, 2
    watch.others_part_ends()
    assert watch.found() == ["Curriculum.difficulty"]


def test_a_data_set_without_source():
    """Nothing is known of what it counts in."""
    scope = {"Growing": Growing}
    exec("class Made(Growing):\n def __getitem__(self, i): self.seen += 1", scope)
    assert python_data.capture(scope["Made"]())["counted"] == {}


def test_a_state_that_json_cannot_hold():
    """The error names the method."""

    class Bad(Counts):
        def get_state(self):
            return {"open": object()}

    with pytest.raises(ArgumentError, match=r"Bad\.get_state\(\)/open"):
        python_data.capture(Bad())
