"""Kill a real training at every single change that it makes on the disk, and rerun it.

    python tests/soak/kill_everywhere.py [--spread N] [--work FOLDER]

Three scripts are killed: one that begins a run and saves and prunes; one that goes on
with a run; one that goes on with a run whose newest checkpoint is damaged. Each is run
once to count its changes (syncs, renames, removals, files, TensorFlow's files), and
once for each of them with a SIGKILL just before it. What is left is verified and run
to its end, whose weights, optimizer, metrics, seeds and History must be those of a run
that nobody has disturbed. ``--spread`` takes every N-th change only.

Ends with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import pytest
import tensorflow as tf

import disk_calls
import loops
from persist_callbacks.verifying import verify

DATA = "model.ckpt.data-00000-of-00001"
# Seven steps, saved after three, six and seven.
EPOCHS = 1


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spread", type=int, default=1, help="every N-th change only")
    parser.add_argument("--work", type=Path, help="keep all files in this folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-everywhere-") as temporary:
        return kill_everywhere(given.work or Path(temporary), given.spread)


def kill_everywhere(folder: Path, spread: int) -> int:
    """Kill each script at each change; print a line for each that goes wrong."""
    # TensorFlow is not used here: a forked child could not use it any more then.
    whole = in_child(lambda: train(None))
    assert whole is not None
    broken_off, damaged = folder / "broken off", folder / "damaged"
    in_child(lambda: train(broken_off, dies_after=7, keep_last=2))
    shutil.copytree(broken_off, damaged)
    damage_newest(damaged)
    prepared = {"begins": None, "goes on": broken_off, "goes back": damaged}
    points, wrong = 0, []
    found: collections.Counter[str] = collections.Counter()
    for name, before in prepared.items():
        changes = count_changes(copied(before, folder / f"{name} counted"))
        sys.stdout.write(f"{name}: {len(changes)} changes of the disk\n")
        for count in range(1, len(changes) + 1, spread):
            run = copied(before, folder / f"{name} {count:03d}")
            died = in_child(lambda run=run, count=count: train(run, dies_at=count))
            after = in_child(lambda run=run: look_and_go_on(run))
            points += 1
            problems = judge(died, after, whole)
            found.update(after["beside"] if after else [])
            if problems:
                wrong.append(f"{name} {count} ({changes[count - 1]}): {problems}")
                sys.stdout.write(wrong[-1] + "\n")
            shutil.rmtree(run, ignore_errors=True)
    leftovers = ", ".join(f"{number} {kind}" for kind, number in found.items())
    sys.stdout.write(
        f"{points} points, {points - len(wrong)} verified and resumed with the same "
        f"bits. Named by verify on the way: {leftovers or 'nothing'}.\n"
    )
    return 1 if wrong else 0


def judge(died: Any, after: dict[str, Any] | None, whole: dict[str, Any]) -> list[str]:
    """Name what is not as it should be after a kill."""
    if died is not None:
        return ["the script was not killed"]
    if after is None:
        return ["verify or the rerun failed"]
    problems = list(after["damage"])
    if after["outcome"] != whole:
        problems.append(f"another outcome: {after['outcome']}")
    return problems


def train(
    run: Path | None,
    *,
    dies_at: int | None = None,
    dies_after: int | None = None,
    keep_last: int = 1,
) -> dict[str, Any] | None:
    """Run the script from its first line; None if it is broken off after some steps."""
    tf.config.experimental.enable_op_determinism()
    with pytest.MonkeyPatch.context() as patch:
        # What is done at which instant shall be the same each time.
        loops.save_at_once(patch)
        act = (lambda _: None) if dies_at is None else disk_calls.die_at(dies_at)
        with disk_calls.before_each(act):
            return outcome(run, dies_after, keep_last)


def outcome(
    run: Path | None, dies_after: int | None, keep_last: int
) -> dict[str, Any] | None:
    """Train the smallest model that has everything; give what it came to."""
    x, y = loops.data()
    try:
        ended = loops.train(
            loops.sequential,
            lambda model, callbacks: model.fit(
                *(x, y), batch_size=8, epochs=EPOCHS, verbose=0, callbacks=callbacks
            ),
            run,
            crash_after=dies_after,
            callbacks=[keras.callbacks.EarlyStopping("loss", patience=5)],
            every_steps=3,
            keep_last=keep_last,
            keep_best=1,
            monitor="loss",
        )
    except loops.Crash:
        return None
    return json.loads(json.dumps(vars(ended)))


def copied(before: Path | None, run: Path) -> Path:
    """Give a run directory as it was before, or the path of none."""
    if before is not None:
        shutil.copytree(before, run)
    return run


def count_changes(run: Path) -> list[str]:
    """Run the script to its end and list what it changes on the disk."""

    def listed() -> list[str]:
        seen: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            loops.save_at_once(patch)
            tf.config.experimental.enable_op_determinism()
            with disk_calls.before_each(seen.append):
                outcome(run, None, 1)
        return seen

    changes = in_child(listed)
    assert changes
    return list(changes)


def damage_newest(run: Path) -> None:
    """Flip a byte of the newest checkpoint's tensors."""
    newest = sorted(run.glob("ckpt-?????????"))[-1] / DATA
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 0x10
    newest.write_bytes(content)


def look_and_go_on(run: Path) -> dict[str, Any]:
    """Verify what a kill has left, and run the script to its end."""
    damage, beside = [], []
    if run.exists() and any(run.iterdir()):
        found = verify(run) if any(run.glob("ckpt-*")) else None
        for one in found.checkpoints if found else ():
            # The one that was damaged before the kill stays so until it is set aside.
            if not one.sound and "its content was changed" not in str(one.findings):
                damage += [str(each) for each in one.findings]
        for each in found.findings if found else ():
            (damage if each.damage else beside).append(str(each))
    beside = [text.split(":")[1].strip() for text in beside]
    ended = train(run)
    after = verify(run)
    damage += [str(each) for each in after.checkpoints if not each.sound]
    left = [str(each) for each in after.findings if "staged" in each.what]
    return {"damage": damage + left, "beside": beside, "outcome": ended}


def in_child(work: Callable[[], Any]) -> Any:
    """Do something in a forked child; give its result, None if it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as file:
                json.dump(work(), file)
            code = 0
        except BaseException:  # noqa: BLE001 - told, and by the exit code
            traceback.print_exc()
        finally:
            # Not exit: the handlers at exit belong to the process that was forked.
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 1:
        raise SystemExit("a child failed, see above")
    return json.loads(text) if code == 0 else None


if __name__ == "__main__":
    begun = time.monotonic()
    code = main()
    sys.stdout.write(f"{time.monotonic() - begun:.0f} s\n")
    sys.exit(code)
