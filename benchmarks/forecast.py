"""Calibrate a target's [rates] on this machine, and hold the forecasts of `edgelm estimate` against measurements.

    python benchmarks/forecast.py calibrate [--target x86-64] [--threads 2] [-r 3] > rates.toml
    python benchmarks/forecast.py check [--target x86-64] [--threads 2] [--shape smollm2-135m]… [--quant int4]… [-r 3]

`calibrate` exports three small decoders of its own with random weights, in every format of the target's recipes and some
more: one that is all overhead, one whose weights stay in the caches, one that must be read from memory. It prints the
lines to paste into the target's file. None of its shapes is one that `check` looks at.

`check` makes checkpoints of true shape with random weights, exports them, measures each bundle with `edgelm bench` in a
process of its own, and prints forecast, measurement and the error in percent. The file's pages are dropped from the
system's cache before each start, so that load time is that of a first start. Give a file after `--target` to check it.

Run both on a quiet machine, with the same number of threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgelm.exporter import families
from edgelm.exporter.checkpoint.config import Config, read_json
from edgelm.exporter.pipeline import export
from edgelm.exporter.plan.estimate import of_model
from edgelm.exporter.sizing import workload
from edgelm.forecast.cost_model import DEPTHS, PROMPT, Heads, Workload
from edgelm.machine.host import recommended_threads
from edgelm.target.target import FormatSpec, RecipeSpec, Target, load_target

ROOT = Path(__file__).parents[1]
SHAPES = ("smollm2-135m", "qwen2.5-0.5b-shape", "llama3.2-1b")
DEEPEST = DEPTHS[-1]

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _shape(hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return _LLAMA | {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 512,
    }


CALIBRATION = {
    "overhead": _shape(64, 128, 24, 4, 2),
    "cached": _shape(512, 1536, 3, 8, 2),
    "streamed": _shape(1024, 4096, 16, 16, 4),
}
FORMATS = (  # measured beside those of the target's recipes
    FormatSpec("MatMulNBits", 4, 32),
    FormatSpec("MatMulNBits", 4, 64),
    FormatSpec("MatMulNBits", 4, 128),
    FormatSpec("MatMulNBits", 8, 128),
    FormatSpec("DynamicQuantizeMatMul", 8),
    FormatSpec("MatMul", 32),
)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--target", default="x86-64", show_default=True)
@click.option("--threads", type=int, help="[default: what suits this machine]")
@click.option("-r", "--repetitions", default=3, show_default=True)
def calibrate(target: str, threads: int | None, repetitions: int) -> None:
    """Measure this machine's rates and print them as TOML."""
    board = load_target(target)
    count = threads or recommended_threads()
    formats = dict.fromkeys([*(spec for r in board.recipes.values() for spec in (r.body, r.head)), *FORMATS])
    with tempfile.TemporaryDirectory() as folder:
        click.echo(_toml(Calibration(board, list(formats), count, repetitions, Path(folder)).run(), count))


class Calibration:
    """The measurements, and what follows from them."""

    def __init__(self, board: Target, formats: list[FormatSpec], threads: int, repetitions: int, folder: Path) -> None:
        recipes = {f"f{i}": _recipe(spec) for i, spec in enumerate(formats)}
        self.board = replace(board, recipes=recipes, default="f0")
        self.formats = dict(zip(recipes, formats, strict=True))
        self.threads, self.repetitions, self.folder = threads, repetitions, folder
        self.work: dict[tuple[str, str], Workload] = {}
        self.bundles: dict[tuple[str, str], Path] = {}

    def run(self) -> dict[str, Any]:
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for shape in CALIBRATION:
            checkpoint = self._checkpoint(shape)
            for quant in self._quants(shape):
                click.echo(f"{shape}, {self.formats[quant]}", err=True)
                rows[shape, quant] = self._measure(shape, quant, checkpoint)
        streamed = [quant for shape, quant in rows if shape == "streamed"]
        node = 1 / rows["overhead", "f0"]["decode"][0] / self.work["overhead", "f0"].nodes
        attention = self._attention(rows["streamed", streamed[-1]], self.work["streamed", streamed[-1]])
        products, activation = self._prefill(rows, node, attention[0])
        decode = {quant: self._decode(rows["cached", quant], quant, node) for quant in self.formats}
        bandwidth = max(self._bandwidth(rows["streamed", q]["decode"][0], q, node) for q in streamed)
        alone = max(self._bandwidth(self._single(q), q, node) for q in streamed[:2])
        files = [self.bundles["streamed", quant] / "model.onnx.data" for quant in streamed]
        packed = sum(f.stat().st_size for f in files) / sum(rows["streamed", q]["load"] for q in streamed)
        return {
            "bandwidth_gbs": bandwidth,
            "node_us": node * 1e6,
            "core_gbs": min(alone, bandwidth),
            "activation_gbs": activation,
            "attention_prefill": attention[0],
            "attention_decode": attention[1],
            "storage_mbs": _cold_read(files) / 1e6,
            "pack_mbs": packed / 1e6,
            "products": {str(spec): (products[q], decode[q]) for q, spec in self.formats.items()},
        }

    def _quants(self, shape: str) -> list[str]:
        if shape == "overhead":
            return ["f0"]
        # Floats of the large shape would take a gigabyte, and only tell the bandwidth again.
        return [quant for quant, spec in self.formats.items() if shape == "cached" or spec.op != "MatMul"]

    def _checkpoint(self, shape: str) -> Path:
        config = self.folder / f"{shape}.json"
        config.write_text(json.dumps(CALIBRATION[shape]))
        return make_checkpoint(str(config), self.folder / shape)

    def _measure(self, shape: str, quant: str, checkpoint: Path) -> dict[str, Any]:
        context = DEEPEST + PROMPT
        bundle = export(checkpoint, self.board, quant, context=context, output=self.folder / f"{shape}-{quant}").path
        path = checkpoint / "config.json"
        decoder = families.describe(Config(read_json(path), path))
        self.work[shape, quant] = workload.of_decoder(decoder, self.board.recipe(quant), self.board)
        self.bundles[shape, quant] = bundle
        return bench(bundle, self.threads, self.repetitions, (0, DEEPEST) if shape == "streamed" else (0,))

    def _single(self, quant: str) -> float:
        return bench(self.bundles["streamed", quant], 1, self.repetitions, (0,), prompt=0)["decode"][0]

    def _bandwidth(self, rate: float, quant: str, node: float) -> float:
        """GB/s of weights read, whatever is not reading taken off."""
        work = self.work["streamed", quant]
        nbytes = sum(m.nbytes for m in (*work.body, work.head))
        return nbytes / max(1e-9, 1 / rate - work.nodes * node) / 1e9

    def _decode(self, row: dict[str, Any], quant: str, node: float) -> float:
        work = self.work["cached", quant]
        weights = sum(m.weights for m in (*work.body, work.head))
        return weights / max(1e-9, 1 / row["decode"][0] - work.nodes * node) / 1e9 / self.threads

    def _attention(self, row: dict[str, Any], work: Workload) -> tuple[float, float]:
        """Rates in prefill and decode, from what depth adds to a step."""

        def rate(kind: str, tokens: int) -> float:
            seconds = tokens / row[kind][DEEPEST] - tokens / row[kind][0]
            deep, first = (sum(_pairs(h, tokens, depth) for h in work.attention) for depth in (DEEPEST, 0))
            return (deep - first) / max(1e-9, seconds) / 1e9 / self.threads

        return rate("prefill", PROMPT), rate("decode", GENERATED)

    def _prefill(
        self, rows: dict[tuple[str, str], dict[str, Any]], node: float, attention: float
    ) -> tuple[dict[str, float], float]:
        """The products' rates and that of activations, by least squares over two shapes, each row of equal weight."""
        names = list(self.formats)
        cells, seconds = [], []
        for (shape, quant), row in rows.items():
            if shape == "overhead":
                continue
            work = self.work[shape, quant]
            left = PROMPT / row["prefill"][0] - work.nodes * node
            left -= sum(_pairs(h, PROMPT, 0) for h in work.attention) / (attention * 1e9 * self.threads)
            line = np.zeros(len(names) + 1)
            line[names.index(quant)] = PROMPT * sum(m.weights for m in work.body) / 1e9 / self.threads
            line[-1] = PROMPT * work.activation_bytes / 1e9 / self.threads
            cells.append(line / left)
            seconds.append(1.0)
        found = np.linalg.lstsq(np.array(cells), np.array(seconds), rcond=None)[0]
        if found[-1] <= 0:  # the products explain all of it
            found = np.append(np.linalg.lstsq(np.array(cells)[:, :-1], np.array(seconds), rcond=None)[0], 1e-2)
        return {name: 1 / value for name, value in zip(names, found, strict=False)}, 1 / found[-1]


GENERATED = 32


def _pairs(heads: Heads, tokens: int, depth: int) -> int:
    return heads.pair * heads.seen(tokens, depth)


def _recipe(spec: FormatSpec) -> RecipeSpec:
    if spec.op == "MatMulNBits":
        embedding = FormatSpec("GatherBlockQuantized", spec.bits, spec.block)
    else:
        embedding = FormatSpec("Gather", spec.bits)
    return RecipeSpec(spec, spec, embedding, FormatSpec("none", 32))


def make_checkpoint(shape: str, folder: Path) -> Path:
    """A checkpoint with random weights, by tools/make_checkpoint.py."""
    command = [sys.executable, str(ROOT / "tools/make_checkpoint.py"), shape, str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return folder


def bench(
    bundle: Path, threads: int, repetitions: int, depths: tuple[int, ...], *, prompt: int = PROMPT, cold: bool = False
) -> dict[str, Any]:
    """`edgelm bench` in a process of its own: rates by depth, TTFT, load seconds, peak bytes."""
    if cold:
        _drop(bundle / "model.onnx.data")
    command = [sys.executable, "-m", "edgelm", "bench", str(bundle), "-o", "json", "-p", str(prompt)]
    command += ["-n", str(GENERATED), "-d", ",".join(map(str, depths)), "-r", str(repetitions), "-t", str(threads)]
    command.append("--no-weight-cache")  # a load is forecast as it is without
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT
    )
    report = json.loads(done.stdout)
    rows: dict[str, Any] = {"prefill": {}, "decode": {}, "load": report["load_seconds"], "ttft": None}
    for result in report["results"]:
        rows["prefill" if result["n_prompt"] else "decode"][result["n_depth"]] = result["avg_ts"]
        if result["n_prompt"] and not result["n_depth"]:
            rows["ttft"] = result["ttft_seconds"]
    rows["peak"] = report["memory"]["peak"]
    return rows


def _drop(file: Path) -> None:
    """Let the system forget the file's pages, so that it is read from its disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _cold_read(files: list[Path]) -> float:
    """Bytes a second of a first read, the median of the files."""
    rates = []
    for file in files:
        _drop(file)
        start = time.perf_counter()
        with file.open("rb", buffering=0) as source:
            while source.read(1 << 22):
                pass
        rates.append(file.stat().st_size / (time.perf_counter() - start))
    return float(np.median(rates))


def _toml(found: dict[str, Any], threads: int) -> str:
    products = found.pop("products")
    lines = [
        f"# in [memory], measured with {threads} threads:",
        f"bandwidth_gbs = {found.pop('bandwidth_gbs'):.1f}",
        "",
        "[rates]",
        "measured = true",
        *(f"{name} = {_rounded(value)}" for name, value in found.items()),
        f'source = """\nMeasured with {threads} threads by benchmarks/forecast.py calibrate on this machine: name it here."""',
        "",
        "[rates.products]",
        *(
            f'"{name}" = {{ prefill = {_rounded(many)}, decode = {_rounded(one)} }}'
            for name, (many, one) in products.items()
        ),
    ]
    return "\n".join(lines)


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


@main.command()
@click.option("--target", default="x86-64", show_default=True)
@click.option("--threads", type=int, help="[default: what suits this machine]")
@click.option("--shape", "shapes", multiple=True, default=SHAPES, show_default=True)
@click.option("--quant", "quants", multiple=True, default=("int4", "int8"), show_default=True)
@click.option("-r", "--repetitions", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def check(
    target: str, threads: int | None, shapes: tuple[str, ...], quants: tuple[str, ...], repetitions: int, as_json: bool
) -> None:
    """Forecast against measurement."""
    board, count = load_target(target), threads or recommended_threads()
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        with tempfile.TemporaryDirectory() as name:
            checkpoint = make_checkpoint(shape, Path(name) / "checkpoint")
            for quant in quants:
                rows += compare(shape, checkpoint, board, quant, count, repetitions, Path(name) / quant)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo("| model | figure | forecast | measured | error % |")
    click.echo("|---|---|---:|---:|---:|")
    for row in rows:
        cells = f"{_shown(row['forecast'])} | {_shown(row['measured'])} | {row['error_percent']:+.0f}"
        click.echo(f"| {row['model']} | {row['figure']} | {cells} |")
    far = [row for row in rows if abs(row["error_percent"]) > 25]
    click.echo(f"\n{len(rows) - len(far)} of {len(rows)} within 25 %, {count} threads", err=True)


def compare(
    shape: str, checkpoint: Path, board: Target, quant: str, threads: int, repetitions: int, output: Path
) -> Iterator[dict[str, Any]]:
    """The rows of one bundle."""
    path = checkpoint / "config.json"
    limit = families.describe(Config(read_json(path), path)).context_limit
    context = min(limit, max(board.runtime.context, DEPTHS[-1] + PROMPT))  # room for the deepest depth
    expected = of_model(str(checkpoint), board, quant, context=context, threads=min(threads, board.cpu.cores))
    bundle = export(checkpoint, board, quant, context=context, output=output).path
    found = bench(bundle, threads, repetitions, DEPTHS, cold=True)
    pairs = [(f"prefill {PROMPT}, tok/s", expected.forecast.prefill.tokens_per_second, found["prefill"][0])]
    pairs += [
        (f"decode at {speed.depth:,}, tok/s", speed.tokens_per_second, found["decode"][speed.depth])
        for speed in expected.forecast.decode
    ]
    pairs += [
        ("first token, s", expected.forecast.ttft_seconds, found["ttft"]),
        ("load, s", expected.forecast.load_seconds, found["load"]),
        ("peak memory, MB", expected.memory["total_bytes"] / 1e6, found["peak"] / 1e6),
    ]
    for figure, told, measured in pairs:
        error = 100 * (told / measured - 1)
        yield {
            "model": f"{shape} {quant}",
            "figure": figure,
            "forecast": told,
            "measured": measured,
            "error_percent": error,
        }


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
