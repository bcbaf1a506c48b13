"""The JSON object of a request, whose values are of the kinds that the interface has for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.requests import Request

from edgelm.json_text import json_value
from edgelm.serve.errors import ApiError


class Body:
    """A JSON object. A key that is missing or null is None, or the default.

    Args:
        data: the object.
        where: the name of the object within the request, for errors.
    """

    def __init__(self, data: Mapping[str, Any], where: str = "") -> None:
        self.data, self._where = data, where

    def has(self, name: str) -> bool:
        """Whether there is such a key, and it is not null."""
        return self.data.get(name) is not None

    def text(self, name: str) -> str | None:
        """A string."""
        value = self.data.get(name)
        return value if value is None or isinstance(value, str) else self.fail(name, "must be a string")

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean."""
        value = self.data.get(name)
        if value is None:
            return default
        return value if isinstance(value, bool) else self.fail(name, "must be true or false")

    def integer(self, name: str, low: int, high: int | None = None) -> int | None:
        """An integer from `low` to `high`; 3.0 is one."""
        value = self.data.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        sound = isinstance(value, int) and not isinstance(value, bool)
        if not sound or value < low or (high is not None and value > high):
            upper = "or more" if high is None else f"to {high}"
            self.fail(name, f"must be an integer, {low} {upper}")
        return int(value)

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        """A number from `low` to `high`."""
        value = self.data.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fail(name, f"must be a number from {low:g} to {high:g}")
        return float(value)

    def listing(self, name: str) -> list[Any] | None:
        """An array."""
        value = self.data.get(name)
        return value if value is None or isinstance(value, list) else self.fail(name, "must be an array")

    def table(self, name: str) -> Body | None:
        """An object."""
        value = self.data.get(name)
        if value is None:
            return None
        return Body(value, self.name(name)) if isinstance(value, dict) else self.fail(name, "must be an object")

    def tables(self, name: str) -> list[Body]:
        """An array of objects; empty where there is none."""
        found = []
        for index, item in enumerate(self.listing(name) or []):
            if not isinstance(item, dict):
                self.fail(f"{name}[{index}]", "must be an object")
            found.append(Body(item, self.name(f"{name}[{index}]")))
        return found

    def strings(self, name: str, most: int = 16) -> tuple[str, ...] | None:
        """A string or an array of strings, as ``stop`` is; empty ones are left out."""
        value = self.data.get(name)
        if value is None:
            return None
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items) or len(items) > most:
            self.fail(name, f"must be a string or an array of at most {most} strings")
        return tuple(item for item in items if item)

    def fail(self, name: str, problem: str) -> NoReturn:
        """Raise the error that names this key."""
        full = self.name(name)
        raise ApiError(400, f"{full} {problem}", param=full)

    def name(self, name: str) -> str:
        """What a key is called in errors."""
        return f"{self._where}.{name}" if self._where else name


async def read_body(request: Request) -> Body:
    """The object that a request holds.

    Raises:
        ApiError: it is no JSON, or no object.
    """
    data = await request.body()
    try:
        found = json_value(data, surrogates=True)
    except ValueError:
        raise ApiError(400, "the request is not valid JSON", code="invalid_json") from None
    if not isinstance(found, dict):
        raise ApiError(400, "the request must be a JSON object", code="invalid_json")
    return Body(found)
