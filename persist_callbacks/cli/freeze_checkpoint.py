"""``persist-callbacks freeze``: a checkpoint to a PB."""

from __future__ import annotations

from pathlib import Path

import click

from persist_callbacks.cli import wording
from persist_callbacks.cli.examples import examples


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [name.strip() for name in text.split(",") if name.strip()]


@click.command(
    "freeze",
    epilog=examples(
        "persist-callbacks freeze runs/digits -o model.pb",
        "persist-callbacks freeze run/ckpt-000001200 -o model.pb --outputs score",
    ),
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
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
    help="Inputs that the PB takes, in order; those it needs if left out.",
)
def command(
    checkpoint: Path, output: Path, outputs: str | None, inputs: str | None
) -> None:
    """Write the graph and weights of CHECKPOINT as one PB, with no model code.

    CHECKPOINT is a run directory (its newest sound checkpoint is taken), a checkpoint
    folder, or a TensorFlow checkpoint prefix with a .meta file.
    """
    from persist_callbacks.freezing import freeze

    graph = freeze(checkpoint, output, outputs=_names(outputs), inputs=_names(inputs))
    console = wording.console()
    size = wording.size(output.stat().st_size)
    console.print(f"{output}: {size}, {graph.op_count} operations")
    for title, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        for info in tensors:
            console.print(f"  {title} {info}")
