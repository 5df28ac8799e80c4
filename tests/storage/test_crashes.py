from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_checkpoint import hidden, save

from persist_callbacks.errors import SaveFailed
from persist_callbacks.storage import durable, manifest
from persist_callbacks.storage.store import Store

HERE = Path(__file__).parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_death_at_any_instant_leaves_whole_checkpoints(tmp_path: Path) -> None:
    """Killed before every single change of the disk: nothing half, nothing lost."""
    done = subprocess.run(
        [sys.executable, str(HERE / "crash_everywhere.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for death in found:
        assert death["code"] in (-signal.SIGKILL, 0), death
        assert death["damaged"] == [], death
        assert death["newest"] == max(int(step) for step in death["sound"]), death
        assert death["named_is_there"], death
        assert death["named_newest"], death
        assert death["left"] == [".lock", ".lock-owner"], death
        assert death["replaced"] == [], death
    see_to_saves([death for death in found if death["script"] == "save"])
    see_to_going_back([death for death in found if death["script"] == "go back"])


def see_to_saves(deaths: list[dict[str, Any]]) -> None:
    assert len(deaths) > 50
    assert deaths[-1]["done"] == ["two", "two again", "three", "pruned"]
    seen = set()
    for death in deaths:
        steps = {int(step) for step in death["sound"]}
        promised = death["done"]
        seen.add(tuple(sorted(steps)))
        if "three" not in promised:
            assert 1 in steps, death
        if "two" in promised:
            assert 2 in steps, death
        if "two again" in promised:
            assert death["sound"]["2"], death
        if "three" in promised:
            assert 3 in steps, death
        if "pruned" in promised:
            assert 1 not in steps, death
    assert seen == {(1,), (1, 2), (1, 2, 3), (2, 3)}


def see_to_going_back(deaths: list[dict[str, Any]]) -> None:
    assert len(deaths) > 40
    assert deaths[-1]["done"] == ["aside", "two", "three", "pruned"]
    seen = set()
    for death in deaths:
        steps = {int(step) for step in death["sound"]}
        seen.add(tuple(sorted(steps)))
        # What was damaged is there for good, under one name or the other.
        assert len(death["flipped"]) == 1, death
        assert death["flipped"][0].startswith("damaged-") or not (
            {"aside", "two"} & set(death["done"])
        ), death
        if "pruned" not in death["done"] and "three" not in death["done"]:
            assert 1 in steps, death
        if "two" in death["done"]:
            assert 2 in steps, death
        if "three" in death["done"]:
            assert 3 in steps, death
    assert seen == {(1,), (1, 2), (1, 2, 3), (2, 3)}


def test_a_disk_that_refuses_at_any_instant_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error at every change in turn: whole checkpoints, and the next save works."""
    for count in range(1, 1000):
        with Store.open_for_writing(tmp_path / str(count)) as store:
            save(store, 1)
            save(store, 2, data=b"old")
            with monkeypatch.context() as patched:
                fail_at(patched, count)
                try:
                    save(store, 2, data=b"new", finished=True)
                    failed = False
                except SaveFailed as error:
                    failed = "Input/output error" in str(error)
            found = store.checkpoints()
            assert [each.record.position.step for each in found] == [1, 2]
            for each in found:
                manifest.validate(each.path, checksums=True)
            assert store.damaged() == []
            assert save(store, 2, finished=True).record.finished
            assert len(store.checkpoints()) == 2
        Store.open_for_writing(store.directory).close()
        assert hidden(store.directory) == [".lock", ".lock-owner"]
        if not failed:
            break
    assert count > 15


def fail_at(patched: pytest.MonkeyPatch, count: int) -> None:
    left = [count]

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(5, "Input/output error")
            return function(*args, **kwargs)

        return wrapped

    for name in ("rename", "replace"):
        patched.setattr(os, name, failing(getattr(os, name)))
    patched.setattr(Path, "mkdir", failing(Path.mkdir))
    patched.setattr(durable, "_sync", failing(durable._sync))
    patched.setattr(durable, "write_file", failing(durable.write_file))
