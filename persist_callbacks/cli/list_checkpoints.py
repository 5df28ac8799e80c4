"""``persist-callbacks list``: the checkpoints of a run. Loads no TensorFlow."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from persist_callbacks.cli import wording
from persist_callbacks.cli.examples import examples
from persist_callbacks.cli.parameters import LocalPath, seconds
from persist_callbacks.errors import CheckpointUnreadable, FormatTooNew, PersistError
from persist_callbacks.records import CheckpointRecord
from persist_callbacks.storage import checkpoints, manifest, retention
from persist_callbacks.storage.store import Store


@click.command(
    "list",
    epilog=examples(
        "persist-callbacks list runs/digits",
        "persist-callbacks list runs/digits --keep-last 2 --keep-best 1",
    ),
)
@click.argument("run", type=LocalPath())
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
@click.option(
    "--keep-last",
    type=click.IntRange(min=1),
    help="Mark what a run with these rules would delete; nothing is deleted.",
)
@click.option(
    "--keep-best",
    type=click.IntRange(min=0),
    help="Likewise; 1 if left out.",
)
@click.option(
    "--keep-every-seconds",
    type=click.FloatRange(min=retention.SHORTEST_SPAN),
    callback=seconds,
    help="Likewise; none if left out.",
)
def command(
    run: Path,
    as_json: bool,
    keep_last: int | None,
    keep_best: int | None,
    keep_every_seconds: float | None,
) -> None:
    """List the checkpoints of the run directory RUN, oldest first.

    Files are compared with the manifest by size; their content is not read. With any of
    the --keep options, those are marked that these rules would delete of what is there
    now; the next save is one more.
    """
    store = Store.open_for_reading(run)
    records, unread = _sort(store)
    best = retention.best(records)
    rules = (keep_last, keep_best, keep_every_seconds)
    goes: list[str] | None = None
    if rules != (None, None, None):
        # Whatever is not this run's own is never deleted.
        goes = retention.to_delete(
            [record for record in records if record.run_id == store.run_id],
            keep_last=3 if keep_last is None else keep_last,
            keep_best=1 if keep_best is None else keep_best,
            keep_every_seconds=keep_every_seconds,
        )
    rows = [
        _row(record, latest=record is records[-1], best=record is best, goes=goes)
        for record in records
    ]
    aside = list(checkpoints.set_aside(store.directory))
    if as_json:
        wording.print_json(
            {
                "directory": str(store.directory),
                "run_id": store.run_id,
                "checkpoints": rows,
                "damaged": [
                    {"name": path.name, "reason": str(error)}
                    for path, error in unread
                    if not isinstance(error, FormatTooNew)
                ],
                "newer_format": [
                    {"name": path.name, "reason": str(error)}
                    for path, error in unread
                    if isinstance(error, FormatTooNew)
                ],
                "set_aside": aside,
            }
        )
        return
    _print(rows, unread, aside)


def _sort(
    store: Store,
) -> tuple[list[CheckpointRecord], list[tuple[Path, PersistError]]]:
    """Tell checkpoints that look whole from those that do not, or cannot be judged."""
    records, unread = [], store.damaged()
    for found in store.checkpoints():
        try:
            manifest.validate(found.path, checksums=False)
            records.append(found.record)
        except PersistError as error:
            # The run may be going on, and this one pruned an instant ago.
            if found.path.exists():
                unread.append((found.path, error))
    return records, sorted(unread, key=lambda pair: pair[0].name)


def _row(
    record: CheckpointRecord, *, latest: bool, best: bool, goes: list[str] | None
) -> dict[str, Any]:
    score = record.score
    saved_at = datetime.fromtimestamp(record.saved_at, timezone.utc)
    return {
        "name": record.name,
        "step": record.position.step,
        "epoch": record.position.epoch,
        "batch": record.position.batch,
        "saved_at": saved_at.isoformat(timespec="milliseconds"),
        "size": record.size,
        "score": None
        if score is None
        else {
            "monitor": score.monitor,
            "value": wording.number(score.value),
            "lower_is_better": score.lower_is_better,
        },
        "latest": latest,
        "best": best,
        "finished": record.finished,
        **({} if goes is None else {"would_delete": record.name in goes}),
    }


def _print(
    rows: list[dict[str, Any]],
    unread: list[tuple[Path, PersistError]],
    aside: list[str],
) -> None:
    console = wording.console()
    now = time.time()
    table = wording.table(
        *("Checkpoint", "Step", "Epoch", "Batch", "Saved", "Size", "Score", ""),
        right=("Step", "Epoch", "Batch", "Size"),
    )
    # What the other commands are given is told in full, however narrow the terminal.
    names = [row["name"] for row in rows] + [path.name for path, _ in unread]
    table.columns[0].min_width = max(map(len, names), default=0)
    table.columns[0].no_wrap = True
    for row in rows:
        score = row["score"]
        saved_at = datetime.fromisoformat(row["saved_at"]).timestamp()
        marks = [mark for mark in ("latest", "best", "finished") if row[mark]]
        marks += ["would be deleted"] if row.get("would_delete") else []
        table.add_row(
            row["name"],
            *(str(row[name]) for name in ("step", "epoch", "batch")),
            wording.moment(saved_at, now=now),
            wording.size(row["size"]),
            "" if score is None else f"{score['monitor']} {float(score['value']):.6g}",
            ", ".join(marks),
        )
    for path, error in unread:
        mark = "damaged"
        if isinstance(error, FormatTooNew):
            mark = "newer format"
        elif isinstance(error, CheckpointUnreadable):
            mark = "not readable"
        table.add_row(path.name, *[""] * 6, wording.red(mark))
    if rows or unread:
        console.print(table)
    else:
        console.print("No checkpoints yet.")
    for _, error in unread:
        console.print(wording.red(str(error)))
    if aside:
        console.print(f"Set aside as damaged: {', '.join(aside)}")
