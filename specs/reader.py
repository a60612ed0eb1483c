"""A TOML table read key by key, every refusal with the file, the line and what would be right."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from .errors import ExpressionError, SpecError, nearest
from .expressions import check_condition, check_expression

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from .lines import KeyPath, key_lines

__all__ = ["Document", "Section"]

_KINDS = {
    bool: "true or false",
    int: "an integer",
    str: "a string",
    list: "an array",
    dict: "a table",
}


class Document:
    """A TOML file with the line of each of its keys.

    Raises:
        SpecError: the file isn't there, isn't UTF-8, or isn't TOML.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            source = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise SpecError(f"no such file: {path}", file=self.name) from error
        except IsADirectoryError as error:
            raise SpecError(f"{path} is a folder", remedy="name the TOML file in it") from error
        except UnicodeDecodeError as error:
            raise SpecError("not UTF-8", remedy="TOML is always UTF-8", file=self.name) from error
        try:
            self.root = tomllib.loads(source)
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"at line (\d+)", str(error))
            line = int(found.group(1)) if found else len(source.splitlines())
            raise SpecError(f"not TOML: {error}", file=self.name, line=line) from error
        self.lines = key_lines(source)

    def line(self, path: KeyPath) -> int:
        """Line of a key, or of the nearest table around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def top(self) -> Section:
        """The whole document."""
        return Section(self, (), self.root)


class Section:
    """One table of a document. Its readers take a key and check the value's type.

    A reader without `default` raises where the key is missing.
    """

    def __init__(self, document: Document, path: KeyPath, entries: Mapping[str, Any]) -> None:
        self.document = document
        self.path = path
        self.entries = entries

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    @property
    def line(self) -> int:
        return self.document.line(self.path)

    @property
    def title(self) -> str:
        """The table's name as an error says it."""
        words = ""
        for key in self.path:
            if isinstance(key, int):
                words += f"[{key}]"
            else:
                words += f"{'.' if words else ''}{key}"
        return f"[{words}]" if words else "the top level"

    def error(self, problem: str, remedy: str = "", key: str | int | None = None) -> SpecError:
        """A SpecError at this table's line, or at that of one of its keys."""
        path = self.path if key is None else (*self.path, key)
        line = self.document.line(path)
        return SpecError(problem, remedy=remedy, file=self.document.name, line=line)

    def only(self, known: Collection[str], what: str = "key") -> None:
        """Refuse any key that isn't known."""
        for key in self.entries:
            if key not in known:
                raise self.error(f"unknown {what} {key!r} in {self.title}", nearest(key, known), key)

    def value(self, key: str, kind: type, default: Any = ...) -> Any:
        """The value of a key, which has to be of that type."""
        if key not in self.entries:
            if default is ...:
                raise self.error(f"{self.title} lacks {key!r}", f"it has to be {_KINDS[kind]}")
            return default
        value = self.entries[key]
        if not _is(value, kind):
            raise self.error(f"{key!r} in {self.title} is {_found(value)}", f"it has to be {_KINDS[kind]}", key)
        return value

    def text(self, key: str, default: Any = ...) -> str:
        """A string that isn't empty."""
        value: str = self.value(key, str, default)
        if key in self.entries and not value.strip():
            raise self.error(f"{key!r} in {self.title} is empty", "say something or leave it out", key)
        return value

    def texts(self, key: str, default: Any = ...) -> tuple[str, ...]:
        """An array of strings, at least one, none twice."""
        values = self.value(key, list, default)
        for index, value in enumerate(values):
            if not isinstance(value, str) or not value.strip():
                raise self._at(key, index, f"{key!r} has {_found(value)} in it", "strings only")
            if value in values[:index]:
                raise self._at(key, index, f"{key!r} has {value!r} twice", "once is enough")
        if key in self.entries and not values:
            raise self.error(f"{key!r} in {self.title} is empty", "name at least one", key)
        return tuple(values)

    def known_texts(self, key: str, known: Collection[str], what: str, default: Any = ...) -> tuple[str, ...]:
        """An array of strings, each of them known."""
        values = self.texts(key, default)
        for index, value in enumerate(values):
            if value not in known:
                raise self._at(key, index, f"{key!r} names unknown {what} {value!r}", nearest(value, known))
        return values

    def paths(self, key: str, default: Any = ...) -> tuple[str, ...]:
        """A module path, or an array of them to be tried in order."""
        if isinstance(self.entries.get(key), str):
            return (self.text(key),)
        if key in self.entries and not isinstance(self.entries[key], list):
            raise self.error(
                f"{key!r} in {self.title} is {_found(self.entries[key])}",
                "it has to be a module path, or an array of paths to be tried in order",
                key,
            )
        return self.texts(key, default)

    def expression(self, key: str, default: Any = ...) -> str:
        """An expression over the config; an integer counts as one."""
        if _is(self.entries.get(key), int):
            return str(self.entries[key])
        text = self.text(key, default)
        return self._checked(key, text, check_expression) if key in self.entries else text

    def condition(self, key: str, default: Any = ...) -> bool | str:
        """true, false, or a condition over the config."""
        value = self.entries.get(key)
        if isinstance(value, bool):
            return value
        if key in self.entries and not isinstance(value, str):
            raise self.error(
                f"{key!r} in {self.title} is {_found(value)}",
                "it has to be true, false, or a string with a condition over the config",
                key,
            )
        if key not in self.entries and default is ...:
            raise self.error(f"{self.title} lacks {key!r}", "true, false, or a condition over the config")
        text = self.text(key, default)
        return self._checked(key, text, check_condition) if key in self.entries else text

    def section(self, key: str, default: Any = ...) -> Section:
        """A table below this one."""
        return Section(self.document, (*self.path, key), self.value(key, dict, default))

    def sections(self, key: str) -> list[Section]:
        """An array of tables; none where the key isn't there."""
        values = self.value(key, list, [])
        found = []
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                raise self._at(key, index, f"{key!r} has {_found(value)} in it", "tables only")
            found.append(Section(self.document, (*self.path, key, index), value))
        return found

    def _checked(self, key: str, text: str, check: Callable[[str], None]) -> str:
        try:
            check(text)
        except ExpressionError as error:
            raise self.error(f"{key!r}: {error.problem}", error.remedy, key) from error
        return text

    def _at(self, key: str, index: int, problem: str, remedy: str) -> SpecError:
        inner = Section(self.document, (*self.path, key), {})
        return inner.error(f"{problem} (in {self.title})", remedy, index)


def _is(value: object, kind: type) -> bool:
    # bool is a subclass of int in Python and a type of its own in TOML.
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _found(value: object) -> str:
    for kind, words in _KINDS.items():
        if _is(value, kind):
            return f"{words} ({value!r})" if kind in (bool, int, str) else words
    return f"{type(value).__name__} ({value})"
