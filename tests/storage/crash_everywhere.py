"""Kills a forked child at every step it takes on the disk, and looks at what is left.

Run as a script with an empty folder as its argument. It prints one JSON line for each
place of death. No TensorFlow: the files are a few bytes.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_checkpoint import hidden, save

from persist_callbacks.storage import durable, manifest
from persist_callbacks.storage.store import Store


def work(directory: Path, report: int) -> None:
    """Save step 2, save it again, save step 3, prune step 1; tell what is durable."""
    with Store.open_for_writing(directory) as store:
        save(store, 2, data=b"first")
        os.write(report, b"two\n")
        save(store, 2, data=b"second", finished=True)
        os.write(report, b"two again\n")
        save(store, 3)
        os.write(report, b"three\n")
        store.prune(["ckpt-000000001"])
        os.write(report, b"pruned\n")


def die_at(count: int) -> None:
    """Make the process end before the count-th change of the disk."""
    left = [count]

    def fatal(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return function(*args, **kwargs)

        return wrapped

    for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
        setattr(os, name, fatal(getattr(os, name)))
    durable._sync = fatal(durable._sync)
    durable.write_file = fatal(durable.write_file)


def look(directory: Path) -> dict[str, Any]:
    """Describe a directory as a reader finds it, then as the next writer leaves it."""
    reader = Store.open_for_reading(directory)
    named = (directory / "checkpoint").read_text().splitlines()[0].split('"')[1]
    state = {
        "damaged": [str(error) for _, error in reader.damaged()],
        "sound": {
            found.record.position.step: found.record.finished
            for found in reader.checkpoints()
            if manifest.validate(found.path, checksums=True)
        },
        "newest": reader.find("latest").record.position.step,
        "named_is_there": (directory / f"{named}.index").is_file(),
    }
    with Store.open_for_writing(directory) as writer:
        newest = writer.checkpoints()[-1].record.name
        text = (directory / "checkpoint").read_text()
    state["left"] = hidden(directory)
    state["replaced"] = [path.name for path in directory.glob("*.replaced")]
    state["named_newest"] = text.startswith(f'model_checkpoint_path: "{newest}/')
    return state


def main(base: Path) -> None:
    """Die at the first change, at the second, and so on until nothing is cut off."""
    for count in range(1, 1000):
        directory = base / str(count)
        with Store.open_for_writing(directory) as store:
            save(store, 1)
        reading, report = os.pipe()
        child = os.fork()
        if child == 0:
            die_at(count)
            work(directory, report)
            os._exit(0)
        os.close(report)
        with os.fdopen(reading) as lines:
            done = lines.read().split("\n")[:-1]
        _, status = os.waitpid(child, 0)
        finished = os.waitstatus_to_exitcode(status) == 0
        line = json.dumps({"count": count, "done": done, **look(directory)})
        sys.stdout.write(line + "\n")
        if finished:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
