"""Pictures as SVG: words, lines and bars that follow a reader's light or dark setting. Needs no library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

FONT = 14
CHARACTER = 7.4  # width of one, on average, at that size
_FAMILY = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', sans-serif"
# Classes of what is drawn → light, dark. Blue is edgelm's own or best, grey what it is compared with.
_COLOURS = {
    "paper": ("#ffffff", "#12181f"),
    "ink": ("#16202b", "#e8eef4"),
    "soft": ("#52606d", "#9fb0c0"),
    "grid": ("#e1e6ec", "#2b3643"),
    "best": ("#0b6bcb", "#5aa9f0"),
    "other": ("#8494a3", "#7d8c9b"),
    "third": ("#c2571a", "#f0955c"),
}


def document(width: float, height: float, label: str, body: Iterable[str]) -> str:
    """A whole picture; `label` is what a screen reader says."""
    light, dark = (
        "".join(
            f".{name}{{fill:{pair[i]}}}.{name}-line{{stroke:{pair[i]};fill:none}}" for name, pair in _COLOURS.items()
        )
        for i in (0, 1)
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label={quoteattr(label)} '
            f'font-family="{_FAMILY}" font-size="{FONT}">',
            f"<style>{light}@media(prefers-color-scheme:dark){{{dark}}}</style>",
            f'<rect width="{width:g}" height="{height:g}" class="paper"/>',
            *(line for line in body if line),
            "</svg>\n",
        ]
    )


def text(
    x: float, y: float, words: str, kind: str = "ink", *, anchor: str = "start", size: float = FONT, bold: bool = False
) -> str:
    """Words at their baseline."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:g}"{weight} '
        f'class="{kind}">{escape(words)}</text>'
    )


def line(points: Sequence[tuple[float, float]], kind: str, *, width: float = 1, dashes: str = "") -> str:
    """A line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{path}" stroke-width="{width:g}"{dashed} class="{kind}-line"/>'


def dot(x: float, y: float, radius: float, kind: str) -> str:
    """A point, with a rim of the paper's colour that parts it from what lies below."""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius + 1.5:g}" class="paper"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}"/>'
    )


def ring(x: float, y: float, radius: float, kind: str) -> str:
    """A circle around a point that would hide another one."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" stroke-width="2" class="{kind}-line"/>'


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


def figure(value: float) -> str:
    """Three digits, thousands parted."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
