"""Curves over one axis as an SVG, in light and dark: panels one below the other. Needs no library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgelm.svg import CHARACTER, FONT, document, dot, line, text

_WIDTH, _PANEL, _GAP = 860, 170, 50
_LEFT, _TOP, _BOTTOM = 84, 66, 28
_NARROWEST, _WIDEST = 40, 300  # room for the curves' names
_SMALL = 13
_SERIES = {  # of the curves → light, dark
    f"curve{i}": pair
    for i, pair in enumerate(
        [
            ("#0b6bcb", "#5aa9f0"),
            ("#c2410c", "#f0955c"),
            ("#15803d", "#5fc27e"),
            ("#7c3aed", "#b492f7"),
            ("#b91c1c", "#f08080"),
            ("#0e7490", "#4fc3dc"),
        ]
    )
}


@dataclass(frozen=True)
class Curve:
    """Points in the order of x; a gap where y is None."""

    name: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis called `label`; `zero` lets it begin at 0."""

    label: str
    curves: Sequence[Curve]
    zero: bool = False


def chart(title: str, x_label: str, panels: Sequence[Panel]) -> str:
    """The picture.

    Args:
        title: above it.
        x_label: below it.
        panels: those without a single point are left out.

    Returns:
        an SVG document.
    """
    shown = [panel for panel in panels if any(y is not None for curve in panel.curves for _, y in curve.points)]
    height = _TOP + len(shown) * (_PANEL + _GAP) + _BOTTOM
    xs = [x for panel in shown for curve in panel.curves for x, _ in curve.points] or [0.0, 1.0]
    low, high = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 0.5, min(xs) + 0.5)
    longest = max((len(curve.name) for panel in shown for curve in panel.curves), default=0)
    right = _WIDTH - min(_WIDEST, max(_NARROWEST, 20 + longest * CHARACTER * _SMALL / FONT))
    parts = [text(_LEFT, 30, title, size=17, bold=True)]
    for index, panel in enumerate(shown):
        parts += _panel(panel, _TOP + index * (_PANEL + _GAP), (low, high), right)
    parts.append(text((_LEFT + right) / 2, height - 16, x_label, anchor="middle", size=_SMALL))
    return document(_WIDTH, height, title, parts, _SERIES)


def _panel(panel: Panel, top: float, xs: tuple[float, float], right: float) -> Iterator[str]:
    values = [y for curve in panel.curves for _, y in curve.points if y is not None]
    low, high = (0.0 if panel.zero else min(values)), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = (low if panel.zero else low - margin), high + margin
    bottom = top + _PANEL

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - xs[0]) / (xs[1] - xs[0]) * (right - _LEFT)
        return across, bottom - (y - low) / (high - low) * _PANEL

    yield text(_LEFT, top - 8, panel.label, "soft", size=_SMALL)
    for value in ticks(low, high, 4):
        _, y = place(xs[0], value)
        yield line([(_LEFT, y), (right, y)], "grid")
        yield text(_LEFT - 8, y + 4, f"{value:,g}", "soft", anchor="end", size=_SMALL)
    for value in ticks(*xs, 10):
        x, _ = place(value, low)
        yield line([(x, top), (x, bottom)], "grid")
        yield text(x, bottom + 16, f"{value:,g}", "soft", anchor="middle", size=_SMALL)
    names = []
    for index, curve in enumerate(panel.curves):
        kind = f"curve{index % len(_SERIES)}"
        yield from _curve(curve, kind, place)
        last = next((point for point in reversed(curve.points) if point[1] is not None), None)
        if last is not None and last[1] is not None and curve.name:
            names.append((place(last[0], last[1])[1], curve.name, kind))
    before = -math.inf
    for y, name, kind in sorted(names):
        before = max(y, before + 16)
        yield text(right + 10, before + 4, name, kind, size=_SMALL)


def _curve(curve: Curve, kind: str, place: Callable[[float, float], tuple[float, float]]) -> Iterator[str]:
    run = list[tuple[float, float]]()
    for x, y in [*curve.points, (0.0, None)]:
        if y is not None:
            run.append(place(x, y))
            continue
        if len(run) > 1:
            yield line(run, kind, width=1.8)
        yield from (dot(px, py, 3, kind) for px, py in run)
        run = []


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """About so many round numbers from `low` to `high`."""
    raw = (high - low) / wanted
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.999)
    return [float(f"{n * step:.6g}") for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
