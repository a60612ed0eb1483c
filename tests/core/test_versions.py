from __future__ import annotations

import pytest
from torch import nn

import intervene
from intervene import adapter, versions
from intervene.errors import UnsupportedModelError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5.18", (5, 18)), ("5.18.0", (5, 18, 0)), ("2.13.0+cpu", (2, 13, 0)), ("5.19rc1", (5, 19)), ("5.2.dev0", (5, 2))],
)
def test_versions_are_numbers(text: str, expected: tuple[int, ...]) -> None:
    assert versions.parsed(text) == expected


def test_a_version_is_found_by_the_name_that_is_imported() -> None:
    assert versions.installed("torch") is not None
    # The distribution has another name.
    assert versions.installed("intervene") == intervene.__version__
    assert versions.installed("no_such_package") is None


class TestOldLibrary:
    @pytest.fixture(autouse=True)
    def old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(adapter, "installed", lambda package: "5.17.3")

    @pytest.fixture
    def vit(self) -> nn.Module:
        return intervene.tiny("vit")

    def test_refuses_what_a_table_is_not_of(self, vit: nn.Module) -> None:
        with pytest.raises(
            UnsupportedModelError, match=r"ViT is of transformers 5\.18 and up, and 5\.17\.3 is installed"
        ):
            intervene.adapt(vit)
        assert not intervene.families()["vit"].available()

    def test_leaves_other_families_alone(self) -> None:
        assert intervene.adapt(intervene.tiny("gpt2")).sites
        assert intervene.families()["gpt2"].available()


def test_the_first_version_itself_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "installed", lambda package: "5.18.0")
    assert intervene.adapt(intervene.tiny("vit")).sites
