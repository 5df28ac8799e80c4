"""What a data set changes at an epoch's end is found, saved and put back."""

from __future__ import annotations

import dataclasses
import json
import operator
import random
from collections import deque

import keras
import numpy as np
import pytest

from persist_callbacks.training import order_values, orders
from persist_callbacks.training.orders import Order

ROWS = 300


class Picture:
    """An object of the user's, that is itself alone."""

    def __init__(self, number):
        self.number = number


class Sampler:
    """What a data set may leave its order to."""

    def __init__(self):
        self.rows = list(range(ROWS))
        self.rate = 0.0

    def mix(self):
        random.shuffle(self.rows)
        self.rate = random.random()


class Shuffling(keras.utils.PyDataset):
    """Every kind of order, each changed in its own way."""

    def __init__(self):
        super().__init__()
        self.rows = np.arange(ROWS)
        self.few = np.arange(5, dtype="uint8")
        self.images = np.arange(4 * ROWS, dtype="float32").reshape(ROWS, 4)
        self.files = np.array([f"{number}.png" for number in range(ROWS)])
        self.objects = np.array([Picture(n) for n in range(ROWS)], dtype=object)
        self.names = [f"{number}.png" for number in range(5000)]
        self.pictures = [Picture(number) for number in range(ROWS)]
        self.pairs = [(str(number), number) for number in range(ROWS)]
        self.numbers, self.scalars = list(range(ROWS)), list(np.arange(ROWS))
        self.batches = np.array_split(np.arange(ROWS), 7)
        self.lists = [[number, number + 1] for number in range(ROWS)]
        self.once = (1, 2)
        self.seed, self.scale = 0, np.float32(1)
        self.sampler = Sampler()
        self.stays, self.labels = np.arange(ROWS), dict.fromkeys(range(5000), 0)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return np.zeros((1, 1)), np.zeros(1)

    def on_epoch_end(self):
        for each in (self.rows, self.few, self.files, self.objects):
            np.random.shuffle(each)
        for each in (self.names, self.pictures, self.pairs, self.numbers):
            random.shuffle(each)
        self.images = self.images[np.random.permutation(ROWS)]
        self.scalars = list(np.random.permutation(ROWS))
        self.batches = np.array_split(np.random.permutation(ROWS), 7)
        self.lists = [[random.randrange(9), 1] for _ in range(ROWS)]
        self.once = tuple(random.sample(range(ROWS), 20))
        self.seed, self.scale = random.randrange(2**60), np.float32(random.random())
        self.sampler.mix()


def values_of(data):
    """All that a data set goes by, as text."""

    def told(value):
        if isinstance(value, Picture):
            return value.number
        if isinstance(value, (list, np.ndarray)):
            kind = getattr(value, "dtype", "list")
            return [str(kind), np.shape(kind), [told(part) for part in value]]
        return type(value).__name__, repr(value)

    parts = {**vars(data), **vars(data.sampler)}
    return {
        name: told(value)
        for name, value in parts.items()
        if name != "sampler" and not name.startswith("_")
    }


def end_epoch(data, found):
    with found.found_here():
        data.on_epoch_end()


def through_json(order):
    return Order(json.loads(json.dumps(order.record)), order.arrays)


def test_every_order_comes_back():
    """Wherever the generators are that it was shuffled by."""
    first = Shuffling()
    found = orders.of(first)
    assert found.take("data") == Order()
    for _ in range(2):
        end_epoch(first, found)
    saved = through_json(found.take("data"))
    assert {"rows", "names", "sampler.rows", "sampler.rate"} <= saved.record.keys()
    assert not {"stays", "labels"} & saved.record.keys()
    assert all(name.startswith("data/order/") for name in saved.arrays)
    assert found.doubts() == []

    second = Shuffling()
    other = orders.of(second)
    for _ in range(2):
        end_epoch(second, other)
    held = second.rows, second.names, second.pairs
    assert values_of(second) != values_of(first)
    assert other.put_back(saved) == []
    assert values_of(second) == values_of(first)
    # Others may hold what has been shuffled where it is.
    now = second.rows, second.names, second.pairs
    assert all(map(operator.is_, now, held))


def test_what_is_saved_is_a_copy():
    """A write in the background has the values from when they were taken."""
    data = Shuffling()
    found = orders.of(data)
    end_epoch(data, found)
    saved = found.take("data")
    before = saved.arrays["data/order/rows"].copy()
    end_epoch(data, found)
    assert np.array_equal(saved.arrays["data/order/rows"], before)


def test_what_has_not_changed_is_not_copied_again():
    """A checkpoint each hundred steps costs no copy of a long order each."""
    data = Shuffling()
    found = orders.of(data)
    end_epoch(data, found)
    one, other = found.take("data"), found.take("data")
    assert one.arrays["data/order/rows"] is other.arrays["data/order/rows"]
    assert one.arrays["data/order/names"] is other.arrays["data/order/names"]
    data.rows[[0, 1]] = data.rows[[1, 0]]
    last = found.take("data")
    assert np.array_equal(last.arrays["data/order/rows"], data.rows)
    assert "data/validation/order/rows" in found.take("data/validation").arrays


class Halves(keras.utils.PyDataset):
    """An order of two parts, each of which is shuffled by itself."""

    def __init__(self):
        super().__init__()
        self.rows = np.arange(ROWS)
        self.halves = {"a": self.rows[:150], "b": [self.rows[150:], self.rows[:0]]}

    def on_epoch_end(self):
        np.random.shuffle(self.halves["a"])
        np.random.shuffle(self.halves["b"][0])


def test_what_is_a_part_of_another_stays_one():
    """The next epoch's end shuffles the order by its parts."""
    first, second = Halves(), Halves()
    end_epoch(first, orders.of(first))
    saved = through_json(orders.of(first).take("data"))
    assert saved.record.keys() == {"rows"}
    assert orders.of(second).put_back(saved) == []
    assert np.array_equal(second.rows, first.rows)
    for data in (first, second):
        np.random.seed(1)
        data.on_epoch_end()
    assert np.array_equal(second.rows, first.rows)


class Doubtful(keras.utils.PyDataset):
    """What no checkpoint holds, and a little that it does."""

    def __init__(self):
        super().__init__()
        self.rows, self.many = np.arange(9), np.zeros(2_100_000)
        self.made, self.line = [object()], deque([1])
        self.wide, self.own = np.zeros(3, complex), []

    def on_epoch_end(self):
        np.random.shuffle(self.rows)
        self.many = np.random.random(2_100_000)
        self.made, self.line, self.wide = [object()], deque([1, 2]), self.wide + 1
        self.own = [self.own]
        self.own.append(self.own)


def test_what_is_not_saved_is_in_doubt():
    """Named, with what that means; what is shuffled with it is not saved either."""
    data = Doubtful()
    found = orders.of(data)
    end_epoch(data, found)
    assert found.take("data") == Order()
    told = found.doubts()
    assert [doubt.split(" ")[0] for doubt in told] == [
        f"Doubtful.{name}" for name in ("line", "made", "many", "own", "wide")
    ]
    assert "larger than the 16 MB" in told[2]
    assert all("exact if nothing else draws" in doubt for doubt in told)


class Pairs(keras.utils.PyDataset):
    """Rows and labels that are shuffled together, and what workers fill meanwhile."""

    def __init__(self, rows=ROWS, more=()):
        super().__init__()
        self.x, self.y = np.arange(rows), list(range(rows))
        self.names = [np.str_(number) for number in range(rows)]
        self.cache, self.more = {}, list(more)

    def on_epoch_end(self):
        mixed = np.random.permutation(len(self.x))
        self.x = self.x[mixed]
        self.y = [self.y[n] for n in mixed]
        # Items that NumPy makes anew.
        self.names = list(np.array(self.names)[mixed])
        self.cache[len(self.cache)] = 1
        for each in self.more:
            random.shuffle(each)


def ended(data, times=1):
    for _ in range(times):
        end_epoch(data, orders.of(data))
    return data


def test_what_is_shuffled_together_stays_together():
    """All of it is put back or none: a row has its own label whatever happens."""
    first, second = ended(Pairs()), ended(Pairs())
    saved = through_json(orders.of(first).take("data"))
    assert saved.record.keys() == {"x", "y", "names"}
    assert orders.of(second).put_back(saved) == []
    assert second.y == first.y == second.x.tolist()
    assert second.names == first.names
    # One that has fewer rows by now.
    fewer = ended(Pairs(48))
    left_out = orders.of(fewer).put_back(saved)
    assert all("another length" in sentence for sentence in left_out[:2])
    assert len(left_out) == 3
    assert fewer.y == fewer.x.tolist()
    # And one with lists that change inside, of which no place tells.
    odd = ended(Pairs(more=[list(range(9)), ["a", "b", "c", "d", "e"]]))
    assert orders.of(odd).take("data") == Order()
    assert [doubt.split(" ")[0] for doubt in orders.of(odd).doubts()] == ["Pairs.more"]


def test_what_has_another_name_is_not_written_to():
    """As of two orders, of which an epoch takes one."""

    class Either(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.easy, self.hard = np.arange(3), np.arange(3, 6)
            self.now = self.easy

        def on_epoch_end(self):
            self.now = self.easy if self.now is self.hard else self.hard

    first, second = ended(Either()), ended(Either(), 2)
    assert orders.of(second).put_back(orders.of(first).take("data")) == []
    assert second.now.tolist() == [3, 4, 5]
    assert second.easy.tolist() == [0, 1, 2]


def test_what_cannot_be_looked_at_ends_nothing():
    """A list that a worker makes shorter meanwhile, or an object that raises."""

    class Raises(list):
        def __iter__(self):
            raise RuntimeError("changed")

    class Odd(np.ndarray):
        @property
        def dtype(self):
            raise RuntimeError("changed")

    data = Pairs()
    data.odd = (Raises([1]), np.arange(3).view(Odd))
    ended(data)
    orders.of(data).take("data")


def test_a_data_set_that_is_equal_to_another():
    """One that is no key of a dict, as a dataclass, is known by itself."""

    @dataclasses.dataclass
    class Equal(Halves):
        seed: int = 1

        def __post_init__(self):
            super().__init__()

    one, other = Equal(), Equal()
    end_epoch(one, orders.of(one))
    assert orders.of(one).take("data").record.keys() == {"rows"}
    assert orders.of(other) is not orders.of(one)
    assert orders.of(other).take("data") == Order()


def test_a_data_set_that_is_told_of_nothing():
    """One that changes by itself is not looked at."""

    class Plain(keras.utils.PyDataset):
        rows = None

    data = Plain()
    found = orders.of(data)
    with found.found_here():
        data.rows = [1]
    assert found.take("data") == Order()


@pytest.mark.parametrize(
    "value",
    [
        ["places", 7, [{"$array": ["int32", [1], [0]]}, [1]]],
        ["places", ROWS, [{"$array": ["int32", [1], [ROWS]]}, [1]]],
        ["places", ROWS, [{"$array": ["int32", [1], [-1]]}, [1]]],
        ["array", {"$tensor": "not there"}],
        ["split", False, *2 * [[{"$array": ["int32", [2], [3, 4]]}, [2]]]],
    ],
)
def test_an_order_of_another_data_set_is_left_out(value):
    """Named in the report; the rest is left out with it."""
    data = Shuffling()
    saved = Order({"pictures": value, "seed": ["plain", 7], "gone.rows": ["plain", 1]})
    left_out = orders.of(data).put_back(saved)
    assert [text.split(" (")[0] for text in left_out] == [
        "Shuffling.pictures is not what it was",
        "Shuffling.gone.rows is not what it was",
    ]
    assert data.seed == 0


def test_what_packs_is_a_record():
    """The check of a file that was made lets through all that is written."""
    data = Shuffling()
    found = orders.of(data)
    end_epoch(data, found)
    for value in through_json(found.take("data")).record.values():
        order_values.check(value)
