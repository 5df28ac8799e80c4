"""Examples under a subcommand's help."""

from __future__ import annotations


def examples(*lines: str) -> str:
    """Give the text that ends a help page, each example on a line of its own.

    Args:
        *lines: whole command lines.
    """
    # The backspace tells click to leave the lines of this paragraph as they are.
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:"]) + "".join(
        f"\n  {line}" for line in lines
    )
