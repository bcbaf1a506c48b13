"""`edgelm tune` beside the full grid of what it searches: how much slower is what it finds, and how much of the time does it take?

    python -m benchmarks.tune BUNDLE GRID.jsonl [--limit SECONDS] [-r 5] [--pairs 9] [--json]

The grid is every number of threads for decode × for prefill × spinning × tokens of a pass, each loaded and measured as
`edgelm bench` does (pp512 and tg128, warm-up, `-r` repetitions). Its rows go to GRID.jsonl as they are measured, with the
seconds that they took; a row that is there is not measured again, and `--limit` ends a run of the grid, so that it may be
measured in parts. Then `edgelm.tune` runs once, and the best of the grid for each phase and what tune has found are measured
in turn, `--pairs` times each: a ratio above 1 says that tune's is faster. The best of a grid of noisy figures is partly
luck; measured again beside tune's it is not.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from edgelm.bench.speed import Rates, SpeedTest, measure
from edgelm.bundle.reader import Bundle
from edgelm.cli.failures import guard
from edgelm.machine.host import read_cpu, read_memory
from edgelm.profile.settings import Settings
from edgelm.runtime.engine import Engine
from edgelm.runtime.ort.options import LoadOptions
from edgelm.tuning import candidates
from edgelm.tuning.tune import tune

PHASES = ("decode", "prefill")


def grid(bundle: Bundle, prompt: int) -> list[Settings]:
    """Every combination."""
    counts = [place.threads for place in candidates.places(read_cpu()) if place.cpus is None]
    sizes = candidates.chunks(bundle.manifest, read_memory(), prompt)
    return [
        Settings(decode, prefill, spinning=spinning, prefill_chunk=size)
        for decode, prefill, spinning, size in itertools.product(counts, counts, (True, False), sizes)
    ]


def tests(bundle: Bundle) -> tuple[SpeedTest, SpeedTest]:
    """Of decode and of prefill, or what fits of them."""
    return SpeedTest(0, min(128, bundle.context - 1)), SpeedTest(min(512, bundle.context - 1), 0)


def measured(bundle: Bundle, settings: Settings, repetitions: int) -> dict[str, Any]:
    """A row of the grid."""
    started = time.perf_counter()
    with closing(Engine.load(bundle, LoadOptions(settings=settings))) as engine:
        decode, prefill = measure(engine, tests(bundle), repetitions=repetitions)
    row = {"settings": settings.to_dict(), "decode": decode.mean, "prefill": prefill.mean}
    return row | {"seconds": time.perf_counter() - started}


def known(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of the file."""
    if path.exists():
        yield from map(json.loads, path.read_text().splitlines())


def pairs(bundle: Bundle, one: Settings, other: Settings, phase: str, count: int) -> list[float]:
    """Ratios of the speed of `one` over that of `other`, measured in turn; 1 where they are the same to the phase."""
    test, found = tests(bundle)[PHASES.index(phase)], list[float]()
    if candidates.described(one, phase) == candidates.described(other, phase):
        return [1.0]  # they differ in the other phase alone
    with (
        closing(Engine.load(bundle, LoadOptions(settings=one))) as a,
        closing(Engine.load(bundle, LoadOptions(settings=other))) as b,
    ):
        measure(a, [test], repetitions=1)
        measure(b, [test], repetitions=1)
        for number in range(count):
            rates: dict[int, Rates] = {}
            for index, engine in [(0, a), (1, b)][:: 1 if number % 2 else -1]:
                (rates[index],) = measure(engine, [test], repetitions=1)
            found.append(rates[0].mean / rates[1].mean)
    return found


def compared(bundle: Bundle, rows: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """What tune finds, beside the best of the grid."""
    started = time.perf_counter()
    tuned = tune(bundle.path, save=False).profile
    seconds, whole = time.perf_counter() - started, sum(row["seconds"] for row in rows)
    found: dict[str, Any] = {
        "tune_seconds": seconds,
        "grid_seconds": whole,
        "share": seconds / whole,
        "rows": len(rows),
    }
    for phase in PHASES:
        best = max(rows, key=lambda row: row[phase])
        worst, now = min(row[phase] for row in rows), tuned.gains[phase]
        ratios = pairs(bundle, tuned.settings, Settings(**best["settings"]), phase, count)
        found[phase] = {
            "grid_best": candidates.described(Settings(**best["settings"]), phase),
            "grid_best_tps": best[phase],
            "grid_worst_tps": worst,
            "tune": candidates.described(tuned.settings, phase),
            "over_default": now.ratio,
            "over_grid_best": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
        }
    return found


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("file", metavar="GRID.jsonl", type=click.Path(path_type=Path))
@click.option("--limit", type=float, help="Seconds after which the grid is left for another run.")
@click.option("-r", "--repetitions", default=5, show_default=True)
@click.option("--pairs", "count", default=9, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(bundle: Path, file: Path, limit: float | None, repetitions: int, count: int, as_json: bool) -> None:
    opened, started = Bundle.open(bundle), time.perf_counter()
    wanted = [settings.to_dict() for settings in grid(opened, tests(opened)[1].prompt)]
    rows = [row for row in known(file) if row["settings"] in wanted]
    for settings in wanted:
        if any(row["settings"] == settings for row in rows):
            continue
        if limit is not None and time.perf_counter() - started > limit:
            click.echo(f"{len(rows)} of {len(wanted)} rows: run it again to go on", err=True)
            return
        rows.append(measured(opened, Settings(**settings), repetitions))
        with file.open("a") as out:
            out.write(json.dumps(rows[-1]) + "\n")
    if limit is not None and time.perf_counter() - started > limit / 3:
        click.echo(f"all {len(wanted)} rows: run it again to tune", err=True)
        return
    found = compared(opened, rows, count)
    if as_json:
        click.echo(json.dumps({"bundle": str(bundle), **found}))
        return
    click.echo(f"grid: {found['rows']} settings in {found['grid_seconds']:.0f} s")
    click.echo(f"tune: {found['tune_seconds']:.0f} s, {found['share']:.1%} of the grid's time\n")
    click.echo("| | best of the grid | t/s (slowest) | tune | over today's | over the grid's best |")
    click.echo("|---|---|---:|---|---:|---:|")
    for phase in PHASES:
        row = found[phase]
        low, high = row["range"]
        click.echo(
            f"| {phase} | {row['grid_best']} | {row['grid_best_tps']:.1f} ({row['grid_worst_tps']:.1f}) | {row['tune']} "
            f"| {row['over_default']:.3f} | {row['over_grid_best']:.3f} ({low:.3f} … {high:.3f}) |"
        )


if __name__ == "__main__":
    sys.exit(guard(lambda: main(standalone_mode=False) or 0))
