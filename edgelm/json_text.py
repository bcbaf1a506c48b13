"""The one reader of JSON that others wrote: whatever Python's own lets pass, or fails at in other ways, is a ValueError."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

_TOO_DEEP = "it is nested too deep"
_DEEPEST = 128  # levels: whoever walks a value may need several calls a level, of the thousand that Python has


def json_value(text: str | bytes, *, constants: bool = False, surrogates: bool = False) -> Any:
    """The value of a JSON text.

    A number that no float holds and half of a surrogate pair pass `json.loads`, and stop whatever writes them later.

    Args:
        text: bytes are UTF-8, with a byte order mark or without.
        constants: take NaN, Infinity and numbers beyond a float, as Python writes them.
        surrogates: take halves of surrogate pairs, as a program sends them that cuts a text.

    Raises:
        ValueError: it is no such text, or nested too deep.
    """
    try:
        if not isinstance(text, str):
            text = text.decode("utf-8-sig")
        value = json.loads(text) if constants else json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if not surrogates:
            text.encode()  # a command line's bytes that are no UTF-8
            if "\\ud" in text or "\\uD" in text:
                json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if text.count("[") + text.count("{") > _DEEPEST:
        _expect_shallow(value)
    return value


def json_start(text: str) -> tuple[Any, int]:
    """The JSON value at the start of a text that a model wrote, and where it ends; control characters may stand in strings.

    Raises:
        ValueError: there is none, or it is nested too deep.
    """
    try:
        value, end = _LENIENT.raw_decode(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _expect_shallow(value)
    return value, end


def _expect_shallow(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth >= _DEEPEST:
            raise ValueError(_TOO_DEEP)
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level, depth = [each for held in inner for each in held if isinstance(each, dict | list)], depth + 1


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError("a number is too large")
    return value


_LENIENT = json.JSONDecoder(strict=False, parse_constant=_refuse, parse_float=_finite)
