"""Where each key stands in a TOML file: `tomllib` gives values but no line numbers, and an error needs one.

The text must already have been accepted by `tomllib`; what stands inside arrays is not recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # a multi-line string may end in up to two quotes of its own
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|\#[^\n]*"
    r"|[A-Za-z0-9_-]+"
    r"|[\[\]{}=.,\n]",
    re.DOTALL,
)

KeyPath = tuple[str, ...]


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) of every key and section of a TOML text, by its path: ``("cpu", "threads") -> 7``."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def nearest_line(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """The line of `path`, or where it is missing that of the innermost section around it, or 1."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 1


class _Scanner:
    """Reads the tokens of one text; fills `lines`."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._tokens: list[tuple[str, int]] = []
        self._at = 0
        line, end = 1, 0
        for match in _TOKEN.finditer(text):
            line += text.count("\n", end, match.start())
            end = match.start()
            if not match[0].startswith("#"):
                self._tokens.append((match[0], line))

    def document(self) -> None:
        section: KeyPath = ()
        while (token := self._peek()) is not None:
            if token == "[":
                while self._peek() == "[":  # [section] or [[section]]
                    self._next()
                section = self._key(())
                while self._peek() == "]":
                    self._next()
            elif token == "\n":
                self._next()
            else:
                self._pair(section)

    def _pair(self, prefix: KeyPath) -> None:
        """One ``key = value``."""
        path = self._key(prefix)
        if self._peek() != "=":  # not TOML: skip what is not understood
            self._next()
            return
        self._next()
        self._value(path)

    def _key(self, prefix: KeyPath) -> KeyPath:
        """A bare, quoted or dotted key; each of its parts is recorded where it is new."""
        path = prefix
        while (token := self._peek()) is not None and token not in "=]\n,}{[":
            if token != ".":
                path = (*path, _unquote(token))
                self.lines.setdefault(path, self._tokens[self._at][1])
            self._next()
        return path

    def _value(self, path: KeyPath) -> None:
        token = self._peek()
        if token == "{":
            self._inline_table(path)
        elif token == "[":
            self._array()
        else:
            while (token := self._peek()) is not None and token not in "\n,}":
                self._next()

    def _inline_table(self, path: KeyPath) -> None:
        self._next()
        while (token := self._peek()) not in (None, "}"):
            if token in (",", "\n"):
                self._next()
            else:
                self._pair(path)
        self._next()

    def _array(self) -> None:
        depth = 0
        while (token := self._peek()) is not None:
            self._next()
            depth += (token in ("[", "{")) - (token in ("]", "}"))
            if depth == 0:
                return

    def _peek(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _next(self) -> None:
        self._at += 1


def _unquote(token: str) -> str:
    return token[1:-1] if token[0] in "\"'" else token
