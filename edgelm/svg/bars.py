"""Rows of bars in columns, each column with a scale of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgelm.svg import CHARACTER, document, figure, line, text


@dataclass(frozen=True)
class Bar:
    """A value with its spread; None where there is none."""

    value: float | None
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Panel:
    """A column of bars, one for each row of the chart.

    Attributes:
        title: what is shown.
        note: its unit, and which way is better.
        bars: from top to bottom.
    """

    title: str
    note: str
    bars: Sequence[Bar]


_ROW, _TOP, _MARGIN, _GAP, _FIGURE = 30, 104, 20, 26, 52


def bars(title: str, note: str, rows: Sequence[tuple[str, str]], panels: Sequence[Panel], *, width: int = 880) -> str:
    """Rows of bars in columns, each column with a scale of its own.

    Args:
        title: of the picture.
        note: below it.
        rows: (label, class) of each row.
        panels: a column each.
        width: of the picture in pixels.

    Returns:
        an SVG document.
    """
    labels = _MARGIN + max(CHARACTER * len(name) for name, _ in rows) + 8
    column = (width - labels - _MARGIN - _GAP * (len(panels) - 1)) / len(panels)
    height = _TOP + _ROW * len(rows) + 18
    body = [text(_MARGIN, 32, title, size=18, bold=True), text(_MARGIN, 54, note, "soft")]
    for index, (name, kind) in enumerate(rows):
        body.append(text(labels - 10, _TOP + _ROW * index + 20, name, "ink", anchor="end", bold=kind == "best"))
    for place, panel in enumerate(panels):
        body += _panel(panel, [kind for _, kind in rows], labels + place * (column + _GAP), column)
    return document(width, height, f"{title}. {note}", body)


def _panel(panel: Panel, kinds: Sequence[str], left: float, width: float) -> Iterator[str]:
    yield text(left, _TOP - 24, panel.title, bold=True)
    yield text(left, _TOP - 7, panel.note, "soft", size=12)
    yield line([(left, _TOP), (left, _TOP + _ROW * len(kinds) + 4)], "grid")
    most = max((max(bar.value, bar.high) for bar in panel.bars if bar.value is not None), default=1.0) or 1.0
    for index, (bar, kind) in enumerate(zip(panel.bars, kinds, strict=True)):
        top = _TOP + _ROW * index + 6
        if bar.value is None:
            yield text(left + 6, top + 14, "–", "soft")
            continue
        length, end = ((width - _FIGURE) * value / most for value in (bar.value, max(bar.value, bar.high)))
        yield f'<rect x="{left:.1f}" y="{top}" width="{max(length, 1):.1f}" height="19" rx="2" class="{kind}"/>'
        if bar.high > bar.low:
            start = (width - _FIGURE) * bar.low / most
            yield line([(left + start, top + 9.5), (left + end, top + 9.5)], "ink", width=1.4)
        yield text(left + end + 6, top + 14.5, figure(bar.value), "ink", size=13)
