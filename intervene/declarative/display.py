"""How an `IntervenableModel` shows itself: what is patched where."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import IntervenableModel

_HEADINGS = ("intervention", "at", "unit", "source", "trainable parameters")


def text(intervenable: IntervenableModel) -> str:
    """A table in plain text."""
    rows = [_HEADINGS, *_rows(intervenable)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([_title(intervenable), *("  " + line for line in lines)])


def html(intervenable: IntervenableModel) -> str:
    """The same table for a notebook."""
    head = "".join(f"<th style='text-align:left'>{escape(cell)}</th>" for cell in _HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in _rows(intervenable)
    )
    return f"<p>{escape(_title(intervenable))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _title(intervenable: IntervenableModel) -> str:
    count = len(intervenable.places)
    what = "1 intervention" if count == 1 else f"{count} interventions"
    return f"IntervenableModel of {type(intervenable.model).__name__}: {what}, {intervenable.config.mode}"


def _rows(intervenable: IntervenableModel) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for place in intervenable.places:
        intervention = place.intervention
        trained = sum(p.numel() for p in intervention.parameters() if p.requires_grad) if intervention.trainable else 0
        link = place.representation.intervention_link_key
        name = type(intervention).__name__ + (f" (linked {link!r})" if link is not None else "")
        source = f"source {place.group}" if intervention.needs_source else _own_source(intervention)
        rows.append((name, place.key, place.unit, source, f"{trained:,}" if trained else "-"))
    return rows


def _own_source(intervention: object) -> str:
    if getattr(intervention, "source_is_input", False):
        return "the module's input"
    return "constant" if getattr(intervention, "source_representation", None) is not None else "none"
