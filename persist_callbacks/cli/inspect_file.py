"""``persist-callbacks inspect``: what a checkpoint or a PB holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from persist_callbacks.cli import wording
from persist_callbacks.cli.examples import examples
from persist_callbacks.cli.parameters import LocalPath
from persist_callbacks.errors import ArgumentError, PersistError
from persist_callbacks.locating import locate, own_graph
from persist_callbacks.records import TensorInfo
from persist_callbacks.storage import bundle


@click.command(
    "inspect",
    epilog=examples(
        "persist-callbacks inspect runs/digits",
        "persist-callbacks inspect runs/digits/ckpt-000001200/model.ckpt",
        "persist-callbacks inspect model.pb",
        "persist-callbacks inspect model.pb --runtimes",
    ),
)
@click.argument("path", type=LocalPath())
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of tables.")
@click.option(
    "--runtimes",
    is_flag=True,
    help="Tell which runtimes read the PB, or which ops stand in the way.",
)
def command(path: Path, as_json: bool, runtimes: bool) -> None:
    """Show the variables, parameters and graph operations in PATH.

    PATH is a run directory (its newest sound checkpoint is shown), a checkpoint
    folder, a TensorFlow checkpoint prefix, or a frozen PB.
    """
    is_pb = path.suffix == ".pb"
    if runtimes and not is_pb:
        raise ArgumentError(
            "--runtimes",
            expected="the path of a PB",
            found=str(path),
            advice="Freeze the checkpoint first: persist-callbacks freeze.",
        )
    described = _describe_pb(path) if is_pb else _describe_checkpoint(path)
    if runtimes:
        described |= {"runtimes": _runtimes(path)}
    if as_json:
        wording.print_json(described)
    else:
        _print(described)


def _describe_checkpoint(path: Path) -> dict[str, Any]:
    prefix = locate(path, check=False)
    variables = bundle.variables(prefix)
    described: dict[str, Any] = {
        "path": prefix,
        "variables": [_tensor(info) for info in variables],
        "parameters": sum(_count(info) for info in variables),
        "bytes": sum(_bytes(info) or 0 for info in variables),
    }
    meta = own_graph(prefix)
    if not meta.is_file():
        return described | {"graph": None, "note": "There is no .meta with a graph."}
    from persist_callbacks.graph.frozen import count_ops
    from persist_callbacks.graph.meta import from_meta

    try:
        graph = from_meta(meta.read_bytes(), meta)
    except PersistError as error:
        # A stranger's graph may hold more than inference; its variables still show.
        return described | {"graph": None, "note": str(error)}
    ops = count_ops(graph.graph_def)
    return described | {"graph": _graph(graph.inputs, graph.outputs, ops)}


def _describe_pb(path: Path) -> dict[str, Any]:
    from persist_callbacks.graph.frozen import load_frozen_graph

    graph = load_frozen_graph(path)
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "graph": _graph(graph.inputs, graph.outputs, graph.ops),
    }


def _runtimes(path: Path) -> list[dict[str, Any]]:
    from persist_callbacks.graph import pb
    from persist_callbacks.graph.runtimes import judge

    graph_def, _ = pb.read(path)
    return [
        {
            "name": verdict.runtime,
            "loads": verdict.loads,
            "obstacles": [dataclasses.asdict(each) for each in verdict.obstacles],
            "said": [str(each) for each in verdict.obstacles],
        }
        for verdict in judge(graph_def)
    ]


def _graph(
    inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], ops: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "inputs": [_tensor(info) for info in inputs],
        "outputs": [_tensor(info) for info in outputs],
        "ops": dict(ops),
        "op_count": sum(ops.values()),
    }


def _tensor(info: TensorInfo) -> dict[str, Any]:
    sizes = None if info.shape is None else list(info.shape)
    return {"name": info.name, "shape": sizes, "dtype": info.dtype}


def _count(info: TensorInfo) -> int:
    """Numbers in a tensor; text and iterator state are no parameters."""
    if _bytes(info) is None:
        return 0
    count = 1
    for size in info.shape or ():
        count *= size or 0
    return count


def _bytes(info: TensorInfo) -> int | None:
    import tensorflow as tf

    if info.dtype in ("string", "variant", "resource"):
        return None
    each = int(tf.as_dtype(info.dtype).size)
    for size in info.shape or ():
        each *= size or 0
    return each


def _print(described: Mapping[str, Any]) -> None:
    console = wording.console()
    console.print(described["path"])
    if "variables" in described:
        _print_tensors("Variable", described["variables"])
        console.print(
            f"{len(described['variables'])} variables, "
            f"{described['parameters']:,} numbers, "
            f"{wording.size(described['bytes'])}"
        )
    else:
        console.print(wording.size(described["bytes"]))
    graph = described["graph"]
    if graph is None:
        console.print(described["note"])
        return
    _print_tensors("Input", graph["inputs"])
    _print_tensors("Output", graph["outputs"])
    table = wording.table("Operation", "Count", right=("Count",))
    for name, count in graph["ops"].items():
        table.add_row(name, str(count))
    console.print(table)
    console.print(f"{graph['op_count']} operations of {len(graph['ops'])} types")
    if "runtimes" in described:
        _print_runtimes(described["runtimes"])


def _print_runtimes(runtimes: Sequence[Mapping[str, Any]]) -> None:
    table = wording.table("Runtime", "Reads it", "What stands in the way")
    for each in runtimes:
        reads = "yes" if each["loads"] else wording.red("no")
        first, *others = each["said"] or [""]
        table.add_row(each["name"], reads, first)
        for said in others:
            table.add_row("", "", said)
    wording.console().print(table)


def _print_tensors(title: str, tensors: Sequence[Mapping[str, Any]]) -> None:
    table = wording.table(title, "Shape", "Dtype")
    for each in tensors:
        table.add_row(each["name"], wording.shape(each["shape"]), each["dtype"])
    wording.console().print(table)
