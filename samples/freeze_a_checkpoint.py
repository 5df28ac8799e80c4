"""Turn the newest checkpoint of a run into a PB, without the model's code.

It works on a run that is still training, has crashed, or has ended.

    python samples/train_digits.py runs/digits
    python samples/freeze_a_checkpoint.py runs/digits frozen.pb
"""

from __future__ import annotations

import argparse

import numpy as np

from persist_callbacks import freeze


def main() -> None:
    """Freeze, and run the PB on one batch of zeros."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="a run directory or a checkpoint folder")
    parser.add_argument("pb", help="the file to write")
    arguments = parser.parse_args()

    frozen = freeze(arguments.checkpoint, arguments.pb)
    print(f"{arguments.pb}: {frozen.op_count} ops in the final graph")
    for info in frozen.inputs:
        print(f"  takes {info}")
    for info in frozen.outputs:
        print(f"  gives {info}")

    zeros = {
        info.name: np.zeros([size or 1 for size in info.shape], info.dtype)
        for info in frozen.inputs
    }
    print(f"on zeros: {frozen(zeros)}")


if __name__ == "__main__":
    main()
