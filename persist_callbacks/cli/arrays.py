"""Arrays in files, for the command: read in chunks, written in chunks, printed."""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
import tokenize
import zipfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import click

from persist_callbacks import paths
from persist_callbacks.cli import wording
from persist_callbacks.errors import ArgumentError, InputMismatch
from persist_callbacks.records import TensorInfo

if TYPE_CHECKING:
    from persist_callbacks.graph.frozen import FrozenGraph

_SHOWN = 4
# Bytes from which on an array stays in its file until its rows are wanted.
_MAPPED = 2**24
# Characters in a cell: csv alone takes a document of 128 KiB for a mistake.
_LONGEST_TEXT = 2**30
# Of a message of another's, which may repeat a cell.
_TOLD = 200
# What NumPy and zipfile make of a file that is none of theirs, or damaged.
_UNREADABLE = (
    *(ValueError, OverflowError, EOFError),
    *(zipfile.BadZipFile, zlib.error, RuntimeError, tokenize.TokenError),
)


class Rows(Protocol):
    """Rows that lie in a file, and need not all be in memory at once."""

    def count(self, info: TensorInfo) -> int:
        """Tell how many there are for an input."""

    def chunks(self, size: int | None, info: TensorInfo) -> Iterator[Any]:
        """Give arrays of so many rows for an input; one of all rows for None."""


_Given = Mapping[str, Rows] | Sequence[Rows]


class _Array:
    """An array in memory, or mapped from a ``.npy`` file."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def count(self, info: TensorInfo) -> int:
        return len(self._array) if self._array.ndim else 1

    def chunks(self, size: int | None, info: TensorInfo) -> Iterator[Any]:
        if size is None or not self._array.ndim:
            yield self._array
            return
        for start in range(0, max(len(self._array), 1), size):
            yield self._array[start : start + size]


class _Csv:
    """A text file, one row a line, its columns the numbers of one row in order.

    A first line without a number is a header, and is passed over; for an input of text
    there is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = sum(1 for _ in self._read())
        if not self._numbers and not path.read_bytes().removeprefix(BOM_UTF8).strip():
            raise ValueError("no lines")

    def count(self, info: TensorInfo) -> int:
        text = info.dtype == "string"
        return sum(1 for _ in self._read(text)) if text else self._numbers

    def chunks(self, size: int | None, info: TensorInfo) -> Iterator[Any]:
        rows = self._read(text=info.dtype == "string")
        first = True
        while chunk := list(itertools.islice(rows, size)):
            yield self._array(chunk, info)
            first = False
        if first:
            yield self._array([], info)

    def _read(self, text: bool = False) -> Iterator[list[str]]:
        with self._path.open(newline="", encoding="utf-8-sig") as file:
            for index, row in enumerate(_records(file)):
                if index or text or any(_is_number(cell) for cell in row):
                    yield row

    def _array(self, rows: list[list[str]], info: TensorInfo) -> Any:
        import numpy as np

        wanted = None if info.shape is None else info.shape[1:]
        try:
            if info.dtype == "string":
                array = np.array(rows, dtype=object)
            elif info.dtype.startswith(("int", "uint", "bool")):
                array = self._whole(rows, info)
                if info.dtype == "bool" and np.isin(array, (0, 1)).all():
                    array = array.astype(bool)
            else:
                array = np.array(rows, dtype=np.float64)
            if wanted is not None and None not in wanted:
                array = array.reshape(len(rows), *wanted)
        except ValueError as error:
            columns = sorted({len(row) for row in rows})
            raise InputMismatch(
                self._path,
                expected=f"lines of numbers that fill one row of {info}",
                found=f"lines of {' or '.join(map(str, columns))} columns: "
                f"{str(error)[:_TOLD]}",
                advice="Give one line a row, its numbers separated by commas.",
            ) from error
        return array

    def _whole(self, rows: list[list[str]], info: TensorInfo) -> Any:
        """Give whole numbers as they are written, of which a float rounds large ones.

        Floats where not all are whole, for the graph to refuse.
        """
        import numpy as np

        with contextlib.suppress(ValueError, OverflowError):
            return np.array(rows, dtype=np.int64)
        array = np.array(rows, dtype=np.float64)
        if not np.isfinite(array).all() or (array != np.trunc(array)).any():
            return array
        numbers = [[_whole_number(cell) for cell in row] for row in rows]
        widest = np.uint64 if info.dtype == "uint64" else np.int64
        limits = np.iinfo(widest)
        for number in itertools.chain(*numbers):
            if not limits.min <= number <= limits.max:
                raise InputMismatch(
                    self._path,
                    expected=f"whole numbers that {info} can hold",
                    found=str(number),
                    advice="Correct that row, or leave it out.",
                )
        return np.array(numbers, dtype=widest)


def _records(file: TextIO) -> Iterator[list[str]]:
    """Give the lines that hold anything; a quote without its other one is an error."""
    csv.field_size_limit(_LONGEST_TEXT)
    reader, begin = csv.reader(file, strict=True), 1
    try:
        for row in reader:
            if row:
                yield row
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"from line {begin} on, {error}") from error


def _whole_number(cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        return int(float(cell))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def open_inputs(texts: Sequence[str]) -> dict[str, Rows] | list[Rows]:
    """Open what was given as ``[NAME=]FILE``: by name, or in order without names."""
    named: dict[str, Rows] = {}
    unnamed: list[Rows] = []
    for text in texts:
        name, separator, file = text.partition("=")
        if not separator or os.path.exists(os.path.expanduser(text)):
            name, file = "", text
        paths.absolute(file, f"--input {text}")
        opened = _open(Path(file).expanduser(), text)
        if isinstance(opened, dict):
            if name:
                raise click.UsageError(
                    f"--input {text}: the arrays of a .npz have names of their own."
                )
        elif name:
            opened = {name: opened}
        else:
            unnamed.append(opened)
            continue
        if twice := sorted(set(opened) & set(named)):
            raise click.UsageError(f"--input {text}: {twice[0]} was given before.")
        named.update(opened)
    if named and unnamed:
        raise click.UsageError("--input: give names to all inputs or to none.")
    return named or unnamed


def _open(path: Path, text: str) -> Rows | dict[str, Rows]:
    import numpy as np

    try:
        if path.suffix.lower() == ".csv":
            return _Csv(path)
        # Without pickles: nothing that comes in a file is executed.
        if path.suffix == ".npy" and path.stat().st_size > _MAPPED:
            return _Array(np.load(path, allow_pickle=False, mmap_mode="r"))
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                return {name: _Array(loaded[name]) for name in loaded.files}
    except MemoryError as error:
        raise ArgumentError(
            f"--input {text}",
            expected="arrays that memory has room for",
            found=str(error) or "larger ones",
            advice="Save it again if it is damaged; as a .npy of its own, an array is "
            "read in parts with --batch-size.",
        ) from error
    except (OSError, *_UNREADABLE) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ArgumentError(
            f"--input {text}",
            expected="a .npy or .npz file of numbers or text, or a .csv",
            found=str(error)[:_TOLD] or "no such content",
            advice="Give one line a row, its cells separated by commas."
            if path.suffix.lower() == ".csv"
            else "Save it with numpy.save, as an array that needs no pickle.",
        ) from error
    return _Array(loaded)


def count(rows: _Given, graph: FrozenGraph) -> dict[str, int]:
    """Tell how many rows there are for each input.

    Args:
        rows: from `open_inputs`.
        graph: what they are for.

    Raises:
        InputMismatch: there are more files than inputs, or fewer.
    """
    pairs = _for_inputs(rows, graph)
    return {name: each.count(info) for name, (each, info) in pairs.items()}


def batches(rows: _Given, graph: FrozenGraph, size: int | None) -> Iterator[Any]:
    """Give batches as a frozen graph takes them: dicts by name.

    Raises:
        InputMismatch: the files do not match the inputs, or each other in rows.
    """
    pairs = _for_inputs(rows, graph)
    counts = {} if size is None else count(rows, graph)
    if len(set(counts.values())) > 1:
        raise InputMismatch(
            "--input",
            expected="files with the same number of rows",
            found=", ".join(f"{name}: {number}" for name, number in counts.items()),
            advice="Leave --batch-size out, or give files that can be cut in batches.",
        )
    parts = [each.chunks(size, info) for each, info in pairs.values()]
    for chunk in zip(*parts, strict=True):
        yield dict(zip(pairs, chunk, strict=True))


def _for_inputs(rows: _Given, graph: FrozenGraph) -> dict[str, tuple[Rows, TensorInfo]]:
    """Find the input that each file is for, by its name or in order."""
    inputs = graph.inputs
    by_name = {info.name: info for info in inputs}
    if not isinstance(rows, Mapping):
        if len(rows) != len(inputs):
            raise InputMismatch(
                "--input",
                expected=f"{len(inputs)} files: {', '.join(map(str, inputs))}",
                found=f"{len(rows)}",
                advice="Give one file for each input, or a .npz by name.",
            )
        rows = dict(zip(by_name, rows, strict=True))
    by_name |= {theirs: by_name[name] for theirs, name in graph.originals.items()}
    # The graph itself says which name it does not know.
    unknown = TensorInfo("", None, "float32")
    return {
        name: (each, by_name.get(name.removesuffix(":0"), unknown))
        for name, each in rows.items()
    }


def show(named: Mapping[str, Any]) -> None:
    """Print arrays: a table of their sizes and spread, and their first rows."""
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
