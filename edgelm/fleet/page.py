"""What a fleet found, as one HTML file: no server, nothing fetched, light and dark, as wide as a phone or a screen."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from edgelm.errors import FleetError
from edgelm.files import replacing
from edgelm.fleet.jobs import Job
from edgelm.fleet.progress import Failure
from edgelm.results.row import Row
from edgelm.svg.bars import Bar, Panel, bars

_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#16202b;--soft:#52606d;--grid:#e1e6ec;--bad:#b3261e;--good:#1f7a3d}
@media(prefers-color-scheme:dark){:root{--paper:#12181f;--ink:#e8eef4;--soft:#9fb0c0;--grid:#2b3643;--bad:#ff8a80;--good:#7bd197}}
*{box-sizing:border-box}
body{margin:0 auto;padding:24px 20px 48px;max-width:1000px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI","Noto Sans","DejaVu Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 4px}h2{font-size:1.2rem;margin:40px 0 8px}p{margin:4px 0 12px}
.soft{color:var(--soft)}.bad{color:var(--bad)}.good{color:var(--good)}
figure{margin:12px 0 24px}figure svg{display:block;max-width:100%;height:auto}.narrow{display:none}
.scroll{overflow-x:auto;border:1px solid var(--grid);border-radius:6px}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;text-align:left;border-bottom:1px solid var(--grid);white-space:nowrap;vertical-align:top}
tr:last-child td{border-bottom:0}th{color:var(--soft);font-weight:600}td.n,th.n{text-align:right}td.why{white-space:normal;min-width:16rem}
@media(max-width:640px){body{padding:16px 12px 32px}.wide{display:none}.narrow{display:block}h1{font-size:1.35rem}}
""".replace("\n", "")
_NARROW, _LABEL = 350, 18  # a phone's width in pixels, and the characters of a board's name that it has room for
_COLUMNS = 4  # of a chart on a screen
_NUMBERS = ("threads", "t/s", "±", "J/token", "°C")


@dataclass(frozen=True)
class Found:
    """A job that is done, with what was measured."""

    job: Job
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Outcome:
    """All of a fleet.

    Attributes:
        name: of the plan.
        jobs: all.
        found: those that are done.
        failures: of this call.
        kept: the file of results.
        at: when, in words.
        version: of edgelm.
    """

    name: str
    jobs: Sequence[Job]
    found: Sequence[Found]
    failures: Sequence[Failure]
    kept: Path
    at: str
    version: str

    @property
    def left(self) -> list[Job]:
        """Jobs that are still to be done."""
        done = {one.job.key for one in self.found}
        return [job for job in self.jobs if job.key not in done]


def write(path: Path, outcome: Outcome) -> None:
    """Write the page, aside and renamed.

    Raises:
        FleetError: it cannot be written.
    """
    try:
        with replacing(path.absolute(), 0o644) as file:
            file.write(page(outcome).encode())
    except OSError as error:
        raise FleetError(f"cannot write {path}: {error.strerror or error}") from None


def page(outcome: Outcome) -> str:
    """The HTML."""
    body = [*_head(outcome), *_failures(outcome), *_charts(outcome.found), *_table(outcome.found), *_foot(outcome)]
    title = escape(f"{outcome.name}: {len(outcome.found)} of {len(outcome.jobs)} jobs")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><title>{title}</title><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _head(outcome: Outcome) -> Iterator[str]:
    boards = len({job.board for job in outcome.jobs})
    bundles = len({job.digest for job in outcome.jobs})
    left = len(outcome.left)
    yield f"<h1>{escape(outcome.name)}</h1>"
    yield (
        f'<p class="soft">{counted(boards, "board")}, {counted(bundles, "bundle")}, {counted(len(outcome.jobs), "job")} '
        f"· {escape(outcome.at)}</p>"
    )
    if left:
        yield f'<p class="bad">{left} of {len(outcome.jobs)} jobs are not done. The same command goes on from there.</p>'
    else:
        yield '<p class="good">All jobs are done.</p>'
    rows = [row for one in outcome.found for row in one.rows]
    if any(row.emulated for row in rows):
        yield '<p class="soft">Speeds of emulated boards are those of the emulator here, not of such a board.</p>'
    if count := sum(row.unreliable for row in rows):
        yield f'<p class="soft">{counted(count, "figure")} marked unreliable: the repetitions differ widely.</p>'


def _failures(outcome: Outcome) -> Iterator[str]:
    """What failed in this call, and what was not come to, a line a board."""
    if not outcome.left:
        return
    told = {failure.job.key for failure in outcome.failures if failure.job is not None}
    rows = [
        (failure.board, failure.job.name if failure.job else "all", failure.why, str(failure.tries))
        for failure in outcome.failures
    ]
    gone = {failure.board for failure in outcome.failures if failure.job is None}
    waiting = [job for job in outcome.left if job.key not in told and job.board not in gone]
    for board in dict.fromkeys(job.board for job in waiting):
        count = sum(job.board == board for job in waiting)
        rows.append((board, counted(count, "job"), "not come to", "0"))
    yield "<h2>Not done</h2>"
    cells = [
        f'<tr><td>{escape(board)}</td><td>{escape(job)}</td><td class="why">{escape(why)}</td><td class="n">{n}</td></tr>'
        for board, job, why, n in rows
    ]
    head = '<tr><th>board</th><th>job</th><th>why</th><th class="n">tries</th></tr>'
    yield f'<div class="scroll"><table>{head}{"".join(cells)}</table></div>'


def _charts(found: Sequence[Found]) -> Iterator[str]:
    """A chart for each bundle and settings: boards from top to bottom, a column a test."""
    groups = dict[tuple[str, str], list[Found]]()
    for one in found:
        groups.setdefault((one.job.bundle.name, one.job.settings.name), []).append(one)
    if groups:
        yield "<h2>Speed</h2>"
    for (bundle, settings), members in groups.items():
        boards = list(dict.fromkeys(one.job.board for one in members))
        tests = list(dict.fromkeys(row.test for one in members for row in one.rows))
        rows = {b: [row for one in members if one.job.board == b for row in one.rows] for b in boards}
        panels = [
            Panel(test, "tokens a second", [_bar([r for r in rows[b] if r.test == test]) for b in boards])
            for test in tests
        ]
        title = f"{bundle}, {settings}"
        names = [(_short(board, _LABEL * 2), "best") for board in boards]
        wide = [
            bars(title, "tokens a second; the line is the spread", names, panels[i : i + _COLUMNS])
            for i in range(0, len(panels), _COLUMNS)
        ]
        names = [(_short(board, _LABEL), "best") for board in boards]
        narrow = [bars(panel.title, panel.note, names, [Panel("", "", panel.bars)], width=_NARROW) for panel in panels]
        yield f'<figure><figcaption class="narrow"><b>{escape(title)}</b></figcaption>'
        yield f'<div class="wide">{"".join(wide)}</div><div class="narrow">{"".join(narrow)}</div>'
        if len(boards) > 1:
            yield f'<figcaption class="soft">{escape("; ".join(map(_spread, panels)))}</figcaption>'
        yield "</figure>"


def _bar(rows: Sequence[Row]) -> Bar:
    """A board's speed: of several runs their mean and range, of one its own spread."""
    if not rows:
        return Bar(None)
    speeds = [row.avg_ts for row in rows]
    if len(rows) > 1:
        return Bar(statistics.fmean(speeds), min(speeds), max(speeds))
    return Bar(speeds[0], max(0.0, speeds[0] - rows[0].stddev_ts), speeds[0] + rows[0].stddev_ts)


def _spread(panel: Panel) -> str:
    """In words: the boards' median and range."""
    values = [bar.value for bar in panel.bars if bar.value is not None]
    middle = statistics.median(values)
    return f"{panel.title}: median {middle:.3g} t/s, from {min(values):.3g} to {max(values):.3g}"


def _table(found: Sequence[Found]) -> Iterator[str]:
    """Every test, with what its figure depends on; what no board tells has no column."""
    if not found:
        return
    table = [_cells(one.job, row) for one in found for row in one.rows]
    names = [name for name in table[0] if any(cells[name] not in ("", "–") for cells in table)]
    yield "<h2>All figures</h2>"
    lines = ["".join(f"<th{_kind(name)}>{escape(name)}</th>" for name in names)]
    lines += ["".join(f"<td{_kind(name)}>{escape(cells[name])}</td>" for name in names) for cells in table]
    yield f'<div class="scroll"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def _cells(job: Job, row: Row) -> dict[str, str]:
    marks = [*(["emulated"] if row.emulated else []), *(["unreliable"] if row.unreliable else [])]
    marks += [f"throttled {row.throttled_share:.0%}"] if (row.throttled_share or 0) > 0.005 else []
    return {
        "board": job.board,
        "machine": row.board or "unknown",
        "bundle": job.bundle.name,
        "settings": job.settings.name,
        "threads": str(row.threads),
        "test": row.test,
        "t/s": f"{row.avg_ts:.2f}",
        "±": f"{row.stddev_ts:.2f}",
        "J/token": "–" if row.joules_per_token is None else f"{row.joules_per_token:.3g}",
        "°C": "–" if row.celsius_end is None else f"{row.celsius_end:.0f}",
        "mark": ", ".join(marks),
        "run": row.run,
    }


def _foot(outcome: Outcome) -> Iterator[str]:
    machines: Mapping[str, None] = dict.fromkeys(row.onnxruntime for one in outcome.found for row in one.rows)
    runtime = f", onnxruntime {', '.join(machines)}" if machines else ""
    yield f'<p class="soft">edgelm {escape(outcome.version)}{escape(runtime)} · kept in {escape(str(outcome.kept))}</p>'


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _kind(name: str) -> str:
    return ' class="n"' if name in _NUMBERS else ""


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
