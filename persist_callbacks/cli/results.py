"""Results that are written while they come, and are there only when they are whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from persist_callbacks.errors import InputMismatch
from persist_callbacks.storage import durable
from persist_callbacks.storage.placing import check_place, file_not_writable

# Room for a header whose number of rows is not known yet.
_HEADER = 256


class ResultFile:
    """One ``.npy`` for one output, or one ``.npz`` for any number.

    What is not closed without an error leaves no file, and an older one as it was.

    Args:
        path: ends in ``.npy`` or ``.npz``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: dict[str, _Part] = {}
        self._passing = path.with_name(durable.passing_name("tmp", path.name))

    def __enter__(self) -> ResultFile:
        check_place(self._path.absolute())
        try:
            durable.make_folder(self._path.parent)
            os.scandir(self._path.parent).close()
        except OSError as error:
            reason = f"{self._path.parent}: {error.strerror or error}"
            raise file_not_writable(self._path, reason, error.errno) from error
        return self

    def append(self, results: Mapping[str, Any]) -> None:
        """Write a batch of results, rows after those that are there.

        Raises:
            DirectoryNotWritable: the file could not be written.
        """
        with self._writing():
            for name, array in results.items():
                if name not in self._parts:
                    place = self._path.with_name(
                        durable.passing_name("tmp", f"{len(self._parts)}.npy")
                    )
                    self._parts[name] = _Part(place, name)
                self._parts[name].append(np.asarray(array))

    def shapes(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Tell dtype and shape of each output, as written so far."""
        return {name: (part.dtype, part.shape) for name, part in self._parts.items()}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                with self._writing():
                    for part in self._parts.values():
                        part.finish()
                    self._publish()
        finally:
            for part in self._parts.values():
                part.let_go()
                durable.remove_leftover(part.path)
            durable.remove_leftover(self._passing)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what the disk refuses into an error that names what was asked for."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise file_not_writable(self._path, reason, error.errno) from error

    def _publish(self) -> None:
        if self._path.suffix == ".npy":
            (part,) = self._parts.values()
            durable.put_in_place(part.path, self._path)
            return
        with zipfile.ZipFile(self._passing, "w", allowZip64=True) as archive:
            for name, part in self._parts.items():
                with (
                    part.path.open("rb") as source,
                    archive.open(f"{name}.npy", "w", force_zip64=True) as target,
                ):
                    shutil.copyfileobj(source, target, 2**20)
        durable.put_in_place(self._passing, self._path)


class _Part:
    """The ``.npy`` file of one output."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._name = name
        self._file: BinaryIO = path.open("xb")
        self._dtype: np.dtype[Any] | None = None
        self._inner: tuple[int, ...] = ()
        self._rows: int | None = None
        # Text has no width of its own: kept, and written at the end.
        self._text: list[np.ndarray[Any, Any]] = []

    @property
    def dtype(self) -> str:
        return "" if self._dtype is None else str(self._dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._inner if self._rows is None else (self._rows, *self._inner)

    def append(self, array: np.ndarray[Any, Any]) -> None:
        if self._dtype is None:
            self._dtype = array.dtype
            self._inner = array.shape[1:] if array.ndim else ()
            self._rows = 0 if array.ndim else None
            self._file.write(bytes(_HEADER))
        elif array.shape[1:] != self._inner or self._rows is None:
            raise InputMismatch(
                self._name,
                expected=f"rows of {list(self._inner)}, as in the batches before",
                found=f"{list(array.shape)}",
                advice="Run it without --batch-size.",
            )
        if self._rows is not None:
            self._rows += len(array)
        if array.dtype.kind == "O":
            self._text.append(array.astype("S"))
        else:
            self._file.write(np.ascontiguousarray(array).tobytes())

    def finish(self) -> None:
        """Write what is known at the end alone, and close the file."""
        if self._text:
            array = np.concatenate(self._text) if self._inner or self._rows else None
            array = self._text[0] if array is None else array
            self._dtype = array.dtype
            self._file.write(array.tobytes())
        if self._dtype is not None:
            self._file.seek(0)
            self._file.write(_header(self._dtype, self.shape))
        self._file.close()

    def let_go(self) -> None:
        """Close the file, whatever has become of it; more than once is no error."""
        # What was not written yet may find no room now either.
        with contextlib.suppress(OSError):
            self._file.close()


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return a ``.npy`` header of a length that is known before the shape is.

    The format's version 1: magic, two bytes of length, a dict as text, spaces, a line
    break (numpy.lib.format).
    """
    described = np.lib.format.dtype_to_descr(dtype)
    text = f"{{'descr': {described!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    length = _HEADER - 10
    return (
        b"\x93NUMPY\x01\x00"
        + length.to_bytes(2, "little")
        + (text.ljust(length - 1).encode("latin1") + b"\n")
    )
