"""The main demonstration: kill a training run, run it again, compare, export, predict.

It runs ``train_digits.py`` in a child process, kills it with SIGKILL in the middle of
an epoch, and runs the same command again; then once more into another directory
without any kill. Both must end with the same bits.

    python samples/crash_and_resume.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

SAMPLES = Path(__file__).parent
STEPS_PER_EPOCH = 41
EPOCHS = 6


def main() -> int:
    """Run the whole loop; return 0 if everything came out as promised."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--kill-at", type=int, help="step after which to kill; by default a random one"
    )
    arguments = parser.parse_args()
    # In the middle of an epoch that is neither the first nor the last.
    kill_at = arguments.kill_at or STEPS_PER_EPOCH * random.randint(
        1, EPOCHS - 2
    ) + random.randint(5, STEPS_PER_EPOCH - 5)

    with tempfile.TemporaryDirectory(prefix="crash_and_resume_") as scratch:
        interrupted, reference = Path(scratch, "killed"), Path(scratch, "never_killed")

        print(f"1. Training, until it is killed after step {kill_at} ...", flush=True)
        killed_at = train_until_killed(interrupted, kill_at)
        print(f"   killed at step {killed_at} by SIGKILL", flush=True)

        print("2. The same command again ...", flush=True)
        again = train(interrupted)
        resumed = last_event(interrupted, "resumed")
        for line in again:
            print(f"   | {line}")

        print("3. The same script, never killed ...", flush=True)
        for line in train(reference):
            print(f"   | {line}")

        print("4. The PB, in a process of its own ...", flush=True)
        predicted = run([SAMPLES / "predict_digits.py", interrupted / "model.pb"])
        for line in predicted:
            print(f"   | {line}")

        equal, compared = same_bits(interrupted, reference)
        same_pb = (interrupted / "model.pb").read_bytes() == (
            reference / "model.pb"
        ).read_bytes()
        live, frozen = number_in(again, "Accuracy of"), number_in(predicted, "Accuracy")
        difference = number_in(predicted, "Largest difference")

        print()
        print(f"killed at step {killed_at}")
        print(
            f"resumed at step {resumed['step']} in epoch {resumed['epoch'] + 1} "
            f"batch {resumed['batch']} (epochs count from 1, batches from 0)"
        )
        print(f"final weights bit-identical: {yes(equal)} ({compared} tensors)")
        print(f"PB of both runs byte-identical: {yes(same_pb)}")
        print(
            f"PB accuracy {frozen:.4f}, live model {live:.4f}: "
            f"equal: {yes(frozen == live)}, largest difference {difference:.3g}"
        )
        sound = resumed["step"] <= killed_at and equal and same_pb and frozen == live
        return 0 if sound else 1


def train_until_killed(directory: Path, kill_at: int) -> int:
    """Run the training script and kill it after a step; return the step."""
    with subprocess.Popen(
        command(directory), stdout=subprocess.PIPE, text=True, env=environment()
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            step = re.match(r"step (\d+)", line)
            if step and int(step[1]) >= kill_at:
                child.send_signal(signal.SIGKILL)
                break
        child.wait()
    if child.returncode != -signal.SIGKILL or step is None:
        raise SystemExit(f"the training script ended by itself: {child.returncode}")
    return int(step[1])


def train(directory: Path) -> list[str]:
    """Run the training script to its end; return what it printed but its steps."""
    lines = run(command(directory)[1:])
    return [line for line in lines if not line.startswith("step ")]


def command(directory: Path) -> list[str]:
    """Give the command that trains into a directory."""
    return [
        sys.executable,
        str(SAMPLES / "train_digits.py"),
        str(directory),
        f"--epochs={EPOCHS}",
        "--print-steps",
    ]


def run(arguments: list[str | Path]) -> list[str]:
    """Run a Python script and return the lines that it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(),
    )
    return done.stdout.splitlines()


def environment() -> dict[str, str]:
    """Give a child's environment: the same numerics each time, and less chatter."""
    return {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}


def last_event(directory: Path, event: str) -> dict:
    """Return the newest event of a kind in a run's journal."""
    lines = (directory / "journal.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == event][-1]


def same_bits(one: Path, other: Path) -> tuple[bool, int]:
    """Compare the variables in two runs' newest checkpoints, and their History."""
    os.environ.update(environment())
    import tensorflow as tf

    prefixes = [tf.train.latest_checkpoint(str(run)) for run in (one, other)]
    readers = [tf.train.load_checkpoint(prefix) for prefix in prefixes]
    states = [
        json.loads(Path(prefix).with_name("training_state.json").read_text())
        for prefix in prefixes
    ]
    keys = [variable["key"] for variable in states[0]["variables"]]
    equal = all(
        readers[0].get_tensor(key).tobytes() == readers[1].get_tensor(key).tobytes()
        for key in keys
    )
    same_callbacks = states[0]["callbacks"] == states[1]["callbacks"]
    same_place = states[0]["position"] == states[1]["position"]
    return equal and same_callbacks and same_place, len(keys)


def number_in(lines: list[str], start: str) -> float:
    """Return the number at the end of the line that starts with some words."""
    line = next(line for line in lines if line.startswith(start))
    return float(line.rsplit(" ", 1)[1])


def yes(answer: bool) -> str:
    """Say yes or no."""
    return "yes" if answer else "no"


if __name__ == "__main__":
    sys.exit(main())
