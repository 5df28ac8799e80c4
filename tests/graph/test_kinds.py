"""Every kind of model: the PB is the live model, and the folder's PB is the same one.

``python tests/soak/model_kinds.py`` trains each kind too, and prints them as a table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import kinds
import numpy as np
import pytest
import tensorflow as tf
import zoo

import persist_callbacks
from persist_callbacks import FrozenGraphExport, exporting
from persist_callbacks.errors import UnsupportedGraph
from persist_callbacks.graph.compare import compare, generate
from persist_callbacks.graph.meta import to_meta
from persist_callbacks.graph.trace import run_live
from persist_callbacks.storage import bundle

KINDS = {name: kind for name, kind in kinds.KINDS.items() if name not in zoo.KINDS}


def test_there_are_kinds_enough() -> None:
    """A kind that is dropped from the list is missed."""
    assert len(kinds.KINDS) >= 60


@pytest.mark.parametrize("kind", KINDS)
def test_live_and_from_a_folder(kind: str, tmp_path: Path) -> None:
    """Export and live model agree; freezing the folder gives the export's bytes."""
    specs = kinds.EXAMPLES.get(kind)
    made = zoo.traced(KINDS[kind], specs=specs)
    built = exporting.build(made.graph, made.values)
    sample = generate(made.graph.inputs, batch=8, open_size=16, seed=1)
    live = run_live(made.model, made.graph, sample, specs=specs)
    found = zoo.by_name(built.frozen(sample), made.outputs)
    tolerance = kinds.TOLERANCE.get(kind, 1e-5)
    comparison = compare(live, found, atol=tolerance, rtol=10 * tolerance)
    assert comparison.agrees, str(comparison)
    assert all(value.size for value in live.values())

    values = {key: tf.constant(value) for key, value in made.values.items()}
    bundle.write(tmp_path / "model.ckpt", values)
    (tmp_path / "model.ckpt.meta").write_bytes(to_meta(made.graph))
    persist_callbacks.freeze(tmp_path / "model.ckpt", tmp_path / "model.pb")
    assert (tmp_path / "model.pb").read_bytes() == built.data


@pytest.mark.parametrize("kind", kinds.REFUSED, ids=lambda kind: kind.__name__)
def test_refused_before_the_first_step(kind: Any, tmp_path: Path) -> None:
    """What cannot be constants is refused by its layer's name and the way out."""
    model = kind()
    model.compile("sgd", "mse")
    shape = [size or 8 for size in model.inputs[0].shape]
    x = np.zeros(shape, np.float32)
    export = FrozenGraphExport(tmp_path / "model.pb")
    with pytest.raises(UnsupportedGraph, match=kinds.REFUSED[kind]):
        model.fit(x, np.zeros((8, 2)), batch_size=8, verbose=0, callbacks=[export])
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 0
    assert not list(tmp_path.iterdir())
