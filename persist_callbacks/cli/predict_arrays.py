"""``persist-callbacks predict``: run a PB on arrays from files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from persist_callbacks.cli import arrays, wording
from persist_callbacks.cli.examples import examples
from persist_callbacks.cli.parameters import LocalPath
from persist_callbacks.errors import ArgumentError

if TYPE_CHECKING:
    from persist_callbacks.graph.frozen import FrozenGraph

# As many as `freeze` takes.
_MOST_ROWS = 2**31 - 1


@click.command(
    "predict",
    epilog=examples(
        "persist-callbacks predict model.pb --input images.npy -o scores.npy",
        "persist-callbacks predict model.pb --input left=a.npy --input right=b.npy",
        "persist-callbacks predict model.pb --input rows.csv --batch-size 256",
    ),
)
@click.argument("pb", type=LocalPath())
@click.option(
    "--input",
    "inputs",
    metavar="[NAME=]FILE",
    multiple=True,
    required=True,
    help="A .npy file, a .csv with one row a line, or a .npz whose arrays are named "
    "as the inputs. Several inputs: give the option several times, with names or in "
    "the graph's order.",
)
@click.option(
    "-o",
    "--output",
    type=LocalPath(dir_okay=False),
    help="Save the result: .npy for one output, .npz for any number.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, _MOST_ROWS),
    help="Rows a run; all rows at once if left out. With it, a .npy or .csv may be "
    "larger than memory.",
)
def command(
    pb: Path, inputs: tuple[str, ...], output: Path | None, batch_size: int | None
) -> None:
    """Run the frozen graph PB on arrays and print or save what it gives."""
    if output is not None and output.suffix not in (".npy", ".npz"):
        raise click.UsageError(f"--output {output}: the name must end in .npy or .npz.")
    rows = arrays.open_inputs(inputs)

    from persist_callbacks.graph.frozen import load_frozen_graph

    graph = load_frozen_graph(pb)
    if output is not None and output.suffix == ".npy" and len(graph.outputs) > 1:
        names = ", ".join(info.name for info in graph.outputs)
        raise click.UsageError(
            f"--output {output}: {pb} gives several arrays ({names}); save a .npz."
        )
    results = _run(graph, rows, batch_size)
    if output is None:
        arrays.show(_joined(list(results)))
    else:
        _save(results, output)


def _run(graph: FrozenGraph, rows: Any, size: int | None) -> Iterator[dict[str, Any]]:
    """Give the results of one batch after the other, and show how far it is."""
    counts = arrays.count(rows, graph).values() if size else ()
    total = -(-max(counts, default=1) // size) if size else 1
    given = arrays.batches(rows, graph, size)
    if total <= 1 or sys.stderr is None or not sys.stderr.isatty():
        for batch in given:
            yield _by_name(graph, graph(batch))
        return
    shown: Any
    with click.progressbar(
        given, length=total, label="Batches", file=sys.stderr
    ) as shown:
        for batch in shown:
            yield _by_name(graph, graph(batch))


def _by_name(graph: FrozenGraph, results: Any) -> dict[str, Any]:
    if isinstance(results, dict):
        return results
    return {graph.outputs[0].name: results}


def _joined(parts: list[dict[str, Any]]) -> Mapping[str, Any]:
    import numpy as np

    if len(parts) == 1:
        return parts[0]
    try:
        return {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }
    except ValueError as error:
        raise ArgumentError(
            "--batch-size",
            expected="outputs with one row for each row of input",
            found=str(error),
            advice="Run it without --batch-size.",
        ) from error


def _save(results: Iterator[dict[str, Any]], output: Path) -> None:
    from persist_callbacks.cli.results import ResultFile

    with ResultFile(output) as file:
        for result in results:
            file.append(result)
    for name, (dtype, shape) in file.shapes().items():
        click.echo(f"{output}: {name} {dtype}{wording.shape(shape)}")
