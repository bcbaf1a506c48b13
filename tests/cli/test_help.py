"""``--help`` of every command, as it is committed in tests/cli/help: a changed option or word shows in the diff.

``EDGELM_UPDATE_HELP=1 python -m pytest tests/cli/test_help.py`` writes the files anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgelm.cli.group import edgelm

HELP = Path(__file__).parent / "help"
WIDTH = 80  # columns, whatever the terminal has


def _helps(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """(Name, help) of a command and of those below it."""
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, parent=parent, info_name=name.split()[-1], **settings)
    yield name, re.sub(r"[ \t]+$", "", command.get_help(context), flags=re.MULTILINE) + "\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _helps(found, f"{name} {child}", context)


HELPS = dict(_helps(edgelm, "edgelm"))


@pytest.mark.parametrize("name", HELPS)
def test_the_help_is_what_is_committed(name: str) -> None:
    path = HELP / f"{name.replace(' ', '-')}.txt"
    if os.environ.get("EDGELM_UPDATE_HELP"):
        HELP.mkdir(exist_ok=True)
        path.write_text(HELPS[name], encoding="utf-8")
    assert path.is_file(), f"{path.name} is missing: EDGELM_UPDATE_HELP=1 writes it"
    assert HELPS[name] == path.read_text(encoding="utf-8"), "as meant? EDGELM_UPDATE_HELP=1 writes the file anew"


@pytest.mark.parametrize("name", HELPS)
def test_the_help_fits_a_terminal(name: str) -> None:
    assert [line for line in HELPS[name].splitlines() if len(line) > WIDTH] == []


def test_no_file_is_left_of_a_command_that_is_gone() -> None:
    assert {path.stem for path in HELP.glob("*.txt")} == {name.replace(" ", "-") for name in HELPS}
