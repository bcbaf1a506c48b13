"""``edgelm bench``: measure a bundle's speed and memory on this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelm.cli.bundles import find_bundle
from edgelm.cli.failures import say
from edgelm.cli.loading import packing, warn_of_threads
from edgelm.cli.on import BoardCommand
from edgelm.cli.options import (
    adapter_option,
    bundle_argument,
    draft_option,
    prefill_threads_option,
    profile_option,
    threads_option,
    weight_cache_option,
)
from edgelm.cli.sections import section
from edgelm.cli.show import Bar, check_svg, width, write_svg
from edgelm.files import replacing

if TYPE_CHECKING:
    from edgelm.bench.report import BenchOptions, Report
    from edgelm.bundle.reader import Bundle
    from edgelm.runtime.ort.options import LoadOptions


# How click reads options of llama-bench's that are no options here: -pg, -ngl.
_HABITS = {
    "g": "there is no -pg: -p and -n measure prompt and generation, each by itself, and -d N generates behind N tokens",
    "gl": "there is no -ngl: the target that a bundle was exported for says what runs it",
}


def counts(value: str) -> list[int]:
    """Whole numbers separated by commas, as an option's type."""
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        if (habit := _HABITS.get(value.partition(",")[0].rstrip("0123456789"))) is not None:
            raise click.BadParameter(habit) from None
        raise click.BadParameter(f"{value!r} is no list of whole numbers such as 128,512") from None


@click.command(
    "bench", cls=BoardCommand, reads=("bundle", "draft", "adapter"), writes=("plot",), refuses=("power_meter",)
)
@bundle_argument
@section(
    "What to measure",
    click.option(
        "-p",
        "--n-prompt",
        type=counts,
        metavar="N[,N…]",
        help="Tokens of a prompt, 0 for no such test.  [default: 512 or what fits]",
    ),
    click.option(
        "-n",
        "--n-gen",
        type=counts,
        metavar="N[,N…]",
        help="Tokens to decode, 0 for no such test.  [default: 128 or what fits]",
    ),
    click.option(
        "-d",
        "--n-depth",
        type=counts,
        metavar="N[,N…]",
        default="0",
        show_default=True,
        help="Tokens in the cache beforehand.",
    ),
    click.option(
        "-r", "--repetitions", type=int, default=5, show_default=True, metavar="N", help="Timed runs of each test."
    ),
    click.option(
        "--sustained", metavar="TIME", help="Compute for TIME (90s, 10m, 1h), and tell speed and heat by the minute."
    ),
    draft_option,
    adapter_option,
    click.option("--seed", type=int, default=0, show_default=True, help="Of the random token ids."),
)
@section(
    "Heat and energy",
    click.option(
        "--sensors/--no-sensors",
        default=True,
        help="Read heat, clocks, throttling and power meanwhile.  [default: yes]",
    ),
    click.option(
        "--power-meter", metavar="COMMAND", help="A program that prints watts, in place of the machine's own sensor."
    ),
)
@section(
    "Memory and speed",
    threads_option,
    prefill_threads_option,
    weight_cache_option,
    profile_option,
)
@section(
    "Output",
    click.option(
        "-o",
        "--output",
        type=click.Choice(["md", "json", "csv", "jsonl"]),
        default="md",
        show_default=True,
        help="Form of the report.",
    ),
    click.option("--json", "as_json", is_flag=True, help="The same as -o json."),
    click.option(
        "--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw what --sustained measured over time."
    ),
)
@click.option("--report", type=click.Path(path_type=Path), hidden=True, help="Also write the JSON report to a file.")
def command(
    bundle: str,
    n_prompt: list[int] | None,
    n_gen: list[int] | None,
    n_depth: list[int],
    repetitions: int,
    draft: Path | None,
    adapter: Path | None,
    threads: int | None,
    prefill_threads: int | None,
    weight_cache: bool,
    profile: bool,
    output: str,
    as_json: bool,
    sustained: str | None,
    plot: Path | None,
    report: Path | None,
    seed: int,
    sensors: bool,
    power_meter: str | None,
) -> None:
    """Measure a bundle's speed and memory on this machine, by llama-bench's definitions.

    pp512 is a prompt of 512 tokens, read as any prompt is, tg128 are 128 tokens decoded one by one; t/s are tokens per second,
    mean and standard deviation. TTFT is the time to the first token, GB/s the rate at which decode read the weights.

    Joules a token are those of the sensor that the machine has, idle power taken off; what it cannot tell is a dash.

    What was measured is kept: see edgelm results.

    With --sustained prompt and generation follow each other without a pause, once the board is cool: the first minute
    against the last.

    With --draft a text is decoded, too, with the draft bundle and without.

    \b
    Examples:
      edgelm bench bundles/edgelm-home-rpi5-int4
      edgelm bench my-bundle -p 128,512 -n 64 -d 0,1024 -r 3 -o json
      edgelm bench my-bundle --sustained 10m --plot heat.svg
      edgelm bench my-bundle --on ssh:pi@raspberrypi
      edgelm bench my-bundle --power-meter ./watts-of-the-plug.sh
    """
    from edgelm.bench.energy import Meters
    from edgelm.bench.report import BenchOptions
    from edgelm.bundle.reader import Bundle
    from edgelm.profile.store import profile_for
    from edgelm.runtime.ort.options import LoadOptions

    if seed < 0:
        raise click.BadParameter("must not be negative", param_hint="--seed")
    if power_meter is not None and not sensors:
        raise click.UsageError("--power-meter and --no-sensors exclude each other")
    seconds = _sustained(sustained, plot, draft, n_depth)
    warn_of_threads(threads, prefill_threads)
    opened, small = Bundle.open(find_bundle(bundle)), None if draft is None else Bundle.open(find_bundle(draft))
    options = BenchOptions(
        prompts=n_prompt,
        generations=n_gen,
        depths=n_depth,
        repetitions=repetitions,
        seed=seed,
        draft=small,
        adapter=adapter,
        meters=Meters(power_meter) if sensors else None,
        sustained=seconds,
        profile=profile_for(opened.manifest) if profile else None,
    )
    found = _measured(opened, options, LoadOptions(threads, prefill_threads, weight_cache=weight_cache))
    _told(found, opened, "json" if as_json else output, plot, report)


def _measured(bundle: Bundle, options: BenchOptions, loading: LoadOptions) -> Report:
    """The benchmark, with a line on stderr that tells how far it is."""
    from edgelm.bench.report import benchmark

    with Bar() as bar:
        before = 0

        def step(done: int, total: int, name: str) -> None:
            nonlocal before
            if done == 0:
                bar.start("bench", total)
            bar.advance(done - before, name)
            before = done

        return benchmark(bundle, options, replace(loading, on_bytes=packing(bar)), on_step=step)


def _told(found: Report, bundle: Bundle, output: str, plot: Path | None, report: Path | None) -> None:
    """Draw, keep and print what was found."""
    from edgelm.bench.report import render
    from edgelm.bench.sustained import picture
    from edgelm.results.store import keep

    if plot is not None and found.sustained is not None:
        write_svg(plot, picture(found.sustained, f"{found.model} {found.quant} on {found.cpu or 'this machine'}"))
    if report is not None:
        with replacing(report.absolute(), 0o644) as file:
            file.write(json.dumps(found.to_dict()).encode())
    keep(found.to_dict(), bundle.manifest.to_dict(), "here", partial(say, "warning"))
    click.echo(render(found, output, width()))
    for note in found.notes:
        say("note", note)


def _sustained(text: str | None, plot: Path | None, draft: Path | None, depths: list[int]) -> float | None:
    """The seconds of --sustained, and whether it goes with the other options."""
    from edgelm.bench.sustained import duration

    if text is None:
        if plot is not None:
            raise click.UsageError("--plot draws what --sustained measures: give --sustained 10m")
        return None
    if draft is not None or any(depths):
        raise click.UsageError("--sustained goes with neither --draft nor -d")
    if plot is not None:
        check_svg(plot)
    return duration(text)
