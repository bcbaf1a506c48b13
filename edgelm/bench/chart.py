"""Curves over one axis as an SVG: panels one below the other. Needs no library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _PANEL, _GAP = 860, 170, 50
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 110, 66, 28
_INK, _GREY, _GRID = "#1c1c1c", "#5b5b5b", "#e3e3e3"
COLOURS = ("#0b6bcb", "#c2410c", "#15803d", "#7c3aed", "#b91c1c", "#0e7490")


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
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(_LEFT, 30, title, size=17, weight="bold"),
    ]
    for index, panel in enumerate(shown):
        parts += _panel(panel, _TOP + index * (_PANEL + _GAP), (low, high))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, height - 16, x_label, anchor="middle"))
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel, top: float, xs: tuple[float, float]) -> Iterator[str]:
    values = [y for curve in panel.curves for _, y in curve.points if y is not None]
    low, high = (0.0 if panel.zero else min(values)), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = (low if panel.zero else low - margin), high + margin
    bottom, right = top + _PANEL, _WIDTH - _RIGHT

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - xs[0]) / (xs[1] - xs[0]) * (right - _LEFT)
        return across, bottom - (y - low) / (high - low) * _PANEL

    yield _text(_LEFT, top - 8, panel.label, colour=_GREY)
    for value in ticks(low, high, 4):
        _, y = place(xs[0], value)
        yield f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{_GRID}"/>'
        yield _text(_LEFT - 8, y + 4, f"{value:,g}", anchor="end", colour=_GREY)
    for value in ticks(*xs, 10):
        x, _ = place(value, low)
        yield f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{_GRID}"/>'
        yield _text(x, bottom + 16, f"{value:,g}", anchor="middle", colour=_GREY)
    names = []
    for colour, curve in zip(COLOURS * (len(panel.curves) // len(COLOURS) + 1), panel.curves, strict=False):
        yield from _curve(curve, colour, place)
        last = next((point for point in reversed(curve.points) if point[1] is not None), None)
        if last is not None and last[1] is not None and curve.name:
            names.append((place(last[0], last[1])[1], curve.name, colour))
    before = -math.inf
    for y, name, colour in sorted(names):
        before = max(y, before + 16)
        yield _text(right + 8, before + 4, name, colour=colour)


def _curve(curve: Curve, colour: str, place: Callable[[float, float], tuple[float, float]]) -> Iterator[str]:
    run = list[tuple[float, float]]()
    for x, y in [*curve.points, (0.0, None)]:
        if y is not None:
            run.append(place(x, y))
            continue
        if len(run) > 1:
            points = " ".join(f"{px:.1f},{py:.1f}" for px, py in run)
            yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        yield from (f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in run)
        run = []


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """About so many round numbers from `low` to `high`."""
    raw = (high - low) / wanted
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.999)
    return [float(f"{n * step:.6g}") for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = _INK,
    size: int = 13,
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
