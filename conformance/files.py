"""Reports as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .html import to_html
from .markdown import to_markdown
from .outcome import Report


def to_document(reports: Sequence[Report]) -> dict[str, Any]:
    """The reports as one JSON document: ``{"passed": bool, "reports": [...]}``."""
    return {"passed": all(r.passed for r in reports), "reports": [r.to_dict() for r in reports]}


def write_json(reports: Sequence[Report], path: Path) -> None:
    """Write `to_document` as UTF-8."""
    path.write_text(json.dumps(to_document(reports), indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def write_html(reports: Sequence[Report], path: Path) -> None:
    """Write `to_html`'s page as UTF-8."""
    path.write_text(to_html(reports), "utf-8")


def write_markdown(reports: Sequence[Report], path: Path) -> None:
    """Write `to_markdown`'s page as UTF-8."""
    path.write_text(to_markdown(reports), "utf-8")
