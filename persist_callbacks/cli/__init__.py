"""The command ``persist-callbacks``: one file a subcommand, loaded when it is used."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from typing import Any, cast

import click

from persist_callbacks import __version__
from persist_callbacks.cli.examples import examples
from persist_callbacks.errors import PersistError

# Subcommand: its module here, in which a click command named `command` is.
_MODULES = {
    "list": "list_checkpoints",
    "inspect": "inspect_file",
    "verify": "verify_files",
    "save": "save_now",
    "freeze": "freeze_checkpoint",
    "predict": "predict_arrays",
    "report": "report_events",
}


class _Failure(click.ClickException):
    """A failure that the user can do something about: its message, and exit code 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        """Print the message in red where the terminal has colours."""
        # None leaves it to click, which knows terminals and not this variable.
        color = False if os.environ.get("NO_COLOR") else None
        text = f"Error: {self.message}"
        click.secho(text, fg="red", err=True, file=file, color=color)


class _Commands(click.Group):
    """Imports a subcommand's module when it is asked for, and words its failures."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the subcommands in the order in which one meets them."""
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand; None for a name that is none."""
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"{__name__}.{_MODULES[cmd_name]}")
        return cast(click.Command, module.command)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand; a failure that was foreseen ends without a traceback."""
        try:
            return super().invoke(ctx)
        except PersistError as error:
            raise _Failure(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                # Whoever read has seen enough: click ends without a word.
                raise
            where = error.filename
            if where is None:
                where = "standard output"
                # Or the interpreter would try it once more as it ends.
                sys.stdout = None
            raise _Failure(f"{where}: {error.strerror or error}") from error


@click.command(
    cls=_Commands,
    name="persist-callbacks",
    epilog=examples(
        "persist-callbacks list runs/digits",
        "persist-callbacks freeze runs/digits -o model.pb",
        "persist-callbacks predict model.pb --input images.npy",
    ),
)
@click.version_option(__version__, prog_name="persist-callbacks")
def commands() -> None:
    """Look at the checkpoints of a training run, freeze them to a PB, and run it."""
    # TensorFlow tells at start which CPU instructions it was not built for.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A file's name that is not UTF-8 is printed byte by byte.
        sys.stdout.reconfigure(errors="surrogateescape")


def main() -> None:
    """Run the command: exit code 1 for a failure, 2 for a wrong call."""
    commands(prog_name="persist-callbacks")
