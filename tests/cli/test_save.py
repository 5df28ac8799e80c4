"""``persist-callbacks save`` asks a process that trains, and no other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from persist_callbacks.cli import commands
from persist_callbacks.records import Position
from persist_callbacks.storage import layout
from persist_callbacks.storage.progress import ProgressFile
from persist_callbacks.storage.store import Store

SCRIPT = Path(__file__).parents[1] / "interrupted_script.py"


def run(*arguments):
    return CliRunner().invoke(commands, [str(each) for each in arguments])


@contextlib.contextmanager
def under_way(directory, main="script.main()", **options):
    """Train in a process of its own, which saves nothing by itself."""
    options = json.dumps({"every_epochs": 99, **options})
    program = f"""
import sys, threading
sys.path[:0] = [{str(SCRIPT.parent)!r}]
import interrupted_script as script
sys.argv = ["script", {str(directory)!r}, "--pace", "0.5", "--options", {options!r}]
{main}
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in child.stdout:
        if line.startswith("step"):
            break
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A run under way, for several tests."""
    directory = tmp_path_factory.mktemp("training") / "run"
    with under_way(directory):
        yield directory


@pytest.mark.parametrize("options", [[], ["--signal"]])
def test_a_run_under_way_is_saved(training, options):
    """It prints the checkpoint's name once it is there."""
    result = run("save", training, *options)
    assert result.exit_code == 0, result.output
    name = result.output.strip().splitlines()[-1]
    store = Store.open_for_reading(training)
    assert store.find("latest").record.name == name
    # The journal has it a moment after the checkpoint has its name.
    for _ in range(500):
        reasons = {
            event["checkpoint"]: event["reason"]
            for event in store.journal()
            if event["event"] == "saved"
        }
        if name in reasons:
            break
        time.sleep(0.02)
    assert reasons[name] == ("SIGUSR1" if options else "the SAVE file")
    assert not (training / "SAVE").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc")
def test_another_process_of_that_number_gets_no_signal(tmp_path):
    """As in a container, whose processes are counted anew under the same host name."""
    seen = tmp_path / "seen"
    program = f"""
import signal, sys
signal.signal(signal.SIGUSR1, lambda *_: open({str(seen)!r}, "w").close())
print("ready", flush=True)
sys.stdin.read()
"""
    with (
        Store.open_for_writing(tmp_path / "run") as store,
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other,
    ):
        other.stdout.readline()
        owner = store.directory / ".lock-owner"
        said = json.loads(owner.read_bytes())
        owner.write_text(json.dumps({**said, "pid": other.pid}))
        result = run("save", store.directory, "--signal", "--wait", 0)
        # A signal that was sent has been handled before it ends.
        other.stdin.close()
        assert other.wait() == 0
    assert result.exit_code == 1
    assert f"another process of the number {other.pid}" in result.output
    assert not seen.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc")
@pytest.mark.parametrize(
    ("main", "options"),
    [
        ("script.main()", {"save_on_signal": False}),
        ("threading.Thread(target=script.main).start()", {}),
    ],
    ids=["save_on_signal=False", "in a thread"],
)
def test_a_process_that_the_signal_would_end_gets_none(main, options, tmp_path):
    """It trains on, and the user is told of the other way."""
    with under_way(tmp_path / "run", main, **options) as child:
        result = run("save", tmp_path / "run", "--signal")
        assert result.exit_code == 1
        assert "which SIGUSR1 would end" in result.output
        assert "Leave --signal out" in result.output
        result = run("save", tmp_path / "run")
        assert result.exit_code == 0, result.output
        assert child.poll() is None


def commit(store, step):
    staged = store.stage(step)
    for name in (layout.INDEX, "model.ckpt.data-00000-of-00001", layout.STATE):
        staged.write(name, b"x")
    store.commit(staged, position=Position(0, step, step), fingerprint="f")


@pytest.mark.parametrize("earlier", [False, True])
def test_a_save_that_was_under_way_does_not_count(earlier, tmp_path):
    """Nor how far an earlier process had come, whose steps are done once more."""
    with Store.open_for_writing(tmp_path / "run") as store:
        noted = ProgressFile(store.directory)
        noted.note(60)
        noted.close()
        if earlier:
            os.utime(store.directory / ".progress", (0, 0))

        def answer():
            while not (store.directory / layout.SAVE).exists():
                time.sleep(0.01)
            commit(store, 40)
            time.sleep(0.5)
            commit(store, 61)

        process = threading.Thread(target=answer)
        process.start()
        result = run("save", store.directory)
        process.join()
    name = "ckpt-000000040" if earlier else "ckpt-000000061"
    assert result.output.strip().splitlines()[-1] == name


def test_nobody_trains(tmp_path):
    """Nothing is left behind that the next run would find."""
    with Store.open_for_writing(tmp_path / "run"):
        pass
    result = run("save", tmp_path / "run")
    assert result.exit_code == 1
    assert "expected a process that trains this run, found none" in result.output
    assert not (tmp_path / "run" / "SAVE").exists()


def test_a_process_that_does_not_answer(tmp_path):
    """After the time that one is ready to wait."""
    with Store.open_for_writing(tmp_path / "run"):
        result = run("save", tmp_path / "run", "--wait", 0.3)
        assert run("save", tmp_path / "run", "--wait", 0).exit_code == 0
    assert result.exit_code == 1
    assert "expected a checkpoint within 0.3 s, found none yet from" in result.output


@pytest.mark.parametrize("seconds", ["nan", "-1"])
def test_a_wait_that_is_none(seconds, tmp_path):
    """Refused before anything is asked for."""
    with Store.open_for_writing(tmp_path / "run"):
        result = run("save", tmp_path / "run", "--wait", seconds)
    assert result.exit_code == 2
    assert "'--wait'" in result.output
    assert not (tmp_path / "run" / "SAVE").exists()
