"""``--help`` in sections: options that belong together stand together, under a title."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

BOARDS = "On a board"
_REST = "Other options"
_TITLES: dict[int, str] = {}  # id of an option, which lives as long as its command, → its section


def section(title: str, *options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Adds options in this order, as one section of the help of a `Sectioned` command."""

    def add(function: F) -> F:
        for option in reversed(options):
            before = len(getattr(function, "__click_params__", ()))
            function = option(function)
            for parameter in getattr(function, "__click_params__", ())[before:]:
                _TITLES[id(parameter)] = title
        return function

    return add


def entitle(title: str, options: Sequence[click.Option]) -> None:
    """Puts options that are no decorators under a title."""
    _TITLES.update({id(option): title for option in options})


class Sectioned(click.Command):
    """A command whose options are shown by section; those of none come last, but before those of boards alone."""

    def sections(self, ctx: click.Context) -> list[tuple[str, list[tuple[str, str]]]]:
        """(Title, records of help) in the order of the sections' first options."""
        found: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument):
                found.setdefault(_TITLES.get(id(parameter), _REST), []).append(record)
        rest = found.pop(_REST, [])
        if rest and set(found) == {BOARDS}:  # what all commands of boards have comes behind what is the command's own
            return [("Options", rest), *found.items()]
        return [*found.items(), *([(_REST if found else "Options", rest)] if rest else [])]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        for title, records in self.sections(ctx):
            with formatter.section(title):
                formatter.write_dl(records)
