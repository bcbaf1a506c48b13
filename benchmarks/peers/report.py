"""Figures as Markdown: medians, and edgelm's ratio to each peer, repetition by repetition."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DASH = "–"
_RATIOS = (
    "edgelm's figure over the peer's, median (least … most) of the repetitions' ratios; above 1 is better for tokens per "
    "second, below 1 for time, memory and size:"
)


@dataclass(frozen=True)
class Column:
    """One column: the key of its values, its title, and how a value is written."""

    key: str
    title: str
    write: Callable[[float], str]


def columns(settings: Mapping[str, Any]) -> list[Column]:
    """The columns that these settings give, speeds first."""
    steps = settings["steps"]
    decodes = [f"tg{steps}" + (f" @ d{depth}" if depth else "") for depth in settings["depths"]]
    return [
        *(Column(name, name, rate) for name in (f"pp{settings['prompt']}", *decodes)),
        Column("ttft_seconds", "TTFT ms", milliseconds),
        Column("load_cold_seconds", "load cold s", seconds),
        Column("load_warm_seconds", "load warm s", seconds),
        Column("peak_bytes", "peak MB", megabytes),
        Column("anonymous_bytes", "anon. MB", megabytes),
    ]


def rate(value: float) -> str:
    """Tokens per second."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def milliseconds(value: float) -> str:
    """Of seconds."""
    return f"{1e3 * value:,.0f}" if value >= 0.01 else f"{1e3 * value:.1f}"


def seconds(value: float) -> str:
    """Seconds."""
    return f"{value:.2f}"


def megabytes(value: float) -> str:
    """Of bytes, 10**6 each."""
    return f"{value / 1e6:,.0f}"


def pairs(base: Sequence[float], peer: Sequence[float]) -> list[float]:
    """Edgelm's value over the peer's, of each repetition both have."""
    return [ours / theirs for ours, theirs in zip(base, peer, strict=False) if theirs]


def ratios(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each peer of a shape the median, smallest and largest ratio in each column, and the ratio of the files' sizes."""
    records = {record["engine"]: record for record in run["records"]}
    out = []
    for record in run["records"]:
        for base in filter(None, map(records.get, record["against"])):
            if record["values"] and base["values"]:
                out.append({"engine": record["engine"], "against": base["engine"], "ratios": _ratio(base, record)})
    return out


def _ratio(base: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, values in record["values"].items():
        if each := pairs(base["values"].get(key, []), values):
            found[key] = {"median": statistics.median(each), "min": min(each), "max": max(each)}
    if record["file_bytes"] and base["file_bytes"]:
        found["file"] = base["file_bytes"] / record["file_bytes"]
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report."""
    lines = []
    for run in report["shapes"]:
        lines += [f"### {run['shape']}", "", *_medians(run, report["settings"]), ""]
        if table := _ratios(run, report["settings"]):
            lines += [
                _RATIOS,
                "",
                *table,
                "",
            ]
        lines += [f"- {record['label']}: {record['problem']}" for record in run["records"] if record["problem"]]
        if any(record["problem"] for record in run["records"]):
            lines.append("")
    return "\n".join([*lines, *_footnotes(report)])


def _medians(run: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    shown = columns(settings)
    rows = [["engine", *(column.title for column in shown), "file MB"]]
    for record in run["records"]:
        values = record["values"]
        cells = [
            column.write(statistics.median(values[column.key])) if values.get(column.key) else DASH for column in shown
        ]
        rows.append([record["label"], *cells, megabytes(record["file_bytes"]) if record["file_bytes"] else DASH])
    return table(rows)


def _ratios(run: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    labels = {record["engine"]: record["label"] for record in run["records"]}
    shown = columns(settings)
    rows = [
        [
            "",
            *(column.title.rsplit(" ", 1)[0] if column.write is not rate else column.title for column in shown),
            "file",
        ]
    ]
    for entry in ratios(run):
        found = entry["ratios"]
        cells = [
            f"{r['median']:.2f} ({r['min']:.2f} … {r['max']:.2f})" if (r := found.get(column.key)) else DASH
            for column in shown
        ]
        size = f"{found['file']:.2f}" if "file" in found else DASH
        rows.append([f"{labels[entry['against']]} / {labels[entry['engine']]}", *cells, size])
    return table(rows) if len(rows) > 1 else []


def _footnotes(report: Mapping[str, Any]) -> list[str]:
    machine, settings = report["machine"], report["settings"]
    versions = {record["label"]: record["version"] for run in report["shapes"] for record in run["records"]}
    cold = {record["cold_by"] for run in report["shapes"] for record in run["records"]} - {None}
    agreement = [
        f"{run['shape']}: " + ", ".join(f"{r['label']} {r['agreement']:.3f}" for r in run["records"] if r["agreement"])
        for run in report["shapes"]
        if any(record["agreement"] for record in run["records"])
    ]
    return [
        f"- {machine['cpu'] or 'unknown CPU'}, {settings['threads']} threads, {settings['repetitions']} interleaved "
        f"repetitions after a warm-up, {report['started']}, load average before it {machine['load_average']:.1f}",
        "- " + "; ".join(f"{label}: {version}" for label, version in versions.items() if version),
        *([f"- cold: the files dropped from the page cache by {' and '.join(sorted(cold))}"] if cold else []),
        *(f"- correlation of the logits with the most exact engine's, {line}" for line in agreement),
    ]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table that is aligned as plain text too; the first column is text, the others are numbers."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    cells = [
        [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))] for r in rows
    ]
    return ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]
