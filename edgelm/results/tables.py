"""Rows as csv, Markdown, or parquet; and a picture of speeds over time."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgelm.bench.chart import Curve, Panel, chart
from edgelm.errors import DependencyError, OptionError, ResultsError
from edgelm.files import replacing
from edgelm.results.row import COLUMNS, Row

FORMS = (".csv", ".md", ".parquet")
_SHORT = (
    "at",
    "board",
    "place",
    "model",
    "quant",
    "threads",
    "test",
    "avg_ts",
    "stddev_ts",
    "joules_per_token",
    "edgelm",
    "run",
)


def check(path: Path) -> None:
    """OptionError where no table can be written to `path`; DependencyError where parquet needs a package."""
    if path.suffix.lower() not in FORMS:
        raise OptionError(
            f"{path.name} ends in none of {', '.join(FORMS)}", hint="the ending says which form is written"
        )
    if not path.absolute().parent.is_dir():
        raise OptionError(f"cannot write {path}: {path.absolute().parent} is not a folder")
    if path.suffix.lower() == ".parquet":
        _parquet()


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows in the form that the ending says, aside and renamed.

    Raises:
        OptionError, DependencyError: see `check`.
        ResultsError: it cannot be written.
    """
    check(path)
    form = path.suffix.lower()
    data = parquet(rows) if form == ".parquet" else (csv_text(rows) if form == ".csv" else markdown(rows)).encode()
    try:
        with replacing(path.absolute(), 0o644) as file:
            file.write(data)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error.strerror or error}") from None


def csv_text(rows: Sequence[Row]) -> str:
    """All columns, a line a row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_dict() for row in rows)
    return text.getvalue()


def markdown(rows: Sequence[Row]) -> str:
    """The columns that people read."""
    lines = ["| " + " | ".join(_SHORT) + " |", "|" + "---|" * len(_SHORT)]
    for row in rows:
        values = row.to_dict()
        cells = ["" if (value := values[name]) is None else _shown(value) for name in _SHORT]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def parquet(rows: Sequence[Row]) -> bytes:
    """All columns, with their types."""
    arrow, writer = _parquet()
    from edgelm.results.row import sql_type

    kinds = {"TEXT": arrow.string(), "REAL": arrow.float64(), "INTEGER": arrow.int64()}
    fields = [arrow.field(name, kinds[sql_type(name).split()[0]]) for name in COLUMNS]
    columns = [
        [None if (v := getattr(row, n)) is None else int(v) if isinstance(v, bool) else v for row in rows]
        for n in COLUMNS
    ]
    sink = arrow.BufferOutputStream()
    writer.write_table(arrow.table(columns, schema=arrow.schema(fields)), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def trend(rows: Sequence[Row], title: str) -> str:
    """Speeds over time as an SVG: a panel a test, a curve a model, quantisation and board."""
    panels = []
    times = [datetime.datetime.fromisoformat(row.at) for row in rows]
    start, (unit, seconds) = min(times), _unit(max(times) - min(times))
    for test in dict.fromkeys(row.test for row in rows):
        curves = dict[str, list[tuple[float, float | None]]]()
        for row, time in zip(rows, times, strict=True):
            if row.test == test:
                name = f"{row.model.rpartition('/')[2]} {row.quant}"
                curves.setdefault(name, []).append(((time - start).total_seconds() / seconds, row.avg_ts))
        panels.append(Panel(f"{test}, tokens a second", [Curve(n, points) for n, points in curves.items()], zero=True))
    return chart(title, f"{unit} since {start.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC", panels)


def _unit(span: datetime.timedelta) -> tuple[str, float]:
    """What time is counted in over so long, and its seconds."""
    units = {"days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}
    return next((unit for unit in units.items() if span.total_seconds() >= 2 * unit[1]), ("seconds", 1.0))


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DependencyError("parquet needs pyarrow", hint="pip install 'edgelm[parquet]'") from None
    return pyarrow, parquet


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
