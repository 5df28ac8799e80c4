"""Two sets of results side by side, and made-up inputs to get them from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from persist_callbacks.graph import nodes as nd
from persist_callbacks.records import TensorInfo

_ATOL, _RTOL, _OF_LARGEST = 1e-5, 1e-4, 1e-6
_EPSILON = {
    tf.float16.as_datatype_enum: 2.0**-10,
    tf.bfloat16.as_datatype_enum: 2.0**-7,
}
_COMPUTE_NOTHING = ("Identity", "Reshape")


@dataclass(frozen=True)
class Difference:
    """How far one output is from what was expected.

    Args:
        name: the output.
        agrees: whether it is within tolerance.
        absolute: largest absolute difference; infinite if shapes or types differ.
        relative: largest difference as a share of the expected value's size.
        note: why it cannot be compared, where that is so.
    """

    name: str
    agrees: bool
    absolute: float
    relative: float
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"{self.name}: {self.note}"
        word = "agrees" if self.agrees else "differs"
        return (
            f"{self.name}: {word}, largest difference {self.absolute:.3g} absolute, "
            f"{self.relative:.3g} relative"
        )


@dataclass(frozen=True)
class Comparison:
    """How far a graph's outputs are from the live model's.

    Args:
        outputs: one difference an output.
        atol: absolute tolerance.
        rtol: tolerance relative to the expected value.
        of_largest: tolerance relative to the largest number that was expected.
    """

    outputs: tuple[Difference, ...]
    atol: float
    rtol: float
    of_largest: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether every output is within tolerance."""
        return all(output.agrees for output in self.outputs)

    @property
    def absolute(self) -> float:
        """The largest absolute difference of all outputs."""
        return max((output.absolute for output in self.outputs), default=0.0)

    @property
    def relative(self) -> float:
        """The largest relative difference of all outputs."""
        return max((output.relative for output in self.outputs), default=0.0)

    def __str__(self) -> str:
        head = f"tolerance {self.atol:g} absolute + {self.rtol:g} relative"
        if self.of_largest:
            head += f" + {self.of_largest:g} of the largest"
        return "\n".join([head, *(f"  {output}" for output in self.outputs)])


def compare(
    expected: Mapping[str, np.ndarray[Any, Any]],
    found: Mapping[str, np.ndarray[Any, Any]],
    *,
    atol: float,
    rtol: float,
    of_largest: float = 0.0,
) -> Comparison:
    """Compare results by name: ``|found - expected| <= atol + rtol * |expected|``.

    Where numbers of some thousands make one that is near zero, no more digits of that
    are right than of them: a share of the output's largest can be allowed as well.
    NaN equals NaN and an infinity its like at the same place. Integers, booleans and
    strings must be equal.

    Args:
        expected: the live model's outputs.
        found: the graph's outputs.
        atol: absolute tolerance.
        rtol: relative tolerance.
        of_largest: tolerance relative to an output's largest expected number.
    """
    names = [*expected, *(name for name in found if name not in expected)]
    differences = []
    for name in names:
        if name not in found or name not in expected:
            side = "expected, not found" if name in expected else "found, not expected"
            differences.append(_incomparable(name, side))
        else:
            pair = np.asarray(expected[name]), np.asarray(found[name])
            limits = (atol, rtol, of_largest)
            differences.append(_difference(name, *pair, limits))
    return Comparison(tuple(differences), atol, rtol, of_largest)


def tolerances(
    graph_def: Any, atol: float | None, rtol: float | None
) -> dict[str, float]:
    """Return what `compare` allows for rounding, where nobody says how much.

    In half precision that is its epsilon, and twice that of the output's largest: which
    of two neighbours a number is rounded to is chance. It is no absolute tolerance: one
    of a thousand classes is as small as an epsilon. A share of the largest number is
    allowed unless an absolute tolerance is given.

    Args:
        graph_def: what is computed.
        atol: the absolute tolerance; None for the default.
        rtol: the relative tolerance; None for the default.
    """
    dtypes = {
        node.attr[key].type
        for node in nd.every_node(graph_def)
        for key in ("T", "DstT")
        if key in node.attr and node.op not in _COMPUTE_NOTHING
    }
    epsilon = max((_EPSILON.get(dtype, 0.0) for dtype in dtypes), default=0.0)
    return {
        "atol": _ATOL if atol is None else atol,
        "rtol": (epsilon or _RTOL) if rtol is None else rtol,
        "of_largest": (2 * epsilon or _OF_LARGEST) if atol is None else 0.0,
    }


def generate(
    inputs: Sequence[TensorInfo],
    *,
    batch: int = 4,
    seed: int = 0,
    open_size: int = 8,
) -> dict[str, np.ndarray[Any, Any]]:
    """Make up an array for each input.

    Integers are 0 or 1, which every embedding and category has.

    Args:
        inputs: what the graph takes.
        batch: size of a first dimension that is open.
        seed: the same seed gives the same arrays.
        open_size: size of any other dimension that is open.

    Returns:
        Arrays by input name, in the inputs' own dtypes.
    """
    random = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for info in inputs:
        sizes = (None,) if info.shape is None else info.shape
        shape = tuple(
            (batch if index == 0 else open_size) if size is None else size
            for index, size in enumerate(sizes)
        )
        dtype = tf.as_dtype(info.dtype)
        if dtype == tf.string:
            words = np.array([b"a", b"b"], dtype=object)
            arrays[info.name] = words[random.integers(0, 2, shape)]
        elif dtype.is_floating or dtype.is_complex:
            arrays[info.name] = np.asarray(
                random.standard_normal(shape), dtype.as_numpy_dtype
            )
        else:
            arrays[info.name] = np.asarray(
                random.integers(0, 2, shape), dtype.as_numpy_dtype
            )
    return arrays


def _incomparable(name: str, note: str) -> Difference:
    return Difference(name, False, float("inf"), float("inf"), note)


def _difference(
    name: str,
    expected: np.ndarray[Any, Any],
    found: np.ndarray[Any, Any],
    limits: tuple[float, float, float],
) -> Difference:
    texts = expected.dtype.kind in "OSU" and found.dtype.kind in "OSU"
    if expected.shape != found.shape or (expected.dtype != found.dtype and not texts):
        note = (
            f"expected {expected.dtype}{list(expected.shape)}, "
            f"found {found.dtype}{list(found.shape)}"
        )
        return _incomparable(name, note)
    if expected.size == 0:
        return Difference(name, True, 0.0, 0.0)
    if texts or expected.dtype.kind in "biu":
        # Not by way of float64, which does not hold every int64.
        wrong = int(np.sum(expected != found))
        note = f"{wrong} of {expected.size} elements differ" if wrong else ""
        worst = float("inf") if wrong else 0.0
        return Difference(name, not wrong, worst, worst, note)
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    # bfloat16 and the like are not NumPy's own; all are exact in float64.
    one, other = expected.astype(wide), found.astype(wide)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        absolute = np.where(same, 0.0, np.abs(other - one))
        # A number where NaN or infinity was expected, or the other way round.
        absolute = np.where(np.isfinite(absolute), absolute, np.inf)
        size = np.abs(one)
        relative = np.where(same, 0.0, absolute / np.where(size > 0, size, np.inf))
        size = np.where(np.isfinite(size), size, 0.0)
        atol, rtol, of_largest = limits
        limit = atol + rtol * size + of_largest * size.max()
    agrees = bool(np.all(same | (absolute <= limit)))
    finite = np.where(np.isnan(relative), np.inf, relative)
    return Difference(name, agrees, float(absolute.max()), float(finite.max()))
