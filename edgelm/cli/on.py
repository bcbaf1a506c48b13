"""``--on``: the same command on a board. Commands of this class have it, and know which of their paths are read there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edgelm.cli.failures import say
from edgelm.cli.sections import BOARDS, Sectioned, entitle
from edgelm.errors import BundleError, OptionError, RemoteError

_OWN = ("on", "keep", "offline_wheels")


def place_options() -> list[click.Option]:
    """The options of a command that runs on boards."""
    return [
        click.Option(["--on"], metavar="PLACE", help="Run on a board: ssh:USER@HOST, adb:SERIAL or emulate:TARGET."),
        click.Option(["--keep"], is_flag=True, help="With --on: leave the bundle there for the next time."),
        click.Option(
            ["--offline-wheels"],
            type=click.Path(path_type=Path, file_okay=False, exists=True),
            metavar="FOLDER",
            help="With --on: take the board's wheels from FOLDER, not from the network.",
        ),
    ]


class BoardCommand(Sectioned):
    """A command with --on.

    Args:
        reads: parameters whose paths it reads; they are sent.
        writes: parameters whose paths it writes; they come home.
        refuses: parameters that have no meaning on another machine.
    """

    def __init__(
        self,
        *args: Any,
        reads: Sequence[str] = (),
        writes: Sequence[str] = (),
        refuses: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.reads, self.writes, self.refuses = reads, writes, refuses
        boards = place_options()
        entitle(BOARDS, boards)
        self.params += boards

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments as they were given."""
        ctx.meta["edgelm.args"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run here, or there."""
        place, keep, wheels = (ctx.params.pop(name) for name in _OWN)
        if place is None:
            if keep or wheels is not None:
                raise click.UsageError("--keep and --offline-wheels are for --on", ctx)
            return super().invoke(ctx)
        for name in self.refuses:
            if ctx.params.get(name):
                raise OptionError(f"--{name.replace('_', '-')} does not go with --on")
        return ctx.exit(self._there(ctx, place, keep, wheels))

    def _there(self, ctx: click.Context, place: str, keep: bool, wheels: Path | None) -> int:
        from edgelm.cli.show import Bar
        from edgelm.remote.command import Command, Hooks, run_on
        from edgelm.remote.place import parse

        parse(place)  # before anything is read
        args = _without(ctx.meta["edgelm.args"], flags=("--keep",), options=("--on", "--offline-wheels"))
        inputs = {
            path: local for name in self.reads for path in _paths(ctx.params.get(name)) if (local := _local(name, path))
        }
        outputs = [path for name in self.writes for path in _paths(ctx.params.get(name))]
        with tempfile.TemporaryDirectory(prefix="edgelm-on-") as folder, Bar() as bar:
            if self.name == "run" and (typed := _standard_input(ctx.params)):
                prompt = Path(folder) / "standard-input.txt"
                prompt.write_text(f"{typed}\n", encoding="utf-8")
                args += ["--prompt-file", str(prompt)]
                inputs[prompt] = prompt
            report = Path(folder) / "report.json"
            if reports := self.name == "bench" or (self.name == "tune" and not _asks(ctx.params)):
                args += ["--report", str(report)]
                outputs.append(report)
            command = Command([str(self.name), *args], inputs, outputs, wheels, keep)
            hooks = Hooks(lambda text: say("note", text), bar.start, bar.advance)
            code = run_on(place, command, hooks)
            if code == 0 and reports:
                kept = _keep if self.name == "bench" else _keep_profile
                kept(report, inputs[Path(ctx.params["bundle"])], place)
        return code


def _keep(report: Path, bundle: Path, place: str) -> None:
    """What was measured there is kept here."""
    from edgelm.bundle.json_table import read_json
    from edgelm.bundle.reader import Bundle
    from edgelm.results.store import keep

    facts = read_json(report, error=RemoteError)
    keep(facts, Bundle.open(bundle, check=False).manifest.to_dict(), place, lambda text: say("warning", text))


def _keep_profile(report: Path, bundle: Path, place: str) -> None:
    """A board's profile stays there, where it is of use; a copy is kept here, too, to be looked at."""
    from edgelm.bundle.json_table import read_json
    from edgelm.profile.profile import Profile
    from edgelm.profile.store import Profiles, default_folder

    if (folder := default_folder()) is not None:
        path = Profiles(folder).save(Profile.read(read_json(report), report))
        say("note", f"{place} has its profile for {bundle.name}; a copy is here: {path}")


def _asks(params: dict[str, Any]) -> bool:
    """Whether a command only shows or forgets."""
    return bool(params.get("show") or params.get("forget"))


def _standard_input(params: dict[str, Any]) -> str:
    """What standard input has of the prompt, which the board cannot read: all of it, or what is piped behind PROMPT."""
    from edgelm.cli.run import read_prompt

    text, prompt, files = (params.get(name) for name in ("text", "prompt", "prompt_file"))
    if "-" in (text, prompt):
        raise OptionError("a prompt of - does not go with --on", hint="leave it out: standard input is the default")
    if prompt is not None or (text is None and files):
        return ""
    return read_prompt("" if text is not None else None, None, ()).removeprefix("\n\n")


def _local(parameter: str, path: Path) -> Path | None:
    """The path here of what a parameter names; None for a name that the board knows, such as a task's."""
    if path.exists():
        return path
    if parameter not in ("bundle", "draft"):
        return None
    from edgelm.cli.bundles import stored_bundle

    if (found := stored_bundle(str(path))) is None:
        raise BundleError(
            f"no bundle {path} here to send", hint="export it for the board: edgelm export MODEL --target NAME"
        )
    return found


def _paths(value: Any) -> list[Path]:
    """The paths of a parameter, which may be given several times or not at all."""
    values = value if isinstance(value, tuple | list) else [value]
    return [
        path if isinstance(path, Path) else Path(path) for path in values if isinstance(path, Path | str) and str(path)
    ]


def _without(args: Sequence[str], *, flags: Sequence[str], options: Sequence[str]) -> list[str]:
    """The arguments without some flags, and some options with their values."""
    found, skip = list[str](), False
    for arg in args:
        if skip:
            skip = False
        elif arg in options:
            skip = True
        elif arg not in flags and not arg.startswith(tuple(f"{option}=" for option in options)):
            found.append(arg)
    return found
