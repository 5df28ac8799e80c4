"""How the command words sizes, times and tables, for people and for programs."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Output that goes to a file or a pipe is not cut to the width of a terminal.
_PIPE_WIDTH = 240


def console() -> Console:
    """Give a console that takes brackets literally: shapes have them."""
    # Python has none where the shell has closed it.
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    width = None if is_terminal else _PIPE_WIDTH
    return Console(markup=False, highlight=False, width=width)


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Give an empty table; the columns in ``right`` hold numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left")
    return made


def print_json(value: object) -> None:
    """Print one JSON document, its numbers all finite."""
    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    except UnicodeEncodeError:
        # A file's name that is not UTF-8, which json escapes as Python has it.
        text = json.dumps(msgspec.to_builtins(value), indent=2)
    click.echo(text)


def number(value: float) -> float | str:
    """Give a number as JSON can hold it: NaN and infinity as text."""
    return value if math.isfinite(value) else str(value)


def size(count: int) -> str:
    """Word a number of bytes, such as ``1.5 MiB``."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def moment(seconds: float, *, now: float) -> str:
    """Word a time in the local zone, with how long ago it was.

    Args:
        seconds: since 1970 in UTC.
        now: the same clock, now.
    """
    local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    return f"{local} ({age(now - seconds)})"


def age(seconds: float) -> str:
    """Word how long ago something was, in its largest whole unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


def shape(sizes: Sequence[int | None] | None) -> str:
    """Word a shape, ``?`` for a size that is not fixed."""
    if sizes is None:
        return "unknown rank"
    return f"[{', '.join('?' if each is None else str(each) for each in sizes)}]"


def red(text: str) -> Text:
    """Give a text that stands out."""
    return Text(text, style="red")
