"""``edgelm sweep``: export and measure many recipes of a model, and show which are worth their bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.by_name import load_export
from edgelm.cli.failures import say
from edgelm.cli.options import json_option, threads_option
from edgelm.cli.scheduler import executor, scheduler_option
from edgelm.cli.sections import Sectioned, section
from edgelm.cli.show import Bar, check_svg, print_lines, size, table, write_svg
from edgelm.errors import EdgeLMError, OptionError
from edgelm.exporter.progress import Progress
from edgelm.files import scratch
from edgelm.target.target import Target, load_target, target_names

if TYPE_CHECKING:  # they are there only with edgelm[export]
    from edgelm.cluster.executor import Executor
    from edgelm.evaluate.items import Item
    from edgelm.sweep.candidates import Candidate
    from edgelm.sweep.measure import Sweep
    from edgelm.sweep.record import Record
    from edgelm.sweep.rows import Row


@click.command("sweep", cls=Sectioned)
@click.argument("model", required=False)
@section(
    "What to export",
    click.option(
        "--target", metavar="NAME|FILE", help="The board: see `edgelm targets`, or your own .toml file.  [required]"
    ),
    click.option("--recipe", "names", multiple=True, metavar="NAME", help="Only this one; may be given several times."),
    click.option("--list", "only_list", is_flag=True, help="Print the recipes' names, and do nothing."),
    click.option(
        "-c", "--context", type=int, metavar="N", help="Longest prompt plus answer in tokens.  [default: the target's]"
    ),
    click.option("--calibrate", metavar="TEXT|builtin", help="What to calibrate on.  [default: builtin]"),
)
@section(
    "What to measure on",
    click.option("--text", metavar="FILE|builtin", help="What to measure on.  [default: builtin]"),
    click.option("--chunks", type=int, default=16, show_default=True, metavar="N", help="Chunks of the text, at most."),
    click.option(
        "--task", metavar="FILE|home", help="Also a task, as `edgelm eval` takes it; its first figure is shown."
    ),
    click.option("--limit", type=int, metavar="N", help="Only N items of the task, evenly spread over the file."),
)
@section(
    "Output",
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Keep the bundles, and the figures, here.",
    ),
    click.option(
        "--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw size against KL divergence."
    ),
    click.option("--overwrite", is_flag=True, help="Measure anew what an earlier sweep measured."),
    scheduler_option,
    json_option,
)
@threads_option
def command(
    model: str | None,
    target: str | None,
    names: tuple[str, ...],
    only_list: bool,
    text: str | None,
    calibrate: str | None,
    chunks: int,
    task: str | None,
    limit: int | None,
    context: int | None,
    output: Path | None,
    plot: Path | None,
    overwrite: bool,
    scheduler: str | None,
    as_json: bool,
    threads: int | None,
) -> None:
    """Export a model by many recipes, measure each, and show which are worth their bytes.

    fp32, and for each recipe of the target: 4-bit weights in blocks of 32, 64 and 128, rounded to the nearest step, with
    searched scales, and by GPTQ; int8, with smoothed activations too where that applies. Each is compared with fp32 on a
    text: size, KL divergence, top-1 agreement, perplexity. A * marks the frontier: no other recipe is both smaller and
    nearer to the original. An interrupted sweep goes on where it was when the same command is given again.

    MODEL is a folder, a Hugging Face hub id, or nothing for the small model that comes with edgelm, which is calibrated
    on every other of its held-out conversations, and measured on the rest.

    \b
    Examples:
      edgelm sweep --target rpi5
      edgelm sweep path/to/checkpoint --target rpi5 --plot sweep.svg -o sweep/
      edgelm sweep path/to/checkpoint --target rpi4 --recipe int8 --text wiki.raw
      edgelm sweep my/model --target rpi5 --scheduler tcp://host:8786
    """
    if target is None:
        raise click.UsageError(f"--target is missing: one of {', '.join(target_names())}, or a .toml file")
    board = load_target(target)
    load_export()
    from edgelm.sweep.candidates import candidates, chosen

    found = candidates(board)
    if only_list:
        print_lines(candidate.name for candidate in found)
        return
    _check(chunks, plot)
    with _texts(model, text, calibrate) as (measured, calibration), Bar(silent=as_json) as bar:
        options = {"chunks": chunks, "context": context, "output": output, "threads": threads}
        sweep = _sweep(model, board, chosen(found, names), measured, calibration, task, limit, **options)
        record = sweep.record(bar, overwrite=overwrite)
        with executor(scheduler, bar, silent=as_json) as (does, progress):
            failed = _run(sweep, record, progress, does)
        rows = [record.rows[c.name] for c in sweep.candidates if c.name in record.rows and c.name not in failed]
        facts = _facts(sweep, record, rows, failed)
    if plot is not None:
        from edgelm.sweep.plot import svg

        write_svg(plot, svg(rows, f"{facts['model']['id']} on {board.name}"))
    if output is None and not failed:
        record.remove()
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print_lines(_lines(facts, rows, sweep.items))
        if model is None and text is None:
            print_lines(
                ["perplexity is of requests, too, which this model was not taught to write: KLD and the task tell more"]
            )
        if output is not None:
            print_lines(["", f"bundles and figures: {output}"])


def _check(chunks: int, plot: Path | None) -> None:
    """OptionError for what would be noticed only after the work."""
    if chunks < 1:
        raise OptionError(f"chunks must be at least 1, not {chunks}")
    if plot is not None:
        check_svg(plot)


@contextmanager
def _texts(model: str | None, text: str | None, calibrate: str | None) -> Iterator[tuple[str, str]]:
    """The texts to measure and to calibrate on; halves of the held-out conversations for the embedded model."""
    from edgelm.evaluate.passages import BUILTIN

    if model is not None:
        yield text or BUILTIN, calibrate or BUILTIN
        return
    from edgelm import demo

    lines = demo.heldout().read_text(encoding="utf-8").splitlines(keepends=True)
    with scratch() as folder:
        halves = {
            folder / "home-second-half.jsonl": lines[1::2],
            folder / "home-first-half.jsonl": lines[::2],
        }
        for path, half in halves.items():
            path.write_text("".join(half), encoding="utf-8")
        second, first = map(str, halves)
        yield text or second, calibrate or first


def _sweep(
    model: str | None,
    board: Target,
    tried: Sequence[Candidate],
    text: str,
    calibrate: str,
    task: str | None,
    limit: int | None,
    **options: Any,
) -> Sweep:
    """What is to be done, the files read."""
    from edgelm.bundle.reader import sha256
    from edgelm.cli.eval import task_file
    from edgelm.evaluate.passages import load_passages
    from edgelm.evaluate.task import read_task
    from edgelm.sweep.measure import Sweep

    passages, calibration = load_passages(text, "evaluation"), load_passages(calibrate, "calibration")
    if passages.sha256 == calibration.sha256 and any(candidate.calibrated for candidate in tried):
        say("warning", "the text is the one that is calibrated on: figures of calibrated recipes flatter")
    items, facts = None, None
    if task is not None:
        path = task_file(task)
        items, facts = read_task(path, limit), {"name": path.name, "sha256": sha256(path), "limit": limit}
    return Sweep(model, board, tried, passages, calibrate=calibrate, items=items, task=facts, **options)


def _run(sweep: Sweep, record: Record, bar: Progress, does: Executor) -> Mapping[str, EdgeLMError]:
    """Measure what is left, telling of every row; Ctrl-C says what is kept."""
    tell = bar.say
    names = [candidate.name for candidate in sweep.candidates]
    if before := sum(sweep.done(candidate, record) for candidate in sweep.candidates):
        tell(f"{before} of {len(names)} recipes were measured by an earlier sweep")
    try:
        return sweep.run(record, bar, lambda row: tell(f"{row.name}: {size(row.bytes)}, KLD {row.kld:.4g}"), does)
    except KeyboardInterrupt:
        bar.finish()
        kept = sum(name in record.rows for name in names)
        tell(f"{kept} of {len(names)} recipes are measured; the same command goes on from there")
        raise


def _facts(sweep: Sweep, record: Record, rows: Sequence[Row], failed: Mapping[str, EdgeLMError]) -> dict[str, Any]:
    """For JSON.

    Raises:
        EdgeLMError: not one recipe beside fp32 could be measured.
    """
    from edgelm.sweep.rows import frontier

    if failed and len(rows) == 1:
        raise next(iter(failed.values()))
    best = {row.name for row in frontier(rows)}
    paths = {name: str(sweep.output / name) for name in record.rows} if sweep.output is not None else {}
    told = [
        {**row.to_dict(), "frontier": row.name in best, **({"path": paths[row.name]} if paths else {})} for row in rows
    ]
    settings = {key: record.settings[key] for key in ("model", "context", "text", "calibration", "task")}
    reasons = {name: str(error) for name, error in failed.items()}
    return {"target": sweep.target.name, **settings, "rows": told, "failed": reasons}


def _lines(facts: Mapping[str, Any], rows: Sequence[Row], items: Sequence[Item] | None) -> Iterator[str]:
    name = items[0].metrics[0].name if items else None
    best = {row["name"] for row in facts["rows"] if row["frontier"]}
    heads = [
        "",
        "recipe",
        "size",
        "KLD",
        "±",
        "top-1",
        "perplexity",
        *([name, "±"] if name else []),
        "memory",
        "fits",
    ]
    cells = [heads]
    for row in rows:
        score = [] if row.score is None or row.score_error is None else [f"{row.score:.1%}", f"{row.score_error:.1%}"]
        cells.append(
            [
                "*" if row.name in best else "",
                row.name,
                size(row.bytes),
                f"{row.kld:.5f}",
                f"{row.kld_error:.5f}",
                f"{row.same_top:.2%}",
                f"{row.perplexity:.4f}",
                *score,
                size(row.memory_bytes),
                "yes" if row.fits else "no",
            ]
        )
    text = facts["text"]["name"]
    yield f"{facts['model']['id']} on {facts['target']}, {rows[0].tokens:,} tokens of {text}"
    yield ""
    yield from table(cells, left=(0, 1), drop=(4, 6, len(heads) - 2))
    yield ""
    yield "* no other recipe is both smaller and nearer to the original"
    for name, reason in facts["failed"].items():
        yield f"not measured: {name}: {reason}"
