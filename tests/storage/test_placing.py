"""What no file of the user's is put in the place of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persist_callbacks.errors import DirectoryNotWritable
from persist_callbacks.storage import layout
from persist_callbacks.storage.placing import check_place
from persist_callbacks.storage.store import Store

FORMAT = Path(__file__).parents[2] / "docs" / "format.md"


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


OF_A_RUN = [
    *("run.json", "journal.jsonl", "checkpoint", ".lock", ".lock-owner", ".progress"),
    *("SAVE", ".staged-x", ".tmp-x.pb", ".trash-x", "ckpt-000000099"),
    *("ckpt-000000099.replaced", "damaged-ckpt-x.pb", "damaged-run.json"),
]


@pytest.mark.parametrize("name", OF_A_RUN)
def test_names_that_a_run_keeps_for_itself(name: str, tmp_path: Path) -> None:
    """Be they there yet or not, by a link too; elsewhere they are any file's."""
    Store.open_for_writing(tmp_path / "run").close()
    (tmp_path / "link").symlink_to("run")
    before = sorted(os.listdir(tmp_path / "run"))
    for folder in ("run", "link"):
        with pytest.raises(DirectoryNotWritable, match="keeps for itself") as caught:
            check_place(tmp_path / folder / name)
        assert str(tmp_path / "run") in caught.value.found
    for inside in ("model.pb", "new/model.pb"):
        if not name.startswith((".", "ckpt-", "damaged-ckpt-")):
            continue
        with pytest.raises(DirectoryNotWritable, match=f"a path in {name}, a name"):
            check_place(tmp_path / "run" / name / inside)
    assert sorted(os.listdir(tmp_path / "run")) == before
    check_place(tmp_path / name)
    check_place(tmp_path / "run" / "exports" / name)


def test_a_checkpoint_outside_of_its_run(tmp_path: Path) -> None:
    """A copy is known by its manifest, and not by its name alone."""
    folder = tmp_path / "ckpt-000000007"
    folder.mkdir()
    check_place(folder / "model.pb")
    (folder / layout.MANIFEST).touch()
    with pytest.raises(DirectoryNotWritable, match="keeps for itself"):
        check_place(folder / "model.pb")


def test_a_run_directory_has_room_for_files_of_the_users(tmp_path: Path) -> None:
    """As README has its PB there."""
    Store.open_for_writing(tmp_path / "run").close()
    for name in ("model.pb", "model.signature.json", "ckpt-best.pb", "save", "x/SAVE"):
        check_place(tmp_path / "run" / name)


def test_every_name_of_the_format_is_known() -> None:
    """The table of docs/format.md is what the layout knows."""
    table = FORMAT.read_text().split("## The run directory")[1].split("A name with")[0]
    cells = [
        line.split("|")[1] for line in table.splitlines() if line.startswith("| `")
    ]
    names = [name for cell in cells for name in cell.split("`")[1::2]]
    names = [name.replace("N", "0").rstrip("/") for name in names]
    # How leftovers end.
    names.remove("-")
    assert len(names) == 13
    for name in names:
        assert layout.is_of_run(name), name


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
