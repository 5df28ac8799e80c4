"""Paths as users give them: one place that makes a path of an argument."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath

from persist_callbacks.errors import ArgumentError

# Two letters at least, or a drive of Windows would be one.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# What a Path makes of it, which takes one of two slashes for none: a folder may have
# such a name, so that known ones alone are refused.
_ADDRESS_AS_PATH = re.compile(
    r"(?:abfss?|adl|az|dbfs|file|ftp|gcs|gs|hdfs|https?|memory|s3[an]?|wasbs?):/", re.I
)


def absolute(value: object, argument: str) -> Path:
    """Path that still leads there after the process has changed its directory.

    Args:
        value: a string or a path; ``~`` stands for the user's home.
        argument: what it was given as, for the message.

    Raises:
        ArgumentError: it is nothing that a path can be made of, or leads to no file
            system.
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        raise _refused(value, argument, "a path")
    if "\0" in text:
        raise _refused(value, argument, "a path without null characters")
    _refuse_address(value, text, argument)
    try:
        os.fsencode(text)
        return Path(text).expanduser().absolute()
    except UnicodeError as error:
        expected = "a path in characters that the system knows"
        raise _refused(value, argument, expected) from error
    except RuntimeError as error:
        expected = "a path in the home of a user of this system"
        raise _refused(value, argument, expected) from error


def of_checkpoints(value: object, argument: str) -> Path:
    """Path, absolute too, of what TensorFlow is to write or read.

    Args:
        value: a string or a path; ``~`` stands for the user's home.
        argument: what it was given as, for the message.

    Raises:
        ArgumentError: it is no path, or one that TensorFlow takes for none.
    """
    path = absolute(value, argument)
    if not is_utf8(path):
        raise ArgumentError(
            argument,
            expected="a path in UTF-8, as TensorFlow takes no other",
            found=repr(os.fsencode(path)),
            advice="Rename that folder, which harms nothing in it, or give a link to "
            "it that has another name.",
        )
    return path


def is_utf8(path: Path) -> bool:
    """Whether a path is text; Linux takes any bytes, such as names in Latin-1."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_address(value: object, text: str, argument: str) -> None:
    """Refuse the address of a store, which would be taken for folders of its name.

    Whoever trains at ``gs://bucket/run`` would find the checkpoints below the current
    directory, and on a machine that is gone not at all.
    """
    pattern = _ADDRESS_AS_PATH if isinstance(value, PurePath) else _ADDRESS
    found = pattern.match(text)
    if found is None or (pattern is _ADDRESS_AS_PATH and os.path.isdir(found[0])):
        return
    is_file = found[0].lower().startswith("file:")
    local = re.sub(r"^\w+:/+(localhost/)?", "/", text)
    raise ArgumentError(
        argument,
        expected="a path in a local or mounted file system",
        found=f"an address of {'a file' if is_file else 'a remote store'}, {text!r}",
        advice=f"Give {local!r}."
        if is_file
        else "Give a local folder, or the one that the store is mounted at.",
    )


def _refused(value: object, argument: str, expected: str) -> ArgumentError:
    return ArgumentError(
        argument,
        expected=expected,
        found=repr(value),
        advice='Give one as a string or a Path, such as "runs/digits".',
    )
