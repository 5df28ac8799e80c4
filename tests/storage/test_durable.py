from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from persist_callbacks.storage import durable


def test_replace_file_is_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the rename fails, the old file is whole and no temporary one is left."""
    path = tmp_path / "file"
    durable.replace_file(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="no"):
            durable.replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    durable.replace_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_replace_file_syncs_content_then_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut cannot leave the new name with content that never arrived."""
    calls: list[str] = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(durable, "_sync", lambda fd: calls.append(_kind(fd)))
    monkeypatch.setattr(
        os, "replace", lambda a, b: (calls.append("replace"), real_replace(a, b))
    )
    durable.replace_file(tmp_path / "file", b"new")
    assert calls == ["sync file", "replace", "sync folder"]
    assert os.fsync is real_sync


def _kind(descriptor: int) -> str:
    is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
    return "sync folder" if is_folder else "sync file"


def test_publish_folder_refuses_a_name_that_is_taken(tmp_path: Path) -> None:
    """Even an empty folder, which a plain rename would replace, is in the way."""
    (tmp_path / "staged").mkdir()
    (tmp_path / "final").mkdir()
    with pytest.raises(FileExistsError, match="the name is taken"):
        durable.publish_folder(tmp_path / "staged", tmp_path / "final")
    assert (tmp_path / "staged").is_dir()


def test_remove_folder_takes_the_name_away_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash while the files go leaves only a hidden leftover."""
    folder = tmp_path / "ckpt-000000001"
    folder.mkdir()
    (folder / "file").write_bytes(b"x")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(durable.shutil, "rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            durable.remove_folder(folder)
    (left,) = os.listdir(tmp_path)
    assert durable.is_leftover(left)
    durable.remove_leftover(tmp_path / left)
    assert os.listdir(tmp_path) == []


def test_remove_leftover_deletes_nothing_else(tmp_path: Path) -> None:
    """Only names that this library makes on the way are ever deleted as leftovers."""
    for name in ("ckpt-000000001", ".tmp-mine", ".git", ".trash-", "file"):
        assert not durable.is_leftover(name)
        with pytest.raises(ValueError, match="not a name that this library made"):
            durable.remove_leftover(tmp_path / name)


@pytest.mark.parametrize("kind", ["tmp", "staged", "trash"])
@pytest.mark.parametrize(
    "name",
    ["x" * 255, "é" * 127, "漢字" * 42, "a\nb", "a"],
    ids=["ascii", "two bytes", "three bytes", "line break", "short"],
)
def test_any_name_has_a_passing_one(kind: str, name: str, tmp_path: Path) -> None:
    """Also the longest one that a file can have, and it is known again."""
    passing = durable.passing_name(kind, name)
    assert durable.is_leftover(passing)
    (tmp_path / passing).touch()
    durable.replace_file(tmp_path / name, b"new")
    durable.remove_leftover(tmp_path / passing)
    assert os.listdir(tmp_path) == [name]


def test_a_link_in_a_leftover_is_removed_and_not_followed(tmp_path: Path) -> None:
    """What a link in a deleted folder points at stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    durable.remove_folder(folder)
    linked = tmp_path / durable.passing_name("trash", "link")
    linked.symlink_to(outside)
    durable.remove_leftover(linked)
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(outside) == ["file"]


def test_make_folder_makes_every_parent(tmp_path: Path) -> None:
    """Missing parents are created; what is there already is no error."""
    for _ in range(2):
        durable.make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_a_cut_line_spoils_only_itself(tmp_path: Path) -> None:
    """The line after one that a crash cut short begins on its own line."""
    path = tmp_path / "journal"
    durable.append_line(path, "one")
    with path.open("ab") as file:
        file.write(b"tw")
    durable.append_line(path, "three")
    assert path.read_bytes() == b"one\ntw\nthree\n"


def test_lines_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    """Each line arrives in one piece, whoever writes beside it."""
    path = tmp_path / "journal"

    def write(thread: int) -> None:
        for number in range(20):
            text = json.dumps([thread, number, "x" * 5000])
            durable.append_line(path, text)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    assert sorted((row[0], row[1]) for row in rows) == [
        (thread, number) for thread in range(4) for number in range(20)
    ]
