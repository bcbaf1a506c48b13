"""``edgelm estimate``: how fast will it be on that board, and does it fit?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelm.bundle.reader import MANIFEST, Bundle
from edgelm.by_name import load_export
from edgelm.cli.bundles import model_named, stored_bundle
from edgelm.cli.options import file_option, json_option
from edgelm.cli.show import fact, print_lines, size, table
from edgelm.errors import OptionError
from edgelm.machine.host import read_cpu, recommended_threads
from edgelm.target.target import AUTO, load_target

if TYPE_CHECKING:
    from edgelm.forecast.cost_model import Forecast, Speed
    from edgelm.forecast.estimate import Estimate


# Tokens a second at which people read and speak: 4 and 2.5 words, at 1.3 tokens a word and some more.
_READING, _SPEAKING = 7.0, 3.0


@click.command("estimate")
@click.argument("model", metavar="[BUNDLE|MODEL]", required=False)
@click.option(
    "--target", metavar="NAME|FILE", help="The board.  [default: rpi5, or the one that the bundle was made for]"
)
@click.option("--quant", metavar="NAME", help="Recipe for a MODEL.  [default: the target's]")
@click.option("--kv", type=click.Choice(["float", "int8"]), help="KV cache of a MODEL.  [default: the recipe's]")
@click.option(
    "--prefill", type=click.Choice(["same", "int8"]), help="The prefill graph of a MODEL.  [default: the recipe's]"
)
@click.option(
    "-c", "--context", type=int, metavar="N", help="Longest prompt plus answer for a MODEL.  [default: the target's]"
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a model from the hub.  [default: main]")
@file_option
@click.option(
    "--vocab", type=int, metavar="N", help="As if N tokens of a MODEL were kept (--trim-vocab).  [default: all]"
)
@click.option("-t", "--threads", type=int, metavar="N", help="CPU threads.  [default: the target's]")
@json_option
def command(
    model: str | None,
    target: str | None,
    quant: str | None,
    kv: str | None,
    prefill: str | None,
    context: int | None,
    revision: str | None,
    file: str | None,
    vocab: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Forecast a model's speed, memory and load time on a board, and say whether it fits.

    MODEL is a folder that holds a config.json, a GGUF file, a Hugging Face hub id (only its config.json is fetched,
    or its GGUF file's header), or nothing for the model that comes with edgelm. Weights are not needed. The figures come from
    a model of time whose
    constants stand in the target's file: see docs/notes/estimate.md.

    \b
    Examples:
      edgelm estimate HuggingFaceTB/SmolLM2-135M-Instruct --target rpi4
      edgelm estimate path/to/checkpoint --target rpi5 --quant int8 --context 2048
      edgelm estimate bundles/edgelm-home-rpi5-int4 --json
    """
    from edgelm.forecast.estimate import of_bundle

    bundle = None if model is None else _bundle(model)
    if model is not None and bundle is not None:
        given = {"--quant": quant, "--kv": kv, "--prefill": prefill, "--context": context}
        given |= {"--revision": revision, "--file": file, "--vocab": vocab}
        if fixed := next((name for name, value in given.items() if value is not None), None):
            raise OptionError(
                f"{fixed} is for a MODEL: {model} is a bundle, whose recipe and context are fixed",
                hint="estimate the checkpoint it was made from",
            )
        board = load_target(target) if target is not None else None
        found = of_bundle(Bundle.open(bundle, check=False), board, threads=threads)
    else:
        board = load_target(target or "rpi5")
        if target in AUTO and threads is None:
            threads = min(board.cpu.threads, recommended_threads(board.cpu.threads, read_cpu()))
        board.recipe(quant)
        load_export()
        from edgelm.exporter.plan.estimate import HubOptions, of_model
        from edgelm.exporter.recipe import Choices

        found = of_model(
            model,
            board,
            quant,
            context=context,
            threads=threads,
            vocab=vocab,
            hub=HubOptions(revision, file),
            choices=Choices(kv, prefill),
        )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    else:
        print_lines(_lines(found))


def _bundle(model: str) -> Path | None:
    """The bundle that is meant: a folder, or one of the store; None for a model."""
    if (Path(model) / MANIFEST).exists():
        return Path(model)
    return None if model_named(model) is not None else stored_bundle(model)


def _lines(found: Estimate) -> Iterator[str]:
    expected = found.forecast
    threads = f"{expected.threads} thread{'s' if expected.threads > 1 else ''}"
    yield f"{found.model} as {found.quant} on {found.target}, {threads}, context of {found.context:,} tokens"
    yield ""
    rows = [("", "tok/s", "ms/step", "bound by"), _row(f"prefill of {expected.prompt}", expected.prefill)]
    rows += [_row(f"decode after {speed.depth:,}", speed) for speed in expected.decode]
    yield from table(rows, left=(0, 3), indent="  ")
    yield ""
    first, load = _time(expected.ttft_seconds, expected.ttft_range), _time(expected.load_seconds, expected.load_range)
    yield fact("first token", f"{first} after a prompt of {expected.prompt} tokens")
    yield fact("answers", _pace(expected))
    yield fact("load", f"{load} the first time, from its storage")
    yield fact("bundle", size(found.bundle_bytes))
    memory = found.memory
    yield fact("memory", f"{size(memory['total_bytes'])} with the context full, {size(found.usable_bytes)} usable")
    yield fact("fits", "yes" if found.misfit is None else f"no: {found.misfit[0]}")
    if found.misfit is not None:
        yield fact("", found.misfit[1])
    if expected.error_percent:
        told = ", ".join(f"{name} {value:.0f} %" for name, value in expected.error_percent.items())
        yield fact("error", f"of forecasts measured on this board, at most: {told}")
    for note in expected.notes:
        yield fact("note", note)


def _pace(expected: Forecast) -> str:
    """What the speed of answers means to who waits for them, at its slow end."""
    speed = expected.decode[0]
    slowest = speed.tokens_per_second if speed.range is None else speed.range[0]
    if slowest >= _READING:
        return "come faster than one reads"
    if slowest >= _SPEAKING:
        return "come about as fast as one reads or speaks"
    return f"come slower than one reads, about {60 / slowest:.0f} seconds for 60 tokens: for what can wait"


def _row(name: str, speed: Speed) -> tuple[str, ...]:
    bound = {"overhead": "overhead of the graph's nodes"}.get(speed.step.bound, speed.step.bound)
    if speed.range is None:
        return name, _figure(speed.tokens_per_second), _figure(1e3 * speed.step.seconds), bound
    low, high = speed.range
    tokens = 1e3 * speed.step.seconds * speed.tokens_per_second  # of the step, in thousandths
    return name, f"{_figure(low)}–{_figure(high)}", f"{_figure(tokens / high)}–{_figure(tokens / low)}", bound


def _time(seconds: float, span: tuple[float, float] | None) -> str:
    return _seconds(seconds) if span is None else f"{_seconds(span[0])} to {_seconds(span[1])}"


def _figure(value: float) -> str:
    """Three figures are more than a forecast knows."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{1e3 * value:.0f} ms"
