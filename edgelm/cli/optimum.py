"""``optimum-cli export edgelm``: the options of ``edgelm export`` as argparse has them, and back."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter

import click

_OWN = ("model", "output")  # as optimum-cli's other exports have them: -m MODEL OUTPUT
_LEFT_OUT = ("adapter_only", "base", "scheduler", "version", "help")  # an adapter's file is no export of a model
_ABOUT = """\
Examples:
  optimum-cli export edgelm -m HuggingFaceTB/SmolLM2-135M-Instruct --target rpi5 smollm2-rpi5
  optimum-cli export edgelm -m path/to/checkpoint --target rpi4 --quant int8 my-bundle

Targets: edgelm targets. All that can be done with a bundle: edgelm --help."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of ``edgelm export``, with the model as ``-m`` and the bundle's folder as an argument."""
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = _ABOUT
    parser.add_argument(
        "-m", "--model", required=True, help="A folder, a GGUF file, a hub id, or a name that `edgelm models` lists."
    )
    parser.add_argument("output", nargs="?", help="The bundle's folder.  [default: bundles/<model>-<target>-<quant>]")
    for option in _options():
        names, text = (*option.opts, *option.secondary_opts), (option.help or "").replace("%", "%%")
        if option.is_flag:
            parser.add_argument(*names, dest=option.name, action="store_true", help=text)
        else:
            kinds = option.type.choices if isinstance(option.type, click.Choice) else None
            action = "append" if option.multiple else "store"
            parser.add_argument(
                *names,
                dest=option.name,
                action=action,
                choices=kinds,
                metavar=None if kinds else option.metavar or option.name,
                required=option.name == "target",
                help=text,
            )


def arguments(given: Namespace) -> list[str]:
    """The command line of edgelm that says the same."""
    found = ["export", *([] if given.output is None else ["--output", given.output])]
    for option in _options():
        value, name = getattr(given, option.name or ""), option.opts[-1]
        if option.is_flag:
            found += [name] if value else []
        elif value is not None:
            for one in value if isinstance(value, list) else [value]:
                found += [f"{name}={one}"]
    return [*found, "--", given.model]


def export(given: Namespace) -> int:
    """Run ``edgelm export``; returns its exit code."""
    from edgelm.cli import main

    return main(arguments(given))


def _options() -> list[click.Option]:
    from edgelm.cli.export import command

    left_out = (*_OWN, *_LEFT_OUT)
    return [p for p in command.params if isinstance(p, click.Option) and p.name not in left_out]
