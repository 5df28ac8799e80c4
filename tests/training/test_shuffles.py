"""Which parts of a pipeline take seeds; fails by name when a version moves them."""

from __future__ import annotations

import pytest
import tensorflow as tf

from persist_callbacks.training import pipeline
from persist_callbacks.training.shuffles import Seeds


def rows(count=22):
    return tf.data.Dataset.range(count)


def in_function(inner):
    return rows(3).flat_map(lambda _: inner)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: rows().batch(4), []),
        (lambda: rows().shuffle(5).batch(4), [(True, 1, 1, False)]),
        (
            lambda: rows().shuffle(5).batch(4).shuffle(2),
            [(True, 1, 1, False), (False, 1, 1, False)],
        ),
        (lambda: rows().shuffle(5).repeat(1), [(True, 1, 1, False)]),
        (lambda: rows().shuffle(5).batch(4).repeat(), [(True, None, None, True)]),
        (lambda: rows().shuffle(5).repeat(3), [(True, 3, 3, True)]),
        (lambda: rows().shuffle(5).batch(4).repeat(3), [(True, 4, 3, True)]),
        (
            lambda: rows().concatenate(rows().shuffle(3)),
            [(False, 1, 1, True)],
        ),
        (lambda: rows().shuffle(5).cache(), [(True, 1, 1, True)]),
        (
            lambda: tf.data.Dataset.random(seed=1, rerandomize_each_iteration=True),
            [(True, 1, 1, False)],
        ),
    ],
)
def test_holders(make, expected):
    """When they take seeds, how often they are made and drawn, whether they go."""
    found = [
        (each.at_once, each.made, each.drawn, each.comes_back)
        for each in Seeds(make()).holders
    ]
    assert found == expected


def test_what_comes_in_one_order_alone():
    """By `_reshuffle_each_iteration`, which is true where nobody said otherwise."""
    assert Seeds(rows().shuffle(5).batch(4)).reshuffles
    once = rows().shuffle(5, reshuffle_each_iteration=False)
    assert not Seeds(once.batch(4)).reshuffles
    assert Seeds(once.shuffle(3)).reshuffles
    assert not Seeds(rows()).reshuffles


def test_what_a_function_draws_from_is_hidden():
    """Its shuffles cannot be reached."""
    assert Seeds(in_function(rows().shuffle(3))).hidden
    assert not Seeds(rows().shuffle(3).map(lambda row: row + 1)).hidden
    assert not Seeds(object()).hidden


@pytest.mark.parametrize(
    ("extend", "between"),
    [
        (lambda data: data.batch(4).repeat(), 6),
        (lambda data: data.cache().batch(4).repeat(), 6),
        (lambda data: data.repeat().batch(4), None),
    ],
    ids=["batches", "cache", "one op"],
)
def test_a_state_between_two_rounds_is_not_whole(extend, between):
    """After the last batch of a round, which is not full, a part is let go of."""
    data = extend(rows().shuffle(5, seed=1)).with_options(without_reading_ahead())
    seeds, iterator = Seeds(data), iter(data)
    lacking = []
    for drawn in range(1, 9):
        next(iterator)
        if not seeds.is_whole(pipeline.iterator_state(iterator)):
            lacking.append(drawn)
    assert lacking == ([] if between is None else [between])


def without_reading_ahead():
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return options
