"""How long until something happens: importing edgelm, its help, the first token of the default model.

    python benchmarks/startup.py [-r 15] [--json]

Every repetition runs each command once, in turn, as a process of its own; medians and the spread of the
repetitions are reported. "above Python" is the median of the pairwise differences to an empty Python.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from edgelm.exporter.pipeline import export

PROMPT = "dim the bedroom lamp to 30 percent and lock the front door"


@click.command(help=__doc__)
@click.option("-r", "--repetitions", default=15, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(repetitions: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(None, "rpi5", output=Path(folder) / "bundle")
        results = measure(bundle.path, repetitions)
    if as_json:
        click.echo(json.dumps(results))
        return
    click.echo("| what | median ms | min … max | above Python |")
    click.echo("|---|---:|---:|---:|")
    for row in results:
        click.echo(
            f"| {row['what']} | {row['median_ms']:.0f} | {row['min_ms']:.0f} … {row['max_ms']:.0f} | {row['above_python_ms']:.0f} |"
        )


def measure(bundle: Path, repetitions: int) -> list[dict[str, object]]:
    """Milliseconds of each command, interleaved."""
    python, edgelm = [sys.executable, "-c"], [sys.executable, "-m", "edgelm"]
    commands = {
        "python -c pass": [*python, "pass"],
        "import edgelm": [*python, "import edgelm"],
        "edgelm --help": [*edgelm, "--help"],
        "edgelm run: first token": [*edgelm, "run", str(bundle), "-p", PROMPT, "--temperature", "0"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for repetition in range(repetitions + 1):
        for name, command in commands.items():
            elapsed = until_first_byte(command) if "first token" in name else until_end(command)
            if repetition:  # the first round fills the file caches
                times[name].append(1e3 * elapsed)
    base = times["python -c pass"]
    return [
        {
            "what": name,
            "median_ms": statistics.median(values),
            "min_ms": min(values),
            "max_ms": max(values),
            "above_python_ms": statistics.median(v - b for v, b in zip(values, base, strict=True)),
            "repetitions": repetitions,
        }
        for name, values in times.items()
    ]


def until_end(command: list[str]) -> float:
    """Seconds from start to exit."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def until_first_byte(command: list[str]) -> float:
    """Seconds from start to the first byte of output."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        elapsed = time.perf_counter() - start
        process.stdout.read()
    return elapsed


if __name__ == "__main__":
    main()
