"""What quantisation costs: size, perplexity, KL divergence, top-1 agreement and task accuracy of every way to round.

    python benchmarks/quality.py stories --text tinystories.txt --model path/to/stories260K
    python benchmarks/quality.py home
    python benchmarks/quality.py sensitivity --text tinystories.txt --model path/to/stories260K
    python benchmarks/quality.py calibrate path/to/checkpoint
    python benchmarks/quality.py auto path/to/checkpoint

`stories`: calibrated on the first part of the text, measured on its end. `home`: the embedded model; calibrated on the
first half of its held-out conversations, measured on the second, and on the whole task. Both compare fp32, int8, and
int4 rounded to the nearest step, with searched scales and by GPTQ, in blocks of 32 and 64, and ``--quant auto`` at two
budgets: a quarter of the way from the size of the int4 bundle to that of int8, and halfway. Sizes are of the weights' file; "of rtn" is the KLD as
a share of that of rounding to nearest in the same blocks.

`sensitivity` shows what the choice of ``--quant auto`` rests on: for each format the losses of single matrices, as they
are derived from one measured variant and as each is measured itself, their sums, and the KLD of the model with every
matrix in that format.

`calibrate` tells how long GPTQ of a checkpoint takes, and its peak memory beside that of an export without it, each in
a process of its own; `auto` the same of choosing formats by size, with searched scales. Figures of quality do not depend
on the machine's load; those of time do.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import click

from edgelm import demo
from edgelm.bundle.reader import DATA, Bundle
from edgelm.evaluate.card import compare
from edgelm.evaluate.passages import load_passages, spread_chunks, starting_token
from edgelm.evaluate.task import read_task, run_task
from edgelm.exporter import families
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.formats.rounding.rtn import quantize_blocks
from edgelm.exporter.mixed import recipes
from edgelm.exporter.mixed.auto import with_recipe
from edgelm.exporter.mixed.sensitivity import Choices, text_size
from edgelm.exporter.mixed.sensitivity import measure as measure_losses
from edgelm.exporter.model.weights import WeightReader
from edgelm.exporter.pipeline import export
from edgelm.exporter.progress import Progress
from edgelm.runtime.lm import load
from edgelm.runtime.text.prompt import text_tools
from edgelm.target.target import Target, load_target

CALIBRATION_CHARACTERS = 400_000
EVALUATION_CHARACTERS = 200_000


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--text", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--target", default="rpi5", show_default=True)
@click.option("--chunks", default=80, show_default=True)
def stories(model: Path, text: Path, target: str, chunks: int) -> None:
    """Of a model and a text."""
    content = text.read_text(encoding="utf-8", errors="ignore")
    with tempfile.TemporaryDirectory() as folder:
        first, end = Path(folder, "first.txt"), Path(folder, "end.txt")
        first.write_text(content[:CALIBRATION_CHARACTERS])
        end.write_text(content[-EVALUATION_CHARACTERS:])
        show(measure(str(model), target, first, end, chunks, Path(folder), task=None))


@main.command()
@click.option("--target", default="rpi5", show_default=True)
@click.option("--chunks", default=80, show_default=True)
def home(target: str, chunks: int) -> None:
    """Of the embedded model."""
    lines = demo.heldout().read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as folder:
        halves = [Path(folder, f"{half}.jsonl") for half in ("first", "second")]
        for half, part in zip(halves, (lines[::2], lines[1::2]), strict=True):
            half.write_text("\n".join(part))
        show(measure(None, target, *halves, chunks, Path(folder), task=halves[1]))


def measure(
    model: str | None, target: str, calibration: Path, text: Path, chunks: int, folder: Path, task: Path | None
) -> Iterator[dict[str, Any]]:
    """A row for each way to round."""
    board = load_target(target)
    base = export(model, board, "fp32", output=folder / "fp32")
    yield row("fp32", base, base, text, chunks, task)
    int8 = export(model, board, "int8", output=folder / "int8")
    yield row("int8", base, int8, text, chunks, task)
    for block in (32, 64):
        chosen = in_blocks(board, block)
        with mock.patch("edgelm.exporter.formats.blocked.search_blocks", quantize_blocks):
            nearest = export(model, chosen, "int4", output=folder / f"rtn{block}")
        rtn = row(f"int4 rtn, block {block}", base, nearest, text, chunks, task)
        yield rtn
        for name, options in (("search", {}), ("GPTQ", {"calibrate": calibration})):
            bundle = export(model, chosen, "int4", output=folder / f"{name}{block}", **options)
            found = row(f"int4 {name}, block {block}", base, bundle, text, chunks, task)
            yield {**found, "of_rtn": found["kld"] / rtn["kld"]}
        if block == 32:
            small = bundle.size
    for name, options in (("search", {}), ("GPTQ", {"calibrate": calibration})):
        for where, share in (("a quarter of the way to int8", 4), ("halfway to int8", 2)):
            size = small + (int8.size - small) // share
            bundle = export(model, board, "auto", max_size=size, output=folder / f"auto{name}{size}", **options)
            yield row(f"mixed {name}, {where}", base, bundle, text, chunks, task)


def in_blocks(board: Target, block: int) -> Target:
    """The board with its int4 recipe in blocks of this size."""
    int4 = board.recipe("int4")
    roles = {role: dataclasses.replace(getattr(int4, role), block=block) for role in ("body", "head", "embedding")}
    return dataclasses.replace(board, recipes={**board.recipes, "int4": dataclasses.replace(int4, **roles)})


def row(name: str, base: Bundle, bundle: Bundle, text: Path, chunks: int, task: Path | None) -> dict[str, Any]:
    found = compare(base, bundle, load_passages(text, "evaluation"), chunks=chunks)
    facts: dict[str, Any] = {
        "name": name,
        "bytes": bundle.files[DATA]["bytes"],
        "perplexity": found.quantised.value,
        "kld": found.mean,
        "kld_stderr": found.error,
        "same_top": found.same_top,
        "tokens": found.tokens,
    }
    if task is not None:
        with load(bundle.path) as lm:
            facts["accuracy"] = run_task(lm, read_task(task)).accuracy.value
    return facts


def show(rows: Iterator[dict[str, Any]]) -> None:
    click.echo("| | kB | perplexity | KLD | of rtn | top-1 | exact match |")
    click.echo("|---|---:|---:|---:|---:|---:|---:|")
    for r in rows:
        share = f"{r['of_rtn']:.2f}" if "of_rtn" in r else ""
        accuracy = f"{r['accuracy']:.1%}" if "accuracy" in r else ""
        kld = f"{r['kld']:.4f} ± {r['kld_stderr']:.4f}"
        click.echo(
            f"| {r['name']} | {r['bytes'] / 1000:,.0f} | {r['perplexity']:.3f} | {kld} | {share} | {r['same_top']:.1%} | {accuracy} |"
        )


@main.command()
@click.option("--model", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--text", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--target", default="rpi5", show_default=True)
@click.option("--chunks", default=40, show_default=True)
def sensitivity(model: Path, text: Path, target: str, chunks: int) -> None:
    """What is predicted of a model in one format, and what it loses."""
    board, checkpoint = load_target(target), Checkpoint(model)
    decoder, reader = families.describe(checkpoint.config), WeightReader(checkpoint)
    choices = recipes.choices(decoder, board)
    content = text.read_text(encoding="utf-8", errors="ignore")
    click.echo("| format | sum, derived | sum, measured | ratio of single ones, median (extremes) | KLD of the whole |")
    click.echo("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        end = folder / "end.txt"
        end.write_text(content[-EVALUATION_CHARACTERS:])
        base = export(model, board, "fp32", output=folder / "fp32")
        tokenizer, _ = text_tools(base)
        ids = tokenizer.encode(content[:CALIBRATION_CHARACTERS])
        pieces = spread_chunks(ids, *text_size(decoder, base.context), starting_token(tokenizer))
        derived = measure_losses(reader, decoder, choices, pieces, folder, Progress())
        for number, format in enumerate(recipes.formats_of(board)):
            spec = format.spec
            alone = {linear.name: [format.fit(linear.inputs)] for linear in decoder.linears}
            own = measure_losses(
                reader,
                decoder,
                Choices(alone, [format.fit(decoder.hidden)], choices.embedding),
                pieces,
                folder,
                Progress(),
            )
            pairs = []
            for linear in (*decoder.linears, decoder.head):
                among = choices.body.get(linear.name, choices.head)
                pairs.append((derived[linear.name][among.index(format.fit(linear.inputs))], own[linear.name][0]))
            ratios = [guess / found for guess, found in pairs]
            recipe = dataclasses.replace(board.recipe("int4"), body=spec, head=spec, embedding=spec)
            whole = export(model, with_recipe(board, "one", recipe), "one", output=folder / f"one{number}")
            kld = compare(base, whole, load_passages(end, "evaluation"), chunks=chunks).mean
            guess, found = (sum(column) for column in zip(*pairs, strict=True))
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
            click.echo(f"| {spec} | {guess:.4f} | {found:.4f} | {spread} | {kld:.4f} |")


@main.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--target", default="x86-64", show_default=True)
def calibrate(model: Path, target: str) -> None:
    """Time and memory of GPTQ."""
    exports = {"int4, scales searched": ("int4", "none"), "int4, GPTQ on the built-in text": ("int4", "builtin")}
    show_costs(model, target, exports)


@main.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--target", default="x86-64", show_default=True)
def auto(model: Path, target: str) -> None:
    """Time and memory of mixed precision."""
    show_costs(model, target, {"int4, scales searched": ("int4", "none"), "auto, at its size": ("auto", "none")})


def show_costs(model: Path, target: str, exports: dict[str, tuple[str, str]]) -> None:
    click.echo("| export | seconds | peak memory MB |")
    click.echo("|---|---:|---:|")
    for name, (quant, text) in exports.items():
        command = [sys.executable, __file__, "one-export", str(model), target, quant, text]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        facts = json.loads(done.stdout.splitlines()[-1])
        click.echo(f"| {name} | {facts['seconds']:.1f} | {facts['peak_mb']:,.0f} |")


@main.command("one-export", hidden=True)
@click.argument("model")
@click.argument("target")
@click.argument("quant")
@click.argument("text")
def one_export(model: str, target: str, quant: str, text: str) -> None:
    """Of this process alone."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        export(model, target, quant, calibrate=text or "none", output=Path(folder) / "b")
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(json.dumps({"seconds": seconds, "peak_mb": peak}))


if __name__ == "__main__":
    main()
