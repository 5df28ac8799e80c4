from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_checkpoint import DATA, INDEX, save
from hypothesis import given, settings
from hypothesis import strategies as st

from persist_callbacks.errors import CheckpointDamaged, FormatTooNew, PersistError
from persist_callbacks.records import Position, Score
from persist_callbacks.storage import layout, manifest
from persist_callbacks.storage.store import MANIFEST, META, STATE, Store

counts = st.integers(0, 2**63 - 1)
scores = st.builds(Score, st.text(), st.floats(), st.booleans())


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (INDEX, DATA, STATE):
        (folder / name).write_bytes(name.encode())
    return folder


@settings(deadline=None)
@given(
    run_id=st.text(),
    position=st.builds(Position, counts, counts, counts),
    saved_at=st.floats(0, 4e9),
    fingerprint=st.text(),
    score=st.none() | scores,
    finished=st.booleans(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    run_id: str,
    position: Position,
    saved_at: float,
    fingerprint: str,
    score: Score | None,
    finished: bool,
) -> None:
    """Every field survives, a score of NaN or infinity included."""
    folder = fill(tmp_path_factory.getbasetemp() / "round-trip")
    written = manifest.build(
        folder,
        run_id=run_id,
        position=position,
        saved_at=saved_at,
        fingerprint=fingerprint,
        score=score,
        finished=finished,
    )
    read = manifest.to_record(
        manifest.decode(manifest.encode(written), "here"), Path("ckpt-000000001")
    )
    assert read.position == position
    assert (read.run_id, read.fingerprint, read.finished) == (
        run_id,
        fingerprint,
        finished,
    )
    assert math.isclose(read.saved_at, saved_at, abs_tol=1e-5)
    assert repr(read.score) == repr(score)
    assert read.size == sum(len(name) for name in (INDEX, DATA, STATE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A committed checkpoint at step 1200."""
    with Store.open_for_writing(tmp_path) as store:
        return save(store, 1200, score=Score("val_loss", 0.5, True)).path


def rewrite(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change fields of the manifest, and sign it as a writer of ours would."""
    text = json.loads((folder / MANIFEST).read_text())
    change(text)
    text["checksum"] = ""
    (folder / MANIFEST).write_text(json.dumps(text))
    try:
        manifest.read(folder)
    except PersistError as error:
        found = str(error).rpartition("found '")[2].partition("'")[0]
        text["checksum"] = found
        (folder / MANIFEST).write_text(json.dumps(text))


def test_a_whole_checkpoint_is_valid(folder: Path) -> None:
    """The reader's test passes what the writer made, other files beside it ignored."""
    (folder / ".DS_Store").write_bytes(b"")
    found = manifest.validate(folder, checksums=True)
    assert sorted(found.files) == [DATA, INDEX, STATE]


def truncate(folder: Path) -> None:
    (folder / DATA).write_bytes(b"d" * 4096)


def extend(folder: Path) -> None:
    (folder / DATA).write_bytes(b"d" * 8193)


def flip(folder: Path) -> None:
    data = bytearray((folder / DATA).read_bytes())
    data[5000] ^= 0x10
    (folder / DATA).write_bytes(data)


def remove(folder: Path) -> None:
    (folder / STATE).unlink()


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def make_link(folder: Path) -> None:
    (folder / DATA).rename(folder.parent / "elsewhere")
    (folder / DATA).symlink_to(folder.parent / "elsewhere")


def link_manifest(folder: Path) -> None:
    (folder / MANIFEST).rename(folder.parent / "elsewhere")
    (folder / MANIFEST).symlink_to(folder.parent / "elsewhere")


def make_folder(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / INDEX).mkdir()


def climb(folder: Path) -> None:
    def change(text: dict[str, object]) -> None:
        text["files"]["../x"] = text["files"][DATA]  # type: ignore[index]

    rewrite(folder, change)


def climb_from_root(folder: Path) -> None:
    def change(text: dict[str, object]) -> None:
        text["files"]["/etc/passwd"] = text["files"][DATA]  # type: ignore[index]

    rewrite(folder, change)


def drop_index(folder: Path) -> None:
    rewrite(folder, lambda text: text["files"].pop(INDEX))  # type: ignore[attr-defined]


def drop_data(folder: Path) -> None:
    rewrite(folder, lambda text: text["files"].pop(DATA))  # type: ignore[attr-defined]


def drop_shard(folder: Path) -> None:
    def change(text: dict[str, object]) -> None:
        files = text["files"]
        files["model.ckpt.data-00001-of-00002"] = files.pop(DATA)  # type: ignore

    rewrite(folder, change)


def other_step(folder: Path) -> None:
    folder.rename(folder.with_name("ckpt-000001300"))


def not_json(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b'{"format": "persist')


def binary(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00" * 100)


def nested(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"[" * 1_000_000)


def not_ours(folder: Path) -> None:
    rewrite(folder, lambda text: text.update(format="another"))


def unknown_field(folder: Path) -> None:
    rewrite(folder, lambda text: text.update(surprise=1))


def negative_step(folder: Path) -> None:
    rewrite(folder, lambda text: text.update(step=-1))


def text_step(folder: Path) -> None:
    rewrite(folder, lambda text: text.update(step="1200"))


def before_all_times(folder: Path) -> None:
    rewrite(folder, lambda text: text.update(saved_at="0001-01-01T00:00:00+14:00"))


def after_all_times(folder: Path) -> None:
    rewrite(folder, lambda text: text.update(saved_at="9999-12-31T23:59:59-14:00"))


def no_zone(folder: Path) -> None:
    rewrite(folder, lambda text: text.update(saved_at="2026-01-01T00:00:00"))


def edited(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"epoch": 12', '"epoch": 13'))


def huge(folder: Path) -> None:
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(17 * 1024**2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            truncate,
            rf"^ckpt-000001200/{DATA}: expected 8192 bytes, "
            r"found 4096: the file is cut short\. Use an earlier",
        ),
        (extend, "found 8193: the file is longer than it was written"),
        (flip, "expected checksum xxh3_128:.*its content was changed"),
        (remove, f"ckpt-000001200/{STATE}: expected a file, found nothing"),
        (remove_manifest, f"{MANIFEST}: expected a file, found nothing"),
        (make_link, f"{DATA}: expected a plain file, found a link"),
        (link_manifest, f"{MANIFEST}: expected a plain file, found a link"),
        (make_folder, f"{INDEX}: expected a plain file, found no plain file"),
        (climb, r"expected only names of checkpoint files, found '\.\./x'"),
        (climb_from_root, "only names of checkpoint files, found '/etc/passwd'"),
        (drop_index, f"expected an entry for {INDEX}, found none"),
        (drop_data, f"expected an entry for {DATA}, found none"),
        (drop_shard, "expected an entry for model.ckpt.data-00000-of-00002"),
        (other_step, "expected step 1300, as the folder is named, found step 1200"),
        (not_json, "something else: Input data was truncated"),
        (binary, "expected a persist_callbacks checkpoint manifest"),
        (nested, "expected a persist_callbacks checkpoint manifest"),
        (not_ours, "Invalid enum value 'another'"),
        (unknown_field, "unknown field `surprise`"),
        (negative_step, r"Expected `int` >= 0 - at `\$.step`"),
        (text_step, r"Expected `int`, got `str` - at `\$.step`"),
        (no_zone, r"saved_at"),
        (before_all_times, "saved_at of a year from 2 to 9998, found 0001-01-01"),
        (after_all_times, "saved_at of a year from 2 to 9998, found 9999-12-31"),
        (edited, "the manifest was changed"),
        (huge, "expected at most 16777216 bytes, found 17825792"),
    ],
)
def test_damage_is_found_and_named(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    """Each way to damage a checkpoint is refused by file, expected and found."""
    damage(folder)
    (changed,) = folder.parent.glob("ckpt-*")
    with pytest.raises(CheckpointDamaged, match=message):
        manifest.validate(changed, checksums=True)


def test_a_flip_is_seen_only_with_checksums(folder: Path) -> None:
    """Without checksums only names and sizes are compared; the caller chooses."""
    flip(folder)
    manifest.validate(folder, checksums=False)
    with pytest.raises(CheckpointDamaged):
        manifest.validate(folder, checksums=True)


def test_a_newer_format_is_not_called_damaged(folder: Path) -> None:
    """A version to come, with fields to come, asks for an upgrade."""
    rewrite(folder, lambda text: text.update(version=2, more={"x": 1}))
    with pytest.raises(FormatTooNew, match=r"found version 2\. Upgrade"):
        manifest.validate(folder, checksums=True)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_no_changed_byte_of_a_manifest_goes_unseen(data: st.DataObject) -> None:
    """A byte XORed anywhere is refused, or reads as the very same manifest."""
    original = _encoded()
    at = data.draw(st.integers(0, len(original) - 1))
    mask = data.draw(st.integers(1, 255))
    changed = bytearray(original)
    changed[at] ^= mask
    expected = manifest.decode(original, "here")
    with contextlib.suppress(CheckpointDamaged, FormatTooNew):
        assert manifest.decode(bytes(changed), "here") == expected


def _encoded() -> bytes:
    entry = manifest.FileEntry(5, "xxh3_128:" + "0" * 32)
    return manifest.encode(
        manifest.Manifest(
            run_id="r" * 32,
            step=1200,
            epoch=3,
            batch=17,
            saved_at=manifest.datetime.fromtimestamp(1.8e9, manifest.timezone.utc),
            fingerprint="f",
            score=manifest.ScoreEntry("val_loss", 0.25, True),
            finished=False,
            files={name: entry for name in (INDEX, DATA, STATE)},
        )
    )


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("ckpt-000001200", 1200),
        ("ckpt-1234567890", 1234567890),
        ("ckpt-0000001200", None),
        ("ckpt-1200", None),
        ("ckpt-00000120x", None),
        ("ckpt-" + "\N{ARABIC-INDIC DIGIT ONE}" * 9, None),
        ("damaged-ckpt-000001200", None),
        (".staged-ckpt-000001200-00000000", None),
        ("ckpt-000001200.replaced", None),
    ],
)
def test_only_canonical_names_are_checkpoints(name: str, step: int | None) -> None:
    """One step has one name, and no other name is a checkpoint's."""
    assert layout.step_of(name) == step


def test_the_checksum_is_xxh3_of_the_whole_content(tmp_path: Path) -> None:
    """Blocks make no difference, and the name says which function it was."""
    import xxhash

    content = bytes(range(256)) * 40_000
    (tmp_path / META).write_bytes(content)
    expected = "xxh3_128:" + xxhash.xxh3_128(content).hexdigest()
    assert manifest.checksum(tmp_path / META) == expected
