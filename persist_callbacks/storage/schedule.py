"""Save now or not: a pure function of triggers, the moment and what was saved.

All times are seconds of one monotonic clock.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from numbers import Integral, Real

from persist_callbacks.errors import ArgumentError

DEFAULT_BUDGET = 0.01
LONGEST_WAIT = 300.0


class Reason(enum.Enum):
    """What made a checkpoint due."""

    STEPS = "steps"
    SECONDS = "seconds"
    EPOCHS = "epochs"
    BUDGET = "budget"


@dataclass(frozen=True, kw_only=True)
class Triggers:
    """When the user wants checkpoints; with none given, as often as 1 % pays for.

    Args:
        every_steps: training steps from one checkpoint to the next.
        every_seconds: seconds from one checkpoint to the next.
        every_epochs: epochs from one checkpoint at an epoch's end to the next.
        max_overhead: share of wall time, between 0 and 1, that checkpoints may cost.

    Raises:
        ArgumentError: a value is not a positive number of its kind.
    """

    every_steps: int | None = None
    every_seconds: float | None = None
    every_epochs: int | None = None
    max_overhead: float | None = None

    def __post_init__(self) -> None:
        _check_count("every_steps", self.every_steps)
        _check_number("every_seconds", self.every_seconds, below=math.inf)
        _check_count("every_epochs", self.every_epochs)
        _check_number("max_overhead", self.max_overhead, below=1.0)

    @property
    def budget(self) -> float | None:
        """Share of wall time that checkpoints may cost; None for no ceiling."""
        if self.max_overhead is not None or self.is_explicit:
            return self.max_overhead
        return DEFAULT_BUDGET

    @property
    def is_explicit(self) -> bool:
        """Whether steps, seconds or epochs were given."""
        given = (self.every_steps, self.every_seconds, self.every_epochs)
        return any(value is not None for value in given)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The step boundary at which the question is asked.

    Args:
        now: seconds.
        step: training steps done.
        epoch: epochs completed, the one that ends here included.
        at_epoch_end: whether an epoch has ended here, its callbacks done.
        epoch_seconds_left: expected seconds to the end of the running epoch; None
            where nobody knows.
    """

    now: float
    step: int
    epoch: int
    at_epoch_end: bool = False
    epoch_seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Past:
    """What was saved, and what it cost.

    Args:
        started_at: seconds, when training began in this process.
        saved_at: seconds, when the last checkpoint was captured; ``started_at``
            before the first.
        saved_step: training steps done at that capture; the step that training
            began from before the first.
        saved_epoch: epochs completed at the last capture *at an epoch's end*, so
            that captures in between do not put the next such one off; the epochs
            that training began from before the first.
        spent_seconds: wall time that all checkpoints have cost so far.
        expected_seconds: wall time that the next one is expected to cost.
    """

    started_at: float
    saved_at: float
    saved_step: int
    saved_epoch: int
    spent_seconds: float = 0.0
    expected_seconds: float = 0.0


def due(triggers: Triggers, moment: Moment, past: Past) -> Reason | None:
    """Decide whether to capture a checkpoint at this step boundary.

    Returns:
        The first trigger that asks for one, or None.
    """
    if not _is_affordable(triggers, moment, past):
        return None
    if not triggers.is_explicit:
        return Reason.BUDGET if _is_worth_it(triggers, moment, past) else None
    return _asked(triggers, moment, past)


def held_back(triggers: Triggers, moment: Moment, past: Past) -> bool:
    """Whether a trigger asks for a checkpoint here that the ceiling does not allow."""
    affordable = _is_affordable(triggers, moment, past)
    return not affordable and _asked(triggers, moment, past) is not None


def _asked(triggers: Triggers, moment: Moment, past: Past) -> Reason | None:
    # Steps are counted since the last save and never taken modulo: with
    # steps_per_execution the boundaries jump over multiples.
    steps = moment.step - past.saved_step
    seconds = moment.now - past.saved_at if steps > 0 else 0.0
    epochs = moment.epoch - past.saved_epoch if moment.at_epoch_end else 0
    # First what no later boundary can make up for.
    if _reaches(epochs, triggers.every_epochs):
        return Reason.EPOCHS
    if _reaches(steps, triggers.every_steps):
        return Reason.STEPS
    if _reaches(seconds, triggers.every_seconds):
        return Reason.SECONDS
    return None


def interval(triggers: Triggers, past: Past) -> float:
    """Seconds from one checkpoint to the next that the budget pays for.

    Returns:
        The expected cost of one over the budget; 0 where there is no ceiling.
    """
    budget = triggers.budget
    return 0.0 if budget is None else past.expected_seconds / budget


def _reaches(passed: float, every: float | None) -> bool:
    return every is not None and passed >= every


def _is_affordable(triggers: Triggers, moment: Moment, past: Past) -> bool:
    budget = triggers.budget
    if budget is None:
        return True
    cost = past.spent_seconds + past.expected_seconds
    return cost <= budget * (moment.now - past.started_at)


def _is_worth_it(triggers: Triggers, moment: Moment, past: Past) -> bool:
    if moment.step <= past.saved_step:
        return False
    waited = moment.now - past.saved_at
    affordable = interval(triggers, past)
    if waited < affordable:
        # Time that went by without a save is no credit for saves in quick succession.
        return False
    left = moment.epoch_seconds_left
    return (
        moment.at_epoch_end
        or left is None
        or left > affordable
        or waited >= LONGEST_WAIT
    )


def _check_count(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ArgumentError(
            name,
            expected="a whole number of 1 or more, or None",
            found=repr(value),
            advice=f"Leave {name} out to save as often as the budget pays for.",
        )


def _check_number(name: str, value: object, *, below: float) -> None:
    if value is None:
        return
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0.0 < value < below:  # type: ignore[operator]
        limit = "" if math.isinf(below) else f" and below {below:g}"
        raise ArgumentError(
            name,
            expected=f"a number above 0{limit}, or None",
            found=repr(value),
            advice="0.01 stands for 1 %."
            if name == "max_overhead"
            else f"Leave {name} out to save as often as the budget pays for.",
        )
