"""The order in which one save of a real training changes the disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import disk_calls
from loops import data, sequential
from persist_callbacks import PeriodicCheckpoint


@pytest.mark.usefixtures("synchronous")
def test_the_order_of_a_save(tmp_path: Path) -> None:
    """Files, syncs, manifest, folder, rename, parent, TensorFlow's file, retention."""
    x, y = data()
    ours = PeriodicCheckpoint(tmp_path / "run", every_steps=2, keep_last=1, verbose=0)
    model = sequential()
    calls: list[str] = []

    def note(call: str) -> None:
        call = re.sub(r"-[0-9a-f]{8}$", "", call)
        calls.append(call.replace(".staged-ckpt-000000004", "STAGED"))

    with disk_calls.before_each(note):
        model.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[ours])
    begin = calls.index("mkdir STAGED")
    end = calls.index("mkdir .staged-ckpt-000000006")
    assert calls[begin:end] == [
        "mkdir STAGED",
        "write model.ckpt",
        "written model.ckpt",
        "write_file training_state.json",
        "write_file model.ckpt.meta",
        # From here on it is committed: everything in the folder is made to last ...
        "sync model.ckpt.data-00000-of-00001",
        "sync model.ckpt.index",
        "sync model.ckpt.meta",
        "sync training_state.json",
        "write_file manifest.json",
        "sync manifest.json",
        "sync STAGED",
        # ... and only then it gets its name.
        "rename ckpt-000000004",
        "sync run",
        # Nothing names the older one any more when it goes, by one rename.
        "write_file .tmp-checkpoint",
        "sync .tmp-checkpoint",
        "replace checkpoint",
        "sync run",
        "rename .trash-ckpt-000000002",
        "sync run",
        *["unlink " + name for name in sorted_files(calls[begin:end])],
        "rmdir .trash-ckpt-000000002",
        "append_line journal.jsonl",
        "sync journal.jsonl",
    ]


def sorted_files(calls: list[str]) -> list[str]:
    """The five files of the old one, in the order in which the system lists them."""
    files = [
        call.removeprefix("unlink ") for call in calls if call.startswith("unlink")
    ]
    assert sorted(files) == [
        "manifest.json",
        "model.ckpt.data-00000-of-00001",
        "model.ckpt.index",
        "model.ckpt.meta",
        "training_state.json",
    ]
    return files
