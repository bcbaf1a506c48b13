"""The rows as a table, as places beside llama.cpp's line, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks.frontier.measure import Row

_COLOURS = {"edgelm": "#0b6bcb", "llama.cpp": "#70757d"}


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown, by size."""
    yield "| | MB | KLD | ± | top-1 agreement | perplexity |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in sorted(rows, key=lambda row: row.bytes):
        name = f"**{row.engine} {row.name}**" if row.engine == "edgelm" else f"{row.engine} {row.name}"
        figures = f"{row.bytes / 1e6:.1f} | {row.kld:.4f} | {row.error:.4f} | {row.top1:.1%} | {row.perplexity:.2f}"
        yield f"| {name} | {figures} |"


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
    """Size against divergence, a line for each engine; ImportError where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.6))
    for engine, colour in _COLOURS.items():
        own = [row for row in rows if row.engine == engine]
        if not own:
            continue
        best = frontier(own)
        axes.plot([row.bytes / 1e6 for row in best], [row.kld for row in best], "-", color=colour, linewidth=1.2)
        axes.plot([row.bytes / 1e6 for row in own], [row.kld for row in own], "o", color=colour, label=engine)
        for row in own:
            place = (6, 6) if engine == "edgelm" else (6, -12)
            axes.annotate(
                row.name, (row.bytes / 1e6, row.kld), place, textcoords="offset points", fontsize=8, color=colour
            )
    axes.set_yscale("log")
    axes.set_xlabel("size, MB")
    axes.set_ylabel("KL divergence from fp32, nats (less is better)")
    axes.set_title(title, fontsize=10)
    axes.grid(color="#e3e3e3", which="both", linewidth=0.6)
    axes.margins(x=0.12)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(output, dpi=130)
    pyplot.close(figure)
