"""``persist-callbacks predict``: run a PB on arrays from files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from persist_callbacks.cli import wording
from persist_callbacks.cli.examples import examples
from persist_callbacks.errors import ArgumentError

_SHOWN = 4


@click.command(
    "predict",
    epilog=examples(
        "persist-callbacks predict model.pb --input images.npy -o scores.npy",
        "persist-callbacks predict model.pb --input left=a.npy --input right=b.npy",
    ),
)
@click.argument("pb", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "inputs",
    metavar="[NAME=]FILE",
    multiple=True,
    required=True,
    help="A .npy file, or a .npz whose arrays are named as the inputs. Several "
    "inputs: give the option several times, with names or in the graph's order.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Save the result: .npy for one output, .npz for several.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Rows a run; all rows at once if left out.",
)
def command(
    pb: Path, inputs: tuple[str, ...], output: Path | None, batch_size: int | None
) -> None:
    """Run the frozen graph PB on arrays and print or save what it gives."""
    if output is not None and output.suffix not in (".npy", ".npz"):
        raise click.UsageError(f"--output {output}: the name must end in .npy or .npz.")
    feed = _feed(inputs)

    from persist_callbacks.graph.frozen import load_frozen_graph

    graph = load_frozen_graph(pb)
    if output is not None and output.suffix == ".npy" and len(graph.outputs) > 1:
        names = ", ".join(info.name for info in graph.outputs)
        raise click.UsageError(
            f"--output {output}: {pb} gives several arrays ({names}); save a .npz."
        )
    results = graph.predict(feed, batch_size)
    named: Mapping[str, Any] = (
        results if isinstance(results, dict) else {graph.outputs[0].name: results}
    )
    if output is None:
        _print(named)
    else:
        _save(output, named)


def _feed(inputs: Sequence[str]) -> Any:
    """Arrays by name; one array or a list of them where no names were given."""
    named: dict[str, Any] = {}
    unnamed: list[Any] = []
    for text in inputs:
        name, separator, file = text.partition("=")
        if not separator or Path(text).exists():
            name, file = "", text
        loaded = _load(Path(file), text)
        if isinstance(loaded, dict):
            if name:
                raise click.UsageError(
                    f"--input {text}: the arrays of a .npz have names of their own."
                )
            named.update(loaded)
        elif name:
            named[name] = loaded
        else:
            unnamed.append(loaded)
    if named and unnamed:
        raise click.UsageError("--input: give names to all inputs or to none.")
    if named:
        return named
    return unnamed[0] if len(unnamed) == 1 else unnamed


def _load(path: Path, text: str) -> Any:
    import numpy as np

    try:
        # Without pickles: nothing that comes in a file is executed.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                return {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ArgumentError(
            f"--input {text}",
            expected="a .npy or .npz file of numbers or text",
            found=str(error),
            advice="Save it with numpy.save, as an array that needs no pickle.",
        ) from error
    return loaded


def _save(output: Path, named: Mapping[str, Any]) -> None:
    import numpy as np

    with output.open("wb") as file:
        if output.suffix == ".npz":
            np.savez(file, **named)
        else:
            (array,) = named.values()
            np.save(file, array, allow_pickle=False)
    for name, array in named.items():
        click.echo(f"{output}: {name} {array.dtype}{wording.shape(array.shape)}")


def _print(named: Mapping[str, Any]) -> None:
    import numpy as np

    console = wording.console()
    table = wording.table("Output", "Shape", "Dtype", "Min", "Mean", "Max")
    for name, array in named.items():
        spread = ["", "", ""]
        if array.size and np.issubdtype(array.dtype, np.number):
            spread = [
                f"{value:.6g}" for value in (array.min(), array.mean(), array.max())
            ]
        table.add_row(name, wording.shape(array.shape), str(array.dtype), *spread)
    console.print(table)
    for name, array in named.items():
        rows = array.reshape(-1) if array.ndim == 0 else array
        console.print(f"{name}, the first {min(len(rows), _SHOWN)} of {len(rows)}:")
        console.print(np.array2string(rows[:_SHOWN], threshold=100, precision=6))
