from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from persist_callbacks.cli import commands, wording
from persist_callbacks.records import Position, Score
from persist_callbacks.storage.store import MANIFEST, META, STATE, Store

DATA = "model.ckpt.data-00000-of-00001"
SUBCOMMANDS = commands.list_commands(click.Context(commands))


def run(*arguments: object) -> Result:
    # Until click 8.2 the two streams were one unless asked for.
    apart = inspect.signature(CliRunner).parameters.get("mix_stderr") is not None
    runner = CliRunner(mix_stderr=False) if apart else CliRunner()
    return runner.invoke(commands, [str(each) for each in arguments])


def save(store: Store, step: int, loss: float | None, **more: Any) -> Path:
    staged = store.stage(step)
    for name in ("model.ckpt.index", DATA, STATE):
        staged.write(name, b"x" * 1000)
    return store.commit(
        staged,
        position=Position(epoch=step // 100, batch=step % 100, step=step),
        fingerprint="f",
        score=None if loss is None else Score("val_loss", loss, True),
        **more,
    ).path


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """A run with ten checkpoints of a few bytes."""
    losses = [0.9, 0.8, float("nan"), 0.2, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    with Store.open_for_writing(tmp_path / "run") as store:
        for number, loss in enumerate(losses, start=1):
            save(store, number * 150, loss, finished=number == 10)
    return tmp_path / "run"


# Help and failures


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_explains_itself(name: str) -> None:
    """Help has a sentence on what it does, on each option, and an example."""
    command = commands.get_command(click.Context(commands), name)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"
    result = run(name, "--help")
    assert result.exit_code == 0
    assert command.help
    assert command.get_short_help_str(200).endswith(".")
    assert f"\n    persist-callbacks {name} " in result.output


def test_the_command_names_its_subcommands() -> None:
    """Without arguments one is told what there is."""
    output = run("--help").output
    assert [
        *("list", "inspect", "verify", "save", "freeze", "predict", "report"),
    ] == SUBCOMMANDS
    for name in SUBCOMMANDS:
        assert f"\n  {name} " in output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["list", "nowhere"], 1, "nowhere: expected a run directory, found nothing"),
        (["inspect", "nowhere"], 1, "nowhere: expected a run directory, a checkpoint"),
        (["inspect", "no.pb"], 1, "no.pb: expected"),
        (["freeze", "nowhere", "-o", "x.pb"], 1, "nowhere: expected"),
        (["predict", "no.pb", "--input", "x.npy"], 1, "x.npy: No such file"),
        (["freeze", "nowhere"], 2, "Missing option '-o'"),
        (["list"], 2, "Missing argument 'RUN'"),
        (["lost"], 2, "No such command 'lost'"),
        (["predict", "m.pb", "--input", "x.npy", "-o", "y.txt"], 2, "must end in .npy"),
    ],
)
def test_failures_are_one_message_and_an_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 for what was not as expected, 2 for a wrong call; never a traceback."""
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", "expected a path, found ''."),
        ("gs://bucket/run", "found an address of a remote store, 'gs://bucket/run'."),
    ],
)
def test_paths_that_are_none(
    path: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong calls for every subcommand, though `Path("")` would be this very folder."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros(3))
    for arguments, code in (
        *(
            ((name, path), 2)
            for name in SUBCOMMANDS
            if name not in ("freeze", "predict")
        ),
        (("freeze", path, "-o", "m.pb"), 2),
        (("freeze", "run", "-o", path), 2),
        (("predict", path, "--input", "x.npy"), 2),
        (("predict", "m.pb", "--input", path), 1),
        (("predict", "m.pb", "--input", f"x={path}"), 1),
    ):
        done = run(*arguments)
        assert done.exit_code == code, arguments
        assert found in done.stderr, arguments
    assert [each.name for each in tmp_path.iterdir()] == ["x.npy"]


def test_as_a_module(ten: Path) -> None:
    """`python -m persist_callbacks` is the same command, with its exit codes."""
    module = [sys.executable, "-m", "persist_callbacks"]
    good = subprocess.run([*module, "list", ten], capture_output=True, text=True)
    assert good.returncode == 0
    assert "ckpt-000001500" in good.stdout
    bad = subprocess.run([*module, "list", ten / "x"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert bad.stderr.startswith("Error: ")
    assert "Traceback" not in bad.stderr


# list


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["list"], ["report", "--json"]], ids=" ".join)
def test_nowhere_to_print(arguments: list[str], ten: Path) -> None:
    """A full disk behind standard output is one message; a closed one is no fault."""
    name, *options = arguments
    command = [sys.executable, "-m", "persist_callbacks", name, ten, *options]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "Error: standard output: No space left on device\n"
    shell = ["sh", "-c", '"$@" >&-', "sh", *command]
    done = subprocess.run(shell, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("value", "is_red"), [("1", False), ("", True), (None, True)])
def test_colors_of_a_failure(
    value: str | None, is_red: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red where there are colours, and not for those who want none (NO_COLOR)."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    done = CliRunner().invoke(commands, ["list", "nowhere"], color=True)
    assert done.exit_code == 1
    assert ("\x1b[31m" in done.output) == is_red


def test_list_shows_every_checkpoint_with_its_marks(ten: Path) -> None:
    """Step, epoch, batch, size and score; latest, best and finished are marked."""
    result = run("list", ten)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == [
        *("Checkpoint", "Step", "Epoch", "Batch", "Saved", "Size", "Score")
    ]
    assert len(lines) == 11
    best = next(line for line in lines if "best" in line)
    assert best.split()[:4] == ["ckpt-000000600", "600", "6", "0"]
    assert "2.9 KiB" in best
    assert best.split()[-3:] == ["val_loss", "0.2", "best"]
    assert lines[-1].split()[-4:] == ["val_loss", "1", "latest,", "finished"]
    assert "val_loss nan" in lines[3]


def test_list_in_a_narrow_terminal(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are told in full: they are what the other commands are given."""
    monkeypatch.setattr(wording, "_PIPE_WIDTH", 30)
    lines = run("list", ten).stdout.splitlines()
    assert {f"ckpt-{150 * n:09d}" for n in range(1, 11)} < {each[:14] for each in lines}


def test_list_as_json(ten: Path) -> None:
    """A program gets the same, numbers as numbers and NaN as text."""
    found = json.loads(run("list", ten, "--json").stdout)
    assert found["directory"] == str(ten)
    assert len(found["run_id"]) == 32
    rows = found["checkpoints"]
    assert [row["step"] for row in rows] == list(range(150, 1501, 150))
    assert [row["step"] for row in rows if row["best"]] == [600]
    assert [row["step"] for row in rows if row["latest"]] == [1500]
    assert [row["step"] for row in rows if row["finished"]] == [1500]
    assert rows[2]["score"]["value"] == "nan"
    assert rows[3] | {"saved_at": ""} == {
        "name": "ckpt-000000600",
        "step": 600,
        "epoch": 6,
        "batch": 0,
        "saved_at": "",
        "size": 3000,
        "score": {"monitor": "val_loss", "value": 0.2, "lower_is_better": True},
        "latest": False,
        "best": True,
        "finished": False,
    }
    assert found["damaged"] == []
    assert found["set_aside"] == []


def test_list_tells_what_is_damaged(ten: Path) -> None:
    """A cut file and a missing manifest are seen, and what was set aside is named."""
    os.truncate(ten / "ckpt-000001500" / DATA, 10)
    (ten / "ckpt-000000600" / MANIFEST).unlink()
    with Store.open_for_writing(ten) as store:
        store.set_aside(ten / "ckpt-000000150", "a test")
    output = run("list", ten).output
    assert "expected 1000 bytes, found 10: the file is cut short" in output
    assert output.count("damaged\n") == 2
    assert "Set aside as damaged: damaged-ckpt-000000150" in output
    found = json.loads(run("list", ten, "--json").stdout)
    assert [each["name"] for each in found["damaged"]] == [
        "ckpt-000000600",
        "ckpt-000001500",
    ]
    assert [row["step"] for row in found["checkpoints"] if row["latest"]] == [1350]
    assert found["set_aside"] == ["damaged-ckpt-000000150"]


def test_list_of_a_newer_format(ten: Path) -> None:
    """It is for a newer version to judge, and not called damaged."""
    path = ten / "ckpt-000001500" / MANIFEST
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    lines = run("list", ten).stdout.splitlines()
    (row,) = (line for line in lines if line.startswith("ckpt-000001500 "))
    assert row.split(maxsplit=1)[1] == "newer format"
    assert "damaged" not in "".join(lines)
    assert "Upgrade persist_callbacks" in lines[-1]
    found = json.loads(run("list", ten, "--json").stdout)
    assert found["damaged"] == []
    (newer,) = found["newer_format"]
    assert newer["name"] == "ckpt-000001500"


def test_list_of_a_run_that_has_saved_nothing(tmp_path: Path) -> None:
    """A run that has begun and has no checkpoint yet is no failure."""
    Store.open_for_writing(tmp_path).close()
    assert run("list", tmp_path).output == "No checkpoints yet.\n"


def test_list_loads_no_tensorflow(ten: Path) -> None:
    """It must answer at once: neither TensorFlow, nor Keras, nor NumPy is loaded."""
    code = """
import sys
from persist_callbacks.cli import commands
commands(["list", sys.argv[1]], standalone_mode=False)
print([name for name in ("tensorflow", "keras", "numpy") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(ten)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (0.4, "just now"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (7199, "1 h ago"),
        (86400 * 3, "3 d ago"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    """In the largest whole unit; a clock that was set back shows no negative age."""
    assert wording.age(seconds) == text
    now = time.time()
    assert wording.moment(now - seconds, now=now).endswith(f"({text})")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (5 * 1024**5, "5120.0 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    """Binary units, one decimal."""
    assert wording.size(count) == text


# inspect, freeze, predict


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run of a small model with one checkpoint and its graph, and the model."""
    keras = pytest.importorskip("keras")
    from persist_callbacks.graph.meta import to_meta
    from persist_callbacks.graph.trace import trace
    from persist_callbacks.storage import bundle

    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,), name="pixels")
    outputs = keras.layers.Dense(3, name="score", activation="softmax")(inputs)
    model = keras.Model(inputs, outputs)
    keys = {id(each.value): each.path for each in model.variables}
    graph = trace(model, keys)
    values = {each.path: each.numpy() for each in model.variables}
    directory = tmp_path_factory.mktemp("trained") / "run"
    with Store.open_for_writing(directory) as store:
        staged = store.stage(7)
        bundle.write(staged.prefix, {**values, "text": np.array(b"no number")})
        staged.write(STATE, b"{}")
        staged.write(META, to_meta(graph))
        store.commit(staged, position=Position(0, 7, 7), fingerprint="f")
    return directory, model


@pytest.mark.parametrize("what", ["", "ckpt-000000007", "ckpt-000000007/model.ckpt"])
def test_inspect_a_checkpoint(trained: tuple[Path, Any], what: str) -> None:
    """Variables, parameters, bytes and operations, by whatever path one has."""
    path = trained[0] / what
    found = json.loads(run("inspect", path, "--json").stdout)
    assert found["path"].endswith("ckpt-000000007/model.ckpt")
    assert found["parameters"] == 4 * 3 + 3
    assert found["bytes"] == 15 * 4
    kernel = next(each for each in found["variables"] if each["shape"] == [4, 3])
    assert kernel["dtype"] == "float32"
    assert found["graph"]["ops"]["MatMul"] == 1
    assert found["graph"]["op_count"] == sum(found["graph"]["ops"].values())
    assert found["graph"]["inputs"][0]["shape"] == [None, 4]
    text = run("inspect", path).output
    assert f"{kernel['name']}  [4, 3]  float32" in " ".join(text.split("\n"))
    assert "15 numbers, 60 B" in text
    assert "[?, 4]" in text


def test_inspect_for_runtimes(trained: tuple[Path, Any], tmp_path: Path) -> None:
    """Each runtime and whether it reads the PB; what is no PB is refused."""
    pb = tmp_path / "model.pb"
    run("freeze", trained[0], "-o", pb, "--batch-size", "2")
    found = json.loads(run("inspect", pb, "--runtimes", "--json").stdout)
    assert found["graph"]["inputs"][0]["shape"] == [2, 4]
    assert {each["name"]: each["loads"] for each in found["runtimes"]} == dict.fromkeys(
        [each["name"] for each in found["runtimes"]], True
    )
    assert "OpenCV 4 and 5" in run("inspect", pb, "--runtimes").output
    failed = run("inspect", trained[0], "--runtimes")
    assert failed.exit_code == 1
    assert "--runtimes: expected the path of a PB" in failed.stderr


def test_inspect_a_checkpoint_of_tensorflow(tmp_path: Path) -> None:
    """A stock checkpoint has variables to show, and no graph."""
    tf = pytest.importorskip("tensorflow")
    tf.train.Checkpoint(x=tf.Variable(tf.zeros([2, 5]))).save(str(tmp_path / "ckpt"))
    found = json.loads(run("inspect", tmp_path, "--json").stdout)
    assert "x/.ATTRIBUTES/VARIABLE_VALUE" in [v["name"] for v in found["variables"]]
    assert found["graph"] is None
    assert "There is no .meta with a graph." in run("inspect", tmp_path).output


def test_freeze_inspect_predict(trained: tuple[Path, Any], tmp_path: Path) -> None:
    """From a run directory to predictions that are the model's, by commands alone."""
    directory, model = trained
    pb = tmp_path / "model.pb"
    frozen = run("freeze", directory, "-o", pb)
    assert frozen.exit_code == 0, frozen.output
    assert "ops in the final graph" in frozen.output
    assert "input pixels float32[?, 4]" in frozen.output
    assert "output score float32[?, 3]" in frozen.output
    found = json.loads(run("inspect", pb, "--json").stdout)
    assert found["bytes"] == pb.stat().st_size
    assert found["graph"]["ops"]["MatMul"] == 1
    assert f"{found['graph']['op_count']} operations of" in run("inspect", pb).output

    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", pixels=x)
    expected = model.predict(x, verbose=0)
    for given in ("x.npy", "pixels=x.npy", "x.npz"):
        name, separator, file = given.rpartition("=")
        saved = tmp_path / "y.npy"
        given = f"{name}{separator}{tmp_path / file}"
        result = run("predict", pb, "--input", given, "-o", saved, "--batch-size", 4)
        assert result.exit_code == 0, result.output
        assert result.output == f"{saved}: score float32[6, 3]\n"
        np.testing.assert_allclose(np.load(saved), expected, rtol=1e-5, atol=1e-6)
    saved = tmp_path / "y.npz"
    assert run("predict", pb, "--input", tmp_path / "x.npy", "-o", saved).exit_code == 0
    np.testing.assert_allclose(np.load(saved)["score"], expected, rtol=1e-5, atol=1e-6)
    shown = run("predict", pb, "--input", tmp_path / "x.npy").output
    assert "score, the first 4 of 6:" in shown
    assert f"{expected.mean():.6g}" in shown


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", r"expected a \.npy or \.npz file of numbers or text"),
        (b"", r"expected a \.npy or \.npz file"),
        (b"PK\x03\x04 cut", r"expected a \.npy or \.npz file"),
        (b"\x93NUMPY\x01\x00\x04\x00{'\x00\n", r"expected a \.npy or \.npz file"),
    ],
)
def test_a_file_that_is_no_array(tmp_path: Path, content: bytes, message: str) -> None:
    """Named by the option it was given for, before any graph is loaded."""
    (tmp_path / "x.npy").write_bytes(content)
    result = run("predict", tmp_path / "no.pb", "--input", tmp_path / "x.npy")
    assert result.exit_code == 1
    assert re.search(message, result.stderr)


def test_files_that_are_damaged(tmp_path: Path) -> None:
    """What NumPy, zlib and csv say of them is a message, and no traceback."""
    flipped, huge, quote = (tmp_path / f"x.{kind}" for kind in ("npz", "npy", "csv"))
    np.savez_compressed(flipped, x=np.zeros(1000))
    data = bytearray(flipped.read_bytes())
    # A block of a type that there is none of, behind the header and the names.
    data[30 + sum(data[26:30:2])] = 0xFF
    flipped.write_bytes(data)
    with huge.open("wb") as file:
        described = {"descr": "<f4", "fortran_order": False, "shape": (10**15, 1)}
        np.lib.format.write_array_header_1_0(file, described)
    quote.write_text('1\n2\n"3\n' + "4\n" * 100_000)
    for path, found in (
        (flipped, "invalid block type"),
        (huge, "expected arrays that memory has room for"),
        (quote, "found from line 3 on, unexpected end of data. Give one line a row"),
    ):
        done = run("predict", tmp_path / "no.pb", "--input", path)
        assert done.exit_code == 1
        assert done.stderr.startswith(f"Error: --input {path}: expected ")
        assert found in done.stderr


def test_a_batch_of_more_rows_than_can_be_counted(tmp_path: Path) -> None:
    """A wrong call, as for `freeze`."""
    options = ["--input", tmp_path / "x.csv", "--batch-size", 10**20]
    done = run("predict", tmp_path / "no.pb", *options)
    assert done.exit_code == 2
    assert "is not in the range" in done.stderr


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    """An array of objects, which could run code, is refused."""
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    result = run("predict", tmp_path / "no.pb", "--input", tmp_path / "x.npy")
    assert result.exit_code == 1
    assert "needs no pickle" in result.stderr


def test_names_for_all_inputs_or_for_none(tmp_path: Path) -> None:
    """Mixing named and unnamed arrays is a wrong call."""
    np.save(tmp_path / "x.npy", np.zeros(2))
    x = tmp_path / "x.npy"
    result = run("predict", "no.pb", "--input", x, "--input", f"a={x}")
    assert result.exit_code == 2
    assert "give names to all inputs or to none" in result.stderr


# The dry run of retention


def test_list_marks_what_would_be_deleted(ten: Path) -> None:
    """By the very rules of a run, and nothing is deleted."""
    found = json.loads(run("list", ten, "--keep-last", 2, "--json").stdout)
    stay = [row["step"] for row in found["checkpoints"] if not row["would_delete"]]
    assert stay == [600, 1350, 1500]
    output = run("list", ten, "--keep-last", 2, "--keep-best", 0).output
    assert output.count("would be deleted") == 8
    assert len(list(ten.glob("ckpt-*"))) == 10
    plain = json.loads(run("list", ten, "--json").stdout)
    assert "would_delete" not in plain["checkpoints"][0]


@pytest.mark.parametrize("seconds", ["nan", "1e-320", "0", "-1"])
def test_spans_that_are_none(seconds: str, ten: Path) -> None:
    """Nothing is counted in spans of no length."""
    done = run("list", ten, "--keep-every-seconds", seconds)
    assert done.exit_code == 2
    assert "'--keep-every-seconds'" in done.stderr
    assert run("list", ten, "--keep-every-seconds", "0.001").exit_code == 0


# report


def test_report_tells_what_happened(ten: Path) -> None:
    """Every event of the journal on a line, in words, and how many there were."""
    with Store.open_for_writing(ten) as store:
        store.set_aside(ten / "ckpt-000000150", "a flipped bit")
        store.note("saved", checkpoint="ckpt-9", size=2048, seconds=0.12345, pruned=[])
        store.note("resumed", checkpoint="ckpt-9", lost=None, restored=["a", "b"])
    lines = run("report", ten).output.splitlines()
    assert "set aside  ckpt-000000150  (kept as: damaged-ckpt-000000150;" in lines[0]
    assert "reason: a flipped bit)" in lines[0]
    assert lines[1].endswith("saved  ckpt-9  (size: 2.0 KiB; seconds: 0.123 s)")
    assert lines[2].endswith("resumed  ckpt-9  (restored: a, b)")
    assert lines[3] == "1 set aside, 1 saved, 1 resumed"
    assert len(run("report", ten, "--last", 1).output.splitlines()) == 2
    told = json.loads(run("report", ten, "--json").stdout)
    assert [event["event"] for event in told] == ["set aside", "saved", "resumed"]


def test_report_of_a_run_to_which_nothing_has_happened(ten: Path) -> None:
    """An empty journal is no failure."""
    assert run("report", ten).output == "Nothing has happened yet.\n"


def test_freeze_tells_and_runs(trained: tuple[Path, Any], tmp_path: Path) -> None:
    """The number of ops, each op where asked for, and results on given or made-up."""
    directory, model = trained
    pb, x = tmp_path / "model.pb", tmp_path / "x.npy"
    np.save(x, np.ones((3, 4), np.float32))
    plain = run("freeze", directory, "-o", pb)
    assert plain.exit_code == 0, plain.output
    count = re.search(r"^(\d+) ops in the final graph", plain.output, re.M)
    assert count
    assert "On made-up input:" in plain.output
    assert "score, the first 4 of 4:" in plain.output
    told = run("freeze", directory, "-o", pb, "--list-ops", "--input", x).output
    listed = re.findall(r"^  (\S+) \((\w+)\) -> (.*)$", told, re.M)
    assert len(listed) == int(count[1])
    assert ("score", "Softmax", "score float32[?, 3]") in listed
    assert "On what was given:" in told
    expected = np.asarray(model(np.load(x)))
    assert f"{expected.mean():.6g}" in told


def test_predict_from_csv(trained: tuple[Path, Any], tmp_path: Path) -> None:
    """One row a line, with or without a header, in batches or at once."""
    directory, model = trained
    pb, file, saved = tmp_path / "m.pb", tmp_path / "x.csv", tmp_path / "y.npy"
    run("freeze", directory, "-o", pb)
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    expected = model.predict(x, verbose=0)
    lines = [",".join(map(repr, map(float, row))) for row in x]
    for header in ([], ["a,b,c,d"]):
        file.write_text("\n".join([*header, *lines]) + "\n")
        for options in ([], ["--batch-size", 3]):
            done = run("predict", pb, "--input", file, "-o", saved, *options)
            assert done.exit_code == 0, done.output
            np.testing.assert_allclose(np.load(saved), expected, rtol=1e-5, atol=1e-6)
    file.write_text("1,2,3\n")
    done = run("predict", pb, "--input", file)
    assert done.exit_code == 1
    assert "expected lines of numbers that fill one row of pixels" in done.stderr
    assert "found lines of 3 columns" in done.stderr
    # No header: a row with a gap, which is not to be left out without a word.
    file.write_text("1,2,,4\n1,2,3,4\n")
    done = run("predict", pb, "--input", file)
    assert done.exit_code == 1
    assert "could not convert string to float" in done.stderr
    file.write_text("\n", encoding="utf-8-sig")
    done = run("predict", pb, "--input", file)
    assert done.exit_code == 1
    assert "found no lines" in done.stderr


def test_whole_numbers_from_csv(tmp_path: Path) -> None:
    """To the last digit, also where some are written as floats; what is too big not."""
    tf = pytest.importorskip("tensorflow")
    file, saved = tmp_path / "x.csv", tmp_path / "y.npy"

    def predict(dtype: str, *cells: object) -> Result:
        graph = tf.Graph()
        with graph.as_default():
            ids = tf.compat.v1.placeholder(dtype, [None, 1], name="ids")
            tf.identity(ids, name="same")
        (tmp_path / "m.pb").write_bytes(graph.as_graph_def().SerializeToString())
        file.write_text("\n".join(map(str, cells)))
        return run("predict", tmp_path / "m.pb", "--input", file, "-o", saved)

    big = [2**53 + 1, 1234567890123456789, 2**63 - 1, -(2**63)]
    for dtype, cells, numbers in (
        ("int64", big, big),
        ("int64", ["3.0", *big, "1e3"], [3, *big, 1000]),
        ("uint64", ["7.0", 2**64 - 1], [7, 2**64 - 1]),
        ("int32", ["7.0", 2**31 - 1], [7, 2**31 - 1]),
        ("bool", ["1", "0.0"], [True, False]),
    ):
        done = predict(dtype, *cells)
        assert done.exit_code == 0, done.stderr
        assert np.load(saved).reshape(-1).tolist() == numbers
    for dtype, cell, found in (
        ("int64", 2**63, f"that ids int64[?, 1] can hold, found {2**63}."),
        ("uint64", 2**64, f"that ids uint64[?, 1] can hold, found {2**64}."),
        ("uint64", -1, "found int64[2, 1]"),
        ("int32", 2**31, "found int64[2, 1]"),
        ("int64", "0.5", "found float64[2, 1]"),
        ("bool", 2, "found int64[2, 1]"),
        ("int64", "inf", "found float64[2, 1]"),
    ):
        done = predict(dtype, 1, cell)
        assert done.exit_code == 1, (dtype, cell)
        assert found in done.stderr


def test_an_input_by_the_name_that_the_user_gave(tmp_path: Path) -> None:
    """What a graph cannot be called, its signature knows; for text as for arrays."""
    tf = pytest.importorskip("tensorflow")
    from persist_callbacks.graph import signature
    from persist_callbacks.graph.frozen import load_frozen_graph

    graph = tf.Graph()
    with graph.as_default():
        ids = tf.compat.v1.placeholder(tf.int32, [None, 3], name="user_id")
        tf.identity(ids, name="same")
    pb, ids = tmp_path / "m.pb", np.arange(6, dtype=np.int32).reshape(2, 3)
    data = graph.as_graph_def().SerializeToString()
    pb.write_bytes(data)
    found = load_frozen_graph(pb)
    described = signature.Signature(
        inputs=(signature.SignatureTensor("user_id", (None, 3), "int32", "user id"),),
        outputs=(signature.SignatureTensor("same", (None, 3), "int32"),),
        op_count=found.op_count,
        size=len(data),
        checksum=signature.checksum(data),
        tensorflow=tf.__version__,
    )
    signature.signature_path(pb).write_bytes(described.to_json())
    np.savetxt(tmp_path / "x.csv", ids, fmt="%d", delimiter=",")
    np.save(tmp_path / "x.npy", ids)
    for name in ("user id", "user id:0", "user_id"):
        for kind in ("csv", "npy"):
            given = ["--input", f"{name}={tmp_path / 'x'}.{kind}", "--batch-size", 1]
            done = run("predict", pb, *given, "-o", tmp_path / "y.npy")
            assert done.exit_code == 0, done.stderr
            np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), ids)


def test_a_home_that_the_shell_has_not_looked_up(
    trained: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--output=~/y.npy` comes as it is written, and is no folder of that name."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    np.save(home / "x.npy", np.zeros((2, 4), np.float32))
    shutil.copytree(trained[0], home / "run")
    for arguments in (
        ("list", "~/run"),
        ("freeze", "~/run", "--output=~/m.pb", "--input", "~/x.npy"),
        ("inspect", "~/m.pb"),
        ("predict", "~/m.pb", "--input", "pixels=~/x.npy", "--output=~/y.npy"),
    ):
        done = run(*arguments)
        assert done.exit_code == 0, (arguments, done.stderr)
    assert np.load(home / "y.npy").shape == (2, 3)
    assert not list(here.iterdir())


@pytest.mark.skipif(sys.platform == "darwin", reason="the system has no such names")
def test_a_name_that_is_not_utf8(trained: tuple[Path, Any], tmp_path: Path) -> None:
    """Of a PB it is printed, byte by byte or escaped; of a run it is refused."""
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/r\xe9sultats"))
    pb = folder / "m.pb"
    done = run("freeze", trained[0], "-o", pb)
    assert done.exit_code == 0, done.stderr
    assert done.stdout_bytes.startswith(bytes(pb) + b": ")
    assert bytes(pb) in run("inspect", pb).stdout_bytes
    assert json.loads(run("inspect", pb, "--json").stdout)["path"] == str(pb)
    shutil.copytree(trained[0], folder / "run")
    for arguments in (
        *(("list",), ("list", "--json"), ("inspect",), ("inspect", "--json")),
        *(("verify",), ("verify", "--json"), ("report",), ("freeze", "-o", pb)),
    ):
        done = run(*arguments, folder / "run")
        assert done.exit_code == 1
        assert ": expected a path in UTF-8" in done.stderr


def test_the_same_input_twice(tmp_path: Path) -> None:
    """Neither array takes the other's place."""
    np.save(tmp_path / "x.npy", np.zeros(1))
    np.savez(tmp_path / "x.npz", a=np.zeros(1), b=np.zeros(1))
    named = ["--input", f"b={tmp_path / 'x.npy'}"]
    for first, second in ((named, named), (named, ["--input", tmp_path / "x.npz"])):
        done = run("predict", tmp_path / "m.pb", *first, *second)
        assert done.exit_code == 2
        assert "b was given before" in done.stderr


def test_a_result_in_a_new_folder(trained: tuple[Path, Any], tmp_path: Path) -> None:
    """It is made, as for a PB; what cannot be one is named."""
    pb, file = tmp_path / "m.pb", tmp_path / "x.npy"
    run("freeze", trained[0], "-o", pb)
    np.save(file, np.zeros((2, 4), np.float32))
    done = run("predict", pb, "--input", file, "-o", tmp_path / "new/deep/y.npy")
    assert done.exit_code == 0, done.output
    assert np.load(tmp_path / "new" / "deep" / "y.npy").shape[0] == 2
    done = run("predict", pb, "--input", file, "-o", pb / "y.npy")
    assert done.exit_code == 1
    assert f"{pb / 'y.npy'}: expected a path" in done.stderr
    assert f"found {pb} is a file" in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes")
def test_a_pipe_and_a_checkpoint_are_not_replaced(
    trained: tuple[Path, Any], tmp_path: Path
) -> None:
    """What is no plain file stays what it is, and so does what a checkpoint needs."""
    pb, file, pipe = tmp_path / "m.pb", tmp_path / "x.npy", tmp_path / "pipe.npy"
    run("freeze", trained[0], "-o", pb)
    np.save(file, np.zeros((2, 4), np.float32))
    os.mkfifo(pipe)
    index = trained[0] / "ckpt-000000007" / "model.ckpt.index"
    content = index.read_bytes()
    for arguments, place, found in (
        (("freeze", trained[0]), pipe, "a device or a pipe"),
        (("predict", pb, "--input", file), pipe, "a device or a pipe"),
        (("freeze", trained[0]), index, "a checkpoint's own file"),
        (("freeze", trained[0]), trained[0] / "run.json", "a name that the run in"),
        (("freeze", trained[0]), index.with_name("m.pb"), "a path in ckpt-000000007"),
    ):
        done = run(*arguments, "-o", place)
        assert done.exit_code == 1
        assert f"{place}: expected a path" in done.stderr
        assert f"found {found}" in done.stderr
    assert pipe.is_fifo()
    assert index.read_bytes() == content


TALL = """
import resource, sys
import numpy as np
from persist_callbacks.cli import commands
from persist_callbacks.graph.frozen import load_frozen_graph
pb, rows, saved = sys.argv[1:]
load_frozen_graph(pb)(np.zeros((16384, 4), np.float32))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
options = ["--input", rows, "-o", saved, "--batch-size", "16384"]
commands(["predict", pb, *options], standalone_mode=False)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown // (2**20 if sys.platform == "darwin" else 2**10))
"""


def test_a_file_is_not_read_as_a_whole(
    trained: tuple[Path, Any], tmp_path: Path
) -> None:
    """Of 128 MB of rows in another dtype, memory holds some batches at a time."""
    directory, _ = trained
    pb, rows, saved = tmp_path / "m.pb", tmp_path / "x.npy", tmp_path / "y.npz"
    run("freeze", directory, "-o", pb)
    count = 2**22
    made = np.lib.format.open_memmap(rows, "w+", np.float64, (count, 4))
    made[:: count // 8] = 1.0
    del made
    done = subprocess.run(
        [sys.executable, "-c", TALL, pb, rows, saved],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    with np.load(saved) as found:
        score = found["score"]
        assert score.shape == (count, 3)
        np.testing.assert_allclose(score.sum(axis=1)[:: count // 64], 1, rtol=1e-5)
        assert (score[0] != score[1]).any()
        np.testing.assert_array_equal(score[0], score[count // 8])
    # Pages of the mapped file that were read count too, while nobody else wants them.
    grown = int(done.stdout.splitlines()[-1])
    assert grown < 190, f"{grown} MiB"


def test_a_failed_prediction_leaves_the_older_result(
    trained: tuple[Path, Any], tmp_path: Path
) -> None:
    """A batch that fails half-way leaves no half of a file, and no other either."""
    directory, _ = trained
    pb, file, saved = tmp_path / "m.pb", tmp_path / "x.csv", tmp_path / "y.npy"
    run("freeze", directory, "-o", pb)
    saved.write_bytes(b"older")
    file.write_text("1,2,3,4\n" * 5 + "1,2,3\n")
    done = run("predict", pb, "--input", file, "-o", saved, "--batch-size", 2)
    assert done.exit_code == 1
    assert "found lines of 3 or 4 columns" in done.stderr
    assert saved.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("m.pb", "m.signature.json", "x.csv", "y.npy")
    ]


FULL = """
import resource, sys
from persist_callbacks.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize(("kind", "rows"), [("npy", 1000), ("npz", 315)])
def test_a_result_that_finds_no_room(
    kind: str, rows: int, trained: tuple[Path, Any], tmp_path: Path
) -> None:
    """The path that was asked for is named, and nothing is left there."""
    pb, file = tmp_path / "m.pb", tmp_path / "x.npy"
    run("freeze", trained[0], "-o", pb)
    # So many fit into the array's own file, and not into the archive.
    np.save(file, np.zeros((rows, 4), np.float32))
    before = sorted(path.name for path in tmp_path.iterdir())
    saved = tmp_path / f"y.{kind}"
    arguments = ["predict", pb, "--input", file, "-o", saved]
    command = [sys.executable, "-c", FULL, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith(f"Error: {saved}: expected a path"), done.stderr
    assert "File too large" in lines[-1]
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_text_in_and_out(tmp_path: Path) -> None:
    """Strings of any length go in by .csv and come out as an array of bytes."""
    tf = pytest.importorskip("tensorflow")
    graph = tf.Graph()
    with graph.as_default():
        words = tf.compat.v1.placeholder(tf.string, [None, 2], name="words")
        tf.strings.join([words[:, 0], words[:, 1]], "-", name="joined")
    (tmp_path / "m.pb").write_bytes(graph.as_graph_def().SerializeToString())
    long = "long" * 50_000
    (tmp_path / "w.csv").write_text(f'a,1\n"b, c",2\n{long},3\n', encoding="utf-8")
    done = run(
        *("predict", tmp_path / "m.pb", "--input", tmp_path / "w.csv"),
        *("--batch-size", 2, "-o", tmp_path / "y.npy"),
    )
    assert done.exit_code == 0, done.output
    expected = [b"a-1", b"b, c-2", f"{long}-3".encode()]
    assert np.load(tmp_path / "y.npy").tolist() == expected


def test_text_beside_numbers(tmp_path: Path) -> None:
    """A first line of text is a row, also where rows are counted to be cut."""
    tf = pytest.importorskip("tensorflow")
    graph = tf.Graph()
    with graph.as_default():
        words = tf.compat.v1.placeholder(tf.string, [None, 1], name="words")
        numbers = tf.compat.v1.placeholder(tf.float32, [None, 1], name="numbers")
        tf.add(tf.cast(tf.strings.length(words), tf.float32), numbers, name="y")
    pb, saved = tmp_path / "m.pb", tmp_path / "y.npy"
    pb.write_bytes(graph.as_graph_def().SerializeToString())
    (tmp_path / "n.csv").write_text("number\n1\n2\n3\n")

    def predict(*lines: str) -> Any:
        (tmp_path / "w.csv").write_text("\n".join(lines))
        files = [f"{name}={tmp_path / name[0]}.csv" for name in ("words", "numbers")]
        inputs = [part for file in files for part in ("--input", file)]
        return run("predict", pb, *inputs, "--batch-size", 2, "-o", saved)

    done = predict("ab", "cde", "f")
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(np.load(saved), [[3.0], [5.0], [4.0]])
    done = predict("ab", "cde", "f", "gg")
    assert done.exit_code == 1
    assert "found words: 4, numbers: 3" in done.stderr
