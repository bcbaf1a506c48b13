"""The values of a JSON file, checked as they are read: a wrong one is named with its file and dotted key."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from edgelm.errors import BundleError, EdgeLMError
from edgelm.files import open_regular
from edgelm.json_text import json_value

MOST_BYTES = 16 << 20  # of a JSON file that is read; those of a bundle take kilobytes
_HINT = "copy the bundle again, or export it again"
_LARGEST = sys.float_info.max
_SHOWN = 40  # characters of a wrong value in an error

COUNT = (0, (1 << 63) - 1)  # of bytes and weights
TOKEN = (0, (1 << 31) - 1)  # an id
SIZE = (1, (1 << 31) - 1)  # of a shape, and tokens of a context
BITS = (1, 64)

# Of a dataclass's field: it is no key of the JSON object where it is None or empty; its keys are those of the object.
LEFT_OUT, FLAT = {"left_out": True}, {"flat": True}


def read_json(path: Path, *, error: type[EdgeLMError] = BundleError, hint: str = _HINT) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        EdgeLMError: of the kind `error`: it cannot be read, is larger than 16 MiB, is no JSON, or no object.
    """
    return parse_json(read_data(path, error=error, hint=hint), path, error=error, hint=hint)


def read_data(path: Path, *, error: type[EdgeLMError] = BundleError, hint: str = _HINT) -> bytes:
    """The bytes of a JSON file; raises as `read_json` does."""
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror or reason}", hint=hint) from None
    if len(data) > MOST_BYTES:
        raise error(f"{path} is larger than {MOST_BYTES >> 20} MiB, which no such file is", hint=hint)
    return data


def parse_json(
    data: bytes, path: Path | str, *, error: type[EdgeLMError] = BundleError, hint: str = _HINT
) -> dict[str, Any]:
    """The JSON object in `data`; raises as `read_json` does, naming `path`."""
    try:
        value = json_value(data)
    except ValueError as reason:
        raise error(f"{path} is not valid JSON: {reason}", hint=hint) from None
    if not isinstance(value, dict):
        raise error(f"{path} holds {type(value).__name__}, expected a JSON object", hint=hint)
    return value


def is_file_name(name: str) -> bool:
    """Whether it names a file in a folder, and cannot lead out of it."""
    return name == os.path.basename(name) and name not in ("", ".", "..") and "\0" not in name


@dataclass(frozen=True)
class JsonTable:
    """An object of a JSON file; its getters check a value and raise `error`, which names file, dotted key and value.

    Attributes:
        file: the file.
        data: the object.
        path: its dotted key; "" for the whole file.
        error: the kind of error.
        hint: what to do about it.
    """

    file: Path | str
    data: Mapping[str, Any]
    path: str = ""
    error: type[EdgeLMError] = BundleError
    hint: str = "export the bundle again"

    def fail(self, key: str, problem: str) -> NoReturn:
        """Raise the error about `key`."""
        raise self.error(f"{self.file}: key '{self._dotted(key)}' {problem}", hint=self.hint)

    def wrong(self, key: str, expected: str) -> NoReturn:
        """Raise the error about a value that is not as `expected`."""
        self.fail(key, f"must be {expected}, not {shown(self.data.get(key))}")

    def has(self, key: str) -> bool:
        """Whether there is such a key, and it is not null."""
        return self.data.get(key) is not None

    def table(self, key: str) -> JsonTable:
        """An object inside this one."""
        value = self._get(key)
        if not isinstance(value, dict):
            self.wrong(key, "an object")
        return JsonTable(self.file, value, self._dotted(key), self.error, self.hint)

    def tables(self, key: str) -> list[JsonTable]:
        """A list of objects."""
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.wrong(key, "a list of objects")
        where = self._dotted(key)
        return [JsonTable(self.file, item, f"{where}[{i}]", self.error, self.hint) for i, item in enumerate(value)]

    def each(self, key: str) -> dict[str, JsonTable]:
        """The objects of an object, by their keys."""
        inner = self.table(key)
        return {name: inner.table(name) for name in inner.data}

    def text(self, key: str, choices: Collection[str] = ()) -> str:
        """A string, one of `choices` where there are any."""
        value = self._get(key)
        if choices and (not isinstance(value, str) or value not in choices):
            self.wrong(key, f"one of {', '.join(choices)}")
        if not isinstance(value, str) or "\0" in value:
            self.wrong(key, "a string")
        return value

    def texts(self, key: str) -> dict[str, str]:
        """An object of strings."""
        inner = self.table(key)
        return {name: inner.text(name) for name in inner.data}

    def counts(self, key: str) -> dict[str, int]:
        """An object of counts."""
        inner = self.table(key)
        return {name: inner.integer(name, *COUNT) for name in inner.data}

    def text_list(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
            self.wrong(key, "a list of strings")
        return tuple(value)

    def integer(self, key: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.wrong(key, f"a whole number from {low} to {high}")
        return value

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """A list of whole numbers from `low` to `high`."""
        value = self._get(key)
        if not isinstance(value, list) or not all(type(item) is int and low <= item <= high for item in value):
            self.wrong(key, f"a list of whole numbers from {low} to {high}")
        return tuple(value)

    def number(self, key: str, low: float = -_LARGEST, high: float = _LARGEST) -> float:
        """A finite number from `low` to `high`; a whole one stays whole, so that it is written back as it was."""
        value = self._get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:  # nan is neither
            self.wrong(key, f"a number from {low:g} to {high:g}" if high < _LARGEST else "a finite number")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._get(key)
        if not isinstance(value, bool):
            self.wrong(key, "true or false")
        return value

    def others(self, known: Collection[str]) -> dict[str, Any]:
        """What is under keys that are not `known`, as it is: a newer edgelm may have written them."""
        return {key: value for key, value in self.data.items() if key not in known}

    def _get(self, key: str) -> Any:
        if key not in self.data:
            self.fail(key, "is missing")
        return self.data[key]

    def _dotted(self, key: str) -> str:
        name = key if key.isprintable() and len(key) <= 2 * _SHOWN else shown(key)
        return f"{self.path}.{name}" if self.path else name


def shown(value: Any) -> str:
    """A value in an error: short, in one line, whatever it is."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > COUNT[1]:
        return f"a number of {value.bit_length()} bits"  # which may have more digits than Python prints
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except Exception:  # such a number inside of it, or an object whose own repr fails
        name = type(value).__name__
        return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def names(cls: Any) -> set[str]:
    """The fields of a dataclass."""
    return {each.name for each in fields(cls)}


def plain(value: Any) -> Any:
    """A dataclass of such fields as JSON holds it, its keys in the order of the fields; anything inside it likewise."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if not is_dataclass(value):
        return value
    found: dict[str, Any] = {}
    for each in fields(value):
        inner = getattr(value, each.name)
        if each.metadata.get("flat"):
            found |= plain(inner)
        elif not (each.metadata.get("left_out") and (inner is None or inner in ((), {}))):
            found[each.name] = plain(inner)
    return found
