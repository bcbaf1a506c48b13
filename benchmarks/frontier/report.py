"""The rows as a table, as places beside llama.cpp's line, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.frontier.measure import Row
from edgelm.svg.scatter import Axes, Point, scatter

_KINDS = {"edgelm": "best", "llama.cpp": "other"}


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown, by size."""
    speeds = any(row.decode for row in rows)
    more = " prefill 512, tok/s | decode, tok/s | peak MB |" if speeds else ""
    yield f"| | MB | KLD | ± | top-1 agreement | perplexity |{more}"
    yield "|---|---:|---:|---:|---:|---:|" + "---:|---:|---:|" * speeds
    for row in sorted(rows, key=lambda row: row.bytes):
        name = f"**{row.engine} {row.name}**" if row.engine == "edgelm" else f"{row.engine} {row.name}"
        figures = f"{row.bytes / 1e6:.1f} | {row.kld:.4f} | {row.error:.4f} | {row.top1:.1%} | {row.perplexity:.2f}"
        if speeds:
            peak = "" if row.peak is None else f"{row.peak / 1e6:.0f}"
            figures += f" | {_spread(row.prefill)} | {_spread(row.decode)} | {peak}"
        yield f"| {name} | {figures} |"


def _spread(values: Sequence[float]) -> str:
    """The median, and the smallest and the largest."""
    return f"{median(values):.0f} ({min(values):.0f} … {max(values):.0f})" if values else ""


def frontier(rows: Sequence[Row]) -> list[Row]:
    """Those that no other row matches with fewer bytes and less divergence, by size."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.bytes, row.kld)):
        if not best or row.kld < best[-1].kld:
            best.append(row)
    return best


def on_line(line: Sequence[Row], size: int) -> float | None:
    """The divergence that a line of rows has at a size, interpolated in its logarithm; None outside of it."""
    for low, high in pairwise(line):
        if low.bytes <= size <= high.bytes:
            share = (size - low.bytes) / (high.bytes - low.bytes)
            return math.exp((1 - share) * math.log(low.kld) + share * math.log(high.kld))
    return None


def against_line(rows: Sequence[Row]) -> Iterator[str]:
    """Where each of edgelm's rows lies beside llama.cpp's line."""
    line = frontier([row for row in rows if row.engine == "llama.cpp"])
    for row in rows:
        if row.engine != "edgelm" or not line:
            continue
        expected = on_line(line, row.bytes)
        if expected is not None:
            side = "below" if row.kld < expected else "above"
            yield (
                f"{row.name}: {row.kld:.4f}, {row.kld / expected:.2f} of the {expected:.4f} of llama.cpp's line: {side} it"
            )
        elif row.bytes < line[0].bytes:
            side = "and loses less" if row.kld < line[0].kld else "and loses more"
            yield f"{row.name}: smaller than {line[0].name} ({row.bytes / line[0].bytes:.2f} of its bytes) {side}"
        else:
            side = "and loses less" if row.kld < line[-1].kld else "and loses more"
            yield f"{row.name}: larger than {line[-1].name} ({row.bytes / line[-1].bytes:.2f} of its bytes) {side}"


def plot(rows: Sequence[Row], title: str, output: Path) -> None:
    """Size against divergence as an SVG, the best of each engine joined."""
    points = {id(row): _point(row) for row in rows if row.kld > 0}
    lines = [
        [points[id(row)] for row in frontier([row for row in rows if row.engine == engine and row.kld > 0])]
        for engine in _KINDS
    ]
    note = "blue: edgelm, grey: llama.cpp; the best of each joined, less is better"
    axes = Axes("size of the file, MB", "KL divergence from fp32, nats")
    output.write_text(scatter(title, note, list(points.values()), [line for line in lines if len(line) > 1], axes))


def plot_speed(rows: Sequence[Row], title: str, output: Path) -> None:
    """Speed of decode against divergence as an SVG."""
    points = [replace(_point(row), x=median(row.decode)) for row in rows if row.kld > 0 and row.decode]
    note = "blue: edgelm, grey: llama.cpp; further right is faster, lower is better"
    axes = Axes("decode, tokens a second", "KL divergence from fp32, nats")
    output.write_text(scatter(title, note, points, [], axes))


def _point(row: Row) -> Point:
    return Point(
        row.name.replace("--max-size ", ""), row.bytes / 1e6, row.kld, _KINDS[row.engine], row.engine == "edgelm"
    )
