"""For whom a PB is: every runtime that reads one, or TensorFlow alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from persist_callbacks.errors import ArgumentError
from persist_callbacks.graph.canonical import canonical
from persist_callbacks.graph.portable import split_grouped_convolutions
from persist_callbacks.graph.simplify import inline_calls, name_outputs, simplify
from persist_callbacks.graph.volumes import (
    has_calls_of_volumes,
    volumes_by_channels_last,
)

TARGETS = ("portable", "tensorflow")

# Beyond it some runtimes cannot count.
_MOST_ROWS = 2**31 - 1


def check_target(target: str, batch_size: int | None) -> None:
    """Refuse what no export can be made for.

    Args:
        target: ``portable`` for a PB that every runtime reads, ``tensorflow`` for one
            in which no op is rewritten.
        batch_size: a positive number that 32 bits hold, or None.

    Raises:
        ArgumentError: it is something else.
    """
    if target not in TARGETS:
        raise ArgumentError(
            "target",
            expected=" or ".join(repr(each) for each in TARGETS),
            found=repr(target),
            advice="Leave it out for a PB that other runtimes read too.",
        )
    is_size = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    if batch_size is not None and not (is_size and 0 < batch_size <= _MOST_ROWS):
        raise ArgumentError(
            "batch_size",
            expected=f"a positive number of rows, at most {_MOST_ROWS}, or None",
            found=repr(batch_size),
            advice="Leave it out for a PB that takes any number.",
        )


def finished(
    graph_def: Any, target: str, *, inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """Return a frozen graph as it is written for a target.

    Args:
        graph_def: a frozen GraphDef; not changed.
        target: one of `TARGETS`.
        inputs: placeholders, all kept.
        outputs: nodes that are kept by name.
    """
    if target == "portable":
        return simplify(graph_def, inputs=inputs, outputs=outputs)
    if has_calls_of_volumes(graph_def):
        graph_def = name_outputs(graph_def, outputs)
        graph_def = inline_calls(graph_def, inputs=inputs, outputs=outputs)
        graph_def = split_grouped_convolutions(volumes_by_channels_last(graph_def))
    return canonical(graph_def, inputs=inputs, outputs=outputs)
