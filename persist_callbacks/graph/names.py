"""Names that a graph can hold: legal, unique, the same in every process."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from persist_callbacks.errors import ArgumentError, TensorNotFound

# What TensorFlow's validation of NodeDefs takes everywhere in a name; the characters
# that it takes in some places only are left out.
_LEGAL = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_./-]*")
_ILLEGAL_CHARACTER = re.compile(r"[^A-Za-z0-9_./-]")


def legal(name: str) -> str:
    """Return the name itself if a graph node can bear it, else the nearest that can.

    Args:
        name: any text.
    """
    if _LEGAL.fullmatch(name):
        return name
    mapped = _ILLEGAL_CHARACTER.sub("_", name).lstrip("_/-")
    return mapped or "tensor"


def unique(name: str, taken: Collection[str]) -> str:
    """Return the name, numbered if it is taken already.

    Args:
        name: the name that is wanted.
        taken: names that are in use.
    """
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def without_port(name: str) -> str:
    """Return a tensor's name without its ``:0``."""
    return name.removesuffix(":0")


def choose(
    wanted: tuple[str, ...] | Mapping[str, str] | None,
    present: tuple[str, ...],
    *,
    argument: str,
    told: Mapping[str, int] | None = None,
) -> tuple[str, ...]:
    """Apply a user's wishes to the names that a model's tensors have by default.

    Args:
        wanted: new names in order, or new names by the present ones; None for none.
        present: the present names, in the model's order.
        argument: the argument that the wishes came in, for the error.
        told: other names that tensors are known by, and their places, for keys that
            are not all present ones.

    Returns:
        One name for each present one, in the same order, not yet made legal.

    Raises:
        TensorNotFound: there are more or fewer names than tensors, or a key is unknown.
        ArgumentError: two tensors would have the same name.
    """
    listed = ", ".join(present) or "none"
    if wanted is None:
        return present
    if isinstance(wanted, Mapping):
        keys = {without_port(key) for key in wanted}
        own = {name: place for place, name in enumerate(present)}
        # Not some of each: Keras' "dense_1" may be what is "dense" in a fresh process.
        is_own = keys <= own.keys() or not keys <= (told or {}).keys()
        places = own if is_own else told or {}
        unknown = [key for key in wanted if without_port(key) not in places]
        if unknown:
            raise TensorNotFound(
                f"{argument}[{unknown[0]!r}]",
                expected=f"a key among the model's own names: {listed}",
                found=f"{unknown[0]!r}",
                advice="Use the layer's or dict's name as the key.",
            )
        renamed = list(present)
        for key, value in wanted.items():
            renamed[places[without_port(key)]] = value
        chosen = tuple(renamed)
    else:
        if len(wanted) != len(present):
            raise TensorNotFound(
                argument,
                expected=f"{len(present)} names, one for each of: {listed}",
                found=f"{len(wanted)}: {', '.join(wanted) or 'none'}",
                advice="Give one name a tensor, in the model's order.",
            )
        chosen = tuple(wanted)
    chosen = tuple(without_port(name) for name in chosen)
    if len(set(chosen)) < len(chosen):
        raise ArgumentError(
            argument,
            expected="names that differ",
            found=", ".join(chosen),
            advice="Give each tensor a name of its own.",
        )
    return chosen


def make_legal(
    wanted: Iterable[str], taken: set[str], originals: dict[str, str]
) -> tuple[str, ...]:
    """Make names legal and unique, in order, and note those that had to change.

    Args:
        wanted: the names.
        taken: names in use; the answers are added.
        originals: graph name to wanted name; those that differ are added.
    """
    answers = []
    for name in wanted:
        answer = unique(legal(name), taken)
        if answer != name:
            originals[answer] = name
        taken.add(answer)
        answers.append(answer)
    return tuple(answers)
