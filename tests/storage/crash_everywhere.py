"""Kills a forked child at every change that it makes on the disk, and looks.

Run as a script with an empty folder as its argument. It prints one JSON line for each
place of death. No TensorFlow: the files are a few bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_checkpoint import DATA, hidden, save

import disk_calls
from persist_callbacks.errors import CheckpointDamaged
from persist_callbacks.storage import manifest, retention
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


def go_back(directory: Path, report: int) -> None:
    """Set the damaged step 2 aside, save it anew, save step 3, prune by the rules."""
    passed_over = Store.open_for_reading(directory).newest_sound().passed_over
    with Store.open_for_writing(directory) as store:
        for path, reason in passed_over:
            store.set_aside(path, reason)
        os.write(report, b"aside\n")
        save(store, 2, data=b"again")
        os.write(report, b"two\n")
        save(store, 3)
        os.write(report, b"three\n")
        records = [each.record for each in store.own_checkpoints()]
        rules = {"keep_last": 2, "keep_best": 0, "keep_every_seconds": None}
        store.prune(retention.to_delete(records, **rules))
        os.write(report, b"pruned\n")


def one(store: Store) -> None:
    """A run with one checkpoint."""
    save(store, 1)


def two_of_them_damaged(store: Store) -> None:
    """A run whose second and newest checkpoint has a flipped byte."""
    save(store, 1)
    data = save(store, 2).path / DATA
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)


SCRIPTS: dict[str, tuple[Callable[[Store], None], Callable[[Path, int], None]]] = {
    "save": (one, work),
    "go back": (two_of_them_damaged, go_back),
}


def look(directory: Path) -> dict[str, Any]:
    """Describe a directory as a reader finds it, then as the next writer leaves it."""
    reader = Store.open_for_reading(directory)
    named = (directory / "checkpoint").read_text().splitlines()[0].split('"')[1]
    sound = {}
    for found in reader.checkpoints():
        with contextlib.suppress(CheckpointDamaged):
            manifest.validate(found.path, checksums=True)
            sound[found.record.position.step] = found.record.finished
    kept = [*directory.glob("ckpt-000000002*"), *directory.glob("damaged-*")]
    state = {
        "damaged": [str(error) for _, error in reader.damaged()],
        "sound": sound,
        "newest": reader.find("latest").record.position.step,
        "named_is_there": (directory / f"{named}.index").is_file(),
        "flipped": [path.name for path in kept if is_flipped(path / DATA)],
    }
    with Store.open_for_writing(directory) as writer:
        newest = writer.checkpoints()[-1].record.name
        text = (directory / "checkpoint").read_text()
    state["left"] = hidden(directory)
    state["replaced"] = [path.name for path in directory.glob("*.replaced")]
    state["named_newest"] = text.startswith(f'model_checkpoint_path: "{newest}/')
    return state


def is_flipped(data: Path) -> bool:
    """Whether it is the damaged file, still as it was."""
    return data.is_file() and data.read_bytes()[100:101] == b"e"


def main(base: Path) -> None:
    """Die at the first change, at the second, and so on until nothing is cut off."""
    for name, (prepare, script) in SCRIPTS.items():
        for count in range(1, 1000):
            directory = base / name / str(count)
            with Store.open_for_writing(directory) as store:
                prepare(store)
            reading, report = os.pipe()
            child = os.fork()
            if child == 0:
                with disk_calls.before_each(disk_calls.die_at(count)):
                    script(directory, report)
                os._exit(0)
            os.close(report)
            with os.fdopen(reading) as lines:
                done = lines.read().split("\n")[:-1]
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            found = {"script": name, "count": count, "code": code, "done": done}
            sys.stdout.write(json.dumps({**found, **look(directory)}) + "\n")
            if code == 0:
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]))
