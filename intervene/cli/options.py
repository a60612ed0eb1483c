"""Options that several commands share."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated

import typer

from .console import CommandError

# What matplotlib can write and a reader can open anywhere.
PICTURES = (".png", ".pdf", ".svg")

# Below the sign of 64 bits: beyond, torch's generators wrap around or refuse.
MOST_SEED = 2**63 - 1


def above_zero(value: float) -> float:
    """A finite number above 0: without noise there is nothing to trace, and endless noise is no number."""
    if not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value} is no finite number above 0")
    return value


def said(value: str | None) -> str | None:
    """A text that isn't blank, or none where the option wasn't given."""
    if value is not None and not value.strip():
        raise typer.BadParameter(f"{value!r} says nothing: give a text")
    return value


Component = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What is restored: block_output, mlp_output, attention_output, or modules by path: h.{layer}.mlp.output.",
    ),
]
Samples = Annotated[int, typer.Option(min=1, metavar="N", help="How many noise draws are averaged.")]
Sigma = Annotated[
    float,
    typer.Option(
        callback=above_zero, metavar="X", help="The noise, in standard deviations of the token embeddings; above 0."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=MOST_SEED, metavar="N", help="Seed of the noise.")]
Window = Annotated[
    int, typer.Option(min=1, metavar="N", help="How many layers around a cell's own are restored with it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Revision = Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit of a model on the hub.")]


def picture_path(value: Path | None) -> Path | None:
    """A path to write a picture to, refused at once where it can't work: a trace may take long."""
    if value is None:
        return None
    if value.suffix.lower() not in PICTURES:
        raise typer.BadParameter(f"{value} must end in {', '.join(PICTURES)}")
    if value.is_dir():
        raise typer.BadParameter(f"{value} is a folder")
    if not value.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {value.parent}")
    return value


Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", callback=picture_path, help="Where the picture goes: .png, .pdf or .svg."
    ),
]
NoPicture = Annotated[bool, typer.Option("--no-picture", help="Write no picture.")]


def picture_to(output: Path, no_picture: bool) -> Path | None:
    """Where the picture goes, asked before the trace is run; None where none is wanted.

    Raises:
        CommandError: nothing may be written there.
    """
    if no_picture:
        return None
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        where = f"{output}" if output.exists() else f"the folder {output.parent.absolute()}"
        raise CommandError(
            f"the picture can't be written to {output}: {where} is write-protected; say -o FILE for another place, or "
            f"--no-picture"
        )
    return output


def parse_layers(text: str | None) -> list[int] | None:
    """``"0-5,8"`` as [0, 1, 2, 3, 4, 5, 8]; None stays None.

    Raises:
        typer.BadParameter: not numbers and ranges, a range that runs down, or a layer named twice.
    """
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not _number(first) or (dash and not _number(last)):
            raise typer.BadParameter(f"{part.strip()!r} is neither a layer nor a range; say for example 0-5,8")
        if dash and int(last) < int(first):
            raise typer.BadParameter(f"the range {part.strip()!r} runs down; say {last}-{first}")
        found += range(int(first), int(last if dash else first) + 1)
    twice = sorted({layer for layer in found if found.count(layer) > 1})
    if twice:
        raise typer.BadParameter(f"layers {', '.join(map(str, twice))} are named twice")
    return found


def _number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
