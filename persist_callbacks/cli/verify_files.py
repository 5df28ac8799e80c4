"""``persist-callbacks verify``: is everything what it was written as?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from persist_callbacks.cli import wording
from persist_callbacks.cli.examples import examples
from persist_callbacks.cli.parameters import LocalPath
from persist_callbacks.errors import CheckpointNotFound, NotARunDirectory
from persist_callbacks.storage import run_directory

if TYPE_CHECKING:
    from persist_callbacks.verifying import Finding, Verification, VerifiedCheckpoint


@click.command(
    "verify",
    epilog=examples(
        "persist-callbacks verify runs/digits",
        "persist-callbacks verify runs/digits/ckpt-000001200 --json",
    ),
)
@click.argument("path", type=LocalPath())
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of text.")
@click.option(
    "--finite", is_flag=True, help="Take weights that are NaN or infinite for damage."
)
def command(path: Path, as_json: bool, finite: bool) -> None:
    """Read every byte and every tensor of PATH and compare them with the manifests.

    PATH is a run directory, with all of its checkpoints, or one checkpoint's folder.
    Exit code 0: all is sound; 1: something is damaged, of a newer format, or cannot be
    read here; 2: a wrong call, as where there is no run. Nothing is changed, and
    training may go on meanwhile.
    """
    from persist_callbacks import verifying

    try:
        found = verifying.verify(path, finite=finite)
    except (CheckpointNotFound, NotARunDirectory) as error:
        if path.is_dir() and run_directory.is_ours(path):
            # All that there was has gone while it was read.
            raise
        raise click.UsageError(str(error)) from error
    if as_json:
        wording.print_json(verifying.as_json(found))
    else:
        _print(found)
    if not found.sound:
        raise click.exceptions.Exit(1)


def _verdict(found: VerifiedCheckpoint) -> str:
    if found.newer:
        return "newer format"
    if found.unread:
        return "not readable"
    return f"sound, {found.tensors} tensors" if found.sound else "DAMAGED"


def _print(found: Verification) -> None:
    console = wording.console()

    def say(finding: Finding) -> None:
        text = f"  {finding}"
        console.print(wording.red(text) if finding.damage else text)

    for each in found.checkpoints:
        console.print(f"{each.path.name}: {_verdict(each)}")
        for finding in each.findings:
            say(finding)
    if found.findings:
        console.print("Beside the checkpoints:")
    for finding in found.findings:
        say(finding)
    sound = sum(each.sound for each in found.checkpoints)
    if found.pruned:
        console.print(f"{found.pruned} pruned meanwhile")
    console.print(f"{sound} of {len(found.checkpoints)} checkpoints sound")
