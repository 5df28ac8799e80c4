"""``python -m persist_callbacks`` is the command ``persist-callbacks``."""

from __future__ import annotations

from persist_callbacks.cli import main

main()
