"""Pictures as SVG: words, lines and bars that follow a reader's light or dark setting. Needs no library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def document(
    width: float, height: float, label: str, body: Iterable[str], colours: Mapping[str, tuple[str, str]] | None = None
) -> str:
    """A whole picture; `label` is what a screen reader says, `colours` are classes besides the usual ones: light, dark."""
    known = _COLOURS | dict(colours or {})
    light, dark = (
        "".join(f".{name}{{fill:{pair[i]}}}.{name}-line{{stroke:{pair[i]};fill:none}}" for name, pair in known.items())
        for i in (0, 1)
    )
    light += f".words{{paint-order:stroke;stroke:{_COLOURS['paper'][0]};stroke-width:3px;stroke-linejoin:round}}"
    dark += f".words{{stroke:{_COLOURS['paper'][1]}}}"
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
    """Words at their baseline, with a rim of the paper's colour that parts them from what lies below."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:g}"{weight} '
        f'class="{kind} words">{escape(words)}</text>'
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


def figure(value: float) -> str:
    """Three digits, thousands parted."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
