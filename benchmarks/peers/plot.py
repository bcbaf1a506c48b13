"""The speeds as bars, with the spread of the repetitions. Needs matplotlib."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.report import columns, rate


def plot(report: Mapping[str, Any], output: Path) -> None:
    """Write a picture; ImportError where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    speeds = [column for column in columns(report["settings"]) if column.write is rate]
    size = (4 * len(speeds), 3 * len(report["shapes"]))
    figure, grid = pyplot.subplots(len(report["shapes"]), len(speeds), figsize=size, squeeze=False)
    for row, run in zip(grid, report["shapes"], strict=True):
        for axes, column in zip(row, speeds, strict=True):
            _bars(axes, run, column.key)
            axes.set_title(f"{run['shape']}: {column.title}", fontsize=9)
        for axes in row[1:]:
            axes.set_yticklabels([])
    figure.supxlabel("tokens per second: median, with the least and the most of the repetitions")
    figure.tight_layout()
    figure.savefig(output, dpi=120)
    pyplot.close(figure)


def _bars(axes: Any, run: Mapping[str, Any], key: str) -> None:
    records = run["records"][::-1]  # the first on top
    each = [record["values"].get(key) or [0.0] for record in records]
    middle = [statistics.median(values) for values in each]
    spread = [
        [m - min(values) for m, values in zip(middle, each, strict=True)],
        [max(values) - m for m, values in zip(middle, each, strict=True)],
    ]
    colours = ["tab:blue" if not record["against"] else "tab:gray" for record in records]
    axes.barh([record["label"] for record in records], middle, xerr=spread, color=colours, capsize=2)
    axes.tick_params(labelsize=8)
