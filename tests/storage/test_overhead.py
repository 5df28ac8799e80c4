"""The cost of saves, from times that are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persist_callbacks.storage.overhead import Overhead


class Clock:
    """Takes steps of given lengths."""

    def __init__(self) -> None:
        self.overhead = Overhead()
        self.now = 0.0
        self.overhead.leave(self.now, beside=False)

    def step(self, seconds: float, *, at_boundary: float = 0.0, beside: bool = False):
        self.now += seconds
        self.overhead.arrive(self.now)
        self.now += at_boundary
        self.overhead.leave(self.now, beside=beside)


def test_slower_steps_beside_the_writer_are_the_cost():
    """Ten steps of 0.1 s, a save that holds 0.01 s, and three steps beside it."""
    clock = Clock()
    for _ in range(10):
        clock.step(0.1)
    clock.step(0.1, at_boundary=0.01, beside=True)
    clock.overhead.begin(0.01)
    for seconds in (0.15, 0.12):
        clock.step(seconds, beside=True)
    clock.step(0.11)
    assert clock.overhead.end(0.35) == pytest.approx(0.01 + 0.05 + 0.02 + 0.01)
    assert clock.overhead.expected == clock.overhead.spent
    # The next ones are as long as ever.
    clock.step(0.1, beside=True)
    clock.overhead.begin(0.01)
    clock.step(0.1)
    assert clock.overhead.end(0.1) == pytest.approx(0.01)
    assert clock.overhead.spent == pytest.approx(0.1)


def test_what_was_not_measured_counts_in_full():
    """The first steps, an epoch's end: the writer's own time is the most it can be."""
    clock = Clock()
    clock.step(0.1, beside=True)
    clock.overhead.begin(0.02)
    clock.step(0.3)
    assert clock.overhead.end(0.3) == pytest.approx(0.32)
    for _ in range(10):
        clock.step(0.1)
    clock.step(0.1, beside=True)
    clock.overhead.begin(0.0)
    clock.step(0.1, beside=True)
    clock.overhead.pause()
    clock.step(50.0)
    assert clock.overhead.end(0.4) == pytest.approx(0.3)


@given(
    alone=st.lists(st.floats(0.001, 1), min_size=5, max_size=80),
    beside=st.lists(st.floats(0.001, 5), max_size=10),
    held=st.floats(0, 1),
    wall=st.floats(0, 20),
)
def test_a_cost_is_never_less_than_what_was_held(alone, beside, held, wall):
    """Nor more than that and the writer's time; nor does a lucky step pay for it."""
    clock = Clock()
    for seconds in alone:
        clock.step(seconds)
    clock.overhead.leave(clock.now, beside=True)
    clock.overhead.begin(held)
    for seconds in beside:
        clock.step(seconds, beside=True)
    cost = clock.overhead.end(wall)
    assert held <= cost <= (held + wall) * (1 + 1e-9)
    assert clock.overhead.spent == cost


def test_one_bad_save_does_not_set_the_expectation():
    """The middle one of five does."""
    clock = Clock()
    for wall in (0.1, 0.1, 30.0, 0.1, 0.2):
        clock.overhead.begin(0.0)
        clock.overhead.end(wall)
    assert clock.overhead.expected == pytest.approx(0.1)
