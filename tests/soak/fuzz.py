"""Read files that were made to be read: every one an error of ours, or a sound value.

    python tests/soak/fuzz.py [--cases 2000] [--seed 1] [--only PATTERN]

``--cases`` is for each kind of file. Half of the cases change bytes; the other half,
where a file has fields, puts nasty values into them, and checksums over it all are made
to fit, so that nothing is refused before it is looked at. Anything but an error of ours
is a crash; a signal ends the child that reads, and counts as one.

Prints one JSON object; ends with 1 if there were crashes.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import xxhash

import loops
from persist_callbacks import FrozenGraphExport, PeriodicCheckpoint, load_frozen_graph
from persist_callbacks.errors import PersistError
from persist_callbacks.graph import meta
from persist_callbacks.recovery import Recovery
from persist_callbacks.storage import bundle, manifest
from persist_callbacks.storage.layout import INDEX, MANIFEST, META, STATE
from persist_callbacks.storage.store import Store
from persist_callbacks.training import randomness
from persist_callbacks.verifying import verify

DEEP = 20_000
NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, -(2**63), 2**70, 10**30),
    *(1e308, -0.0, 5e-324, "", "x", "\x00", "\ud7ff", "..", "../../etc/passwd"),
    *("/etc/passwd", "ckpt-000000001/../../x", "nan", "xxh3_128:", "9" * 400),
    *("model.ckpt.data-00000-of-99999", "model.ckpt.data-99999-of-99999"),
    *([], {}, [[]], {"$numpy": ["O", 1]}, {"$array": ["f8", [10**12], []]}),
    *({"$tensor": 5}, {"$float": "x"}, {"$tuple": 1}, {"$numpy": ["<f8"]}),
    *({"$array": ["float32", [-1], [1.0]]}, {"x": {}}, ["a"] * 100),
]
# Where it was made, a file leads to this one; it must never be read or written.
BAIT = "bait"


class Fuzz:
    """One real run to take files from, and a place to put what they become."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.run = folder / "run"
        self.bait = folder / BAIT
        self.bait.write_text("nobody reads this")
        self.pb = folder / "model.pb"
        x, y = loops.data()
        ours = PeriodicCheckpoint(self.run, every_steps=3, verbose=0)
        stop = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
        members = [ours, FrozenGraphExport(self.pb), stop]
        loops.sequential().fit(x, y, batch_size=8, verbose=0, callbacks=members)
        self.x = x
        self.folder = sorted(self.run.glob("ckpt-*"))[-1]

    # What a file becomes

    def bytes_of(self, whole: bytes) -> bytes:
        """Change, cut, repeat or replace some bytes."""
        chance, data = self.chance, bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8, 64))):
            at = chance.randrange(len(data) + 1)
            span = chance.choice((1, 1, 2, 4, 16, 100))
            way = chance.randrange(5)
            if way == 0:
                data[at : at + span] = chance.randbytes(span)
            elif way == 1:
                del data[at : at + span]
            elif way == 2:
                data[at:at] = data[at : at + span] * chance.choice((1, 3, 50))
            elif way == 3:
                data[at : at + span] = b"\xff" * span
            else:
                data[at : at + span] = b"\x00" * span
        return bytes(data) if chance.randrange(40) else chance.randbytes(len(whole))

    def fields_of(self, whole: bytes) -> bytes:
        """Put nasty values into fields of a JSON text, take some away, add some."""
        chance = self.chance
        if chance.randrange(60) == 0:
            return b'{"version":' + b"[" * DEEP + b"]" * DEEP + b"}"
        value = json.loads(whole)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            places = list(_places(value))
            if not places:
                break
            holder, key = chance.choice(places)
            way = chance.randrange(8)
            if way == 0:
                del holder[key]
            elif way == 1 and isinstance(holder, dict):
                holder[chance.choice(("x", "version", "$numpy", "format"))] = 1
            elif way == 2:
                other, name = chance.choice(places)
                with contextlib.suppress(KeyError, IndexError):
                    holder[key] = json.loads(json.dumps(other[name]))
            else:
                holder[key] = copy.deepcopy(chance.choice(NASTY))
        return json.dumps(value).encode("utf-8", "surrogatepass")

    def any_of(self, whole: bytes) -> bytes:
        """Either of both."""
        return self.chance.choice((self.bytes_of, self.fields_of))(whole)

    # Where it is put, and who reads it

    def manifest(self) -> None:
        """A manifest: alone, and by every reader of the run that has it."""
        path = self.folder / MANIFEST
        whole = path.read_bytes()
        data = self.any_of(whole)
        with self._instead(path, _signed(data) if self.chance.randrange(4) else data):
            _allow(lambda: manifest.validate(self.folder, checksums=True))
            store = Store.open_for_reading(self.run)
            _allow(store.newest_sound)
            _allow(store.checkpoints)
            _allow(lambda: store.find("best"))
            _allow(lambda: Store.open_for_writing(self.run).close())

    def training_state(self) -> None:
        """A training state that its manifest vouches for: recovered, and put back."""
        with self._vouched_for(STATE, self.any_of) as committed:
            store = Store.open_for_reading(self.run)

            def put_back() -> None:
                recovery = Recovery(store, committed)
                randomness.restore(recovery.state.random)
                recovery.last_logs()
                recovery.can_rehearse(1)
                str(recovery.point(in_fit=False))
                recovery.tensors()

            _allow(put_back)

    def graph(self) -> None:
        """A .meta that its manifest vouches for."""
        with self._vouched_for(META, self.bytes_of) as committed:
            data = (committed.path / META).read_bytes()
            _allow(lambda: meta.from_meta(data, "here"))

    def index(self) -> None:
        """A CKPT's index that its manifest vouches for: every tensor is read."""
        with self._vouched_for(INDEX, self.bytes_of) as committed:
            _allow(lambda: list(bundle.scan(committed.prefix)))
            _allow(lambda: bundle.variables(committed.prefix))

    def tensors(self) -> None:
        """A CKPT's data that its manifest vouches for."""
        name = f"{bundle_data(self.folder)}"
        with self._vouched_for(name, self.bytes_of) as committed:
            _allow(lambda: list(bundle.scan(committed.prefix)))

    def checkpoint_file(self) -> None:
        """TensorFlow's own file, in a folder of TensorFlow's and in ours."""
        chance = self.chance
        names = ("model.ckpt", "../bait", str(self.bait), "..", "", "\\000", "/" * 5000)
        text = "".join(
            f"{chance.choice(('model_checkpoint_path', 'all_model_checkpoint_paths'))}"
            f': "{chance.choice(names)}"\n'
            for _ in range(chance.choice((0, 1, 2, 50)))
        ).encode()
        data = self.bytes_of(text or b"x") if chance.randrange(2) else text
        for folder in (self.run, self.folder):
            with self._instead(folder / "checkpoint", data):
                prefix = _allow(lambda folder=folder: bundle.latest_prefix(folder))
                inside = prefix is None or Path(f"{prefix}.index").resolve()
                assert inside is True or inside.is_relative_to(self.run.resolve())
        with self._instead(self.run / "checkpoint", data):
            _allow(lambda: Store.open_for_writing(self.run).close())

    def small_files(self) -> None:
        """run.json, the journal, who holds the lock, how far training had come."""
        name = self.chance.choice(
            ("run.json", "journal.jsonl", ".lock-owner", ".progress")
        )
        path = self.run / name
        way = self.bytes_of if name == ".progress" else self.any_of
        whole = path.read_bytes()
        if name == "journal.jsonl":
            whole = whole.splitlines()[0]
        with self._instead(path, way(whole)):
            _allow(lambda: Store.open_for_reading(self.run).journal())
            _allow(lambda: Store.open_for_writing(self.run).note("x"))
            for path in self.run.glob("damaged-run.json*"):
                path.unlink()

    def frozen_graph(self) -> None:
        """A PB, with and without its signature."""
        copied = self.pb.with_name("copy.pb")
        copied.write_bytes(self.bytes_of(self.pb.read_bytes()))
        beside = copied.with_name("copy.signature.json")
        beside.unlink(missing_ok=True)
        if self.chance.randrange(2):
            whole = self.pb.with_name("model.signature.json").read_bytes()
            checksum = f"xxh3_128:{xxhash.xxh3_128_hexdigest(copied.read_bytes())}"
            theirs = json.loads(whole)["checksum"].encode()
            beside.write_bytes(self.fields_of(whole).replace(theirs, checksum.encode()))
        _allow(lambda: load_frozen_graph(copied))

    # Inside

    @contextlib.contextmanager
    def _instead(self, path: Path, data: bytes) -> Iterator[None]:
        kept = path.read_bytes() if path.exists() else None
        path.write_bytes(data)
        try:
            yield
        finally:
            # A run may have been opened, and have put things in their places.
            if kept is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(kept)

    @contextlib.contextmanager
    def _vouched_for(
        self, name: str, change: Callable[[bytes], bytes]
    ) -> Iterator[Any]:
        path, listed = self.folder / name, self.folder / MANIFEST
        data = change(path.read_bytes())
        described = json.loads(listed.read_bytes())
        described["files"][name] = {
            "size": len(data),
            "checksum": f"xxh3_128:{xxhash.xxh3_128_hexdigest(data)}",
        }
        signed = _signed(json.dumps(described).encode())
        with self._instead(path, data), self._instead(listed, signed):
            sound = Store.open_for_reading(self.run).newest_sound().committed
            assert sound is not None
            assert sound.path == self.folder
            if self.chance.randrange(10) == 0:
                _allow(lambda: verify(self.folder))
            yield sound


def bundle_data(folder: Path) -> str:
    """Name of a checkpoint's one shard."""
    return next(folder.glob("*.data-*")).name


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, item in list(
        value.items() if isinstance(value, dict) else enumerate(value)
    ):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def _signed(data: bytes) -> bytes:
    """Give a manifest the checksum that fits, where it reads that far."""
    try:
        read = manifest.msgspec.json.decode(data, type=manifest.Manifest)
        return manifest.encode(read)
    except (manifest.msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return data


def _allow(work: Callable[[], Any]) -> Any:
    """Do it; an error of ours is as good as a result."""
    try:
        return work()
    except PersistError:
        return None


KINDS = (
    *("manifest", "training_state", "checkpoint_file", "frozen_graph"),
    *("graph", "index", "tensors", "small_files"),
)


def examine(kind: str, cases: int, seed: int, folder: Path, report: int) -> None:
    """Read so many files of a kind; tells of each beforehand, and what went wrong."""
    folder.mkdir()
    fuzz = Fuzz(folder, seed)
    np.random.seed(0)
    for _ in range(cases):
        os.write(report, b'"case"\n')
        try:
            getattr(fuzz, kind)()
        except BaseException:  # noqa: BLE001 - counted and told
            text = traceback.format_exc()
            os.write(report, (json.dumps({"crash": text[-1500:]}) + "\n").encode())
    assert fuzz.bait.read_text() == "nobody reads this"


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=list(KINDS))
    given = parser.parse_args()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    result: dict[str, Any] = {"cases": {}, "crashes": {}}
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as folder:
        for kind in given.only:
            begun = time.monotonic()
            lines, code = _in_child(kind, given, Path(folder) / kind)
            crashes = [line["crash"] for line in lines if isinstance(line, dict)]
            if code:
                crashes.append(f"the child ended with {code}")
            result["cases"][kind] = lines.count("case")
            result["crashes"][kind] = len(crashes)
            for crash in list(dict.fromkeys(crashes))[:5]:
                sys.stderr.write(f"{kind}: {crash}\n")
            sys.stderr.write(f"{kind}: {time.monotonic() - begun:.0f} s\n")
            shutil.rmtree(Path(folder) / kind, ignore_errors=True)
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if any(result["crashes"].values()) else 0


def _in_child(kind: str, given: argparse.Namespace, folder: Path) -> Any:
    reading, report = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            examine(kind, given.cases, given.seed, folder, report)
            code = 0
        except BaseException:  # noqa: BLE001 - told by the exit code
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(report)
    with os.fdopen(reading) as file:
        lines = [json.loads(line) for line in file]
    _, status = os.waitpid(child, 0)
    return lines, os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
