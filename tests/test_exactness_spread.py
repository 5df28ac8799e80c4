"""A spread of the exactness matrix, broken off by an exception in this very process.

``tests/soak/matrix.py`` runs all of it, each combination in child processes that are
killed.
"""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from loops import Crash, CrashAt
from persist_callbacks import PeriodicCheckpoint
from soak.combinations import COMBINATIONS
from soak.outcome import outcome_of

# Steps (executions, where they hold several) before the crash: in the second epoch
# of four or more.
CRASH_AFTER = 10
SPREAD = (
    "arrays, steps_per_epoch",
    "validation goes on",
    "tf.random.Generator in map",
    "PyDataset shuffles itself",
    "PyDataset mixes: array",
    "PyDataset mixes: names",
    "PyDataset mixes: classes",
    "PyDataset mixes: begin",
    "PyDataset mixes, steps_per_epoch",
    "PyDataset mixes, for validation",
    "PyDatasets share a generator",
    "PyDataset counts in an array",
    "Python generator",
    "stateful RNN",
    "mixed_float16, loss scale",
    "two optimizers",
    "averages in a plain object",
    "averages in a plain object, unbuilt",
    "steps_per_execution=3",
    "draws from the global generator",
    "several, ours last",
    "CSVLogger append",
    "SwapEMAWeights on epoch",
)


pytestmark = pytest.mark.usefixtures("deterministic", "synchronous")


def run_script(combination, directory, *, saved, crash_after=None):
    """Run the combination's script from its first line, as a new process would."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(3)
    tf.random.set_global_generator(tf.random.Generator.from_seed(3))
    files = directory / "files"
    files.mkdir(parents=True, exist_ok=True)
    theirs = combination.callbacks(files)
    members = [*theirs, CrashAt(crash_after)]
    ours = None
    if saved:
        ours = PeriodicCheckpoint(directory / "run", verbose=0, **combination.options)
        members.insert(0 if combination.ours == "first" else len(members), ours)
    model = combination.build()
    try:
        history = combination.fit(model, members)
    finally:
        if ours is not None:
            ours.close()
        for member in theirs:
            # A killed process leaves no file open.
            if isinstance(member, keras.callbacks.CSVLogger):
                member.csv_file.close()
        for each in theirs:
            # A process that dies closes its files.
            if isinstance(each, keras.callbacks.CSVLogger) and each.csv_file:
                each.csv_file.close()
    return json.loads(outcome_of(model, history, theirs, files))


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
# A stateful recurrent layer assigns to variables in inference, which cannot be frozen.
@pytest.mark.filterwarnings("ignore:The checkpoints carry no graph")
@pytest.mark.parametrize("name", SPREAD)
def test_a_crash_leaves_no_trace(name, tmp_path):
    """All that a run leaves behind is equal to the bit after a crash."""
    combination = COMBINATIONS[name]
    expected = run_script(combination, tmp_path / "whole", saved=False)
    with pytest.raises(Crash):
        run_script(
            combination, tmp_path / "crashed", saved=True, crash_after=CRASH_AFTER
        )
    found = run_script(combination, tmp_path / "crashed", saved=True)
    assert found == expected
    journal = (tmp_path / "crashed" / "run" / "journal.jsonl").read_text()
    assert journal.count('"resumed"') == 1


def test_the_outcome_shows_a_difference_of_one_bit(tmp_path):
    """What the runs are compared by is not blind to the last bit of one weight."""
    combination = COMBINATIONS["arrays, not shuffled"]
    model = combination.build()
    history = combination.fit(model, [])
    before = outcome_of(model, history, [], tmp_path)
    kernel = model.layers[0].kernel
    value = np.array(kernel)
    value.view(np.uint32)[0, 0] ^= 1
    kernel.assign(value)
    after = outcome_of(model, history, [], tmp_path)
    changed = {
        name
        for name, value in json.loads(after).items()
        if value != json.loads(before)[name]
    }
    assert changed - {"generators"} == {"model variables"}
