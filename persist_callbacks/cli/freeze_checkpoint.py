"""``persist-callbacks freeze``: a checkpoint to a PB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from persist_callbacks.cli import wording
from persist_callbacks.cli.examples import examples
from persist_callbacks.cli.parameters import LocalPath

if TYPE_CHECKING:
    from persist_callbacks.graph.frozen import FrozenGraph


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [name.strip() for name in text.split(",") if name.strip()]


@click.command(
    "freeze",
    epilog=examples(
        "persist-callbacks freeze runs/digits -o model.pb",
        "persist-callbacks freeze run/ckpt-000001200 -o model.pb --outputs score",
        "persist-callbacks freeze old_tf1_run -o model.pb --outputs a,b --list-ops",
    ),
)
@click.argument("checkpoint", type=LocalPath())
@click.option(
    "-o",
    "--output",
    required=True,
    type=LocalPath(dir_okay=False),
    help="The PB to write; its signature goes beside it.",
)
@click.option(
    "--outputs",
    metavar="NAME,...",
    help="Nodes whose results the PB gives; the model's outputs if left out.",
)
@click.option(
    "--inputs",
    metavar="NAME,...",
    help="Inputs that the PB takes, in order; those it needs if left out. Any tensor "
    "of the graph may be one, such as what an iterator gives: IteratorGetNext:1.",
)
@click.option(
    "--target",
    type=click.Choice(["portable", "tensorflow"]),
    default="portable",
    show_default=True,
    help="What reads the PB: every runtime, or TensorFlow alone, with no op rewritten.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rows that the PB takes, no more and no fewer; any number if left out.",
)
@click.option(
    "--list-ops", is_flag=True, help="Name every op of the PB, with its outputs."
)
@click.option(
    "--input",
    "files",
    metavar="[NAME=]FILE",
    multiple=True,
    help="Run the PB on these arrays, as `predict` takes them; on made-up ones if "
    "left out.",
)
def command(
    checkpoint: Path,
    output: Path,
    outputs: str | None,
    inputs: str | None,
    target: Literal["portable", "tensorflow"],
    batch_size: int | None,
    list_ops: bool,
    files: tuple[str, ...],
) -> None:
    """Write the graph and weights of CHECKPOINT as one PB, with no model code.

    CHECKPOINT is a run directory (its newest sound checkpoint is taken), a checkpoint
    folder, or a TensorFlow checkpoint prefix with a .meta file; of this library, or of
    any script that used TensorFlow 1's Saver. The PB is run once, and what it gives is
    shown.
    """
    from persist_callbacks.cli import arrays

    rows = arrays.open_inputs(files)

    from persist_callbacks.freezing import freeze

    graph = freeze(
        checkpoint,
        output,
        outputs=_names(outputs),
        inputs=_names(inputs),
        target=target,
        batch_size=batch_size,
    )
    console = wording.console()
    size = wording.size(output.stat().st_size)
    console.print(f"{output}: {size}")
    for title, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        for info in tensors:
            console.print(f"  {title} {info}")
    # A graph with a variable or a table in it would not have been written.
    console.print(
        f"{graph.op_count} ops in the final graph, none of them a variable or a table"
    )
    if list_ops:
        for name, kind, tensors in graph.operations():
            listed = ", ".join(str(info) for info in tensors)
            console.print(f"  {name} ({kind})" + (f" -> {listed}" if listed else ""))
    _show_run(graph, rows)


def _show_run(graph: FrozenGraph, rows: Any) -> None:
    """Run a PB once, on arrays from files or made-up ones, and print what it gives."""
    from persist_callbacks.cli import arrays

    if rows:
        (batch,) = arrays.batches(rows, graph, None)
        title = "On what was given:"
        results = graph(batch)
    else:
        from persist_callbacks.exporting import run_on_made_up

        title = "On made-up input:"
        results = run_on_made_up(graph)
        if results is None:
            click.echo("It takes none of the made-up inputs; give it some: --input.")
            return
    click.echo(title)
    named = results if isinstance(results, dict) else {graph.outputs[0].name: results}
    arrays.show(named)
