"""What no file of the user's is put in the place of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persist_callbacks.errors import DirectoryNotWritable
from persist_callbacks.storage.placing import check_place


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("folder", "a folder"),
        ("pipe", "a device or a pipe"),
        ("to the pipe", "a device or a pipe"),
        ("null", "a device or a pipe"),
        ("ckpt-000000007/manifest.json", "a checkpoint's own file"),
        ("ckpt-000000007/model.ckpt.index", "a checkpoint's own file"),
        ("ckpt-000000007.replaced/model.ckpt.meta", "a checkpoint's own file"),
        ("newest/model.ckpt.data-00000-of-00001", "a checkpoint's own file"),
        ("file/model.pb", "file is a file"),
        ("x" * 256, "File name too long"),
        (f"new/{'x' * 256}/model.pb", "File name too long"),
        ("new/" * 1100 + "model.pb", "File name too long"),
    ],
)
def test_places_that_are_refused(name: str, found: str, tmp_path: Path) -> None:
    """By the path and what is there, and nothing is touched."""
    _lay_out(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(DirectoryNotWritable, match=found) as caught:
        check_place(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
@pytest.mark.parametrize(
    "name",
    [
        *("file", "new", "new/deep/model.pb", "to the file", "to nothing", "x" * 255),
        *("ckpt-000000007/model.pb", "model.ckpt.index"),
    ],
)
def test_places_that_are_free(name: str, tmp_path: Path) -> None:
    """A link to a file is replaced, and the file stays."""
    _lay_out(tmp_path)
    check_place(tmp_path / name)


def _lay_out(folder: Path) -> None:
    (folder / "file").write_text("mine")
    (folder / "folder").mkdir()
    (folder / "ckpt-000000007").mkdir()
    os.mkfifo(folder / "pipe")
    for name, target in (
        ("to the pipe", "pipe"),
        ("to the file", "file"),
        ("to nothing", "lost"),
        ("null", os.devnull),
        ("newest", "ckpt-000000007"),
    ):
        (folder / name).symlink_to(target)
