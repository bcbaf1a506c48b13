"""What of a decode step is spent outside onnxruntime: the loop, the sampler, the text. ``python benchmarks/overhead.py BUNDLE``

A whole generation as an application has it, tokens to text included; onnxruntime's calls are timed one by one within it.
The share is that of all else, by repetition.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import click

import edgelm
from edgelm.runtime.ort.session import Runner


class Timed:
    """A call, with the start and end of every one of its runs."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.spans: list[tuple[float, float]] = []

    def __call__(self, *args: Any) -> Any:
        started = time.perf_counter()
        try:
            return self.call(*args)
        finally:
            self.spans.append((started, time.perf_counter()))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("-n", "tokens", default=128, show_default=True, help="Tokens to generate.")
@click.option("-r", "repetitions", default=5, show_default=True)
@click.option("--threads", type=int)
@click.option("--temperature", default=0.8, show_default=True, help="0 is greedy; else top-k 40, top-p 0.95.")
@click.option("--json", "as_json", is_flag=True)
def main(bundle: Path, tokens: int, repetitions: int, threads: int | None, temperature: float, as_json: bool) -> None:
    """Measure it on BUNDLE, with speculation off."""
    calls: list[Timed] = []
    construct = Runner.__init__

    def observed(runner: Runner, *args: Any) -> None:
        construct(runner, *args)
        calls.append(Timed(runner._run))
        runner._run = calls[-1]

    Runner.__init__ = observed  # type: ignore[method-assign]
    options = {
        "raw": True,
        "max_tokens": tokens,
        "temperature": temperature,
        "top_k": 40,
        "top_p": 0.95,
        "speculate": "off",
    }
    shares, steps = [], []
    with edgelm.load(bundle, threads=threads) as lm:
        for repetition in range(repetitions + 1):
            for call in calls:
                call.spans.clear()
            for _ in lm.stream("Once upon a time", **options, seed=repetition):
                pass
            ended = time.perf_counter()
            spans = sorted(span for call in calls for span in call.spans)
            whole = ended - spans[0][1]  # from the end of the prompt's pass
            inside = sum(end - start for start, end in spans[1:])
            passes = len(spans) - 1
            if repetition:  # the first warms up
                shares.append((whole - inside) / whole)
                steps.append(whole / passes)
    facts = {
        "step_ms": 1000 * statistics.median(steps),
        "outside_us": 1e6 * statistics.median(s * t for s, t in zip(shares, steps, strict=True)),
        "outside_share": statistics.median(shares),
        "least": min(shares),
        "most": max(shares),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(
            f"a step takes {facts['step_ms']:.2f} ms, {facts['outside_us']:.0f} us of it outside onnxruntime: "
            f"{facts['outside_share']:.2%} ({facts['least']:.2%} … {facts['most']:.2%})"
        )


if __name__ == "__main__":
    main()
