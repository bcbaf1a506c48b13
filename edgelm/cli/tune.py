"""``edgelm tune``: find how a bundle runs best on this machine, and keep it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelm.cli.bundles import find_bundle
from edgelm.cli.failures import say
from edgelm.cli.on import BoardCommand
from edgelm.cli.options import json_option, weight_cache_option
from edgelm.cli.show import Bar, print_lines, table
from edgelm.files import replacing

if TYPE_CHECKING:
    from edgelm.profile.profile import Gain, Profile
    from edgelm.tuning.rig import Reading
    from edgelm.tuning.search import Hooks, Tried
    from edgelm.tuning.tune import Tuning


@click.command("tune", cls=BoardCommand, reads=("bundle",), writes=("output",), refuses=("power_meter",))
@click.argument("bundle", required=False)
@click.option(
    "--for",
    "goal",
    type=click.Choice(["speed", "energy", "sustained"]),
    default="speed",
    show_default=True,
    help="What is wanted: tokens a second; joules a token; tokens a second once it is hot.",
)
@click.option(
    "--time", "time", metavar="TIME", help="About how long it may take (90s, 10m).  [default: up to 5m, else 15m]"
)
@click.option(
    "--power-meter", metavar="COMMAND", help="A program that prints watts, in place of the machine's own sensor."
)
@weight_cache_option
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Also write the profile here.")
@click.option("--show", is_flag=True, help="Show the profile of BUNDLE, or all, and measure nothing.")
@click.option("--forget", is_flag=True, help="Remove the profile of BUNDLE.")
@click.option("--report", type=click.Path(path_type=Path), hidden=True, help="Also write the profile to a file.")
@json_option
def command(
    bundle: str | None,
    goal: str,
    time: str | None,
    power_meter: str | None,
    weight_cache: bool,
    output: Path | None,
    show: bool,
    forget: bool,
    report: Path | None,
    as_json: bool,
) -> None:
    """Find how a bundle runs best on this machine, and keep it as a device profile.

    Measures, in turn and again and again, threads for decode and for prefill, the cores they run on, spinning, and how many
    tokens of a prompt a pass reads, until what is left differs by no more than chance. run, chat, serve, bench and
    edgelm.load() take the profile by themselves; what is given to them wins, and --no-profile does without.

    A profile belongs to the machine and to the shape of the model, so that fine-tunes share it. Nothing else should run
    meanwhile.

    \b
    Examples:
      edgelm tune my-bundle
      edgelm tune my-bundle --for sustained
      edgelm tune my-bundle --for energy --power-meter ./watts-of-the-plug.sh
      edgelm tune my-bundle --on ssh:pi@raspberrypi
      edgelm tune --show
    """
    if show and forget:
        raise click.UsageError("--show and --forget exclude each other")
    if show:
        _show(bundle, as_json=as_json)
        return
    if bundle is None:
        raise click.UsageError("tune wants a BUNDLE")
    if forget:
        _forget(bundle)
        return
    from edgelm.bench.sustained import duration
    from edgelm.tuning.tune import tune

    path, seconds = find_bundle(bundle), None if time is None else duration(time)
    with Bar() as bar:
        options = {"power_meter": power_meter, "weight_cache": weight_cache, "hooks": _hooks(bar, silent=as_json)}
        found = tune(path, goal, seconds=seconds, **options)  # type: ignore[arg-type]
    for file in filter(None, (output, report)):
        with replacing(file.absolute(), 0o644) as out:
            out.write((json.dumps(found.profile.to_dict(), indent=2) + "\n").encode())
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        print_lines(_told(found))
    for line in (*found.notes, *found.advice):
        say("note", line)


def _hooks(bar: Bar, *, silent: bool) -> Hooks:
    """What is shown meanwhile: a bar, and a line for each stage that has ended."""
    from edgelm.tuning.search import Hooks

    def turn(what: str, reading: Reading) -> None:
        bar.advance(1, f"{what}: {reading.rate:.1f} t/s")

    def end(tried: Sequence[Tried]) -> None:
        bar.finish()
        if not silent:
            shown = "; ".join(f"{each.what}: {each.rate:.1f}" for each in tried)
            say("note", f"{tried[0].phase}, {tried[0].stage}: {shown} t/s")

    return Hooks(bar.start, turn, end)


def _told(found: Tuning) -> list[str]:
    """All that was tried, a stage after the other, and what came of it."""
    energy, heat = (any(getattr(t, name) is not None for t in found.tried) for name in ("joules", "celsius"))
    rows = [
        ["stage", "settings", "t/s", "±", *(["J/token"] if energy else []), *(["°C"] if heat else []), "of best", ""]
    ]
    before = ""
    for each in found.tried:
        stage = f"{each.phase}, {each.stage}"
        rows.append(
            [
                "" if stage == before else stage,
                each.what,
                f"{each.rate:.2f}",
                "–" if each.spread is None else f"{each.spread:.1%}",
                *(["–" if each.joules is None else f"{each.joules:.4g}"] if energy else []),
                *(["–" if each.celsius is None else f"{each.celsius:.1f}"] if heat else []),
                f"{each.ratio.middle:.3f}",
                "" if each.left is None else f"out after {each.left}",
            ]
        )
        before = stage
    return [*table(rows, left=(0, 1, len(rows[0]) - 1), keep=(1,)), "", *_outcome(found.profile, found.path)]


def _outcome(profile: Profile, path: Path | None) -> list[str]:
    """What a profile says, a line a fact."""
    from edgelm.tuning.candidates import described

    lines = [
        f"{phase}: {described(profile.settings, phase)}: {_gained(profile, gain)}"
        for phase, gain in profile.gains.items()
    ]
    lines.append(f"profile {profile.id}, tuned for {profile.goal} in {profile.seconds:.0f} s, {profile.tried} settings")
    if path is not None:
        lines.append(f"in {path}; run, chat, serve and bench take it by themselves")
    return lines


def _gained(profile: Profile, gain: Gain) -> str:
    speed = f"{gain.rate:.2f} t/s" + ("" if gain.joules is None else f", {gain.joules:.4g} J/token")
    if gain.low is None or gain.high is None or (gain.ratio == gain.low == gain.high == 1):
        return f"{speed}; nothing is better beyond the spread"
    what = "tokens a joule" if profile.goal == "energy" else "as fast"
    return f"{speed}; {gain.ratio:.2f} times {what} as before ({gain.low:.2f} to {gain.high:.2f})"


def _show(bundle: str | None, *, as_json: bool) -> None:
    """The profile of a bundle, or all there are."""
    from edgelm.bundle.reader import Bundle
    from edgelm.errors import ProfileError
    from edgelm.machine.host import read_cpu
    from edgelm.profile.profile import machine_key
    from edgelm.profile.store import Profiles, folders, profile_for

    found: list[tuple[Path, Profile]] = []
    if bundle is not None:
        profile = profile_for(Bundle.open(find_bundle(bundle, make=False)).manifest)
        if profile is None:
            raise ProfileError("this machine has no profile for it", hint=f"to make one: edgelm tune {bundle}")
        found = [(Profiles(folder).path(profile.machine, profile.shape), profile) for folder in folders()]
        found = [(path, each) for path, each in found if path.is_file()][:1]
    else:
        for path, each in (entry for folder in folders() for entry in Profiles(folder).all()):
            if isinstance(each, ProfileError):
                say("warning", str(each))
            else:
                found.append((path, each))
    if as_json:
        click.echo(json.dumps([each.to_dict() | {"path": str(path)} for path, each in found], indent=2))
        return
    here = machine_key(read_cpu())
    for path, each in found:
        where = "this machine" if each.machine == here else f"another machine, {each.board or each.machine}"
        click.echo(f"{each.model} {each.quant} on {where}, {each.at}, onnxruntime {each.onnxruntime}")
        print_lines(f"  {line}" for line in _outcome(each, path))
    if not found:
        click.echo("no profiles: edgelm tune BUNDLE makes one")


def _forget(bundle: str) -> None:
    from edgelm.bundle.reader import Bundle
    from edgelm.errors import ProfileError
    from edgelm.machine.host import read_cpu
    from edgelm.profile.store import Profiles

    manifest = Bundle.open(find_bundle(bundle, make=False)).manifest
    path = Profiles.default().forget(manifest, read_cpu())
    if path is None:
        raise ProfileError("this machine has no profile for it", hint="see: edgelm tune --show")
    click.echo(f"removed {path}")
