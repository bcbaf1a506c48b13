"""Time and peak memory of an export, for models of true shape with random weights.

    python benchmarks/export.py [--shape smollm2-135m]… [--target rpi5] [-r 3] [--optimum] [--json]

Each export is a process of its own; peak memory is the largest resident set the system saw. With
``--optimum`` the same checkpoint also goes through Optimum (`optimum-cli export onnx`), interleaved.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from make_checkpoint import PRESETS, make


@click.command(help=__doc__)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    type=click.Choice(sorted(PRESETS)),
    default=["smollm2-135m", "qwen2.5-0.5b-shape"],
)
@click.option("--target", default="rpi5", show_default=True)
@click.option("--quant", "quants", multiple=True, default=["int4", "int8"], show_default=True)
@click.option("-r", "--repetitions", default=3, show_default=True)
@click.option("--optimum", is_flag=True, help="Also export with optimum-cli (fp32).")
@click.option("--json", "as_json", is_flag=True)
def main(
    shapes: tuple[str, ...], target: str, quants: tuple[str, ...], repetitions: int, optimum: bool, as_json: bool
) -> None:
    rows = []
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(shape, Path(folder), target, quants, repetitions, optimum)
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo("| model | exporter | seconds | peak MB | file MB |")
    click.echo("|---|---|---:|---:|---:|")
    for row in rows:
        low, high = min(row["seconds"]), max(row["seconds"])
        click.echo(
            f"| {row['shape']} | {row['exporter']} | {statistics.median(row['seconds']):.1f} ({low:.1f} … {high:.1f}) "
            f"| {statistics.median(row['peak_mb']):.0f} | {row['file_mb']:.0f} |"
        )


def measure(
    shape: str, folder: Path, target: str, quants: tuple[str, ...], repetitions: int, optimum: bool
) -> list[dict]:
    checkpoint, output = make(shape, folder / "checkpoint"), folder / "out"
    commands = {
        f"edgelm {q}": [
            sys.executable,
            "-m",
            "edgelm",
            "export",
            str(checkpoint),
            "--target",
            target,
            "--quant",
            q,
            "-o",
            str(output),
        ]
        for q in quants
    }
    if optimum:
        commands["optimum fp32"] = [
            str(Path(sys.executable).parent / "optimum-cli"), "export", "onnx", "--task", "text-generation-with-past", "-m", str(checkpoint), str(output)
        ]  # fmt: skip
    rows = {name: {"shape": shape, "exporter": name, "seconds": [], "peak_mb": [], "file_mb": 0.0} for name in commands}
    for _ in range(repetitions):
        for name, command in commands.items():
            seconds, peak = run(command)
            rows[name]["seconds"].append(seconds)
            rows[name]["peak_mb"].append(peak)
            rows[name]["file_mb"] = sum(f.stat().st_size for f in output.rglob("*") if f.is_file()) / 1e6
            shutil.rmtree(output)
    return list(rows.values())


def run(command: list[str]) -> tuple[float, float]:
    """(seconds, peak resident MB) of a process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException(f"failed: {' '.join(command)}")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3


if __name__ == "__main__":
    main()
