from __future__ import annotations

import math

import numpy as np
import pytest

from persist_callbacks.errors import ArgumentError
from persist_callbacks.storage.schedule import (
    Moment,
    Past,
    Reason,
    Triggers,
    due,
    interval,
)

START = 1000.0


def ask(
    triggers: Triggers,
    *,
    after: float = 0.0,
    step: int = 0,
    epoch: int = 0,
    at_epoch_end: bool = False,
    left: float | None = None,
    saved_after: float = 0.0,
    saved_step: int = 0,
    saved_epoch: int = 0,
    spent: float = 0.0,
    expected: float = 0.0,
) -> Reason | None:
    moment = Moment(
        now=START + after,
        step=step,
        epoch=epoch,
        at_epoch_end=at_epoch_end,
        epoch_seconds_left=left,
    )
    past = Past(
        started_at=START,
        saved_at=START + saved_after,
        saved_step=saved_step,
        saved_epoch=saved_epoch,
        spent_seconds=spent,
        expected_seconds=expected,
    )
    return due(triggers, moment, past)


@pytest.mark.parametrize(
    ("every", "step", "saved_step", "answer"),
    [
        (10, 9, 0, None),
        (10, 10, 0, Reason.STEPS),
        (10, 12, 0, Reason.STEPS),
        (10, 20, 12, None),
        (10, 24, 12, Reason.STEPS),
        (1, 7, 7, None),
    ],
)
def test_every_steps(
    every: int, step: int, saved_step: int, answer: Reason | None
) -> None:
    """Steps count from the last save, so boundaries may jump over multiples."""
    triggers = Triggers(every_steps=every)
    assert ask(triggers, step=step, saved_step=saved_step) is answer


@pytest.mark.parametrize(
    ("after", "saved_after", "step", "answer"),
    [
        (59.9, 0.0, 5, None),
        (60.0, 0.0, 5, Reason.SECONDS),
        (119.0, 60.0, 5, None),
        (500.0, 0.0, 0, None),
    ],
)
def test_every_seconds(
    after: float, saved_after: float, step: int, answer: Reason | None
) -> None:
    """Seconds count from the last save, and never save the same step twice."""
    triggers = Triggers(every_seconds=60)
    assert ask(triggers, after=after, saved_after=saved_after, step=step) is answer


@pytest.mark.parametrize(
    ("epoch", "saved_epoch", "at_end", "answer"),
    [
        (1, 0, True, None),
        (2, 0, True, Reason.EPOCHS),
        (2, 0, False, None),
        (5, 2, True, Reason.EPOCHS),
        (3, 2, True, None),
    ],
)
def test_every_epochs(
    epoch: int, saved_epoch: int, at_end: bool, answer: Reason | None
) -> None:
    """Epochs count when they are complete, and only at their end."""
    triggers = Triggers(every_epochs=2)
    found = ask(triggers, epoch=epoch, saved_epoch=saved_epoch, at_epoch_end=at_end)
    assert found is answer


def test_an_epoch_end_is_due_though_its_last_step_was_saved() -> None:
    """The state at an epoch's end differs from the one at its last step."""
    triggers = Triggers(every_steps=10, every_epochs=1)
    found = ask(triggers, step=10, saved_step=10, epoch=1, at_epoch_end=True)
    assert found is Reason.EPOCHS


@pytest.mark.parametrize(
    ("step", "after", "epoch", "at_end", "answer"),
    [
        (100, 1, 0, False, Reason.STEPS),
        (100, 30, 1, True, Reason.EPOCHS),
        (1, 30, 0, False, Reason.SECONDS),
        (1, 1, 1, True, Reason.EPOCHS),
        (1, 1, 1, False, None),
    ],
)
def test_triggers_are_or_ed(
    step: int, after: float, epoch: int, at_end: bool, answer: Reason | None
) -> None:
    """Any of the given triggers is enough by itself."""
    triggers = Triggers(every_steps=100, every_seconds=30, every_epochs=1)
    found = ask(triggers, step=step, after=after, epoch=epoch, at_epoch_end=at_end)
    assert found is answer


@pytest.mark.parametrize(
    ("max_overhead", "after", "spent", "expected", "answer"),
    [
        (None, 1, 100.0, 100.0, Reason.STEPS),
        (0.1, 99, 5.0, 5.0, None),
        (0.1, 100, 5.0, 5.0, Reason.STEPS),
        (0.5, 20, 5.0, 5.0, Reason.STEPS),
    ],
)
def test_max_overhead_is_a_ceiling(
    max_overhead: float | None,
    after: float,
    spent: float,
    expected: float,
    answer: Reason | None,
) -> None:
    """A given trigger holds exactly until what it costs exceeds its share of time."""
    triggers = Triggers(every_steps=1, max_overhead=max_overhead)
    found = ask(triggers, step=1, after=after, spent=spent, expected=expected)
    assert found is answer


@pytest.mark.parametrize(
    ("case", "answer"),
    [
        ({"after": 99.0, "expected": 1.0}, None),
        ({"after": 100.0, "expected": 1.0}, Reason.BUDGET),
        ({"after": 100.0, "expected": 1.0, "spent": 0.1}, None),
        ({"after": 100.0, "expected": 1.0, "left": 50.0}, None),
        ({"after": 100.0, "expected": 1.0, "left": 500.0}, Reason.BUDGET),
        (
            {"after": 100.0, "expected": 1.0, "left": 0.0, "at_epoch_end": True},
            Reason.BUDGET,
        ),
        ({"after": 299.0, "expected": 1.0, "left": 50.0}, None),
        ({"after": 300.0, "expected": 1.0, "left": 50.0}, Reason.BUDGET),
        ({"after": 900.0, "expected": 1.0, "saved_after": 850.0}, None),
        ({"after": 900.0, "expected": 1.0, "step": 0}, None),
        ({"after": 0.001, "expected": 0.0}, Reason.BUDGET),
    ],
)
def test_without_triggers_the_budget_decides(
    case: dict[str, float], answer: Reason | None
) -> None:
    """One percent of wall time: epoch ends preferred, no later than five minutes."""
    assert ask(Triggers(), **{"step": 1} | case) is answer


def test_the_budget_holds_over_a_long_run() -> None:
    """Simulated for ten hours, saves of two seconds stay within 1 % and 300 s."""
    triggers = Triggers()
    now, spent, saved_at, saved_step, gaps = START, 0.0, START, 0, []
    for step in range(1, 36_000):
        now += 1.0
        moment = Moment(
            now=now, step=step, epoch=step // 70, epoch_seconds_left=70 - step % 70
        )
        past = Past(
            started_at=START,
            saved_at=saved_at,
            saved_step=saved_step,
            saved_epoch=0,
            spent_seconds=spent,
            expected_seconds=2.0,
        )
        if due(triggers, moment, past):
            gaps.append(now - saved_at)
            spent, saved_at, saved_step = spent + 2.0, now, step
    assert spent <= 0.01 * (now - START)
    assert len(gaps) > 100
    assert min(gaps) >= 200.0
    assert max(gaps) <= 301.0


@pytest.mark.parametrize(
    ("triggers", "seconds"),
    [
        (Triggers(), 200.0),
        (Triggers(max_overhead=0.1), 20.0),
        (Triggers(every_steps=5, max_overhead=0.5), 4.0),
        (Triggers(every_steps=5), 0.0),
    ],
)
def test_interval(triggers: Triggers, seconds: float) -> None:
    """What the budget pays for, with a save that costs two seconds."""
    past = Past(
        started_at=0, saved_at=0, saved_step=0, saved_epoch=0, expected_seconds=2.0
    )
    assert interval(triggers, past) == pytest.approx(seconds)


@pytest.mark.parametrize("name", ["every_steps", "every_epochs"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_counts_are_checked(name: str, value: object) -> None:
    """A count that is none is refused by the argument's name."""
    message = rf"{name}: expected a whole number of 1 or more.*found {value!r}"
    with pytest.raises(ArgumentError, match=message):
        Triggers(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("every_seconds", 0),
        ("every_seconds", -1.0),
        ("every_seconds", math.nan),
        ("every_seconds", math.inf),
        ("every_seconds", "60"),
        ("max_overhead", 0.0),
        ("max_overhead", 1.0),
        ("max_overhead", 5),
        ("max_overhead", True),
    ],
)
def test_numbers_are_checked(name: str, value: object) -> None:
    """A share or a time that is none is refused by the argument's name."""
    with pytest.raises(ArgumentError, match=f"{name}: expected a number above 0"):
        Triggers(**{name: value})  # type: ignore[arg-type]


def test_numpy_numbers_are_numbers() -> None:
    """Arguments computed with NumPy are as good as Python's own."""
    triggers = Triggers(every_steps=np.int64(3), every_seconds=np.float32(1.5))  # type: ignore[arg-type]
    assert ask(triggers, step=3) is Reason.STEPS
