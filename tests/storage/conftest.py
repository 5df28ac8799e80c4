from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from persist_callbacks.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store open for writing in a new run directory."""
    with Store.open_for_writing(tmp_path / "run") as opened:
        yield opened
