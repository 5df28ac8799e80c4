from __future__ import annotations

import pytest
from fake_checkpoint import record
from hypothesis import given
from hypothesis import strategies as st

from persist_callbacks.records import CheckpointRecord
from persist_callbacks.storage.retention import best, to_delete

NAN = float("nan")
INF = float("inf")


def steps_deleted(records: list[CheckpointRecord], **rules: object) -> list[int]:
    defaults = {"keep_last": 1, "keep_best": 0, "keep_every_seconds": None}
    return [int(name[5:]) for name in to_delete(records, **defaults | rules)]


@pytest.mark.parametrize(
    ("keep_last", "deleted"),
    [(0, [1, 2, 3]), (1, [1, 2, 3]), (2, [1, 2]), (4, []), (9, [])],
)
def test_keep_last(keep_last: int, deleted: list[int]) -> None:
    """The newest stay, and the very newest even where none is asked for."""
    records = [record(step) for step in (3, 1, 4, 2)]
    assert steps_deleted(records, keep_last=keep_last) == deleted


@pytest.mark.parametrize(
    ("losses", "lower", "keep_best", "deleted"),
    [
        ([3.0, 1.0, 2.0, 4.0], True, 1, [1, 3]),
        ([3.0, 1.0, 2.0, 4.0], False, 2, [2, 3]),
        ([1.0, 1.0, 1.0, 1.0], True, 1, [2, 3]),
        ([NAN, 1.0, NAN, NAN], True, 2, [1, 3]),
        ([NAN, NAN, NAN, NAN], True, 2, [1, 2, 3]),
        ([INF, None, -INF, 0.0], True, 1, [1, 2]),
        ([None, None, None, None], True, 3, [1, 2, 3]),
    ],
)
def test_keep_best(
    losses: list[float | None], lower: bool, keep_best: int, deleted: list[int]
) -> None:
    """The best by score stay, the earlier of equal ones; NaN is never the best."""
    records = [
        record(step, loss=loss, lower_is_better=lower)
        for step, loss in enumerate(losses, start=1)
    ]
    assert steps_deleted(records, keep_best=keep_best) == deleted


@pytest.mark.parametrize(
    ("times", "seconds", "deleted"),
    [
        ([0, 10, 20, 30, 40, 50], 20, [2, 4]),
        ([7, 8, 9, 100, 101, 102], 50, [2, 3, 5]),
        ([0, 10, 20, 30, 40, 50], 1000, [2, 3, 4, 5]),
        ([50, 10, 0, 30, 40, 60], 1000, [3, 4, 5]),
    ],
)
def test_keep_every(times: list[float], seconds: float, deleted: list[int]) -> None:
    """The first of each span stays, counted from the first checkpoint."""
    records = [record(step, saved_at=at) for step, at in enumerate(times, start=1)]
    assert steps_deleted(records, keep_every_seconds=seconds) == deleted


def test_keep_every_is_stable_while_checkpoints_come_and_go() -> None:
    """Pruning after every save leaves what pruning once at the end would leave."""
    everything = [record(step, saved_at=step * 7.0) for step in range(1, 60)]
    kept: list[CheckpointRecord] = []
    for new in everything:
        kept.append(new)
        gone = to_delete(kept, keep_last=2, keep_best=0, keep_every_seconds=50)
        kept = [each for each in kept if each.name not in gone]
    gone = to_delete(everything, keep_last=2, keep_best=0, keep_every_seconds=50)
    assert [each.name for each in kept] == [
        each.name for each in everything if each.name not in gone
    ]


def test_pinned_is_never_deleted() -> None:
    """The checkpoint that was resumed from outlives every rule."""
    records = [record(step) for step in (1, 2, 3)]
    assert steps_deleted(records, pinned=["ckpt-000000001"]) == [2]


def test_a_changed_monitor_makes_old_scores_count_no_more() -> None:
    """Accuracies are not ranked among losses; the newest record's monitor counts."""
    records = [
        record(1, loss=0.001, monitor="loss"),
        record(2, loss=0.5, monitor="accuracy", lower_is_better=False),
        record(3, loss=0.4, monitor="accuracy", lower_is_better=False),
    ]
    found = best(records)
    assert found is not None
    assert found.position.step == 2
    assert steps_deleted(records, keep_best=2) == [1]


def test_best_of_none() -> None:
    """Without a score that is a number there is no best."""
    assert best([]) is None
    assert best([record(1), record(2, loss=NAN)]) is None


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1e6), st.none() | st.floats())),
    st.integers(0, 5),
    st.integers(0, 5),
    st.none() | st.floats(1, 1e5),
)
def test_the_newest_and_the_best_always_stay(
    rows: list[tuple[int, float, float | None]],
    keep_last: int,
    keep_best: int,
    seconds: float | None,
) -> None:
    """Whatever the rules, the newest is kept, and the best where one is to be kept."""
    unique = {step: (saved_at, loss) for step, saved_at, loss in rows}
    records = [record(s, saved_at=at, loss=loss) for s, (at, loss) in unique.items()]
    gone = to_delete(
        records, keep_last=keep_last, keep_best=keep_best, keep_every_seconds=seconds
    )
    if records:
        assert f"ckpt-{max(unique):09d}" not in gone
    found = best(records)
    if found is not None and keep_best:
        assert found.name not in gone
    assert len(records) - len(gone) >= min(len(records), max(1, keep_last))
