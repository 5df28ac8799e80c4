"""Which checkpoints may go: pure functions from records to names."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from persist_callbacks.records import CheckpointRecord, Score

# Seconds: no checkpoint is made more often, and shorter spans overflow when counted.
SHORTEST_SPAN = 0.001


def to_delete(
    records: Sequence[CheckpointRecord],
    *,
    keep_last: int,
    keep_best: int,
    keep_every_seconds: float | None,
    pinned: Collection[str] = (),
) -> list[str]:
    """Name the checkpoints that no rule keeps.

    Args:
        records: the committed checkpoints of one run, in any order.
        keep_last: how many of the newest to keep; the newest one always stays.
        keep_best: how many of the best by score to keep.
        keep_every_seconds: keep the first checkpoint of each span of this many
            seconds, counted from the first checkpoint; None keeps none for its age.
        pinned: names to keep whatever the rules say, such as the one resumed from.

    Returns:
        Folder names, oldest first.
    """
    by_step = sorted(records, key=_step)
    kept = set(pinned)
    kept.update(record.name for record in by_step[-max(keep_last, 1) :])
    kept.update(record.name for record in _ranked(by_step)[: max(keep_best, 0)])
    if keep_every_seconds is not None:
        kept.update(_first_of_spans(by_step, keep_every_seconds))
    return [record.name for record in by_step if record.name not in kept]


def best(records: Sequence[CheckpointRecord]) -> CheckpointRecord | None:
    """Find the checkpoint with the best score; the earlier of two equal ones.

    Returns:
        None where no checkpoint has a score that is a number.
    """
    ranked = _ranked(sorted(records, key=_step))
    return ranked[0] if ranked else None


def _ranked(by_step: Sequence[CheckpointRecord]) -> list[CheckpointRecord]:
    """Records with a score, best first, the earlier first among equals.

    Scores of different monitors do not compare: where a rerun changed ``monitor``,
    the one in use now counts, which is the newest record's.
    """
    scored = [
        (record, record.score)
        for record in by_step
        if record.score is not None and not math.isnan(record.score.value)
    ]
    if not scored:
        return []
    current = scored[-1][1]
    comparable = [
        (record, score)
        for record, score in scored
        if (score.monitor, score.lower_is_better)
        == (current.monitor, current.lower_is_better)
    ]
    comparable.sort(key=lambda pair: _cost(pair[1]))
    return [record for record, _ in comparable]


def _first_of_spans(by_step: Sequence[CheckpointRecord], seconds: float) -> list[str]:
    # The first record opens the first span and is therefore always kept, so spans
    # begin at the same instants however often this is asked.
    first: dict[int, str] = {}
    for record in by_step:
        span = math.floor((record.saved_at - by_step[0].saved_at) / seconds)
        first.setdefault(span, record.name)
    return list(first.values())


def _step(record: CheckpointRecord) -> int:
    return record.position.step


def _cost(score: Score) -> float:
    return score.value if score.lower_is_better else -score.value
