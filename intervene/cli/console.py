"""Where the commands print: results on stdout, talk on stderr, and refusals in words with their exit codes."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from ..errors import InterveneError

REFUSED, INTERRUPTED = 1, 130


class CommandError(InterveneError):
    """A command that can't do what it was asked, for a reason outside the library proper (files, the hub, devices)."""


def stdout() -> Console:
    """The console for results; made at each call, since stdout may have been exchanged."""
    return Console(highlight=False)


def stderr() -> Console:
    """The console for talk: progress, notes, refusals."""
    return Console(stderr=True, highlight=False)


def interactive() -> bool:
    """Whether a person watches stderr, so that a progress bar is worth drawing."""
    return sys.stderr.isatty()


def note(message: str) -> None:
    """One remark on stderr."""
    stderr().print(Text.assemble(("note: ", "yellow"), message), soft_wrap=True)


def print_json(data: Any) -> None:
    """``data`` as JSON on stdout, and nothing else there."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


@contextmanager
def remarks() -> Iterator[None]:
    """Show this library's warnings as notes, without the line of code that raised them."""
    from ..sweeps import SweepWarning

    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: Any = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, SweepWarning):
                note(str(message))
            else:
                shown(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


class Commands(TyperGroup):
    """The group of commands: a refusal becomes one readable message and exit code 1, an interrupt code 130."""

    def invoke(self, ctx: Any) -> Any:
        from ..specs import SpecError

        try:
            return super().invoke(ctx)
        except (InterveneError, SpecError) as error:
            stderr().print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
            raise typer.Exit(REFUSED) from None
        except KeyboardInterrupt:
            stderr().print("interrupted")
            raise typer.Exit(INTERRUPTED) from None
