"""Time and peak memory of an export beside the other exporters, for models of true shape with random weights.

    python benchmarks/export.py [--shape smollm2-135m]… [--peer edgelm|genai|optimum]… [-r 3] [--json]

edgelm (int4, by default for rpi5), onnxruntime-genai's builder (int4) and Optimum (`optimum-cli export onnx`, fp32) export
the same checkpoint in turn, `-r` times over; each export is a process of its own. Reported are medians with the smallest
and largest value, and the ratio of the medians to edgelm's. Peak memory is the largest resident set the system saw, of the
process or of one that it started. A peer that is missing or fails gets a dash; the reason is on stderr.

The builder of onnxruntime-genai 0.18 wants transformers 5, Optimum wants transformers 4: give the first a Python of its own:

    python -m venv /tmp/genai
    /tmp/genai/bin/pip install torch==2.13.0
    /tmp/genai/bin/pip install onnxruntime-genai==0.18.0 onnx-ir 'transformers>=5,<6'
    python benchmarks/export.py -r 3 --genai-python /tmp/genai/bin/python

Optimum takes about 4.2 times the weights in fp32, 21 GB for the 1B shape. Where less than `--spare` MB of memory are left,
an export is stopped, and counts as failed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from edgelm.machine.host import read_memory

ROOT = Path(__file__).parents[1]
SHAPES = ("smollm2-135m", "qwen2.5-0.5b-shape", "llama3.2-1b")
PEERS = ("edgelm", "genai", "optimum")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

# A process starts with the resident set of the one that started it as its peak: the one in between is small.
MEASURE = """
import json, os, sys, time
start = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ,
                      file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
facts = [os.waitstatus_to_exitcode(status), time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6]
print(json.dumps(facts))
"""


@dataclass
class Row:
    """What an exporter took for a shape; empty where it failed."""

    shape: str
    exporter: str
    seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    file_mb: float = 0.0
    problem: str | None = None


class Failed(Exception):
    """An export that ended badly."""


@click.command(help=__doc__)
@click.option(
    "--shape", "shapes", multiple=True, default=SHAPES, show_default=True, help="See tools/make_checkpoint.py."
)
@click.option("--peer", "peers", multiple=True, type=click.Choice(PEERS), default=PEERS, show_default=True)
@click.option("--target", default="rpi5", show_default=True, help="Of edgelm's exports.")
@click.option("--quant", "quants", multiple=True, default=["int4"], show_default=True, help="Of edgelm's exports.")
@click.option("--genai-python", default=sys.executable, help="A Python with onnxruntime-genai and transformers 5.")
@click.option("-r", "--repetitions", default=3, show_default=True)
@click.option("--spare", default=1500, show_default=True, help="MB of memory that must stay free.")
@click.option("--json", "as_json", is_flag=True)
def main(
    shapes: tuple[str, ...],
    peers: tuple[str, ...],
    target: str,
    quants: tuple[str, ...],
    genai_python: str,
    repetitions: int,
    spare: int,
    as_json: bool,
) -> None:
    rows = []
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            commands = {
                name: command
                for peer in peers
                for name, command in exporters(peer, Path(folder), target, quants, genai_python).items()
            }
            make = [sys.executable, str(ROOT / "tools/make_checkpoint.py"), shape, f"{folder}/checkpoint"]
            subprocess.run(make, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
            rows += measure(shape, Path(folder), commands, repetitions, spare)
    if as_json:
        click.echo(json.dumps([asdict(row) | ratios(row, rows) for row in rows]))
        return
    click.echo("| model | exporter | seconds | × edgelm | peak MB | × edgelm | file MB |")
    click.echo("|---|---|---:|---:|---:|---:|---:|")
    for row in rows:
        ratio = {key: f"{value:.1f}" if value else "–" for key, value in ratios(row, rows).items()}
        click.echo(
            f"| {row.shape} | {row.exporter} | {spread(row.seconds, 1)} | {ratio['times_seconds']} "
            f"| {spread(row.peak_mb, 0)} | {ratio['times_peak']} | {f'{row.file_mb:.0f}' if row.seconds else '–'} |"
        )


def exporters(peer: str, folder: Path, target: str, quants: tuple[str, ...], genai_python: str) -> dict[str, list[str]]:
    """Name → command that exports `folder`/checkpoint to `folder`/out."""
    checkpoint, output = str(folder / "checkpoint"), str(folder / "out")
    if peer == "edgelm":
        command = [sys.executable, "-m", "edgelm", "export", checkpoint, "--target", target, "-o", output]
        return {f"edgelm {quant}": [*command, "--quant", quant] for quant in quants}
    if peer == "genai":
        builder = [genai_python, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint, "-o", output]
        return {"onnxruntime-genai int4": [*builder, "-p", "int4", "-e", "cpu", "-c", str(folder / "cache")]}
    cli = str(Path(sys.executable).parent / "optimum-cli")
    return {"Optimum fp32": [cli, "export", "onnx", "--task", "text-generation-with-past", "-m", checkpoint, output]}


def measure(shape: str, folder: Path, commands: dict[str, list[str]], repetitions: int, spare: int) -> list[Row]:
    """All exporters in turn, so that what disturbs the machine disturbs all alike."""
    rows = {name: Row(shape, name) for name in commands}
    output = folder / "out"
    for _ in range(repetitions):
        for name, command in commands.items():
            row = rows[name]
            if row.problem is not None:
                continue
            try:
                seconds, peak = run(command, folder, spare)
                row.seconds.append(seconds)
                row.peak_mb.append(peak)
                row.file_mb = sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) / 1e6
            except Failed as error:
                rows[name] = Row(shape, name, problem=str(error))
                click.echo(f"{shape}, {name}: {error}", err=True)
            for leftover in (output, folder / "cache"):
                shutil.rmtree(leftover, ignore_errors=True)
    return list(rows.values())


def run(command: list[str], folder: Path, spare: int) -> tuple[float, float]:
    """(seconds, peak resident MB) of a process that is stopped when memory runs out."""
    with tempfile.TemporaryFile(dir=folder) as errors:
        between = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", MEASURE, *command],
            cwd=folder,
            env={**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        scarce = False
        while between.poll() is None:
            free = read_memory().usable
            if free is not None and free < spare * 1e6:
                scarce = True
                os.killpg(between.pid, signal.SIGKILL)
            time.sleep(0.1)
        assert between.stdout is not None
        told = between.stdout.read()
        if scarce:
            raise Failed(f"stopped: less than {spare:,} MB of memory were left")
        code, seconds, peak = json.loads(told) if told else (between.returncode, 0.0, 0.0)
        if code:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            raise Failed(f"exit code {code}: {lines[-1] if lines else 'no message'}")
        return seconds, peak


def ratios(row: Row, rows: list[Row]) -> dict[str, float | None]:
    """Medians of a row as multiples of those of edgelm's first row of the same shape."""
    base = next((r for r in rows if r.shape == row.shape and r.exporter.startswith("edgelm") and r.seconds), None)
    if base is None or not row.seconds:
        return {"times_seconds": None, "times_peak": None}
    return {
        "times_seconds": statistics.median(row.seconds) / statistics.median(base.seconds),
        "times_peak": statistics.median(row.peak_mb) / statistics.median(base.peak_mb),
    }


def spread(values: list[float], digits: int) -> str:
    """The median, and the smallest and largest value."""
    if not values:
        return "–"
    low, middle, high = (f"{v:.{digits}f}" for v in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} … {high})"


if __name__ == "__main__":
    main()
