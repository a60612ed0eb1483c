"""Where the commands print: results on stdout, talk on stderr, and refusals in words with their exit codes."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from ..errors import InterveneError

REFUSED, INTERRUPTED = 1, 130


class CommandError(InterveneError):
    """A command that can't do what it was asked, for a reason outside the library proper (files, the hub, devices)."""


class Results(Console):
    """The console for results, which says in words where they can't be written."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As a console prints.

        Raises:
            CommandError: stdout doesn't take it, a full disk for example.
        """
        with _writing():
            super().print(*objects, **options)


def stdout() -> Console:
    """The console for results; made at each call, since stdout may have been exchanged."""
    return Results(highlight=False)


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
    with _writing():
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # Whoever read along has enough, as head has: typer ends quietly then.
        raise
    except OSError as error:
        _drop_the_rest()
        raise CommandError(f"the result can't be written to stdout: {error.strerror or error}") from error


def _drop_the_rest() -> None:
    """Let what stdout still holds go nowhere: Python would try to write it again as it ends, and fail again."""
    # An exchanged stdout has no descriptor, and Python doesn't write it as it ends.
    with suppress(io.UnsupportedOperation), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


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
