"""The values of a TOML file, of a target or a plan, checked as they are read: a wrong one is named with file, line and key."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from edgelm.errors import EdgeLMError, TargetError, near
from edgelm.target.toml_lines import KeyPath, nearest_line


@dataclass(frozen=True)
class Table:
    """One table of a file; its getters check a value and name file, line and dotted key when it is wrong.

    `what` the file is of, and the `error` that is raised, are a target's unless told otherwise.
    """

    file: Path
    lines: Mapping[KeyPath, int]
    path: KeyPath
    data: Mapping[str, Any]
    hint: str
    what: str = "a target"
    error: type[EdgeLMError] = TargetError

    def fail(self, key: str, problem: str, hint: str | None = None) -> NoReturn:
        """Raise the file's error about `key`."""
        path = (*self.path, key)
        raise self.error(
            f"{self.file}:{nearest_line(self.lines, path)}: {'.'.join(path)} {problem}",
            hint=hint or self.hint,
        )

    def only(self, known: Collection[str]) -> None:
        """Refuses keys which are not `known`: a typing error would otherwise be a value silently ignored."""
        for key in self.data:
            if key not in known:
                self.fail(key, f"is not a key of {self.what}", near(key, known, listing="keys here"))

    def table(self, key: str) -> Table:
        """A table inside this one."""
        value = self._get(key, dict, "a table")
        return replace(self, path=(*self.path, key), data=value)

    def string(self, key: str, choices: Collection[str] = ()) -> str:
        """A string that says something, one of `choices` where there are any."""
        value: str = self._get(key, str, "a string")
        if not value.strip():
            self.fail(key, "is empty")
        if choices and value not in choices:
            self.fail(key, f"must be {either(list(choices))}, not {value!r}", near(value, choices, listing="one of"))
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._get(key, list, "a list of strings")
        if not all(isinstance(item, str) for item in value):
            self.fail(key, "must be a list of strings")
        return tuple(value)

    def integer(self, key: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value: int = self._get(key, int, f"a whole number from {low} to {high}")
        if not low <= value <= high:
            self.fail(key, f"must be from {low} to {high}, not {value}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        value = self._get(key, (int, float), f"a number from {low} to {high}")
        if not low <= value <= high:  # also refuses nan
            self.fail(key, f"must be from {low} to {high}, not {value}")
        return float(value)

    def numbers(self, key: str, low: float, high: float) -> tuple[float, ...]:
        """A list of one number or more, each from `low` to `high`."""
        values = self._get(key, list, f"a list of numbers from {low} to {high}")
        if not values:
            self.fail(key, "is empty")
        for value in values:
            if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
                self.fail(key, f"must have numbers from {low} to {high}, not {_shown(value)}")
        return tuple(float(value) for value in values)

    def flag(self, key: str) -> bool:
        """True or false."""
        if not isinstance(value := self.data.get(key), bool):
            self.fail(key, "is missing" if key not in self.data else f"must be true or false, not {_shown(value)}")
        return value

    def choice(self, key: str, choices: Sequence[int], where: str) -> int:
        """One of `choices`."""
        wanted = either(choices)
        value: int = self._get(key, int, wanted)
        if value not in choices:
            self.fail(key, f"must be {wanted}{where}, not {value}")
        return value

    def _get(self, key: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        if key not in self.data:
            self.fail(key, "is missing")
        value = self.data[key]
        if not isinstance(value, kind) or isinstance(value, bool):  # to Python True is an int
            self.fail(key, f"must be {wanted}, not {_shown(value)}")
        return value


def either(values: Sequence[Any]) -> str:
    """The values as a choice in words: ``4 or 8``."""
    shown = [repr(value) for value in values]
    return " or ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
