"""Every Python snippet in the README and the docs runs, page by page, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The reference stands there as it was handed to us; tests/reference runs its snippets.
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")} - set(REFERENCE.glob("*.md")))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def snippets(page: Path) -> list[tuple[int, str]]:
    """Each Python block with the line it begins at."""
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start(1)].count("\n") + 1, m.group(1)) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "docs"}
    for line, code in snippets(page):
        # Blank lines before the snippet make a traceback point at the page's own line.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


def test_the_pages_have_snippets() -> None:
    assert sum(len(snippets(page)) for page in PAGES) > 10


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken, broken
