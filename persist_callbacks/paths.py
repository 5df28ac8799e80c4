"""Paths as users give them: one place that makes a path of an argument."""

from __future__ import annotations

import os
from pathlib import Path

from persist_callbacks.errors import ArgumentError


def absolute(value: object, argument: str) -> Path:
    """Path that still leads there after the process has changed its directory.

    Args:
        value: a string or a path; ``~`` stands for the user's home.
        argument: what it was given as, for the message.

    Raises:
        ArgumentError: it is nothing that a path can be made of.
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        raise _refused(value, argument, "a path")
    if "\0" in text:
        raise _refused(value, argument, "a path without null characters")
    try:
        os.fsencode(text)
        return Path(text).expanduser().absolute()
    except UnicodeError as error:
        expected = "a path in characters that the system knows"
        raise _refused(value, argument, expected) from error
    except RuntimeError as error:
        expected = "a path in the home of a user of this system"
        raise _refused(value, argument, expected) from error


def _refused(value: object, argument: str, expected: str) -> ArgumentError:
    return ArgumentError(
        argument,
        expected=expected,
        found=repr(value),
        advice='Give one as a string or a Path, such as "runs/digits".',
    )
