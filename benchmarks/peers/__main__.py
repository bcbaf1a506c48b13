"""Speed, memory and load time of edgelm beside its peers, on models of true shape with random weights.

    python -m benchmarks.peers --llama-python PYTHON --genai-python PYTHON -o results/

\b
For every shape a checkpoint is made, each engine's own converter turns it into that engine's form, and all engines run
in turn, in one run, with all cores: edgelm, llama.cpp, onnxruntime-genai, Optimum, transformers. Medians of the
repetitions are shown, and the ratios of edgelm to each peer, repetition by repetition, with their spread. What is
measured, and how: docs/notes/performance.md. An engine that is missing or fails gets a dash, and the reason.

\b
Peers may live in Pythons of their own; any of them may be missing:
    python -m venv llama-venv && llama-venv/bin/pip install llama-cpp-python gguf ml-dtypes
    python -m venv genai-venv && genai-venv/bin/pip install torch==2.13.0 onnxruntime-genai onnx-ir 'transformers>=5,<6'
edgelm, Optimum and transformers run in this one: pip install 'edgelm[optimum]'.

--quick takes a tiny model and short tests: seconds for each engine, to see that it all works. Its figures mean nothing.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from benchmarks.peers import report as reporting
from benchmarks.peers.engines import DEFAULT, ENGINES
from benchmarks.peers.measure import Contender, Record, Settings, machine_facts, measure
from benchmarks.peers.prepare import Unavailable, checkpoint, files, model
from edgelm.machine.host import read_cpu, read_memory, usable_cpus
from edgelm.target.match import best_target

SHAPES = ("smollm2-135m", "qwen2.5-0.5b", "llama3.2-1b")
_QUICK = {"prompt": 24, "steps": 4, "depths": (0, 16), "repetitions": 2}


@click.command(help=__doc__)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    default=SHAPES,
    show_default=True,
    help="See tools/make_checkpoint.py; or a config.json.",
)
@click.option(
    "--engine", "engines", multiple=True, type=click.Choice(list(ENGINES)), default=DEFAULT, show_default=True
)
@click.option("-r", "--repetitions", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Of every engine.  [default: all cores]")
@click.option("--target", help="Of edgelm's bundles.  [default: the one that fits this machine best]")
@click.option(
    "--llama-python", metavar="PYTHON", default=sys.executable, help="A Python with llama-cpp-python and gguf."
)
@click.option(
    "--genai-python",
    metavar="PYTHON",
    default=sys.executable,
    help="A Python with onnxruntime-genai and transformers 5.",
)
@click.option(
    "--drop-caches", is_flag=True, help="Empty the machine's page cache before each cold load, where root may."
)
@click.option("--spare", default=1500, show_default=True, help="MB of memory that must stay free.")
@click.option("--seed", default=0, show_default=True, help="Of the random ids.")
@click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), help="Keep checkpoints and peers' models here."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write peers.json, peers.md and peers.svg here.",
)
@click.option(
    "--render", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Only show a peers.json again."
)
@click.option("--quick", is_flag=True, help="A tiny model and short tests.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of Markdown.")
def main(
    shapes: tuple[str, ...],
    engines: tuple[str, ...],
    repetitions: int,
    threads: int | None,
    target: str | None,
    llama_python: str,
    genai_python: str,
    drop_caches: bool,
    spare: int,
    seed: int,
    work: Path | None,
    output: Path | None,
    render: Path | None,
    quick: bool,
    as_json: bool,
) -> None:
    if render is not None:
        report = json.loads(render.read_text())
    else:
        lengths: dict[str, Any] = _QUICK if quick else {"repetitions": repetitions}
        settings = Settings(threads=threads or usable_cpus(), seed=seed, drop=drop_caches, spare=spare, **lengths)
        pythons = {"edgelm": sys.executable, "llama": _python(llama_python), "genai": _python(genai_python)}
        report = {
            "started": time.strftime("%Y-%m-%d %H:%M"),
            "machine": machine_facts(settings),
            "settings": asdict(settings),
            "shapes": [],
        }
        with ExitStack() as stack:
            folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for shape in ("tiny",) if quick else shapes:
                try:
                    run = compare(shape, engines, pythons, target or _target(), settings, folder.absolute())
                except Unavailable as error:
                    raise click.ClickException(f"{shape}: {error}") from None
                report["shapes"].append(run)
                save(report, output)  # after every shape: the next one may take an hour
    save(report, output)
    click.echo(json.dumps(report) if as_json else reporting.markdown(report))


def compare(
    shape: str, engines: Sequence[str], pythons: Mapping[str, str], target: str, settings: Settings, folder: Path
) -> dict[str, Any]:
    """Make all models of a shape, then measure them; the result is plain data."""
    folder = folder / Path(shape).stem
    folder.mkdir(parents=True, exist_ok=True)
    say(f"{shape}: making the checkpoint")
    source = checkpoint(shape, folder)
    records, contenders = [], []
    for spec in (ENGINES[name] for name in dict.fromkeys(engines)):
        record = Record(spec.name, spec.label, spec.against)
        records.append(record)
        say(f"{shape}: converting for {spec.label}")
        try:
            path = model(
                spec, source, folder, pythons=pythons, target=target, context=settings.context, spare=settings.spare
            )
        except Unavailable as error:
            record.problem = str(error)
            say(f"{spec.label}: {error}")
            continue
        record.file_bytes = sum(file.stat().st_size for file in files(path))
        contenders.append(Contender(spec, pythons[spec.python], path, record))
    vocab = int(json.loads((source / "config.json").read_text())["vocab_size"])
    start = time.monotonic()
    measure(contenders, vocab, settings, lambda text: say(f"{shape}: {text}"))
    run = {
        "shape": shape,
        "target": target,
        "seconds": time.monotonic() - start,
        "records": [asdict(record) for record in records],
    }
    return run | {"ratios": reporting.ratios(run)}


def save(report: Mapping[str, Any], output: Path | None) -> None:
    """Write the report's three forms into a folder."""
    if output is None:
        return
    output.mkdir(parents=True, exist_ok=True)
    _write(output / "peers.json", json.dumps(report, indent=1) + "\n")
    _write(output / "peers.md", reporting.markdown(report) + "\n")
    try:
        from benchmarks.peers.plot import plot

        plot(report, output / "peers.svg")
    except Exception as error:  # a picture must not cost the figures of the shapes that are still to come
        say(f"no plot: {type(error).__name__}: {error}")


def say(text: str) -> None:
    """Progress."""
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


def _write(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    os.replace(aside, path)


def _python(name: str) -> str:
    """A command as it is, a path made absolute: workers run in another folder."""
    return os.path.abspath(name) if os.sep in name else name


def _target() -> str:
    fitting = best_target(read_cpu(), read_memory())
    if fitting is None:
        raise click.UsageError("no target fits this machine: name one with --target")
    return fitting.name


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.peers")
