"""The rules of the house, read off the source with `ast`.

Rooms do not know each other, nobody reaches upwards, and what is dangerous is done in
one named place each.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "persist_callbacks"
ROOT = Path(__file__).parent.parent / PACKAGE
ROOMS = {"training", "storage", "graph"}
SHARED = {"errors", "layer_names", "paths", "records"}
FACES = {
    "periodic_checkpoint",
    "frozen_graph_export",
    "resuming",
    "freezing",
    "verifying",
}

# The format's own modules: what is asked for, its index, its data.
SPEAKS_CKPT = {
    "storage.bundle",
    "storage.bundle_index",
    "storage.odd_tensors",
    "storage.shards",
}

# Copies memory without holding the interpreter's lock.
USES_NUMPY = SPEAKS_CKPT | {"storage.streams"}

# Names that change what lies under a path, wherever they are called from.
_REMOVING = {"rename", "renames", "remove", "removedirs", "unlink", "rmdir", "rmtree"}
_SYNCING = {"fsync", "fdatasync", "sync"}


def sources() -> dict[str, str]:
    """The package's modules: dotted name below the package, and text."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
        for path in sorted(ROOT.rglob("*.py"))
    }


def imports(name: str, text: str) -> Iterator[str]:
    """Absolute names of all modules, and of what is taken from them."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = f"{PACKAGE}.{name}".split(".")[: -node.level]
                base = ".".join([*here, *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def calls(text: str) -> Iterator[tuple[str, str, bool]]:
    """What is named of an object: its last name, the function, and if it takes a path.

    One path alone tells ``Path.replace`` from the ``replace`` of text.
    """
    tree = ast.parse(text)
    one_path = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value
            last = getattr(owner, "id", getattr(owner, "attr", ""))
            yield last, node.attr, id(node) in one_path
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            yield from ((node.module, alias.name, False) for alias in node.names)


def broken_imports(modules: dict[str, str]) -> list[str]:
    """Imports that reach into another room, upwards, or from face to face."""
    broken = []
    for name, text in modules.items():
        own = name.split(".")[0]
        for target in imports(name, text):
            parts = target.split(".")
            if parts[0] != PACKAGE or len(parts) < 2:
                continue
            other = parts[1]
            if own in SHARED:
                allowed = other in SHARED
            elif own in ROOMS:
                allowed = other in SHARED | {own}
            elif own in FACES:
                allowed = other not in (FACES | {"cli"}) - {own}
            else:
                # The command drives the faces; the package names them; what faces
                # share knows none of them.
                allowed = own in ("cli", "__init__", "__main__") or other not in {
                    *FACES,
                    "cli",
                }
            if not allowed:
                broken.append(f"{name} imports {target}")
    return broken


def misplaced_calls(modules: dict[str, str]) -> list[str]:
    """Syncs, renames and removals outside durable, CKPT kernels outside bundle."""
    found = []
    for name, text in modules.items():
        for owner, function, is_one_path in calls(text):
            touches = (
                function in _REMOVING | _SYNCING
                or (function == "replace" and (owner == "os" or is_one_path))
                or (owner == "shutil" and function == "move")
            )
            if touches and owner != "durable" and name != "storage.durable":
                found.append(f"{name}: {owner}.{function}")
            if function in ("SaveV2", "RestoreV2") and name != "storage.bundle":
                found.append(f"{name}: {owner}.{function}")
    return found


def misplaced_libraries(modules: dict[str, str]) -> list[str]:
    """Keras or TensorFlow where a room promises to know none."""
    found = []
    for name, text in modules.items():
        room = name.split(".")[0]
        for target in imports(name, text):
            library = target.split(".")[0]
            banned = {
                "storage": {"keras"},
                "graph": {"keras"} if name != "graph.trace" else set(),
                "cli": {"keras"},
                "errors": {"keras", "tensorflow"},
                "records": {"keras", "tensorflow"},
            }.get(room, set())
            if room == "storage" and name not in SPEAKS_CKPT:
                banned = {"keras", "tensorflow"}
            if room == "storage" and name not in USES_NUMPY:
                banned |= {"numpy"}
            if library in banned or library in ("pickle", "cloudpickle", "dill"):
                found.append(f"{name} imports {target}")
    return found


def test_rooms_do_not_know_each_other() -> None:
    """Imports go downwards only: faces, rooms, shared records and errors."""
    assert broken_imports(sources()) == []


def test_only_durable_changes_what_lies_under_a_path() -> None:
    """Every sync, rename and removal is in one module, every CKPT kernel in one."""
    assert misplaced_calls(sources()) == []


def test_libraries_stay_where_they_belong() -> None:
    """Storage knows no Keras, graph none after trace, and nothing is pickled."""
    assert misplaced_libraries(sources()) == []


def test_the_top_level_has_no_import_cycle() -> None:
    """The modules beside the rooms can be read in one order, each after its own."""
    modules = {name: text for name, text in sources().items() if "." not in name}
    needs = {
        name: {
            part
            for target in imports(name, text)
            if target.startswith(f"{PACKAGE}.")
            and (part := target.split(".")[1]) in modules
        }
        for name, text in modules.items()
        if name != "__init__"
    }
    done: set[str] = {"__init__"}
    while ready := [n for n in needs if n not in done and needs[n] <= done]:
        done.update(ready)
    assert sorted(set(needs) - done) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("storage.store", "from persist_callbacks.training import state"),
        ("storage.store", "from persist_callbacks.training.state import State"),
        ("storage.store", "import persist_callbacks.graph.frozen"),
        ("storage.store", "def f():\n    from persist_callbacks import graph"),
        ("storage.store", "from ..graph import frozen"),
        ("storage.store", "from persist_callbacks import periodic_checkpoint"),
        ("graph.meta", "from persist_callbacks.storage import durable"),
        ("training.state", "from persist_callbacks.cli import main"),
        ("records", "from persist_callbacks.storage import store"),
        ("errors", "from . import resuming"),
        ("resuming", "from persist_callbacks.periodic_checkpoint import X"),
        ("freezing", "from persist_callbacks import frozen_graph_export"),
        ("saving", "from persist_callbacks import resuming"),
        ("resuming", "import persist_callbacks.cli"),
    ],
)
def test_a_forbidden_import_is_found(name: str, text: str) -> None:
    """The checker sees each way of writing an import that breaks the rules."""
    assert len(broken_imports({name: text})) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("storage.store", "from persist_callbacks.storage import durable"),
        ("storage.store", "from . import durable"),
        ("storage.store", "from persist_callbacks.errors import PersistError"),
        ("resuming", "from persist_callbacks.storage.store import Store"),
        ("cli.freeze", "from persist_callbacks.freezing import freeze"),
        ("saving", "import os, json"),
    ],
)
def test_an_allowed_import_is_not_found(name: str, text: str) -> None:
    """The checker lets pass what the rules allow."""
    assert broken_imports({name: text}) == []


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.replace(a, b)",
        "import os\nos.fsync(3)",
        "from os import rename\nrename(a, b)",
        "from shutil import rmtree",
        "import shutil\nshutil.move(a, b)",
        "path.unlink()",
        "path.replace(target)",
        "path.with_name('x').rename(y)",
        "(folder / 'x').rmdir()",
        "import tensorflow as tf\ntf.raw_ops.SaveV2()",
        "tf.raw_ops.RestoreV2()",
    ],
)
def test_a_misplaced_call_is_found(text: str) -> None:
    """The checker sees each way to rename, remove, sync or write a CKPT."""
    assert len(misplaced_calls({"storage.store": text})) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("storage.store", "import tensorflow as tf"),
        ("storage.bundle", "from keras import Model"),
        ("graph.meta", "import keras"),
        ("saving", "import pickle"),
    ],
)
def test_a_misplaced_library_is_found(name: str, text: str) -> None:
    """The checker sees libraries where they are not to be."""
    assert len(misplaced_libraries({name: text})) == 1


def test_a_call_in_its_place_is_not_found() -> None:
    """Text's `replace` and calls of durable itself are no offence."""
    text = (
        "name.replace('a', 'b')\ndataclasses.replace(x, a=1)\n"
        "time.replace(tzinfo=zone)\ndurable.remove_folder(path)"
    )
    assert misplaced_calls({"storage.store": text}) == []
    assert misplaced_calls({"storage.durable": "os.replace(a, b)"}) == []
