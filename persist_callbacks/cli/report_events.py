"""``persist-callbacks report``: what happened to a run. Loads no TensorFlow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from persist_callbacks.cli import wording
from persist_callbacks.cli.examples import examples
from persist_callbacks.cli.parameters import LocalPath
from persist_callbacks.storage.store import Store

# What every event has, and what its line says anyway.
_COMMON = ("time", "event", "run_id", "checkpoint")


@click.command("report", epilog=examples("persist-callbacks report runs/digits"))
@click.argument("run", type=LocalPath())
@click.option("--last", type=click.IntRange(min=1), help="Only so many of the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of text.")
def command(run: Path, last: int | None, as_json: bool) -> None:
    """Tell what happened to the run in RUN, oldest first, by its journal."""
    events = Store.open_for_reading(run).journal()
    shown = events[-last:] if last else events
    if as_json:
        wording.print_json(shown)
        return
    console = wording.console()
    for event in shown:
        console.print(_line(event))
    counts = Counter(str(event.get("event")) for event in events)
    console.print(
        ", ".join(f"{number} {name}" for name, number in counts.items())
        or "Nothing has happened yet."
    )


def _line(event: Mapping[str, Any]) -> str:
    words = [_moment(event.get("time")), str(event.get("event"))]
    if "checkpoint" in event:
        words.append(str(event["checkpoint"]))
    details = [
        f"{name.replace('_', ' ')}: {_words(name, value)}"
        for name, value in event.items()
        if name not in _COMMON and value not in (None, "", [], {})
    ]
    return "  ".join(words) + (f"  ({'; '.join(details)})" if details else "")


def _words(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name == "size" and isinstance(value, int):
        return wording.size(value)
    if isinstance(value, float):
        return f"{value:.3g} s" if name == "seconds" else f"{value:.6g}"
    return str(value)


def _moment(time: Any) -> str:
    try:
        local = datetime.fromisoformat(str(time)).astimezone()
    except ValueError:
        return str(time)
    return local.strftime("%Y-%m-%d %H:%M:%S")
