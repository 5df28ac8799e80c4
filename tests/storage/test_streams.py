"""Large files around the system's cache, and all the ways in which that can fail."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persist_callbacks.errors import SaveFailed
from persist_callbacks.storage import bundle, durable, streams
from small_disk import mounted

tf = pytest.importorskip("tensorflow")

LARGE = streams._LARGE
PAGE = streams._ALIGNMENT


def content(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(size).integers(0, 256, size, np.uint8)


def write(path: Path, data: Any, *, expected: int, each: int) -> streams.Stream:
    """Write in pieces; return the stream, closed."""
    stream = streams.open_stream(path, expected)
    try:
        for begin in range(0, len(data), each):
            stream.write(data[begin : begin + each])
        stream.finish()
    finally:
        stream.close()
    return stream


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == streams.THREAD_NAME]


@pytest.fixture
def needs_direct(tmp_path: Path) -> None:
    """Skip where the file system of the tests has no way around the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_LARGE", 0)
        stream = write(tmp_path / "probe", content(1), expected=1, each=1)
    if not isinstance(stream, streams.DirectStream):
        pytest.skip("no O_DIRECT here")


@pytest.mark.usefixtures("needs_direct")
@pytest.mark.parametrize(
    "size",
    [LARGE, LARGE + 1, LARGE + PAGE - 1, LARGE + PAGE, LARGE + streams._BUFFER - 7],
)
@pytest.mark.parametrize("each", [1_000_003, 512 * 1024])
@pytest.mark.parametrize("wrong_by", [-PAGE, 0, 3, 5_000_000])
def test_what_goes_around_the_cache_is_what_was_written(
    tmp_path: Path, size: int, each: int, wrong_by: int
) -> None:
    """At any size, in any pieces, whatever size had been expected."""
    data = content(size)
    expected = max(LARGE, size + wrong_by)
    stream = write(tmp_path / "file", data, expected=expected, each=each)
    assert isinstance(stream, streams.DirectStream)
    assert (tmp_path / "file").read_bytes() == data.tobytes()
    assert threads() == []


@pytest.mark.usefixtures("needs_direct")
@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="no huge pages here")
def test_buffers_begin_at_a_huge_page(tmp_path: Path) -> None:
    """Each lies in whole ones, which are in one piece in memory."""
    stream = streams.DirectStream(tmp_path / "file", LARGE)
    buffers = [stream._buffer, stream._free.get()]
    assert [each.ctypes.data % 2**21 for each in buffers] == [0, 0]
    assert {each.nbytes % 2**21 for each in buffers} == {0}
    stream.close()


def test_small_files_go_through_the_cache(tmp_path: Path) -> None:
    """For less than what would be felt there is no thread and no buffer."""
    data = content(100_000)
    stream = write(tmp_path / "file", data, expected=len(data), each=4096)
    assert isinstance(stream, streams.CachedStream)
    assert (tmp_path / "file").read_bytes() == data.tobytes()


def test_an_existing_file_is_not_written_over(tmp_path: Path) -> None:
    """Neither by the one way nor by the other."""
    (tmp_path / "file").write_bytes(b"kept")
    for expected in (1, LARGE):
        with pytest.raises(FileExistsError):
            streams.open_stream(tmp_path / "file", expected)
    assert (tmp_path / "file").read_bytes() == b"kept"
    assert threads() == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("makes_it", [False, True])
def test_file_systems_without_it_use_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, makes_it: bool, number: int
) -> None:
    """Some say so when the file is opened, and have made it by then."""
    real = os.open

    def refuse(path: Any, flags: int, *more: Any) -> int:
        if flags & os.O_DIRECT:
            if makes_it:
                os.close(real(path, flags & ~os.O_DIRECT, *more))
            raise OSError(number, os.strerror(number))
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse)
    data = content(LARGE + 5)
    stream = write(tmp_path / "file", data, expected=LARGE + 5, each=1 << 20)
    assert isinstance(stream, streams.CachedStream)
    assert (tmp_path / "file").read_bytes() == data.tobytes()


@pytest.mark.usefixtures("needs_direct")
def test_file_systems_that_find_out_late_use_the_cache_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused write, or one cut short at an odd place, is gone on with."""
    real, seen = os.write, []

    def cut_short(descriptor: int, block: memoryview) -> int:
        seen.append(len(block))
        return real(descriptor, block[:1000] if len(seen) == 2 else block)

    # A write of 1,000 bytes is refused by the system itself.
    monkeypatch.setattr(os, "write", cut_short)
    data = content(LARGE + 5)
    write(tmp_path / "file", data, expected=LARGE + 5, each=1 << 20)
    assert len(seen) > 4
    assert (tmp_path / "file").read_bytes() == data.tobytes()


@pytest.mark.usefixtures("needs_direct")
def test_no_thread_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the interpreter exits there are none: the file is written all the same."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    data = content(LARGE + 5)
    write(tmp_path / "file", data, expected=LARGE + 5, each=1 << 20)
    assert (tmp_path / "file").read_bytes() == data.tobytes()


def failing(at: int) -> Callable[[int, memoryview], int]:
    real, seen = os.write, []

    def fail(descriptor: int, block: memoryview) -> int:
        seen.append(len(block))
        if len(seen) >= at:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, block)

    return fail


@pytest.mark.usefixtures("needs_direct")
@pytest.mark.parametrize("at", [1, 2, 4, 5])
def test_what_the_device_refuses_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """By a later write or by finish, wherever it failed; nothing is left running."""
    monkeypatch.setattr(os, "write", failing(at))
    with pytest.raises(OSError, match="Input/output error"):
        write(tmp_path / "file", content(LARGE + 5), expected=LARGE, each=1 << 20)
    assert threads() == []


@pytest.mark.usefixtures("needs_direct")
def test_whatever_goes_wrong_on_the_other_thread_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever waits for a buffer does not wait for good."""

    def fail(descriptor: int, block: memoryview) -> int:
        raise MemoryError("no memory")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(MemoryError, match="no memory"):
        write(tmp_path / "file", content(LARGE + 5), expected=LARGE, each=1 << 20)
    assert threads() == []


@pytest.mark.parametrize("room", [1 << 20, 10 << 20])
def test_a_full_disk_is_an_error_of_ours(tmp_path: Path, room: int) -> None:
    """On a real file system, before or in the middle of the large file."""
    with mounted(tmp_path / "disk", options=f"size={room}") as disk:
        tensors = {"a": tf.random.normal((LARGE // 4 + 10,))}
        with pytest.raises(SaveFailed, match="No space left on device"):
            bundle.write(disk / "model.ckpt", tensors)
    assert threads() == []


@pytest.mark.parametrize("where", ["plain", "tmpfs"])
def test_large_checkpoints_are_read_by_tensorflow(tmp_path: Path, where: str) -> None:
    """Every kind of tensor in one file of some size."""
    tensors = {
        "large": tf.random.normal((1500, 2000)),
        "odd": tf.random.uniform((1_000_003,), 0, 255, tf.int32),
        "flags": tf.constant([True, False, True]),
        "half": tf.cast(tf.random.normal((700_001,)), tf.bfloat16),
        "text": tf.constant(["a", "bc"]),
    }
    expected = {key: value.numpy().tolist() for key, value in tensors.items()}

    def check(folder: Path) -> None:
        bundle.write(folder / "model.ckpt", dict(tensors))
        read = bundle.read(folder / "model.ckpt", list(expected))
        for key, value in expected.items():
            assert read[key].numpy().tolist() == value

    if where == "plain":
        check(tmp_path)
    else:
        with mounted(tmp_path / "disk", options="size=64m") as disk:
            check(disk)


def test_who_looks_at_the_numbers_ends_the_writing(tmp_path: Path) -> None:
    """All of each tensor is shown, in order; what is raised leaves nothing running."""
    seen: dict[str, list[Any]] = {}

    def look(key: str, block: Any) -> None:
        seen.setdefault(key, []).append(block.copy())
        if np.isnan(block).any():
            raise ValueError(key)

    tensors = {f"t{n}": tf.random.normal((700, 1000)) for n in range(8)}
    kept = dict(tensors)
    bundle.write(tmp_path / "one.ckpt", tensors, look=look)
    for key, blocks in seen.items():
        assert np.concatenate(blocks).tobytes() == kept[key].numpy().tobytes()
    assert set(seen) == set(kept)
    kept["t7"] = tf.constant(np.nan)
    with pytest.raises(ValueError, match="t7"):
        bundle.write(tmp_path / "two.ckpt", dict(kept), look=look)
    assert threads() == []


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="Linux has it")
def test_the_system_begins_to_write_before_it_is_asked_to_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the cache: all but the end is on its way, and still in the cache."""
    told = []
    real = durable.begin_writing

    def begin(descriptor: int, offset: int, size: int) -> None:
        told.append((offset, size))
        real(descriptor, offset, size)

    monkeypatch.setattr(durable, "begin_writing", begin)
    monkeypatch.setattr(streams, "_LARGE", 1 << 40)
    data = content(20 << 20)
    write(tmp_path / "file", data, expected=len(data), each=1 << 20)
    assert told == [(0, 8 << 20), (8 << 20, 8 << 20)]
    assert (tmp_path / "file").read_bytes() == data.tobytes()
