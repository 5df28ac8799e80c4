"""What the command takes as a path and as a span of time; all else is a wrong call."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

from persist_callbacks import paths
from persist_callbacks.errors import ArgumentError


class LocalPath(click.Path):
    """A path in a local or mounted file system.

    Judged by its text: as a Path, nothing is the current directory, and an address has
    lost one of its slashes.

    Args:
        dir_okay: False for what must be no folder.
    """

    def __init__(self, *, dir_okay: bool = True) -> None:
        super().__init__(path_type=Path, dir_okay=dir_okay)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Make a Path of an argument; what is none ends the command with 2.

        A shell leaves the ``~`` of ``--output=~/y.npy`` as it is.
        """
        try:
            paths.absolute(value, "path")
        except ArgumentError as error:
            message = f"expected {error.expected}, found {error.found}. {error.advice}"
            self.fail(message, param, ctx)
        return super().convert(Path(value).expanduser(), param, ctx)


def seconds(
    ctx: click.Context, parameter: click.Parameter, value: float | None
) -> float | None:
    """Refuse NaN, which to a range is neither too low nor too high."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number of seconds.", ctx, parameter)
    return value
