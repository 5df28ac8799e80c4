"""Start small fits, end them abruptly, and see that each process is soon gone.

    python tests/soak/abrupt_ends.py [--times 200] [--seed 1]

Each is an interpreter of its own. It ends itself after a random step, by one of several
ways, and tells when; the time from there to its exit is measured from outside. The run
directory must be fit for a reader afterwards.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from persist_callbacks.errors import CheckpointNotFound
from persist_callbacks.storage.store import Store

SCRIPT = Path(__file__).resolve().parents[1] / "interrupted_script.py"
WAYS = {
    "exception": "raise ValueError('end')",
    "sys.exit": "sys.exit(3)",
    "os._exit": "os._exit(3)",
    "SIGTERM": "signal.raise_signal(signal.SIGTERM)",
    "SIGINT": "signal.raise_signal(signal.SIGINT)",
    "SIGINT twice": "[signal.raise_signal(signal.SIGINT) for _ in range(2)]",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "end of a fork": "os.fork() or sys.exit(0)",
    "exception in a thread": "threading.Thread(target=lambda: 1 / 0).start()",
}
_LIMIT = 120.0
_CODE = """
import os, signal, sys, threading, time
sys.path[:0] = [{folder!r}]
import interrupted_script as script
def end(self, batch, logs=None):
    if int(self.model.optimizer.iterations.numpy()) == {at}:
        print("ends", time.time(), flush=True)
        {way}
script.Marks.{hook} = end
sys.argv = ["script", {run!r}, "--options", '{{"every_steps": 1}}']
script.main()
"""


def end_abruptly(way: str, hook: str, at: int, run: Path) -> float:
    """Run one fit to its abrupt end; give the seconds from there to its exit."""
    code = _CODE.format(
        folder=str(SCRIPT.parent), at=at, way=WAYS[way], hook=hook, run=str(run)
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    gone = time.time()
    ended = [line for line in done.stdout.splitlines() if line.startswith("ends")]
    try:
        store = Store.open_for_reading(run)
        store.newest_sound()
        for folder in run.glob("ckpt-*"):
            store.find(folder)
    except CheckpointNotFound:
        pass
    return gone - float(ended[0].split()[1]) if ended else 0.0


def main() -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    seconds = collections.defaultdict(list)
    with (
        tempfile.TemporaryDirectory(prefix="abrupt-") as folder,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        jobs = {}
        for number in range(given.times):
            way = chance.choice(list(WAYS))
            hook = chance.choice(["on_train_batch_end", "on_test_batch_end"])
            run = Path(folder) / f"{number:03d}"
            job = pool.submit(end_abruptly, way, hook, 6 * chance.randint(1, 3), run)
            jobs[job] = way
        for job, way in jobs.items():
            seconds[way].append(job.result())
    for way, found in sorted(seconds.items()):
        middle = sorted(found)[len(found) // 2]
        sys.stdout.write(
            f"{way}: {len(found)} times, gone after {middle:.2f} s (median), "
            f"{max(found):.2f} s (longest)\n"
        )
    total = sum(map(len, seconds.values()))
    longest = max(map(max, seconds.values()))
    sys.stdout.write(f"{total} ends, longest {longest:.2f} s, none hung.\n")


if __name__ == "__main__":
    main()
