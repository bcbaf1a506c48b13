"""``edgelm``: the table of commands. A command's module is imported when the command is used, not before."""

from __future__ import annotations

import os
from importlib import import_module

import click

from edgelm.version import __version__

_VERSION = "edgelm %(version)s"
_COMPLETE = "_EDGELM_COMPLETE"  # click's name for it
COMMANDS = {  # name -> what it does; the module has the same name and holds `command`
    "export": "Convert a checkpoint into a bundle for a target.",
    "run": "Generate text from a prompt.",
    "chat": "Talk with a model.",
    "embed": "Turn texts into vectors.",
    "serve": "Serve models to apps and browsers.",
    "models": "List small models by name, and what to expect of them.",
    "pull": "Fetch a model by name, and export it for this machine.",
    "list": "List the bundles that are here.",
    "rm": "Remove bundles that were exported by name.",
    "inspect": "Show what is in a bundle or a checkpoint.",
    "verify": "Check every byte of a bundle.",
    "targets": "List the boards a model can be exported for.",
    "families": "List the models that are exported natively.",
    "estimate": "Forecast a model's speed and memory on a board.",
    "bench": "Measure a bundle's speed and memory on this machine.",
    "tune": "Find how a bundle runs best on this machine, and keep it.",
    "results": "Show, compare and draw what bench has measured.",
    "fleet": "Measure bundles on many boards, by a plan.",
    "doctor": "Say what this machine is and whether it is ready.",
    "emulate": "Run edgelm on an emulated ARM core, without a board.",
    "eval": "Measure how good a bundle is: tasks, perplexity.",
    "sweep": "Measure many recipes of a model, and show the best.",
    "cache": "List, verify or clear the cache of prepacked weights.",
}

# The sections of the help; a command of none stands under the last.
SECTIONS = {
    "Run models": ("run", "chat", "embed", "serve"),
    "Models and bundles": ("models", "pull", "list", "rm", "export", "inspect", "verify", "families", "cache"),
    "Boards": ("doctor", "targets", "estimate", "emulate"),
    "Measure": ("bench", "tune", "results", "fleet", "eval", "sweep"),
    "More": (),
}


class Commands(click.Group):
    """A group that knows its commands by name, and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order in which one needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command called `name`, imported now; or None."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"edgelm.cli.{name}").command
        _add_version(command)
        if os.environ.get(_COMPLETE):
            from edgelm.cli.completion import add_completion

            add_completion(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but with a suggestion for a mistyped name."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            from edgelm.cli.suggestions import nearest_command

            ctx.fail(f"no command {args[0]!r}: {nearest_command(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table, from which `--help` is written without importing a command."""
        known = {name for names in SECTIONS.values() for name in names}
        columns = max(map(len, COMMANDS))
        for title, names in SECTIONS.items():
            chosen = [name for name in names if name in COMMANDS]
            if title == "More":
                chosen = [name for name in COMMANDS if name not in known]
            if chosen:
                with formatter.section(title):
                    # All sections in the same columns.
                    formatter.write_dl([(f"{name:<{columns}}", COMMANDS[name]) for name in chosen])


def _add_version(command: click.Command) -> None:
    """``--version`` works behind every command, where hands put it; its help does not show it."""
    if not any(parameter.name == "version" for parameter in command.params):
        click.version_option(__version__, message=_VERSION, hidden=True)(command)
    for child in command.commands.values() if isinstance(command, click.Group) else ():
        _add_version(child)


@click.command(
    "edgelm", cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message=_VERSION)
def edgelm() -> None:
    """Small language models on edge devices: export a checkpoint for a board, and run it there.

    \b
    Examples:
      edgelm run smollm2-135m "Why is the sky blue?"  a small model, here
      edgelm export --target rpi5                     the one that comes along
      edgelm export path/to/checkpoint --target rpi5  one of your own
      edgelm help export                              all options of a command
    """


def invoke(args: list[str]) -> int:
    """Parse and run a command line.

    Returns:
        the exit code a command chose. Errors are raised, click's own included.
    """
    if completion := os.environ.get(_COMPLETE):  # as click's own main does
        from click.shell_completion import shell_complete

        return shell_complete(edgelm, {}, "edgelm", _COMPLETE, completion)
    if args[:1] == ["help"]:
        args = [*args[1:], "--help"]
    elif args[:1] == ["version"]:
        args = ["--version", *args[1:]]
    try:
        # Not edgelm.main(): it would turn Ctrl-C and broken pipes into exit code 1.
        with edgelm.make_context("edgelm", args or ["--help"]) as ctx:
            edgelm.invoke(ctx)
    except click.exceptions.Exit as end:
        return end.exit_code
    return 0
