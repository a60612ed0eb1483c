"""The command line: ``intervene demo``, ``trace``, ``sites``, ``spec``, ``conform`` and
``scaffold``.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 refused (with the reason), 2 wrong usage,
130 interrupted.
"""

from __future__ import annotations

from typing import Annotated

import typer

from . import conform, demo, scaffold, sites, spec, trace
from .console import Commands

__all__ = ["app"]

app = typer.Typer(
    name="intervene",
    help="Look inside PyTorch models by intervening on them.",
    epilog="Exit codes: 0 done, 1 refused (the reason is on stderr), 2 wrong usage, 130 interrupted.",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    # A traceback with locals would print whole tensors.
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(f"torch-intervene {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Look inside PyTorch models by intervening on them."""


def _help(text: str) -> str:
    """A docstring with each paragraph on one line, for the terminal's width to wrap."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


for command in (demo, trace, sites, spec, conform, scaffold):
    name = command.__name__.rpartition(".")[2]
    app.command(name, help=_help(command.run.__doc__ or ""), epilog=command.EXAMPLES)(command.run)
