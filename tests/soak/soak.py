"""Kill one training script at random instants until it ends, then compare.

    python tests/soak/soak.py [--kills 100] [--seed 1] [--name COMBINATION]

The instants are uniform in time over starts, resumes, training, saves and validation.
A script that is killed before it can write one more checkpoint makes no progress, so
the span that an instant is drawn from is some times what a start takes on this machine;
it grows when several lives in a row have not come to a step.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from soak.runs import differences, has_checkpoint, preload, run_to_end, start

# The part of the script that a kill fell into, by the last mark that it had printed.
_PARTS = {
    "": "start",
    "fit": "start of fit",
    "epoch": "training",
    "step": "training",
    "validation begins": "validation",
    "validation ends": "training",
    "trained": "after training",
}
# What is staged, replaced or on its way out; a rerun clears it away.
_PASSING = (".staged", ".tmp", ".trash")
# The longest life, in times that it takes to come to the first steps.
_LIFE = 2.5
_PATIENCE = 4


@dataclass
class Kill:
    """One kill: what the script was doing, and what of a save lay on disk."""

    part: str
    within_save: bool
    steps: int


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="soak")
    parser.add_argument("--spawn", action="store_true", help="no forking")
    parser.add_argument("--pace", type=float, default=0.04, help="seconds a batch")
    parser.add_argument("--work", type=Path, help="keep all files in this folder")
    given = parser.parse_args()
    if not given.spawn:
        preload()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = given.work or Path(temporary)
        return soak(given, folder)


def soak(given: argparse.Namespace, folder: Path) -> int:
    """Kill and rerun, then print what the kills fell into and whether all is equal."""
    total = run_to_end(
        given.name, folder / "whole", "nothing", spawn=given.spawn, pace=0.0
    )
    chance = random.Random(given.seed)
    longest = _LIFE * seconds_to_start(given, folder / "start")
    kills: list[Kill] = []
    ended, fruitless = False, 0
    while len(kills) < given.kills and not ended:
        kill = live_a_while(given, folder / "killed", chance.uniform(0, longest))
        ended = kill is None
        if kill is not None:
            kills.append(kill)
            sys.stderr.write(f"{len(kills)}: {kill}\n")
            fruitless = 0 if kill.steps else fruitless + 1
        if fruitless == _PATIENCE:
            # The machine has more to do than it had at first.
            longest, fruitless = 1.5 * longest, 0
    if not ended:
        run_to_end(given.name, folder / "killed", "ours", spawn=given.spawn, pace=0.0)
    unlike = differences(
        json.loads((folder / "whole" / "outcome.json").read_text()),
        json.loads((folder / "killed" / "outcome.json").read_text()),
    )
    parts = collections.Counter(kill.part for kill in kills)
    steps = sum(kill.steps for kill in kills)
    lines = [
        f"{len(kills)} kills of a run of {total} steps; "
        f"{steps} steps were taken by processes that were killed.",
        *(f"  in {part}: {number}" for part, number in sorted(parts.items())),
        f"  within a save, of all: {sum(kill.within_save for kill in kills)}",
        f"Resumed {_resumes(folder)} times.",
        "Identical." if not unlike else f"DIFFERS in {', '.join(unlike)}: {unlike}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if unlike else 0


def seconds_to_start(given: argparse.Namespace, where: Path) -> float:
    """Measure how long the script takes to its tenth step."""
    begun = time.monotonic()
    arguments = [given.name, str(where), "--pace", "0"]
    child = start(arguments, where / "errors.txt", spawn=given.spawn)
    steps = (mark for mark in child.marks() if mark.startswith("step"))
    for _ in itertools.islice(steps, 10):
        pass
    taken = time.monotonic() - begun
    child.kill()
    child.wait()
    return taken


def live_a_while(given: argparse.Namespace, where: Path, seconds: float) -> Kill | None:
    """Run the script and kill it after some time; None if it has ended by then."""
    run = where / "run"
    resuming = has_checkpoint(run)
    arguments = [given.name, str(where), "--pace", str(given.pace)]
    child = start(arguments, where / "errors.txt", spawn=given.spawn)
    timer = threading.Timer(seconds, child.kill)
    timer.start()
    last, steps = "", 0
    for mark in child.marks():
        if mark.startswith("step"):
            steps += 1
        if mark.startswith(tuple(filter(None, _PARTS))):
            last = mark
    # Its output has ended; what has not been killed by now ends by itself.
    timer.cancel()
    timer.join()
    code = child.wait()
    if code == 0:
        return None
    if code != -9:
        raise SystemExit((where / "errors.txt").read_text()[-4000:])
    part = next(
        name for prefix, name in reversed(_PARTS.items()) if last.startswith(prefix)
    )
    if steps == 0 and last.startswith(("fit", "epoch")):
        part = "resume" if resuming else "first step"
    return Kill(part, _staged(run), steps)


def _staged(run: Path) -> bool:
    """Whether a save was under way when the script was killed."""
    return run.exists() and any(
        path.name.startswith(_PASSING) for path in run.iterdir()
    )


def _resumes(folder: Path) -> int:
    journal = folder / "killed" / "run" / "journal.jsonl"
    events = [json.loads(line)["event"] for line in journal.read_text().splitlines()]
    return events.count("resumed")


if __name__ == "__main__":
    begun = time.monotonic()
    code = main()
    sys.stdout.write(f"{time.monotonic() - begun:.0f} s\n")
    sys.exit(code)
