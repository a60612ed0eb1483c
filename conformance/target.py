"""Naming an adapter on a command line: a family, ``package.module:Class`` or ``path/to/file.py:Class``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ..adapter import Adapter
from ..errors import InterveneError, did_you_mean
from ..registry import families


class TargetError(InterveneError):
    """A name that leads to no adapter."""


def load_adapter(name: str) -> type[Adapter]:
    """The adapter class that ``name`` means.

    Args:
        name: a known family, ``package.module:Class``, or ``path/to/file.py:Class``. The current folder is searched
            for packages as with ``python -m``, and a file's folder as with ``python file.py``.

    Raises:
        TargetError: no such family, module, file or class, or the class is no adapter; the message names what there
            is. The exception of a module that fails while it is imported is chained.
    """
    where, colon, attribute = name.rpartition(":")
    if not colon:
        known = families()
        if name in known:
            return known[name]
        raise TargetError(
            f"no family {name!r}; there are {', '.join(sorted(known))}.{did_you_mean(name, known)} An adapter of your "
            f"own is named package.module:Class or path/to/file.py:Class"
        )
    module = _from_file(Path(where)) if where.endswith(".py") else _from_name(where)
    found = getattr(module, attribute, None)
    if isinstance(found, type) and issubclass(found, Adapter):
        return found
    adapters = [
        n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Adapter) and v is not Adapter
    ]
    there = f"its adapters: {', '.join(adapters)}" if adapters else "it has no subclass of intervene.Adapter"
    if found is None:
        raise TargetError(f"{where} has no {attribute!r}; {there}.{did_you_mean(attribute, adapters)}")
    raise TargetError(f"{name} is no subclass of intervene.Adapter; {there}")


def _from_name(name: str) -> ModuleType:
    _search(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise TargetError(
                f"no module {error.name!r} is installed or stands in {Path.cwd().name or 'the current folder'}"
            ) from error
        raise TargetError(f"{name} could not be imported: {error}") from error
    except Exception as error:
        raise TargetError(f"{name} could not be imported: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"no file {path}")
    package = _package_of(path.resolve())
    if package is not None:
        return _from_name(package)
    _search(path.parent.resolve())
    # Not under its plain name, which may be that of an installed module.
    name = f"intervene_conformance_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise TargetError(f"{path} could not be imported: {type(error).__name__}: {error}") from error
    return module


def _package_of(path: Path) -> str | None:
    """The dotted name of a file that stands in a package, whose root's folder is then searched; None for others."""
    root = path.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    if root == path.parent:
        return None
    _search(root)
    return ".".join(path.relative_to(root).with_suffix("").parts)


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
