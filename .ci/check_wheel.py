"""Checks that a wheel holds every module and data file of the checkout, under the installed names.

Called by .ci/run as ``python .ci/check_wheel.py WHEEL``; exits non-zero and says what is wrong.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Folder in the checkout -> folder in the wheel.
PLACES = {
    "intervene": "intervene",
    "adapters": "intervene/adapters",
    "conformance": "intervene/conformance",
    "specs": "intervene/specs",
}

# Modules outside any package.
MODULES = {"intervene_pytest.py"}

IMPORTS = """
import importlib, pathlib, sys
for name in sys.argv[2:]:
    file = pathlib.Path(importlib.import_module(name).__file__).resolve()
    assert file.is_relative_to(pathlib.Path(sys.argv[1]).resolve()), f"{name} came from {file}"
"""


def expected_files() -> set[str]:
    """Names that the wheel must hold: all files of the checkout's packages but pages for its readers."""
    packages = {
        f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in PLACES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not _page(path) and "__pycache__" not in path.parts
    }
    return packages | MODULES


def _page(path: Path) -> bool:
    """Whether a file is a page beside code, for readers of the checkout; a page beside data is part of the data."""
    return path.suffix == ".md" and (path.parent / "__init__.py").exists()


def main() -> None:
    wheel = Path(sys.argv[1])
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as unpacked:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        expected = expected_files()
        if missing := sorted(expected - held):
            sys.exit(f"{wheel.name} lacks {missing}; see [tool.setuptools] in pyproject.toml")
        if strange := sorted(held - expected):
            sys.exit(f"{wheel.name} holds what the checkout doesn't: {strange}")
        archive.extractall(unpacked)
        modules = [inside.replace("/", ".") for inside in PLACES.values()]
        command = [sys.executable, "-c", IMPORTS, unpacked, *modules, "intervene.cli", "intervene_pytest"]
        # The unpacked wheel goes before the editable install of the environment.
        done = subprocess.run(command, cwd=unpacked, env={"PYTHONPATH": unpacked}, check=False)
        if done.returncode != 0:
            sys.exit(f"{wheel.name} can't be imported from")
    print(f"{wheel.name}: {len(held)} files, all of the checkout's modules and data")


if __name__ == "__main__":
    main()
