"""The training script of one combination: what is killed and run again.

    python tests/soak/one_run.py NAME DIRECTORY [--by ours|nothing|backup-epoch|...]

It prints a mark for each thing that happens, by which the killer knows where it is, and
writes ``outcome.json`` when training has ended.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WAYS = ("ours", "nothing", "backup-epoch", "backup-batches")


def mark(*words: Any) -> None:
    """Print one line, at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def train(name: str, directory: Path, by: str, pace: float) -> None:
    """Run a combination from its first line to ``outcome.json``.

    Args:
        name: of the combination.
        directory: where everything of this run is written.
        by: what saves and resumes it, one of `WAYS`.
        pace: seconds that each batch takes longer, so that saves fit in between.
    """
    import keras
    import tensorflow as tf

    from soak.combinations import find
    from soak.outcome import outcome_of

    class Marks(keras.callbacks.Callback):
        """Says where training is; the same in each run, so that nothing differs."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            mark("step", batch)
            time.sleep(pace)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            mark("epoch", epoch)

        def on_test_begin(self, logs: Any = None) -> None:
            mark("validation begins")

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            time.sleep(pace)

        def on_test_end(self, logs: Any = None) -> None:
            mark("validation ends")

    combination = find(name)
    if combination.devices > 1:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * combination.devices,
        )
    keras.utils.set_random_seed(3)
    tf.random.get_global_generator().reset_from_seed(3)
    tf.config.experimental.enable_op_determinism()
    files = directory / "files"
    files.mkdir(parents=True, exist_ok=True)
    theirs = combination.callbacks(files)
    members = [*theirs, Marks()]
    saver = _saver(by, directory, combination.options)
    if saver is not None:
        members.insert(0 if combination.ours == "first" else len(members), saver)
    model = combination.build()
    mark("fit")
    history = combination.fit(model, members)
    mark("trained")
    outcome = outcome_of(model, history, theirs, files)
    staged = directory / "outcome.json.part"
    staged.write_text(outcome)
    staged.rename(directory / "outcome.json")
    mark("done")


def _saver(by: str, directory: Path, options: Any) -> Any:
    import keras

    from persist_callbacks import PeriodicCheckpoint

    if by == "ours":
        return PeriodicCheckpoint(directory / "run", verbose=0, **options)
    if by.startswith("backup"):
        freq = "epoch" if by == "backup-epoch" else options.get("every_steps", 3)
        return keras.callbacks.BackupAndRestore(directory / "backup", save_freq=freq)
    return None


def main(arguments: list[str] | None = None) -> None:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--by", choices=WAYS, default="ours")
    parser.add_argument("--pace", type=float, default=0.01, help="seconds a batch")
    given = parser.parse_args(arguments)
    train(given.name, given.directory, given.by, given.pace)


if __name__ == "__main__":
    main()
