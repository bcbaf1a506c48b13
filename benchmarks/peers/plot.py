"""The speeds and the peak memory as bars, with the spread of the repetitions: an SVG of one shape."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.report import columns, rate
from edgelm.svg.bars import Bar, Panel, bars


def plot(report: Mapping[str, Any], output: Path) -> list[Path]:
    """Write a picture for each shape: OUTPUT, or OUTPUT with the shape's name where there are several."""
    written = []
    for run in report["shapes"]:
        path = output if len(report["shapes"]) == 1 else output.with_stem(f"{output.stem}-{run['shape']}")
        path.write_text(picture(run, report))
        written.append(path)
    return written


def picture(run: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The bars of one shape, the fastest in decode on top, edgelm's in blue."""
    machine, settings = report["machine"], report["settings"]
    records = sorted(run["records"], key=lambda record: -_median(record, f"tg{settings['steps']}"))
    speeds = [column for column in columns(settings) if column.write is rate]
    panels = [Panel(_title(column.title), "tok/s, more is better", _bars(records, column.key)) for column in speeds]
    panels.append(Panel("peak memory", "MB, less is better", _bars(records, "peak_bytes", 1e-6)))
    note = (
        f"{settings['threads']} threads of {machine['cpu'].replace('(R)', '')}, "
        f"median and range of {settings['repetitions']} interleaved runs"
    )
    rows = [(_label(record), "best" if not record["against"] else "other") for record in records]
    return bars(f"{run['shape']}: edgelm and its peers", note, rows, panels, width=960)


def _title(column: str) -> str:
    if column.startswith("pp"):
        return f"prefill {column[2:]}"
    _, behind, depth = column.partition("@ d")
    return f"behind {int(depth):,}" if behind else "decode"


def _label(record: Mapping[str, Any]) -> str:
    return str(record["label"]).replace("no flash attention", "no flash")


def _bars(records: Sequence[Mapping[str, Any]], key: str, scale: float = 1.0) -> list[Bar]:
    each = [[value * scale for value in record["values"].get(key) or []] for record in records]
    return [Bar(statistics.median(v), min(v), max(v)) if v else Bar(None) for v in each]


def _median(record: Mapping[str, Any], key: str) -> float:
    return statistics.median(record["values"].get(key) or [0.0])
