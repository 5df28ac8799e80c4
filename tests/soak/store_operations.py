"""Run the state machine of `tests/storage/store_machine.py` for longer.

python tests/soak/store_operations.py [--examples 1000] [--steps 50] [--seed 1]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "storage"))

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from store_machine import RunDirectory


def main() -> None:
    """Run by the command line; an example that fails ends it with its operations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    begun = time.monotonic()
    run_state_machine_as_test(
        seed(given.seed)(RunDirectory),
        settings=settings(
            max_examples=given.examples,
            stateful_step_count=given.steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
    seconds = time.monotonic() - begun
    sys.stdout.write(f"{RunDirectory.operations} operations, {seconds:.0f} s\n")


if __name__ == "__main__":
    main()
