"""Line numbers of every key and array element of a TOML document.

The standard parser tells values without their place. This scanner walks text that the parser has
already accepted, so it needs no errors of its own: it only has to step over values correctly.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["KeyPath", "key_lines"]

KeyPath = tuple[str | int, ...]
"""Keys from the top of the document; an integer counts array elements from 0."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")


def key_lines(source: str) -> dict[KeyPath, int]:
    """The line (from 1) at which each key, table and array element of a valid document begins.

    A table that several headers reach has the line of the first one that names it.
    """
    return _Scanner(source.replace("\r\n", "\n")).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.lines: dict[KeyPath, int] = {}
        self.lengths: dict[KeyPath, int] = {}  # arrays of tables: how many elements so far

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self.skip_space():
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
        return self.lines

    def line(self) -> int:
        return bisect_right(self.starts, self.at)

    def skip_space(self) -> bool:
        """Step over blanks, newlines, commas and comments; False at the end of the text."""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif char in " \t\n,":
                self.at += 1
            else:
                return True
        return False

    def skip_blanks(self) -> None:
        while self.text[self.at : self.at + 1] in (" ", "\t"):
            self.at += 1

    def header(self) -> KeyPath:
        line = self.line()
        of_array = self.text.startswith("[[", self.at)
        self.at += 2 if of_array else 1
        keys = self.dotted_key()
        self.at = self.text.index("]", self.at) + (2 if of_array else 1)
        path: KeyPath = ()
        for depth, key in enumerate(keys):
            path = (*path, key)
            self.lines.setdefault(path, line)
            if of_array and depth == len(keys) - 1:
                self.lengths[path] = self.lengths.get(path, 0) + 1
            if path in self.lengths:
                path = (*path, self.lengths[path] - 1)
                self.lines.setdefault(path, line)
        return path

    def dotted_key(self) -> list[str]:
        keys = []
        while True:
            self.skip_blanks()
            keys.append(self.key())
            self.skip_blanks()
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def key(self) -> str:
        start = self.at
        if self.text[start] in "\"'":
            self.string()
            raw = self.text[start : self.at]
            return next(iter(tomllib.loads(f"{raw} = 0")))
        matched = _BARE_KEY.match(self.text, start)
        assert matched is not None, "the parser accepted a key that this scanner can't see"
        self.at = matched.end()
        return matched.group()

    def pair(self, table: KeyPath) -> None:
        line = self.line()
        path = table
        for key in self.dotted_key():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self.at = self.text.index("=", self.at) + 1
        self.skip_blanks()
        self.value(path)

    def value(self, path: KeyPath) -> None:
        char = self.text[self.at]
        if char in "\"'":
            self.string()
        elif char == "[":
            self.at += 1
            index = 0
            while self.skip_space() and self.text[self.at] != "]":
                key = (*path, index)
                self.lines[key] = self.line()
                self.value(key)
                index += 1
            self.at += 1
        elif char == "{":
            self.at += 1
            while self.skip_space() and self.text[self.at] != "}":
                self.pair(path)
            self.at += 1
        else:
            matched = _SCALAR.match(self.text, self.at)
            assert matched is not None, "the parser accepted a value that this scanner can't see"
            self.at = matched.end()

    def string(self) -> None:
        quote = self.text[self.at]
        long = self.text.startswith(quote * 3, self.at)
        end = quote * 3 if long else quote
        self.at += len(end)
        while not self.text.startswith(end, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        self.at += len(end)
        if long:  # up to two quotes more may stand before the closing three
            for _ in range(2):
                if self.text.startswith(quote, self.at):
                    self.at += 1
