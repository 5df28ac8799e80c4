"""Every change that the library makes on the disk, handed to a function beforehand."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from persist_callbacks.storage import bundle, durable

# What changes a folder, what makes it last, and what writes a file of ours. TensorFlow
# writes files of its own between the beginning and the end of `bundle.write`.
_CALLS = (
    (os, ("rename", "replace", "unlink", "rmdir")),
    # In Python 3.10 it calls no function of `os` that could be another by now.
    (Path, ("mkdir",)),
    (durable, ("_sync", "write_file", "append_line")),
    (bundle, ("write",)),
)


@contextlib.contextmanager
def before_each(act: Callable[[str], None]) -> Iterator[None]:
    """Call a function before each change, and after the files of TensorFlow.

    Args:
        act: is given a short name of the change, such as ``rename ckpt-000000001``.
    """
    kept = []
    for owner, names in _CALLS:
        for name in names:
            real = getattr(owner, name)
            kept.append((owner, name, real))
            setattr(owner, name, _announcing(name, real, act))
    try:
        yield
    finally:
        for owner, name, real in kept:
            setattr(owner, name, real)


def die_at(count: int) -> Callable[[str], None]:
    """Make a function for `before_each` that ends the process by SIGKILL.

    Args:
        count: at which change, from 1.
    """
    left = [count]

    def act(_: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def _announcing(
    name: str, real: Callable[..., Any], act: Callable[[str], None]
) -> Callable[..., Any]:
    @functools.wraps(real)
    def announced(*args: Any, **kwargs: Any) -> Any:
        act(f"{name.lstrip('_')} {_subject(name, args)}")
        result = real(*args, **kwargs)
        if name == "write":
            act(f"written {_subject(name, args)}")
        return result

    return announced


def _subject(name: str, args: tuple[Any, ...]) -> str:
    if isinstance(args[0], int):
        return Path(os.readlink(f"/proc/self/fd/{args[0]}")).name
    # Of two names the new one says more.
    return Path(args[name in ("rename", "replace")]).name
