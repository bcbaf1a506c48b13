"""Size against KL divergence as an SVG, one point a recipe, the frontier joined. Needs no library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from edgelm.sweep.rows import Row, frontier

_WIDTH, _HEIGHT = 860, 540
_LEFT, _RIGHT, _TOP, _BOTTOM = 92, 190, 78, 66  # margins of the field of points
_FONT = 13
_CHARACTER = 7.0  # width of one, on average, at that size
_DOT = 5
_STALK = 34  # from the last point of a group to the names
_LINE = 17  # from one name to the next
_INK, _GREY, _GRID, _STEM = "#1c1c1c", "#5b5b5b", "#e3e3e3", "#b5b5b5"
_WORTH, _OTHER = "#0b6bcb", "#70757d"  # points on the frontier, and others


@dataclass(frozen=True)
class _Axis:
    """From values to places along a side of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def svg(rows: Sequence[Row], title: str) -> str:
    """The picture.

    Args:
        rows: one at least. Those without divergence, as the model in fp32, have no place on a logarithmic axis and are
            told below the title.
        title: of it.

    Returns:
        an SVG document.
    """
    exact = [row for row in rows if row.kld <= 0]
    points = [row for row in rows if row.kld > 0]
    note = ", ".join(f"{row.name}: {row.bytes / 1e6:,.4g} MB, no divergence" for row in exact)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
            f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="{_FONT}">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
            _text(_LEFT, 32, title, size=17, weight="bold"),
            _text(_LEFT, 54, note, colour=_GREY) if note else "",
            *(_field(points) if points else ()),
            "</svg>\n",
        ]
    )


def _field(points: Sequence[Row]) -> Iterator[str]:
    """Axes, frontier, points and their names."""
    sizes, klds = [row.bytes / 1e6 for row in points], [row.kld for row in points]
    x = _Axis(*_range(sizes), _LEFT, _WIDTH - _RIGHT, log=False)
    y = _Axis(*_decades(klds), _HEIGHT - _BOTTOM, _TOP, log=True)
    yield from _grid(x, y)
    best = frontier(points)
    places = {row.name: (x(row.bytes / 1e6), y(row.kld)) for row in points}
    line = " ".join("{:.1f},{:.1f}".format(*places[row.name]) for row in best)
    yield f'<polyline points="{line}" fill="none" stroke="{_WORTH}" stroke-width="1.5" stroke-dasharray="5 4"/>'
    for group in _groups(points, places):
        yield from _names(group, places, best)
    for row in points:
        px, py = places[row.name]
        yield f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{_DOT}" fill="{_WORTH if row in best else _OTHER}"/>'


def _groups(points: Sequence[Row], places: Mapping[str, tuple[float, float]]) -> list[list[Row]]:
    """Points whose names would stand in each other's way if these stood to the right, in groups from left to right."""
    room = _STALK + _DOT + _CHARACTER * max(len(row.name) for row in points)
    groups: list[list[Row]] = []
    for row in sorted(points, key=lambda row: places[row.name]):
        if groups and places[row.name][0] - places[groups[-1][-1].name][0] < room:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _names(group: Sequence[Row], places: Mapping[str, tuple[float, float]], best: Sequence[Row]) -> Iterator[str]:
    """Their names in a column to the right of a group, in the order of the points, each with a line to its point."""
    column = max(places[row.name][0] for row in group) + _STALK
    rows = sorted(group, key=lambda row: places[row.name][1])
    heights = spread([places[row.name][1] for row in rows], _LINE, _TOP, _HEIGHT - _BOTTOM)
    for row, height in zip(rows, heights, strict=True):
        px, py = places[row.name]
        yield (
            f'<polyline points="{px:.1f},{py:.1f} {column - 8:.1f},{height:.1f} {column - 2:.1f},{height:.1f}" '
            f'fill="none" stroke="{_STEM}" stroke-width="0.8"/>'
        )
        colour, weight = (_WORTH, "bold") if row in best else (_INK, "normal")
        yield _text(column + 2, height + 4, row.name, colour=colour, weight=weight)


def spread(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Places at least `step` apart, as near to those `wanted`, which ascend, as least squares have it.

    Less ``n * step`` they must not descend: isotonic regression, by pooling neighbours that violate it.
    """
    pools: list[tuple[float, int]] = []  # mean, how many
    for index, place in enumerate(wanted):
        mean, count = place - index * step, 1
        while pools and pools[-1][0] > mean:
            before, others = pools.pop()
            mean, count = (before * others + mean * count) / (others + count), others + count
        pools.append((mean, count))
    room = high - (len(wanted) - 1) * step
    means = [min(max(mean, low), max(low, room)) for mean, count in pools for _ in range(count)]
    return [mean + index * step for index, mean in enumerate(means)]


def _grid(x: _Axis, y: _Axis) -> Iterator[str]:
    for value in _ticks(x.low, x.high):
        place = x(value)
        yield f'<line x1="{place:.1f}" y1="{y.start}" x2="{place:.1f}" y2="{y.end}" stroke="{_GRID}"/>'
        yield _text(place, y.start + 20, f"{value:,g}", anchor="middle", colour=_GREY)
    for value in _log_ticks(y.low, y.high):
        place = y(value)
        yield f'<line x1="{x.start}" y1="{place:.1f}" x2="{x.end}" y2="{place:.1f}" stroke="{_GRID}"/>'
        yield _text(x.start - 10, place + 4, f"{value:g}", anchor="end", colour=_GREY)
    middle = (y.start + y.end) / 2
    yield _text((x.start + x.end) / 2, _HEIGHT - 18, "size of the bundle, MB", anchor="middle")
    label = _text(0, 0, "KL divergence from fp32, nats", anchor="middle")
    yield f'<g transform="translate(24 {middle:.1f}) rotate(-90)">{label}</g>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The values with a margin."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * high
    return max(0.0, low - margin), high + margin


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """The values with a margin that suits a logarithm."""
    return min(values) / 1.6, max(values) * 1.6


def _ticks(low: float, high: float) -> list[float]:
    """About six round numbers."""
    raw = (high - low) / 6
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw)
    return [float(f"{n * step:.6g}") for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten; the powers alone where these would be many."""
    steps = (1, 2, 5) if high / low < 300 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [value for power in powers for step in steps if low <= (value := float(f"{step}e{power}")) <= high]


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = _INK,
    size: int = _FONT,
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
