"""``edgelm results``: what was measured, compared, drawn, written out, and made into a board's rates."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli.failures import say
from edgelm.cli.options import json_option
from edgelm.cli.show import check_svg, print_lines, table, write_svg
from edgelm.errors import OptionError, ResultsError

if TYPE_CHECKING:
    from edgelm.results.comparison import Comparison
    from edgelm.results.row import Row
    from edgelm.results.store import Filter, Store

_HEAD = ("run", "when", "board", "model", "quant", "threads", "test", "t/s", "J/token", "°C", "")
_WORDS = {"same": "no difference beyond the spread", "unknown": "one repetition does not tell the spread"}


def _filters(function: Any) -> Any:
    for option in (
        click.option("--test", metavar="TEST", help="One test alone, such as tg128."),
        click.option("--board", metavar="TEXT", help="Boards whose name holds TEXT."),
        click.option("--model", metavar="TEXT", help="Models whose name holds TEXT."),
    ):
        function = option(function)
    return function


@click.group("results", invoke_without_command=True, subcommand_metavar="[COMMAND] [ARGS]...")
@click.option("--calibrate", metavar="TARGET", help="Make the target's [rates] from what was measured on such a board.")
@click.option(
    "--board", metavar="TEXT", help="With --calibrate: boards whose name holds TEXT.  [default: the target's]"
)
@click.option("--emulated", is_flag=True, help="With --calibrate: what was measured on emulated boards.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="With --calibrate: write a target file.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context, calibrate: str | None, board: str | None, emulated: bool, output: Path | None, as_json: bool
) -> None:
    """Show and compare what edgelm bench has measured.

    Every benchmark is kept in ~/.local/share/edgelm/results.sqlite3, with the hashes, versions and settings that its figures
    depend on. EDGELM_RESULTS names another file, or is off.

    \b
    Examples:
      edgelm results
      edgelm results list --model smollm --test tg128
      edgelm results compare                   the last run and the one before
      edgelm results rm 3f9a                   a run by mistake
      edgelm results plot speeds.svg --test tg128
      edgelm results export all.csv
      edgelm results --calibrate rpi5 -o mypi.toml    for: --target ./mypi.toml
    """
    if ctx.invoked_subcommand is not None:
        if calibrate is not None:
            raise click.UsageError("--calibrate goes with no command")
        return
    if calibrate is not None:
        _calibrate(calibrate, board, emulated, output)
        return
    if output is not None or emulated:
        raise click.UsageError(
            "-o and --emulated are for --calibrate; to write a table: edgelm results export FILE.csv"
        )
    _list(_filter(None, board, None, 20), as_json=as_json)


@command.command("list")
@_filters
@click.option("-n", "--last", type=int, default=20, show_default=True, metavar="N", help="The last N tests.")
@json_option
def list_(model: str | None, board: str | None, test: str | None, last: int, as_json: bool) -> None:
    """List what was measured, the newest last.

    \b
    Examples:
      edgelm results list
      edgelm results list --board "Raspberry Pi 5" --test tg128 -n 50
    """
    if last < 1:
        raise OptionError(f"-n must be at least 1, not {last}")
    _list(_filter(model, board, test, last), as_json=as_json)


@command.command("compare")
@click.argument("before", required=False)
@click.argument("after", required=False)
@json_option
def compare(before: str | None, after: str | None, as_json: bool) -> None:
    """Compare two runs, or the last one with what was measured before it.

    Faster or slower is what lies beyond the spread of the repetitions (95 %). Another machine, model or test is not
    compared; another version, bundle or number of threads is named.

    \b
    Examples:
      edgelm results compare
      edgelm results compare 3f2a91c0 77b0e2d4
    """
    from edgelm.results.comparison import against_last, between
    from edgelm.results.store import Filter

    store = _store()
    before, after = (None if part is None else _run(store, part) for part in (before, after))
    if before is not None and after is not None:
        first, second = (_known(store.rows(Filter(run=run)), run, store) for run in (before, after))
        found = between(first, second)
        if not found:
            raise ResultsError(f"runs {before} and {after} have no test in common", hint="see: edgelm results list")
    else:
        rows = store.rows()
        run = before or (rows[-1].run if rows else None)
        if run is None:
            raise ResultsError(f"nothing was measured yet ({store.path})", hint="edgelm bench BUNDLE")
        _known([row for row in rows if row.run == run], run, store)
        found = against_last(rows, run)
        if not found:
            raise ResultsError(f"nothing before run {run} is comparable with it", hint="see: edgelm results list")
    if as_json:
        click.echo(json.dumps([one.to_dict() for one in found], indent=2))
    else:
        print_lines(_compared(found))


@command.command("plot")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.svg")
@_filters
def plot(file: Path, model: str | None, board: str | None, test: str | None) -> None:
    """Draw speeds over time: a panel a test, a curve a model.

    \b
    Example:
      edgelm results plot speeds.svg --board "Raspberry Pi 5" --test tg128
    """
    from edgelm.results.tables import trend

    check_svg(file, "edgelm results plot")
    rows = _some(_store(), _filter(model, board, test, None))
    write_svg(file, trend(rows, board or "what was measured"))
    click.echo(f"drawn: {len(rows)} measurements in {file}")


@command.command("export")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.csv|FILE.md|FILE.parquet")
@_filters
def export(file: Path, model: str | None, board: str | None, test: str | None) -> None:
    """Write what was measured to a file: csv, Markdown or parquet, by its ending.

    \b
    Examples:
      edgelm results export all.csv
      edgelm results export pi5.parquet --board "Raspberry Pi 5"
    """
    from edgelm.results import tables

    tables.check(file)
    rows = _some(_store(), _filter(model, board, test, None))
    tables.write(file, rows)
    click.echo(f"written: {len(rows)} measurements to {file}")


@command.command("add")
@click.argument("file", type=click.Path(path_type=Path), metavar="REPORT.json")
@click.option("--bundle", type=click.Path(path_type=Path), help="The bundle measured, for --calibrate.")
@click.option("--place", default="elsewhere", show_default=True, metavar="TEXT", help="Where it was measured.")
def add(file: Path, bundle: Path | None, place: str) -> None:
    """Keep a report that edgelm bench -o json wrote elsewhere.

    \b
    Example:
      edgelm results add report.json --bundle my-bundle --place "in the hall"
    """
    from edgelm.bundle.json_table import read_json
    from edgelm.bundle.reader import Bundle

    report = read_json(file, error=ResultsError, hint="give the report of: edgelm bench BUNDLE -o json")
    manifest = None
    if bundle is not None:
        opened = Bundle.open(bundle)
        if opened.digest != report.get("bundle_sha256"):
            raise ResultsError(
                f"{bundle} is not the bundle that {file} is of", hint="edgelm verify BUNDLE tells whether it is whole"
            )
        manifest = opened.manifest.to_dict()
    click.echo(f"run {_store().add(report, manifest, place)}")


@command.command("rm")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
def remove(runs: tuple[str, ...]) -> None:
    """Take runs away, such as one that was measured by mistake; the beginning of a name is enough.

    \b
    Example:
      edgelm results rm 3f9a
    """
    store = _store()
    for run in [_run(store, part) for part in runs]:
        gone = store.remove(run)
        click.echo(f"removed: {run} ({gone} test{'' if gone == 1 else 's'})")


def _store() -> Store:
    from edgelm.results.store import Store

    return Store.default()


def _filter(model: str | None, board: str | None, test: str | None, limit: int | None) -> Filter:
    from edgelm.results.store import Filter

    return Filter(model, board, test, None, limit)


def _some(store: Store, which: Filter) -> list[Row]:
    if not (rows := store.rows(which)):
        raise ResultsError(
            f"{store.path} has no such results", hint="edgelm bench BUNDLE measures, edgelm results lists"
        )
    return rows


def _run(store: Store, part: str) -> str:
    """The run whose name begins so; `part` itself where there is none."""
    found = sorted({row.run for row in store.rows() if row.run.startswith(part)})
    if len(found) > 1:
        raise ResultsError(f"{part!r} may be any of {', '.join(found)}", hint="give more of its name")
    return found[0] if found else part


def _known(rows: list[Row], run: str, store: Store) -> list[Row]:
    if not rows:
        raise ResultsError(f"no run {run!r} in {store.path}", hint="see: edgelm results list")
    return rows


def _list(which: Filter, *, as_json: bool) -> None:
    from edgelm.results.store import Filter

    store = _store()
    rows = store.rows(which)
    if as_json:
        click.echo(json.dumps({"file": str(store.path), "results": [row.to_dict() for row in rows]}, indent=2))
    elif not rows and store.rows(Filter(limit=1)):
        click.echo("nothing of that was measured: edgelm results shows what was")
    elif not rows:
        click.echo(f"nothing was measured yet: edgelm bench BUNDLE keeps its results in {store.path}")
    else:
        print_lines(table([_HEAD, *map(_row, rows)], left=(0, 1, 2, 3, 4, 6, 10), drop=(5, 8, 9, 1, 2, 4)))


def _row(row: Row) -> tuple[str, ...]:
    joules = "–" if row.joules_per_token is None else f"{row.joules_per_token:.3g}"
    heat = "–" if row.celsius_end is None else f"{row.celsius_end:.0f}"
    marks = [*(["emulated"] if row.emulated else []), *(["unreliable"] if row.unreliable else [])]
    marks += [f"throttled {row.throttled_share:.0%}"] if (row.throttled_share or 0) > 0.005 else []
    place = [] if row.place == "here" else [row.place]
    model = row.model.rpartition("/")[2]
    speed = f"{row.avg_ts:.2f} ± {row.stddev_ts:.2f}"
    when, board = row.at[:16].replace("T", " "), (row.board or "unknown")[:28]
    return (
        row.run,
        when,
        board,
        model,
        row.quant,
        str(row.threads),
        row.test,
        speed,
        joules,
        heat,
        ", ".join(place + marks),
    )


def _compared(found: Iterable[Comparison]) -> Iterator[str]:
    for one in found:
        margin = "" if one.margin is None else f", ± {one.margin:.1%}"
        verdict = _WORDS.get(one.verdict, one.verdict)
        yield f"{one.after.test}: {one.before.avg_ts:.2f} -> {one.after.avg_ts:.2f} t/s ({one.ratio:.3f}{margin}): {verdict}"
        yield f"  runs: {_when(one.before)} -> {_when(one.after)}"
        for why in one.why:
            yield f"  {'not comparable' if one.verdict == 'incomparable' else 'doubtful'}: {why}"
        for name, before, after in one.changed:
            yield f"  changed: {name} {_short(before)} -> {_short(after)}"


def _when(row: Row) -> str:
    return f"{row.run} ({row.at[:16].replace('T', ' ')})"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def _calibrate(name: str, board: str | None, emulated: bool, output: Path | None) -> None:
    from edgelm.files import replacing
    from edgelm.results.calibrate import calibrate, measured
    from edgelm.results.store import Filter
    from edgelm.target.target import load_target
    from edgelm.target.toml_text import rates_lines, target_text

    target, store = load_target(name), _store()
    wanted = board or target.board
    rows = [row for row in store.rows(Filter(board=wanted)) if row.arch in (None, target.cpu.arch)]
    tests = measured(rows, store.manifests(), emulated=emulated)
    boards = sorted({row.board or "unknown" for row in rows})
    dates = sorted({row.at[:10] for row in rows}) or [""]
    source = (
        f"Measured by edgelm bench on {', '.join(boards) or 'no board'}, {dates[0]} to {dates[-1]}: {len(tests)} tests of "
        f"{len({test.bundle for test in tests})} bundles. Storage and loading were not."
    )
    found = calibrate(target, tests, source)
    for kind, told, real in found.errors:
        say("note", f"{kind}: forecast {told:.1f} t/s, measured {real:.1f} ({told / real - 1:+.0%})")
    if not found.held_out:
        say("warning", "one bundle alone: the errors are of what was fitted to; measure a second one")
    if output is None:
        rates = found.target.rates
        assert rates is not None
        lines = [f"# in [memory]: bandwidth_gbs = {found.target.memory.bandwidth_gbs:.4g}", *rates_lines(rates)]
        print_lines(lines)
        return
    if output.suffix != ".toml":
        raise OptionError(f"{output} does not end in .toml", hint="a target's file does")
    try:
        with replacing(output.absolute(), 0o644) as file:
            file.write(target_text(found.target).encode())
            file.flush()
            load_target(file.name)  # nothing is written that cannot be loaded
    except OSError as error:
        raise ResultsError(f"cannot write {output}: {error.strerror or error}") from None
    click.echo(f"saved: {output}")
