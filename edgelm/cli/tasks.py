"""How the commands tell what came out of a task, of one model or of two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgelm.cli.show import table

if TYPE_CHECKING:
    from edgelm.evaluate.comparison import Comparison, Difference
    from edgelm.evaluate.outcome import Metric, Outcome, TaskResult

_WIDTH = 300  # characters of an answer that are shown


def result_lines(result: TaskResult, show_errors: int) -> Iterator[str]:
    """A table of all items and of every group; then the first wrong answers."""
    rows = [["", *(cell for metric in result.metrics for cell in (metric.name, "±")), "of"]]
    parts = [("all", result)]
    parts += [(f"{name} {value}", part) for name in result.groups() for value, part in result.parts(name).items()]
    for name, part in parts:
        cells = [
            figure(value, metric)
            for metric in part.metrics
            for value in (part.score(metric).value, part.score(metric).error)
        ]
        rows.append([name, *cells, f"{len(part.outcomes):,}"])
    yield from table(rows)
    yield from _note(result)
    for outcome in result.wrong[:show_errors]:
        yield ""
        yield _asked(outcome)
        yield f"  expected  {_one_line(outcome.expected)}"
        yield f"  answered  {_answered(outcome)}"


def beside_lines(both: Comparison, base: str, quantised: str, show_changed: int) -> Iterator[str]:
    """A table of two models, named by their recipes, on all items and every group; then the first changed answers."""
    metrics = both.quantised.metrics
    rows: list[tuple[str, ...]] = [("", "", base, quantised, "difference", "±", "95 % interval", "changed", "of")]
    rows += [_row("all" if metric is metrics[0] else "", both, metric) for metric in metrics]
    for name in both.quantised.groups():
        rows += [_row(f"{name} {value}", part, metrics[0]) for value, part in both.parts(name).items()]
    yield from table(rows, left=(0, 1))
    changed = f"{len(both.changed):,} of {len(both.quantised.outcomes):,} answers changed"
    judged = any(outcome.correct is not None for outcome in both.quantised.outcomes)
    yield changed + (f": {both.lost:,} right before, {both.gained:,} right now" if judged else "")
    yield from _note(both.quantised)
    width = max(map(len, ("expected", base, quantised)))
    for before, after in both.changed[:show_changed]:
        yield ""
        yield _asked(after)
        if after.expected:
            yield f"  {'expected':<{width}}  {_one_line(after.expected)}"
        yield f"  {base:<{width}}  {_answered(before)}"
        yield f"  {quantised:<{width}}  {_answered(after)}"


def figure(value: float, metric: Metric, *, signed: bool = False) -> str:
    """A value in the unit of its metric."""
    sign = "+" if signed else ""
    return f"{value:{sign}.1%}" if metric.unit == "share" else f"{value:{sign}.3f}"


def _row(name: str, both: Comparison, metric: Metric) -> tuple[str, ...]:
    found: Difference = both.difference(metric)
    low, high = (figure(edge, metric, signed=True) for edge in found.interval)
    return (
        name,
        metric.name,
        figure(found.base.value, metric),
        figure(found.quantised.value, metric),
        figure(found.value, metric, signed=True),
        figure(found.error, metric),
        f"{low} … {high}",
        f"{len(both.changed):,}",
        f"{len(both.quantised.outcomes):,}",
    )


def _note(result: TaskResult) -> Iterator[str]:
    if result.note:
        yield f"note: {result.note}"


def _asked(outcome: Outcome) -> str:
    return f"line {outcome.line}: {_one_line(outcome.asked)}".removesuffix(": ")


def _answered(outcome: Outcome) -> str:
    ended = f"  ({outcome.finish_reason})" if outcome.finish_reason else ""
    return f"{_one_line(outcome.answered) or '(nothing)'}{ended}"


def _one_line(text: str) -> str:
    """`text` as far as it fits in a line, with escapes for what has no width."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.strip())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
