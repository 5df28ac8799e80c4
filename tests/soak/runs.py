"""Starting a training script as a child process, following it, and killing it.

By default a child is forked off a process that has imported TensorFlow and has not
used it yet, which saves its import; ``spawn`` starts a new interpreter instead.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from soak import one_run

SCRIPT = Path(one_run.__file__)


@dataclass
class Child:
    """A training script that runs in a process of its own.

    Args:
        pid: its process.
        out: its standard output.
    """

    pid: int
    out: BinaryIO

    def marks(self) -> Iterator[str]:
        """Give the lines that it prints, until it ends."""
        for line in self.out:
            yield line.decode(errors="replace").rstrip()

    def kill(self) -> None:
        """End it as a machine does that loses its power: at once."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end and give its return code, negative for a signal."""
        self.out.close()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


def start(arguments: list[str], log: Path, *, spawn: bool) -> Child:
    """Start ``one_run.py``.

    Args:
        arguments: for its command line.
        log: where its standard error is appended.
        spawn: whether to start a new interpreter rather than to fork.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        if spawn:
            process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            assert process.stdout is not None
            # `Child.wait` reaps it; Popen shall not look for it again.
            process.returncode = 0
            return Child(process.pid, process.stdout)
        read, write = os.pipe()
        pid = os.fork()
        if pid:
            os.close(write)
            return Child(pid, os.fdopen(read, "rb"))
        _be_the_script(arguments, write, errors.fileno())


def _be_the_script(arguments: list[str], out: int, errors: int) -> None:
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(errors, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        one_run.main(arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  told by the log and the exit code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not exit: the handlers at exit belong to the process that was forked.
        os._exit(code)


def preload() -> None:
    """Import all that a script needs, once for all that are forked off afterwards.

    TensorFlow must not be used before the fork: its threads would not be there after.
    """
    import persist_callbacks  # noqa: F401
    import soak.combinations
    import soak.outcome  # noqa: F401


def has_checkpoint(run: Path) -> bool:
    """Whether a run directory holds a committed checkpoint."""
    return any(run.glob("ckpt-*/manifest.json"))


def has_saved(where: Path, by: str) -> bool:
    """Whether there is anything on disk that a rerun could go on from."""
    if by == "ours":
        return has_checkpoint(where / "run")
    return (where / "backup" / "training_metadata.json").exists()


@dataclass
class Result:
    """What became of a combination that was killed and run again."""

    name: str
    killed_at: list[str] = field(default_factory=list)
    resumed_at: list[str] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)
    differs: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""
    seconds: float = 0.0

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return not self.skipped and not self.differs


def run_to_end(name: str, where: Path, by: str, *, spawn: bool, pace: float) -> int:
    """Run a combination without disturbing it, and count its steps."""
    arguments = [name, str(where), "--by", by, "--pace", str(pace)]
    child = start(arguments, where / "errors.txt", spawn=spawn)
    steps = sum(mark.startswith("step") for mark in child.marks())
    code = child.wait()
    if code:
        raise RuntimeError(_last_lines(where / "errors.txt"))
    return steps


def run_and_kill(
    name: str, where: Path, by: str, at: int, *, spawn: bool, pace: float, wait: float
) -> str | None:
    """Run a combination and kill it some time after a step.

    Args:
        name: of the combination.
        where: its folder.
        by: what saves it.
        at: steps of this process before the kill; later if there is no checkpoint yet.
        spawn: see `start`.
        pace: seconds that each batch takes longer.
        wait: seconds between the step and the kill.

    Returns:
        Where it was; None if it ended before.
    """
    arguments = [name, str(where), "--by", by, "--pace", str(pace)]
    child = start(arguments, where / "errors.txt", spawn=spawn)
    steps, epoch, last, killed = 0, "?", "", False
    for mark in child.marks():
        last = mark
        if mark.startswith("epoch"):
            epoch = mark.split()[1]
        if not mark.startswith("step"):
            continue
        steps += 1
        safe = has_saved(where, by)
        if steps >= at and not killed and safe:
            time.sleep(wait)
            child.kill()
            killed = True
    code = child.wait()
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(_last_lines(where / "errors.txt"))
    return f"epoch {epoch}, {last}" if code else None


def examine(
    name: str,
    where: Path,
    *,
    by: str = "ours",
    kills: int = 1,
    seed: int = 1,
    spawn: bool = False,
    pace: float = 0.01,
) -> Result:
    """Compare a combination that was killed with one that was not.

    Args:
        name: of the combination.
        where: a new folder for it.
        by: what saves and resumes it.
        kills: how often it is killed.
        seed: for where it is killed.
        spawn: see `start`.
        pace: seconds that each batch takes longer, where it is to be killed.
    """
    from soak.combinations import find

    result = Result(name)
    pace = max(pace, find(name).pace)
    chance = random.Random(f"{seed} {name}")
    begun = time.monotonic()
    try:
        steps = run_to_end(name, where / "whole", "nothing", spawn=spawn, pace=0.0)
        left = steps
        for _ in range(kills):
            at = chance.randint(min(4, left), max(4, left - 1))
            killed = run_and_kill(
                name,
                where / "killed",
                by,
                at,
                spawn=spawn,
                pace=pace,
                wait=chance.uniform(0, 2 * pace),
            )
            if killed is None:
                result.differs["kill"] = "it ended before it could be killed"
                break
            result.killed_at.append(killed)
            left = max(2, left - at)
        run_to_end(name, where / "killed", by, spawn=spawn, pace=0.0)
        _read_journal(where / "killed" / "run" / "journal.jsonl", result)
        result.differs.update(
            differences(
                json.loads((where / "whole" / "outcome.json").read_text()),
                json.loads((where / "killed" / "outcome.json").read_text()),
            )
        )
    except RuntimeError as error:
        result.differs["failed"] = str(error)
    result.seconds = time.monotonic() - begun
    return result


def differences(whole: dict[str, Any], killed: dict[str, Any]) -> dict[str, Any]:
    """Name the fields in which two outcomes differ, with both values."""
    return {
        name: (whole.get(name), killed.get(name))
        for name in {**whole, **killed}
        if whole.get(name) != killed.get(name)
    }


def _read_journal(journal: Path, result: Result) -> None:
    if not journal.exists():
        return
    for line in journal.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "resumed":
            at = f"epoch {event['epoch']}, batch {event['batch']}"
            result.resumed_at.append(at)
            result.ways.append("replay" if "replay" in event["data"] else "iterator")


def _last_lines(log: Path, count: int = 12) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
