"""Size against quality, edgelm beside llama.cpp: the same original, the same ids.

    python -m benchmarks.frontier CHECKPOINT --text wiki.test.txt --llama-python /tmp/llama/bin/python -o work/

quantises a checkpoint (Llama or Qwen2, in Hugging Face's layout) with llama.cpp (`--type`) and with edgelm (`--recipe`), and
measures of each the KL divergence from the checkpoint in fp32, top-1 agreement and perplexity on the beginning of a text: by
default 8 chunks of 512 tokens, of which the second halves are scored (docs/notes/quality.md). llama.cpp keeps keys and values in
fp32 here, so that the weights and its rounding of activations are all that differs. Sizes are of whole files: a bundle, and a
GGUF file with its vocabulary.

Of another architecture `--gguf FILE` is what llama.cpp quantises: a file of the very weights that the checkpoint has, even if
they are quantised there (`python tools/dither.py FILE FOLDER --plain` makes the checkpoint of such a file).

A recipe is a name that `edgelm export --quant` takes, with options of `edgelm export` behind it where these are wanted:
`--recipe int4`, `--recipe 'int4 --calibrate none'`, `--recipe 'auto --max-size 105MB'`.

A file type with `imatrix` behind it is quantised by an importance matrix, of the text that edgelm calibrates on by default.

The last lines say where each of edgelm's bundles lies: its divergence as a share of what llama.cpp's line has at that size,
interpolated between its file types (logarithms of the divergence, linearly by size). `--plot FILE.svg` draws both lines,
`--json FILE` writes every figure. `--speed 5` times all of them as well, in turn, five times, as `benchmarks.peers` does: a
quiet machine, please; `--plot-speed FILE.svg` draws that against the divergence. What `-o` holds is used again: remove a file to make it anew.

llama.cpp comes from a Python of its own: `python -m venv /tmp/llama; /tmp/llama/bin/pip install llama-cpp-python gguf`.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.frontier.measure import Case, Original, measure
from benchmarks.frontier.report import against_line, plot, table
from benchmarks.frontier.report import plot_speed as draw_speed
from benchmarks.frontier.speed import timed

TYPES = ("Q4_0", "Q4_0 imatrix", "Q4_1", "Q4_K_M", "Q4_K_M imatrix", "Q5_K_M", "Q6_K", "Q8_0")
RECIPES = ("int4 --calibrate none", "int4", "int8", "auto --max-size 92MB", "auto --max-size 105MB")


@click.command(help=__doc__)
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--text", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--chunks", default=8, show_default=True, help="Of 512 tokens.")
@click.option("--target", default="x86-64", show_default=True, help="Of edgelm's exports.")
@click.option("--recipe", "recipes", multiple=True, default=RECIPES, show_default=True)
@click.option(
    "--type",
    "types",
    multiple=True,
    default=TYPES,
    show_default=True,
    help="llama.cpp's file types; imatrix behind one.",
)
@click.option("--gguf", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="What llama.cpp quantises.")
@click.option("--llama-python", help="A Python with llama-cpp-python and gguf; without it edgelm is measured alone.")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--speed", type=click.IntRange(min=1), help="Time each so many times, too.")
@click.option("--plot-speed", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path))
def main(
    checkpoint: Path,
    text: Path,
    chunks: int,
    target: str,
    recipes: tuple[str, ...],
    types: tuple[str, ...],
    gguf: Path | None,
    llama_python: str | None,
    output: Path,
    picture: Path | None,
    speed: int | None,
    plot_speed: Path | None,
    report: Path | None,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    original = Original.of(checkpoint, text, chunks, output, gguf)
    cases = [Case("llama.cpp", kind, tuple(kind.split()[1:])) for kind in types if llama_python is not None]
    cases += [Case("edgelm", recipe, tuple(shlex.split(recipe)[1:])) for recipe in recipes]
    rows = []
    for case in cases:
        rows.append(measure(case, original, target, llama_python, output))
        click.echo(f"{case.engine} {case.name}: {rows[-1].bytes / 1e6:.1f} MB, KLD {rows[-1].kld:.4f}", err=True)
    facts: dict[str, Any] = {"checkpoint": checkpoint.name, "text": text.name, "chunks": chunks, "target": target}
    if speed is not None:
        timings = timed(rows, cases, output, llama_python, int(original.ids.max()) + 1, speed)
        rows, facts["timed"] = timings.rows, timings.facts
    click.echo("\n".join([*table(rows), "", *against_line(rows)]))
    if report is not None:
        report.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    if picture is not None:
        plot(rows, checkpoint.name, picture)
    if plot_speed is not None:
        draw_speed(rows, checkpoint.name, plot_speed)


if __name__ == "__main__":
    main()
