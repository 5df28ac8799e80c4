"""What cannot be written for the user to read is left out, and nothing else suffers."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading

import pytest

from persist_callbacks import environment, standard_streams


@pytest.mark.parametrize("said", ["say('a line')", "tell('a line')", "divert_lost()"])
def test_a_reader_that_is_gone(said, tmp_path):
    """The program goes on, and ends well: no buffer fails when it is flushed."""
    reader, writer = os.pipe()
    os.close(reader)
    went_on = tmp_path / "went on"
    script = f"""
from persist_callbacks.environment import say
from persist_callbacks.standard_streams import divert_lost, tell
{said}
open({str(went_on)!r}, "w").close()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=writer, stderr=writer, check=False
    )
    os.close(writer)
    assert went_on.exists()
    assert done.returncode == 0


class Refusing(io.StringIO):
    """A stream that cannot be written to."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, Refusing(), closed()])
def test_a_line_that_cannot_be_printed(stream, monkeypatch):
    """A full disk, no standard output, or a closed one."""
    monkeypatch.setattr(sys, "stdout", stream)
    environment.say("a line")


@pytest.fixture
def streams(monkeypatch):
    """The interpreter's own streams are pipes; the ends that read, and that write."""
    pairs = [os.pipe(), os.pipe()]
    files = [os.fdopen(writer, "w") for _, writer in pairs]
    monkeypatch.setattr(sys, "__stdout__", files[0])
    monkeypatch.setattr(sys, "__stderr__", files[1])
    yield [reader for reader, _ in pairs], files
    for file in files:
        file.close()


def test_what_is_read_is_left_alone(streams):
    """One reader goes, and what the other one reads still comes to it."""
    (out, err), files = streams
    os.close(out)
    standard_streams.divert_lost()
    for file in files:
        file.write("a line")
        file.flush()
    standard_streams.tell(", another")
    assert os.read(err, 99) == b"a line, another"
    os.close(err)
    standard_streams.tell("to nobody")


def test_readers_are_watched_until_the_end(streams):
    """One that goes before is noticed by itself; nothing is watched afterwards."""
    (out, err), files = streams
    end = threading.Event()
    standard_streams.divert_lost_until(end)
    (watch,) = (each for each in threading.enumerate() if "readers" in each.name)
    os.close(out)
    nowhere = os.stat(os.devnull)
    while not os.path.samestat(os.fstat(files[0].fileno()), nowhere):
        assert watch.is_alive()
    end.set()
    watch.join()
    os.close(err)
    assert not os.path.samestat(os.fstat(files[1].fileno()), nowhere)
