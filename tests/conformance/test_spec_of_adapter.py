"""An adapter's spec file is read once, and again when it has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from intervene.adapter import Adapter
from intervene.specs import Spec, SpecError
from intervene.specs import load as read

SPEC = (Path(__file__).parent.parent / "stranger" / "plainformer" / "plainformer.toml").read_text(encoding="utf-8")


def test_read_again_only_when_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.toml"
    path.write_text(SPEC)
    reads = []

    def counted(source: str | Path) -> Spec:
        reads.append(source)
        return read(source)

    monkeypatch.setattr("intervene.specs.load", counted)

    class Own(Adapter):
        family = "own"
        spec = path

    assert Own.load_spec().title == "Plainformer"
    assert Own.load_spec() is Own.load_spec()
    assert reads == [path]
    path.write_text(SPEC.replace('title = "Plainformer"', 'title = "Another title"'))
    assert Own.load_spec().title == "Another title"
    assert reads == [path, path]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    class Own(Adapter):
        family = "own"
        spec = tmp_path / "nowhere.toml"

    with pytest.raises(SpecError, match=r"nowhere\.toml"):
        Own.load_spec()
