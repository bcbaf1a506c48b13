"""Points with names over a linear and a logarithmic axis. No name hides a point, no leader crosses another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from edgelm.svg import CHARACTER, document, dot, line, ring, text

_WIDTH, _HEIGHT = 880, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 28, 84, 60  # margins of the field of points
_DOT = 5.5
_GAP = 6  # between a point and its name
_STALK = 40  # from the outermost point of a group to its names
_LINE = 18  # from one name to the next


@dataclass(frozen=True)
class Point:
    """A point; `kind` is the class of its colour, `bold` marks its name."""

    name: str
    x: float
    y: float
    kind: str
    bold: bool = False


@dataclass(frozen=True)
class Axes:
    """What the axes are called."""

    x: str
    y: str


@dataclass(frozen=True)
class _Axis:
    """From values to places along a side of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


_Place = tuple[float, float]


@dataclass(frozen=True)
class _Name:
    """Where a name stands: its box (left, top, right, bottom), and where its leader ends."""

    box: tuple[float, float, float, float]
    anchor: str
    end: _Place
    leader: bool


def scatter(title: str, note: str, points: Sequence[Point], lines: Sequence[Sequence[Point]], axes: Axes) -> str:
    """The picture.

    Args:
        title: of it.
        note: below the title.
        points: with y above 0, as that axis is logarithmic; none gives title and note alone.
        lines: points to join, each line in its first point's colour.
        axes: their names.

    Returns:
        an SVG document.
    """
    body = [text(24, 34, title, size=18, bold=True), text(24, 57, note, "soft")]
    if points:
        body += _field(points, lines, axes)
    return document(_WIDTH, _HEIGHT, f"{title}. {note}", body)


def _field(points: Sequence[Point], lines: Sequence[Sequence[Point]], axes: Axes) -> Iterator[str]:
    x = _Axis(*_range([point.x for point in points]), _LEFT, _WIDTH - _RIGHT)
    low, high = min(point.y for point in points), max(point.y for point in points)
    y = _Axis(low / 1.6, high * 1.6, _HEIGHT - _BOTTOM, _TOP, log=True)
    yield from _grid(x, y, axes)
    for joined in lines:
        yield line([(x(p.x), y(p.y)) for p in joined], joined[0].kind, width=1.6, dashes="6 5")
    places = [(x(point.x), y(point.y)) for point in points]
    names = place_names([point.name for point in points], places)
    for place, name in zip(places, names, strict=True):
        if name.leader:
            yield line([place, (name.end[0] - (4 if name.anchor == "start" else -4), name.end[1])], "soft", width=0.9)
    drawn: list[_Place] = []
    for point, place in sorted(zip(points, places, strict=True), key=lambda pair: pair[0].bold):
        hidden = sum(math.dist(place, other) < _DOT for other in drawn)
        yield ring(*place, _DOT + 4 * hidden, point.kind) if hidden else dot(*place, _DOT, point.kind)
        drawn.append(place)
    for point, name in zip(points, names, strict=True):
        left, _, right, bottom = name.box
        at = {"start": left, "end": right, "middle": (left + right) / 2}[name.anchor]
        yield text(
            at, bottom - 4.5, point.name, point.kind if point.bold else "ink", anchor=name.anchor, bold=point.bold
        )


def place_names(names: Sequence[str], places: Sequence[_Place]) -> list[_Name]:
    """Where names stand: beside a point that has room, in a column beside those that have not."""
    near = _placed(names, places, _meeting(names, places))
    return near if _apart(near, places) else _placed(names, places, _groups(names, places))


def _placed(names: Sequence[str], places: Sequence[_Place], groups: Sequence[Sequence[int]]) -> list[_Name]:
    """Each group's names together."""
    done: dict[int, _Name] = {}
    for group in groups:
        if len(group) == 1:
            place = places[group[0]]
            width = _width(names[group[0]])
            right = place[0] + _DOT + _GAP + width < _WIDTH
            end = place[0] + (_DOT + _GAP) * (1 if right else -1), place[1]
            done[group[0]] = _Name(_box(end, width, right), "start" if right else "end", end, leader=False)
        else:
            done |= _column(group, names, places)
    return [done[index] for index in range(len(names))]


def _width(name: str) -> float:
    return CHARACTER * 1.06 * len(name) + 4  # bold is wider


def _box(end: _Place, width: float, right: bool) -> tuple[float, float, float, float]:
    left = end[0] if right else end[0] - width
    return left, end[1] - _LINE / 2, left + width, end[1] + _LINE / 2


def _meeting(names: Sequence[str], places: Sequence[_Place]) -> list[list[int]]:
    """Points in groups of those whose names, each to the right of its point, would meet another's name or point."""
    boxes = [_box((x + _DOT + _GAP, y), _width(name), right=True) for name, (x, y) in zip(names, places, strict=True)]
    groups = [[index] for index in range(len(places))]
    for i, j in combinations(range(len(places)), 2):
        if (
            _overlap(boxes[i], boxes[j])
            or _overlap(boxes[i], _around(places[j]))
            or _overlap(boxes[j], _around(places[i]))
        ):
            one, other = (next(group for group in groups if index in group) for index in (i, j))
            if one is not other:
                groups.remove(other)
                one += other
    return groups


def _apart(found: Sequence[_Name], places: Sequence[_Place]) -> bool:
    """Whether no name lies on another, on a point or over the edge, and no leader on a name or another leader."""
    if any(name.box[0] < _LEFT or name.box[2] > _WIDTH for name in found):
        return False
    if any(_overlap(name.box, _around(place)) for name in found for place in places):
        return False
    for (one, a), (other, b) in combinations(zip(found, places, strict=True), 2):
        if _overlap(one.box, other.box) or (one.leader and other.leader and _cross(a, one.end, b, other.end)):
            return False
        if (one.leader and _through(a, one.end, other.box)) or (other.leader and _through(b, other.end, one.box)):
            return False
    return True


def _through(a: _Place, b: _Place, box: tuple[float, float, float, float]) -> bool:
    """Whether the segment ab passes through a box: then it crosses one of its diagonals."""
    left, top, right, bottom = box
    return _cross(a, b, (left, top), (right, bottom)) or _cross(a, b, (left, bottom), (right, top))


def _around(place: _Place) -> tuple[float, float, float, float]:
    """The box of a point."""
    return place[0] - _DOT, place[1] - _DOT, place[0] + _DOT, place[1] + _DOT


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _groups(names: Sequence[str], places: Sequence[_Place]) -> list[list[int]]:
    """Points whose names would stand in each other's way if these stood to the right, in groups from left to right."""
    room = _STALK + _DOT + max(map(_width, names))
    groups: list[list[int]] = []
    for index in sorted(range(len(places)), key=lambda i: places[i]):
        if groups and places[index][0] - places[groups[-1][-1]][0] < room:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _column(group: Sequence[int], names: Sequence[str], places: Sequence[_Place]) -> dict[int, _Name]:
    """Names in a column to the right of a group, to its left where there is no room, each with a leader to its point."""
    widest = max(_width(names[index]) for index in group)
    right = max(places[index][0] for index in group) + _STALK + widest < _WIDTH
    column = max(places[i][0] for i in group) + _STALK if right else min(places[i][0] for i in group) - _STALK
    order = sorted(group, key=lambda index: (places[index][1], places[index][0]))
    heights = spread([places[index][1] for index in order], _LINE, _TOP, _HEIGHT - _BOTTOM)
    ends = [(column, height) for height in heights]
    _uncross(order, places, ends)
    return {
        index: _Name(_box(end, _width(names[index]), right), "start" if right else "end", end, leader=True)
        for index, end in zip(order, ends, strict=True)
    }


def _uncross(order: list[int], places: Sequence[_Place], ends: Sequence[_Place]) -> None:
    """Exchange names whose leaders cross. Each exchange makes the leaders shorter in all, so it comes to an end."""
    crossed = True
    while crossed:
        crossed = False
        for i, j in combinations(range(len(order)), 2):
            if _cross(places[order[i]], ends[i], places[order[j]], ends[j]):
                order[i], order[j] = order[j], order[i]
                crossed = True


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


def _cross(a: _Place, b: _Place, c: _Place, d: _Place) -> bool:
    """Whether the segments ab and cd have a point in common."""

    def side(p: _Place, q: _Place, r: _Place) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def _grid(x: _Axis, y: _Axis, axes: Axes) -> Iterator[str]:
    for value in _ticks(x.low, x.high):
        yield line([(x(value), y.start), (x(value), y.end)], "grid")
        yield text(x(value), y.start + 21, f"{value:,g}", "soft", anchor="middle", size=13)
    for value in _log_ticks(y.low, y.high):
        yield line([(x.start, y(value)), (x.end, y(value))], "grid")
        yield text(x.start - 9, y(value) + 4.5, f"{value:g}", "soft", anchor="end", size=13)
    yield text((x.start + x.end) / 2, _HEIGHT - 14, axes.x, anchor="middle")
    label = text(0, 0, axes.y, anchor="middle")
    yield f'<g transform="translate(22 {(y.start + y.end) / 2:.1f}) rotate(-90)">{label}</g>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The values with a margin."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * high
    return max(0.0, low - margin), high + 1.5 * margin


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
