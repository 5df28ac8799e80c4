"""Fault-tolerant training for Keras: save, resume to the bit, export one PB."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from persist_callbacks.freezing import freeze as freeze
    from persist_callbacks.frozen_graph_export import (
        FrozenGraphExport as FrozenGraphExport,
    )
    from persist_callbacks.graph.frozen import FrozenGraph as FrozenGraph
    from persist_callbacks.graph.frozen import load_frozen_graph as load_frozen_graph
    from persist_callbacks.periodic_checkpoint import (
        PeriodicCheckpoint as PeriodicCheckpoint,
    )
    from persist_callbacks.recovery import ResumePoint as ResumePoint
    from persist_callbacks.resuming import resume as resume

__version__ = "0.1.0"

# Each public name is imported when it is first asked for: `persist-callbacks list` and
# `load_frozen_graph` must not pay for Keras, nor the former for TensorFlow.
_HOME = {
    "FrozenGraph": "persist_callbacks.graph.frozen",
    "FrozenGraphExport": "persist_callbacks.frozen_graph_export",
    "PeriodicCheckpoint": "persist_callbacks.periodic_checkpoint",
    "ResumePoint": "persist_callbacks.recovery",
    "freeze": "persist_callbacks.freezing",
    "load_frozen_graph": "persist_callbacks.graph.frozen",
    "resume": "persist_callbacks.resuming",
}

__all__ = [
    "FrozenGraph",
    "FrozenGraphExport",
    "PeriodicCheckpoint",
    "ResumePoint",
    "freeze",
    "load_frozen_graph",
    "resume",
]


def __getattr__(name: str) -> object:
    """Import the module behind a public name the first time it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
