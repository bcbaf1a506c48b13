"""What places for LoRA adapters cost, and adapters in them.

    python -m benchmarks.adapters PLAIN READY [-r 5] [-t THREADS] [-n 64] [--prompt 256] [--ranks 8,64] [--json]

PLAIN and READY are bundles of one checkpoint, READY exported with --lora-ready. Milliseconds of a decoded token and of a
token of a prompt: PLAIN, READY without an adapter, and with one of each rank beside every matrix (random values). All run
in turn, after one round to warm up; what is over PLAIN is a ratio of medians, in brackets the smallest and largest of a
round.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgelm.bundle.reader import Bundle, lora_inputs
from edgelm.cli.failures import guard
from edgelm.runtime.engine import Engine
from edgelm.runtime.lora_adapter import RuntimeAdapter


def random_adapter(bundle: Bundle, rank: int) -> RuntimeAdapter:
    """Of small random values, beside every matrix."""
    table, chance, arrays = bundle.lora, np.random.default_rng(rank), {}
    if table is None:
        raise click.UsageError(f"{bundle.path} was not exported with --lora-ready")
    for place in table["places"]:
        shapes = ((place["inputs"], rank), (rank, place["outputs"]))
        for name, shape in zip(lora_inputs(place["name"]), shapes, strict=True):
            arrays[name] = chance.normal(0, 0.001, shape).astype(table["activations"])
    return RuntimeAdapter(bundle.path, {"base": table["base"]}, f"random, rank {rank}", arrays)


def decode(engine: Engine, tokens: int) -> float:
    """Seconds of a token, behind a short prompt."""
    engine.reset()
    engine.forward(np.arange(8))
    started = time.perf_counter()
    for token in range(tokens):
        engine.forward([token])
    return (time.perf_counter() - started) / tokens


def prefill(engine: Engine, tokens: int) -> float:
    """Seconds of a prompt's token."""
    engine.reset()
    started = time.perf_counter()
    engine.forward(np.arange(tokens) % engine.vocab_size)
    return (time.perf_counter() - started) / tokens


def measure(ways: dict[str, Callable[[], float]], repetitions: int) -> list[dict[str, Any]]:
    """Seconds of each, and how many times those of the first; in turn."""
    rounds = [{name: run() for name, run in ways.items()} for _ in range(repetitions + 1)][1:]
    first = next(iter(ways))
    rows = []
    for name in ways:
        ratios = [one[name] / one[first] for one in rounds]
        median = statistics.median(one[name] for one in rounds)
        base = statistics.median(one[first] for one in rounds)
        rows.append({"what": name, "seconds": median, "times": median / base, "range": [min(ratios), max(ratios)]})
    return rows


@click.command(help=__doc__)
@click.argument("plain", type=click.Path(path_type=Path))
@click.argument("ready", type=click.Path(path_type=Path))
@click.option("-r", "--repetitions", default=5, show_default=True)
@click.option("-t", "--threads", type=int)
@click.option("-n", "--tokens", default=64, show_default=True, help="Tokens decoded.")
@click.option("--prompt", default=256, show_default=True, help="Tokens of a prompt.")
@click.option("--ranks", default="8,64", show_default=True, help="Of the adapters.")
@click.option("--json", "as_json", is_flag=True)
def main(
    plain: Path, ready: Path, repetitions: int, threads: int | None, tokens: int, prompt: int, ranks: str, as_json: bool
) -> None:
    places = Bundle.open(ready)
    engines = Engine.load(Bundle.open(plain), threads=threads), Engine.load(places, threads=threads)
    adapters = {f"adapter of rank {rank}": random_adapter(places, int(rank)) for rank in ranks.split(",")}

    def ways(run: Callable[[Engine, int], float], count: int) -> dict[str, Callable[[], float]]:
        def adapted(adapter: RuntimeAdapter | None) -> float:
            engines[1].adapt(adapter)
            return run(engines[1], count)

        found: dict[str, Callable[[], float]] = {"plain": lambda: run(engines[0], count)}
        found["places, no adapter"] = lambda: adapted(None)
        return found | {name: lambda adapter=adapter: adapted(adapter) for name, adapter in adapters.items()}  # type: ignore[misc]

    results = {
        "decode": measure(ways(decode, tokens), repetitions),
        "prefill": measure(ways(prefill, prompt), repetitions),
    }
    if as_json:
        click.echo(json.dumps(results))
        return
    click.echo("| | | ms a token | of plain |\n|---|---|---:|---:|")
    for kind, rows in results.items():
        for row in rows:
            low, high = row["range"]
            click.echo(
                f"| {kind} | {row['what']} | {1e3 * row['seconds']:.3f} | {row['times']:.3f} ({low:.3f} … {high:.3f}) |"
            )


if __name__ == "__main__":
    sys.exit(guard(lambda: main(standalone_mode=False) or 0))
