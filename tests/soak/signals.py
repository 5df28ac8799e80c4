"""Send SIGTERM at random moments, run the script again, and compare.

    python tests/soak/signals.py [--times 100] [--seed 1] [--name COMBINATION]

The moments are uniform in time over a whole run with its validation and its saves,
from before fit has begun. Ends with 1 if a run that was resumed differs.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from soak.runs import differences, preload, run_to_end, start

PACE = 0.03


@dataclass
class Stop:
    """What became of one SIGTERM."""

    part: str
    code: int
    to_exit: float
    to_safe: float | None
    differs: list[str]


def stop_and_resume(name: str, where: Path, whole: Path, after: float) -> Stop:
    """Start a run, stop it some seconds later, and run it to its end."""
    arguments = [name, str(where), "--by", "ours", "--pace", str(PACE)]
    child = start(arguments, where / "errors.txt", spawn=False)
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        os.kill(child.pid, signal.SIGTERM)

    timer = threading.Timer(after, send)
    timer.start()
    part = "before fit"
    for mark in child.marks():
        if not sent:
            part = _part(mark)
    timer.cancel()
    timer.join()
    code = child.wait()
    to_exit = time.monotonic() - sent[0] if sent else 0.0
    events = _journal(where / "run")
    stopped = [e for e in events if e["event"] == "stopped"]
    saved = [e for e in events if e["event"] == "saved"]
    to_safe = stopped[-1]["seconds"] if stopped and stopped[-1]["safe"] else None
    run_to_end(name, where, "ours", spawn=False, pace=0.0)
    unlike = differences(
        json.loads((whole / "outcome.json").read_text()),
        json.loads((where / "outcome.json").read_text()),
    )
    if saved and saved[-1]["reason"] == "finished":
        # Nothing is trained any more: a rerun builds no metrics.
        unlike.pop("metric variables", None)
    return Stop(part, code, to_exit, to_safe, list(unlike))


def _part(mark: str) -> str:
    if mark == "fit":
        return "tracing and the first step"
    if mark.startswith("validation begins"):
        return "validation"
    if mark in ("trained", "done"):
        return "after the last step"
    return "training"


def _journal(run: Path) -> list[dict[str, object]]:
    path = run / "journal.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="validation goes on")
    given = parser.parse_args()
    preload()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="signals-") as temporary:
        folder = Path(temporary)
        run_to_end(given.name, folder / "whole", "nothing", spawn=False, pace=0.0)
        begun = time.monotonic()
        run_to_end(given.name, folder / "paced", "ours", spawn=False, pace=PACE)
        longest = time.monotonic() - begun
        context = multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
            jobs = [
                pool.submit(
                    stop_and_resume,
                    given.name,
                    folder / f"{number:03d}",
                    folder / "whole",
                    chance.uniform(0.1, longest),
                )
                for number in range(given.times)
            ]
            stops = [job.result() for job in jobs]
    return tell(stops)


def tell(stops: list[Stop]) -> int:
    """Print what became of them; 1 if one differs."""
    lines = []
    for part, number in sorted(collections.Counter(s.part for s in stops).items()):
        codes = collections.Counter(s.code for s in stops if s.part == part)
        told = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
        lines.append(f"in {part}: {number} (exit codes {told})")
    safe = [s.to_safe for s in stops if s.to_safe is not None]
    exits = [s.to_exit for s in stops if s.code]
    late = [s for s in stops if s.code == 143 and s.to_safe is None]
    lines += [
        f"Saved within the grace period: {len(safe)}; not: {len(late)}.",
        f"From the signal to the safe checkpoint: median "
        f"{statistics.median(safe):.2f} s, largest {max(safe):.2f} s.",
        f"From the signal to the exit: median {statistics.median(exits):.2f} s, "
        f"largest {max(exits):.2f} s.",
        f"Exact after the rerun: {sum(not s.differs for s in stops)} of {len(stops)}.",
    ]
    lines += [f"DIFFERS: {s}" for s in stops if s.differs]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if any(s.differs for s in stops) else 0


if __name__ == "__main__":
    sys.exit(main())
