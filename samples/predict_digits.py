"""Run a frozen PB on the held-out digits, in a process that cannot import Keras.

Run it on what ``train_digits.py`` has written:

    python samples/predict_digits.py runs/digits/model.pb
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# TensorFlow tries to import Keras whenever it is imported itself, and does without it.
# From here on every such attempt fails, so what follows is done without Keras.
sys.modules["keras"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

from persist_callbacks import load_frozen_graph  # noqa: E402

HELD_OUT = 360


def main() -> None:
    """Predict, and compare with what the live model had said."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pb", type=Path)
    arguments = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    images = (images[-HELD_OUT:] / 16.0).astype("float32").reshape(-1, 8, 8, 1)

    frozen = load_frozen_graph(arguments.pb)
    scores = frozen.predict(images, batch_size=120)
    accuracy = np.mean(scores.argmax(axis=1) == labels[-HELD_OUT:])
    print(f"Accuracy of the PB on {HELD_OUT} held-out digits: {accuracy:.4f}")
    live = arguments.pb.with_name("live_scores.npy")
    if live.exists():
        difference = np.abs(scores - np.load(live)).max()
        print(f"Largest difference from the live model: {difference:.3g}")
    imported = sys.modules["keras"] is not None
    print(f"Keras was imported: {'yes' if imported else 'no'}")


if __name__ == "__main__":
    main()
