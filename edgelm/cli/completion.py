"""Completion by what a parameter is called: a target, a recipe, a bundle, a model, a board. Loaded when a shell asks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from edgelm.errors import EdgeLMError

Known = Callable[[click.Context], Iterable[str]]
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completion(*known: Known, paths: str = "") -> Complete:
    """Of words that are found now, and of `paths`, ``dir`` or ``file``, which the shell finds."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        words: list[str] = []
        for find in known:
            with contextlib.suppress(EdgeLMError, ImportError):
                words += [word for word in find(ctx) if word.startswith(incomplete)]
        found = [CompletionItem(word) for word in dict.fromkeys(words)]
        return [*found, *([CompletionItem(incomplete, type=paths)] if paths else [])]

    return complete


def _targets(ctx: click.Context) -> Iterable[str]:
    from edgelm.target.target import target_names

    return ["auto", *target_names()]


def _quants(ctx: click.Context) -> Iterable[str]:
    """The recipes of the target that was typed before, or of all targets."""
    from edgelm.target.target import load_all, load_target

    target = ctx.params.get("target")
    boards = load_all() if target is None else [load_target(target)]
    return sorted({quant for board in boards for quant in board.quants} | {"auto"})


def _recipes(ctx: click.Context) -> Iterable[str]:
    """Those of a sweep of the target that was typed before."""
    from edgelm.sweep.candidates import candidates
    from edgelm.target.target import load_target

    return [each.name for each in candidates(load_target(ctx.params.get("target") or "rpi5"))]


def _models(ctx: click.Context) -> Iterable[str]:
    from edgelm.catalogue.models import names

    return names()


def _stored(ctx: click.Context) -> Iterable[str]:
    from edgelm.catalogue.store import Store

    return [stored.name for stored in Store.of_user().bundles()]


def _here(ctx: click.Context) -> Iterable[str]:
    return [str(path.parent) for path in sorted(Path("bundles").glob("*/manifest.json"))]


def _places(ctx: click.Context) -> Iterable[str]:
    return ["ssh:", "adb:", *(f"emulate:{name}" for name in _targets(ctx) if name != "auto")]


_BUNDLE = _completion(_stored, _models, _here, paths="dir")
_MODEL = _completion(_models, paths="file")
_ANY = _completion(_stored, _models, _here, paths="file")
BY_NAME: Mapping[str, Complete] = {
    "target": _completion(_targets, paths="file"),
    "quant": _completion(_quants),
    "bundle": _BUNDLE,
    "bundles": _BUNDLE,
    "draft": _BUNDLE,
    "base": _BUNDLE,
    "against": _ANY,
    "path": _ANY,
    "model": _MODEL,
    "more": _MODEL,
    "on": _completion(_places),
    "task": _completion(lambda ctx: ["home"], paths="file"),
    "text": _completion(lambda ctx: ["builtin"], paths="file"),
}
OF_COMMAND: Mapping[tuple[str, str], Complete] = {  # where a name means something else
    ("targets", "name"): _completion(_targets, paths="file"),
    ("models", "name"): _completion(_models),
    ("pull", "name"): _completion(_models),
    ("rm", "names"): _completion(_stored),
    ("sweep", "names"): _completion(_recipes),
    ("estimate", "model"): _ANY,
    ("results", "calibrate"): _completion(_targets, paths="file"),
    ("run", "text"): _completion(),
}


def add_completion(command: click.Command) -> None:
    """Let the shell complete the values of a command's parameters, and of its subcommands'."""
    for parameter in command.params:
        name = parameter.name or ""
        found = OF_COMMAND.get((command.name or "", name)) or BY_NAME.get(name)
        if found is not None:
            parameter._custom_shell_complete = found
    for child in command.commands.values() if isinstance(command, click.Group) else ():
        add_completion(child)
