"""What goes wrong with a spec, said with the place it stands at."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["ExpressionError", "SpecError", "nearest"]


class SpecError(ValueError):
    """A spec that can't be used: what is wrong, where it stands, what would be right.

    Attributes:
        problem: what is wrong, one sentence without a full stop.
        remedy: what would be right; empty where `problem` says it all.
        file: name of the file, or None where the error has none (a config without a name that
            an expression asks for).
        line: line number in that file counted from 1, or None.
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str = "",
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        self.problem = problem
        self.remedy = remedy
        self.file = file
        self.line = line
        place = file or ""
        if line is not None:
            place += f"{', ' if place else ''}line {line}"
        message = f"{place}: {problem}" if place else problem
        super().__init__(f"{message}; {remedy}" if remedy else message)


class ExpressionError(SpecError):
    """An expression outside the grammar, or one that a config gives no value."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Words for an error: the names most like `word`, then (where short) all that are known."""
    names = list(known)
    if not names:
        return "nothing is known here"
    similar = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    holding = [name for name in names if word and word in name]
    close = list(dict.fromkeys([*similar, *holding]))[:3]
    hint = f"did you mean {' or '.join(repr(name) for name in close)}? " if close else ""
    if len(names) > 40:
        return hint.strip() or f"none of {len(names)} known names is like it"
    return f"{hint}known here: {', '.join(names)}"
