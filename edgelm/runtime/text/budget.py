"""What a chat template may spend: a budget for one rendering, and estimates of what would break it.

Limits scale with what the template is given, so that a long conversation is never mistaken for an attack.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

WORK = 16 << 20  # units a rendering may spend in all, and per character of input on top
WORK_PER_INPUT = 128
LARGEST = 4 << 20  # characters (or NODE per element) of one value, and per character of input on top
LARGEST_PER_INPUT = 32
SECONDS = 1.0  # of processor time, not of the clock (a busy machine is no attack), and per character of input on top:
SECONDS_PER_INPUT = 20e-6  # honest templates exist that take time quadratic in the number of messages
STEP = 16  # units of a loop step, call, filter or test
NODE = 32  # units of an element of a list or dict
WIDTH = 10_000  # columns a text may be padded to
DIGITS = 4096  # bits of an integer product, characters of a number
CHARS = 256  # characters to strip, or to search for from the right (both quadratic in CPython)


class Budget:
    """What one rendering may still spend.

    Args:
        inputs: what the template is given; its containers are measured once, here.
    """

    def __init__(self, inputs: Any) -> None:
        self._known: dict[int, int] = {}
        self.largest, self._left, self._calls = 1 << 62, 1 << 62, 0
        size = self._survey(inputs)
        self.largest = LARGEST + LARGEST_PER_INPUT * size
        self._left = WORK + WORK_PER_INPUT * size
        self._until = time.thread_time() + SECONDS + SECONDS_PER_INPUT * size

    def _survey(self, value: Any) -> int:
        if isinstance(value, Mapping):
            size = sum(self._survey(k) + self._survey(v) for k, v in value.items()) + NODE * len(value)
        elif isinstance(value, list | tuple):
            size = sum(map(self._survey, value)) + NODE * len(value)
        else:
            return len(value) if isinstance(value, str) else 0
        self._known[id(value)] = size
        return size

    def spend(self, units: int) -> None:
        """Take `units` away; SecurityError where nothing is left or the time is over."""
        self._left -= units
        self._calls += 1
        if self._left < 0:
            raise SecurityError("it does far more work than a conversation of this length needs")
        if (units > NODE * CHARS or self._calls % 16 == 0) and time.thread_time() > self._until:
            raise SecurityError("it takes too long")

    def allow(self, size: int) -> None:
        """SecurityError where a value of `size` units would be too large."""
        if size > self.largest:
            raise SecurityError("it makes a value that is far too large")

    def hold(self, value: Any) -> Any:
        """Measure and charge a value just made, and give it back.

        Measured is what it would be written out: a list that holds one list twice counts it twice.
        """
        if isinstance(value, str):
            self.allow(len(value))
            self.spend(len(value))
        elif not isinstance(value, int | float | type(None)):
            size, stack = 0, [value]
            while stack:
                item = stack.pop()
                if isinstance(item, str):
                    size += len(item)
                elif id(item) in self._known:
                    size += self._known[id(item)]
                elif (children := _children(item)) is not None:
                    size += NODE * len(children)
                    self.allow(size)  # before the stack grows by them
                    stack.extend(children)
            self.allow(size)
            self.spend(len(value) if hasattr(value, "__len__") else 1)
        return value

    def items(self, values: Iterable[Any]) -> list[Any]:
        """The elements of a sequence or generator, as a measured list."""
        self.sized(values)
        listed: list[Any] = self.hold(list(values))
        return listed

    def sized(self, values: Any, *_: Any, **__: Any) -> None:
        """SecurityError where a sequence has too many elements to be made a list."""
        if hasattr(values, "__len__"):
            self.allow(NODE * len(values))
            self.spend(len(values))


def _children(value: Any) -> list[Any] | None:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return list(value)
    if type(value) is Namespace:
        return list(object.__getattribute__(value, "_Namespace__attrs").values())
    return None


def small(value: Any, limit: int) -> None:
    """SecurityError where a number is beyond `limit` either way."""
    if isinstance(value, int | float) and not -limit <= value <= limit:
        raise SecurityError("it uses a number that is far too large")


def check_product(budget: Budget, left: Any, right: Any) -> None:
    """SecurityError where ``left * right`` would be too large."""
    if isinstance(left, int) and isinstance(right, int):
        small(left.bit_length() + right.bit_length(), DIGITS)
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(value, str | list | tuple):
            budget.allow(times * len(value) * (1 if isinstance(value, str) else NODE))


def check_percent(budget: Budget, left: str, right: Any) -> None:
    """SecurityError where ``left % right`` could be too large: a width of 5 digits, or many long texts put in."""
    if re.search(r"[%)][#0\- +]*(\*|\d{5})|\.(\*|\d{5})", left):
        raise SecurityError("it pads a text too far")
    parts = right if isinstance(right, tuple | list) else list(right.values()) if isinstance(right, dict) else [right]
    longest = max((len(str(budget.hold(part))) for part in parts), default=0)
    budget.allow(len(left) + left.count("%") * longest)


def _check_replace(budget: Budget, value: Any, old: Any = "", new: Any = "", count: Any = None) -> None:
    value, old, new = str(value), str(old), str(new)
    budget.allow(len(value) + value.count(old) * max(0, len(new) - len(old)))


def _check_width(budget: Budget, value: Any, width: Any = 0, *_: Any, **__: Any) -> None:
    small(width, WIDTH)


def _check_indent(budget: Budget, value: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    columns = len(width) if isinstance(width, str) else width
    small(columns, WIDTH)
    budget.allow(len(value) + (value.count("\n") + 1) * columns)


def _check_batch(budget: Budget, value: Any, *counts: Any, **named: Any) -> None:
    for count in (*counts[:1], *named.values()):
        small(count, WIDTH)
    budget.sized(value)


def _check_sum(budget: Budget, value: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, int | float):  # lists would be copied once per element
        raise SecurityError("it sums up what are no numbers")
    budget.sized(value)


def _check_number(budget: Budget, value: Any, default: Any = 0, base: Any = 10) -> None:
    small(len(value) if isinstance(value, str) else 0, DIGITS)


def _check_round(budget: Budget, value: Any, precision: Any = 0, method: Any = None) -> None:
    small(precision, 64)


def _check_format(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> None:
    check_percent(budget, str(value), kwargs or args)


def _check_chars(budget: Budget, value: Any, chars: Any = None, *_: Any) -> None:
    small(len(chars) if isinstance(chars, str) else 0, CHARS)


def _check_split(budget: Budget, value: str, sep: str | None = None, maxsplit: int = -1) -> None:
    budget.allow(NODE * (value.count(sep) if sep else len(value) // 2))


def _check_rsplit(budget: Budget, value: str, sep: str | None = None, maxsplit: int = -1) -> None:
    _check_chars(budget, value, sep)
    _check_split(budget, value, sep)


def _check_splitlines(budget: Budget, value: str, keepends: bool = False) -> None:
    _check_split(budget, value)


def _check_join(budget: Budget, sep: str, items: list[Any]) -> None:
    budget.allow(len(sep) * len(items))


FILTER_CHECKS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(
        [
            "dictsort",
            "groupby",
            "list",
            "map",
            "max",
            "min",
            "reject",
            "rejectattr",
            "select",
            "selectattr",
            "sort",
            "title",
            "unique",
        ],
        Budget.sized,
    ),
    "batch": _check_batch,
    "center": _check_width,
    "float": _check_number,
    "format": _check_format,
    "indent": _check_indent,
    "int": _check_number,
    "replace": _check_replace,
    "round": _check_round,
    "slice": _check_batch,
    "sum": _check_sum,
    "trim": _check_chars,
}
METHOD_CHECKS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _check_width),
    **dict.fromkeys(("lstrip", "rstrip", "strip", "rfind", "rindex", "rpartition"), _check_chars),
    "join": _check_join,
    "replace": _check_replace,
    "rsplit": _check_rsplit,
    "split": _check_split,
    "splitlines": _check_splitlines,
}
