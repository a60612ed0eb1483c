"""What is said where a package that a part needs can't be had."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from intervene import MissingDependencyError
from intervene.extras import needed


def test_what_is_not_installed_is_named_with_its_extra(uninstall: Callable[[str], None]) -> None:
    uninstall("matplotlib")
    message = 'a plot needs matplotlib, which is not installed: pip install "torch-intervene[plot]"'
    with pytest.raises(MissingDependencyError, match=re.escape(message)), needed("matplotlib", "plot", "a plot"):
        importlib.import_module("matplotlib.figure")


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import absent_package", "No module named 'absent_package'"),
        ("from math import no_such_function", "cannot import name 'no_such_function'"),
        ("from . import no_such_module", "cannot import name 'no_such_module'"),
    ],
)
def test_nobody_is_told_to_install_what_is_there(
    source: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package").mkdir()
    (tmp_path / "broken_package" / "__init__.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    begins = re.escape("plot needs broken_package, which is installed and can't be imported: ")
    with (
        pytest.raises(MissingDependencyError, match=begins + cause) as raised,
        needed("broken_package", "plot", "plot"),
    ):
        importlib.import_module("broken_package")
    assert "pip" not in str(raised.value)


def test_errors_of_another_kind_pass() -> None:
    with pytest.raises(ZeroDivisionError), needed("math", "plot", "plot"):
        1 / 0  # noqa: B018
