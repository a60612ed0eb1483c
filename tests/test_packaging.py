"""What is installed, under which names, and what an import costs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint, distribution
from pathlib import Path
from typing import Any

import pytest

import intervene

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = distribution("torch-intervene")
# Folder in the checkout -> the name it is imported under.
PACKAGES = {
    "intervene": "intervene",
    "adapters": "intervene.adapters",
    "conformance": "intervene.conformance",
    "specs": "intervene.specs",
}
HEAVY = {
    "accelerate",
    "hypothesis",
    "matplotlib",
    "pandas",
    "rich",
    "safetensors",
    "timm",
    "transformers",
    "typer",
}


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run_isolated(code: str, cwd: Path) -> Any:
    """What `code` prints as JSON, run outside the checkout and with no PYTHONPATH."""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def modules_after(statement: str, cwd: Path) -> set[str]:
    """Top-level names in sys.modules after `statement` in a fresh interpreter."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps([*sys.modules]))"
    return {name.partition(".")[0] for name in run_isolated(code, cwd)}


def entry_points_by_group() -> dict[str, dict[str, EntryPoint]]:
    found: dict[str, dict[str, EntryPoint]] = {}
    for entry in DISTRIBUTION.entry_points:
        found.setdefault(entry.group, {})[entry.name] = entry
    return found


def test_import_loads_torch_and_nothing_heavier(tmp_path: Path) -> None:
    loaded = modules_after("import intervene", tmp_path)
    assert "torch" in loaded
    assert not loaded & HEAVY


def test_adapters_load_without_the_libraries_of_their_models(tmp_path: Path) -> None:
    adapters = entry_points_by_group()["intervene.adapters"].values()
    statement = "\n".join(f"import {entry.module}" for entry in adapters)
    assert not modules_after(statement, tmp_path) & HEAVY


def test_version_is_that_of_the_distribution() -> None:
    assert intervene.__version__ == DISTRIBUTION.version == pyproject()["project"]["version"]


def test_all_names_exist_once() -> None:
    assert len(set(intervene.__all__)) == len(intervene.__all__)
    missing = [name for name in intervene.__all__ if not hasattr(intervene, name)]
    assert missing == []


def test_installed_entry_points_are_those_of_pyproject() -> None:
    project = pyproject()["project"]
    declared = {"console_scripts": project["scripts"], **project["entry-points"]}
    installed = {
        group: {name: entry.value for name, entry in entries.items()}
        for group, entries in entry_points_by_group().items()
    }
    assert installed == declared, "run the installation again"


@pytest.mark.parametrize("entry", DISTRIBUTION.entry_points, ids=lambda e: f"{e.group}:{e.name}")
def test_entry_point_resolves(entry: EntryPoint) -> None:
    loaded = entry.load()
    if entry.group == "intervene.adapters":
        assert issubclass(loaded, intervene.Adapter)
    elif entry.group == "pytest11":
        assert callable(loaded.pytest_addoption)
    else:
        assert callable(loaded)


def test_every_folder_with_code_is_a_listed_package() -> None:
    with_code = {
        ".".join([name, *file.parent.relative_to(ROOT / folder).parts])
        for folder, name in PACKAGES.items()
        for file in (ROOT / folder).rglob("*.py")
    }
    assert with_code == set(pyproject()["tool"]["setuptools"]["packages"])


def test_types_are_declared() -> None:
    assert intervene.__file__ is not None
    assert (Path(intervene.__file__).parent / "py.typed").is_file()
    assert "py.typed" in pyproject()["tool"]["setuptools"]["package-data"]["intervene"]


def test_subpackages_are_installed_under_intervene_alone(tmp_path: Path) -> None:
    code = """
import importlib, importlib.util, json
where = {}
for name in ["adapters", "conformance", "specs"]:
    where["intervene." + name] = importlib.import_module("intervene." + name).__file__
    bare = importlib.util.find_spec(name)
    where[name] = bare and [bare.origin, *(bare.submodule_search_locations or [])]
print(json.dumps(where))
"""
    where = run_isolated(code, tmp_path)
    for name in ("adapters", "conformance", "specs"):
        installed = where[f"intervene.{name}"]
        assert Path(installed).name == "__init__.py"
        # Another project may own the bare name (one is called `adapters`); ours must not.
        assert str(Path(installed).parent) not in (where[name] or [])
        assert installed not in (where[name] or [])


def imported_modules(file: Path, package: str) -> set[str]:
    """Absolute names of what the import statements of `file`, a module right in `package`, may load."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            parents = parents[: len(parents) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("intervene", {"intervene.adapters", "intervene.conformance"}),
        ("adapters", {"intervene.conformance", "intervene.specs"}),
        ("specs", {"intervene.adapters", "intervene.conformance"}),
        ("conformance", {"intervene.adapters"}),
    ],
)
def test_arrows_point_one_way(folder: str, forbidden: set[str]) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in (ROOT / folder).rglob("*.py")
        # The command that runs the suite imports it when it is called.
        if file != ROOT / "intervene" / "cli" / "conform.py"
        for name in imported_modules(file, ".".join([PACKAGES[folder], *file.parent.relative_to(ROOT / folder).parts]))
        if name in forbidden or name.startswith(tuple(f"{module}." for module in forbidden))
    ]
    assert wrong == []


def repository_files() -> list[Path]:
    """Files that git tracks or would add; all files of a tree that came without git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        made = re.compile(r"\.(?!ci$|github$|gitignore$).*|__pycache__|build|dist|.*\.egg-info")
        paths = [
            path for path in ROOT.rglob("*") if not any(made.fullmatch(part) for part in path.relative_to(ROOT).parts)
        ]
    return [path for path in paths if path.is_file()]


def forbidden_pattern() -> re.Pattern[bytes]:
    # Put together here, so that this file doesn't hold what it looks for.
    folders = "|".join(["home", "opt", "root", "tmp", "Users", "work"])
    hosts = "|".join(["pypi", "pythonhosted", "download.pytorch"])
    return re.compile(rf"(?<![\w.~$}})/-])/(?:{folders})/|(?:{hosts})\.org".encode())


def test_repository_names_no_machine_and_no_registry() -> None:
    files = repository_files()
    assert ROOT / "pyproject.toml" in files
    pattern = forbidden_pattern()
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in files
        if (match := pattern.search(path.read_bytes()))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("see " + "/" + "home/me/x", True),
        ('"' + "/" + "tmp/x", True),
        ("https://" + "py" + "pi.org/simple", True),
        ("my/work/is", False),
        ("$dir/tmp/x", False),
        ("docs/root/index", False),
    ],
)
def test_forbidden_pattern(text: str, named: bool) -> None:
    assert bool(forbidden_pattern().search(text.encode())) is named
