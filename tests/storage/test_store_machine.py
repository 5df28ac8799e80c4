"""Two thousand operations on run directories, drawn at random, and what must hold."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from store_machine import RunDirectory

OPERATIONS = 2_000


def test_whatever_is_done_in_whatever_order() -> None:
    """Save, die, damage, prune, resume, lose, list: nothing sound is ever lost."""
    before = RunDirectory.operations
    run_state_machine_as_test(
        RunDirectory,
        settings=settings(
            max_examples=60,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )
    assert RunDirectory.operations - before >= OPERATIONS
