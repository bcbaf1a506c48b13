"""Size against KL divergence as an SVG: one point a recipe, the frontier joined."""

from __future__ import annotations

from collections.abc import Sequence

from edgelm.svg.scatter import Axes, Point, scatter
from edgelm.sweep.rows import Row, frontier


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
    found = [row for row in rows if row.kld > 0]
    best = {row.name for row in frontier(found)}
    points = [_point(row, row.name in best) for row in found]
    note = "blue: no other is smaller and loses less"
    if exact:
        note += "; " + ", ".join(f"{row.name}: {row.bytes / 1e6:,.4g} MB, no divergence" for row in exact)
    line = sorted((point for point in points if point.bold), key=lambda point: point.x)
    axes = Axes("size of the bundle, MB", "KL divergence from fp32, nats")
    return scatter(title, note, points, [line] if len(line) > 1 else [], axes)


def _point(row: Row, best: bool) -> Point:
    return Point(row.name, row.bytes / 1e6, row.kld, "best" if best else "other", best)
