"""How the commands show things: sizes, tables, lines of facts, and a progress bar on terminals."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import click

from edgelm.cli.failures import say
from edgelm.errors import OptionError
from edgelm.exporter.progress import Progress
from edgelm.files import replacing

_BAR = 24  # characters of a bar
_EVERY = 0.1  # seconds between two drawings
_LINES = 5.0  # seconds between two lines of progress, for a program that shows them
_PATIENCE = 20.0  # seconds of a stage without a terminal, after which a line says how far it is
_SELDOM = 60.0  # seconds between two such lines
_TELLING = 10.0  # seconds of a stage after which the time left is told
_LABEL = 13  # columns of a label in `fact`


def size(count: float) -> str:
    """Bytes in a decimal unit: ``12.3 MB``."""
    return _scaled(count, "B", "kB", "MB", "GB", "TB")


def parameters(count: int) -> str:
    """A number of parameters: ``494 M``."""
    return _scaled(count, "", "k", "M", "B", "T")


def _scaled(count: float, *units: str) -> str:
    unit = 0
    while count >= 999.5 and unit < len(units) - 1:
        count, unit = count / 1000, unit + 1
    digits = 0 if unit == 0 or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {units[unit]}".rstrip()


def fact(label: str, text: str) -> str:
    """A line of a list of facts."""
    return f"  {label:<{_LABEL}}{text}"


def width() -> int | None:
    """Columns of the terminal that stdout is; None where it is none, and COLUMNS does not say."""
    if os.environ.get("COLUMNS", "").isdecimal() or (sys.stdout is not None and sys.stdout.isatty()):
        return max(20, shutil.get_terminal_size().columns)
    return None


def wrap(text: str, columns: int, first: str = "", indent: str = "") -> list[str]:
    """Lines of at most `columns` columns, but for words that are longer; `first` begins them, `indent` those that follow."""
    import textwrap  # it takes milliseconds

    return textwrap.wrap(
        text, columns, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def table(
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    keep: Collection[int] = (0,),
    drop: Sequence[int] = (),
    indent: str = "",
) -> list[str]:
    """Lines with aligned columns, the first row being the head; the columns `left` are text, the others numbers.

    Where the terminal is too narrow, the columns `drop` are left out, one after the other; then text is shortened, but that
    of the columns `keep`; where that is not enough, each row becomes a paragraph of its own, a line a column.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if (columns := width()) is not None:
        if drop and len(indent) + sum(widths) + 2 * (len(widths) - 1) > columns:
            gone, *others = drop
            without = [[cell for i, cell in enumerate(row) if i != gone] for row in rows]
            left, keep, others = ([i - (i > gone) for i in some if i != gone] for some in (left, keep, others))
            return table(without, left=left, keep=keep, drop=others, indent=indent)
        room = columns - len(indent) - 2 * (len(widths) - 1)
        widths = _shortened(widths, room, [i for i in left if i not in keep], rows[0])
        if sum(widths) > room and len(rows) > 1:
            return _paragraphs(rows, indent)
    lines = (
        "  ".join(
            _cut(cell, w).ljust(w) if i in left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return [(indent + line).rstrip() for line in lines]


def _shortened(widths: Sequence[int], room: int, columns: Sequence[int], head: Sequence[str]) -> list[int]:
    """Widths of which the widest of `columns` are taken back until all fit, down to their heads and 10 characters."""
    found = list(widths)
    least = {i: max(10, len(head[i])) for i in columns}
    while sum(found) > room and (long := [i for i in columns if found[i] > least[i]]):
        found[max(long, key=lambda i: found[i])] -= 1
    return found


def _cut(cell: str, columns: int) -> str:
    return cell if len(cell) <= columns else cell[: columns - 1] + "…"


def _paragraphs(rows: Sequence[Sequence[str]], indent: str) -> list[str]:
    """Every row as its first cell, and a line for each of the others."""
    head, *body = rows
    label = max(map(len, head[1:]))
    lines = []
    for row in body:
        lines.append(f"{indent}{row[0]}".rstrip())
        lines += [f"{indent}  {name:<{label}}  {cell}".rstrip() for name, cell in zip(head[1:], row[1:], strict=True)]
    return lines


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of text."""
    for line in lines:
        click.echo(line)


def check_svg(path: Path, how: str = "--plot") -> None:
    """OptionError where no picture can be written to `path`, before any work is done; `how` it was asked for."""
    if path.suffix.lower() != ".svg":
        drawn = path.with_suffix(".svg") if path.name else "FILE.svg"
        raise OptionError(f"{how} draws SVG, not {path.suffix or path}", hint=f"{how} {drawn}")
    if not path.absolute().parent.is_dir():
        raise OptionError(f"cannot write {path}: {path.absolute().parent} is not a folder")


def write_svg(path: Path, svg: str) -> None:
    """Write a picture, aside and renamed; a warning where that fails, as the figures are there all the same."""
    try:
        with replacing(path.absolute(), 0o644) as file:
            file.write(svg.encode("utf-8"))
    except OSError as error:
        say("warning", f"cannot write {path}: {error.strerror or error}")


class Bar(Progress):
    """A line on stderr that tells how far a stage is; where stderr is no terminal, a line now and then of a stage that
    takes long; nothing at all if `silent`.

    Use it as a context manager: the line is gone when the block is left, whichever way.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._on = self.visible = not silent and sys.stderr is not None and sys.stderr.isatty()
        # A command that runs on a board for one elsewhere tells its progress in lines now and then.
        self._lines = not silent and not self._on and sys.stderr is not None
        self._often = os.environ.get("EDGELM_PROGRESS") == "lines"
        self._what, self._total, self._done, self._drawn = "", 0, 0, 0.0
        self._began = self._next = 0.0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def start(self, what: str, total: int) -> None:
        """Begin a stage."""
        self._what, self._total, self._done, self._drawn = what, total, 0, 0.0
        self._began = time.monotonic()
        self._next = self._began + (0.0 if self._often else _PATIENCE)
        self._draw("")

    def advance(self, units: int, detail: str = "") -> None:
        """Some units are done."""
        self._done += units
        self._draw(detail)

    def finish(self) -> None:
        """Take the line away."""
        if self._on and self._drawn:
            click.echo("\r\x1b[K", nl=False, err=True)
        self._drawn = 0.0

    def say(self, line: str) -> None:
        """A line that stays."""
        self.finish()
        say("note", line)

    def _draw(self, detail: str) -> None:
        now = time.monotonic()
        share = min(1.0, self._done / self._total) if self._total > 0 else 0.0
        if self._lines and now >= self._next:
            self._next = now + (_LINES if self._often else _SELDOM)
            told = detail if self._often else _left(now - self._began, share)
            click.echo(f"{self._what}: {share:.0%} {told}".rstrip(), err=True)
        if not self._on or now - self._drawn < _EVERY:
            return
        self._drawn = now
        filled = int(share * _BAR)
        told = "  ".join(filter(None, (_left(now - self._began, share), detail)))
        line = f"{self._what}  [{'#' * filled}{'-' * (_BAR - filled)}] {share:4.0%}  {told}".rstrip()
        columns = shutil.get_terminal_size().columns
        click.echo(f"\r\x1b[K{line[: columns - 1]}", nl=False, err=True)


def _left(seconds: float, share: float) -> str:
    """How long a stage will take yet, that has taken `seconds` for its `share`; nothing where that is little, or not known."""
    if seconds < _TELLING or not 0.01 <= share < 1.0:
        return ""
    left = seconds / share - seconds
    return f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"
