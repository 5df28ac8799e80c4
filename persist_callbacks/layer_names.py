"""The names that Keras gives by itself, as they would be in a fresh process."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable


def stem(kind: type) -> str:
    """Return the automatic name of a class's first unnamed object in a process.

    Args:
        kind: a layer's or an optimizer's class.

    Returns:
        Such as ``batch_normalization`` for ``BatchNormalization``.
    """
    name = re.sub(r"\W+", "", kind.__name__)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def renumber(names: Iterable[tuple[str, str]]) -> list[str]:
    """Give automatic names such as ``dense_7`` the numbers of a fresh process.

    Keras counts a class's layers over the whole process, so what was built before a
    model shows in its names; the order of the numbers is the order of building.

    Args:
        names: pairs of a name and the automatic name's stem, such as
            ``("dense_7", "dense")``. A name that is not made of its stem is kept.

    Returns:
        The names, in the same order.
    """
    pairs = list(names)
    numbers: dict[str, dict[str, int]] = {}
    kept = set()
    for name, stem in pairs:
        # Bidirectional puts a word before the automatic name of the layer it wraps.
        hit = re.fullmatch(rf"((?:forward_|backward_)?{re.escape(stem)})(_\d+)?", name)
        if hit is None:
            kept.add(name)
        else:
            number = int(hit.group(2)[1:]) if hit.group(2) else 0
            numbers.setdefault(hit.group(1), {})[name] = number
    renumbered: dict[str, str] = {name: name for name in kept}
    taken = set(kept)
    for stem in sorted(numbers):
        for name in sorted(numbers[stem], key=numbers[stem].__getitem__):
            if name not in kept:
                renumbered[name] = _unique(stem, taken)
                taken.add(renumbered[name])
    return [renumbered[name] for name, _ in pairs]


def _unique(name: str, taken: Collection[str]) -> str:
    if name not in taken:
        return name
    numbered = (f"{name}_{number}" for number in itertools.count(1))
    return next(candidate for candidate in numbered if candidate not in taken)
