"""What checkpoints cost training: measured at step boundaries, not guessed.

A checkpoint costs the time for which the train thread is held, and the slowdown of the
steps that run beside the writer: they share processors with it, and pay for copies of
what it still holds. What steps take otherwise is known from those that ran alone.

All times are seconds of one monotonic clock. Pure: it is told the time.
"""

from __future__ import annotations

import statistics
from collections import deque

# Steps that ran alone, of which the middle one is what a step takes.
_REMEMBERED = 64
_ENOUGH = 5
# The next save is expected to cost what the middle one of the last few did.
_COSTS = 5


class Overhead:
    """Adds up what saves cost; for one thread.

    Attributes:
        spent: seconds that all saves have cost so far.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self._alone: deque[float] = deque(maxlen=_REMEMBERED)
        self._costs: deque[float] = deque(maxlen=_COSTS)
        self._left_at: float | None = None
        self._beside = False
        # Of the save in flight, or of the last one until its cost is known.
        self._held = self._longer = self._covered = 0.0

    def arrive(self, now: float) -> None:
        """Note that a step has ended.

        Args:
            now: the time, before anything is done at the boundary.
        """
        if self._left_at is None:
            return
        step = now - self._left_at
        if not self._beside:
            self._alone.append(step)
        elif len(self._alone) >= _ENOUGH:
            self._longer += step - statistics.median(self._alone)
            self._covered += step

    def leave(self, now: float, *, beside: bool) -> None:
        """Note that a step begins.

        Args:
            now: the time, after all that is done at the boundary.
            beside: whether a save is in flight.
        """
        self._left_at, self._beside = now, beside

    def pause(self) -> None:
        """Note that what comes next is no step: an epoch's end, say."""
        self._left_at = None

    def begin(self, held: float) -> None:
        """Note that a save is in flight.

        Args:
            held: seconds for which the train thread was held.
        """
        self._held, self._longer, self._covered = held, 0.0, 0.0

    def end(self, wall: float) -> float:
        """Note that the save in flight is done.

        For the part of its time in which no step was measured, all of it counts: that
        is the most it can have cost.

        Args:
            wall: seconds that the writer took.

        Returns:
            Seconds that it has cost.
        """
        unmeasured = max(0.0, wall - self._covered)
        longer = min(max(self._longer, 0.0), wall - unmeasured)
        cost = self._held + longer + unmeasured
        self._held = self._longer = self._covered = 0.0
        self._costs.append(cost)
        self.spent += cost
        return cost

    def charge(self, held: float) -> None:
        """Count what the train thread was held for when no save followed.

        Args:
            held: seconds.
        """
        self.spent += held

    @property
    def expected(self) -> float | None:
        """Seconds that the next save will cost; None before the first is done."""
        return statistics.median(self._costs) if self._costs else None
