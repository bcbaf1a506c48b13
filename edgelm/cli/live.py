"""A table that is drawn again in its place while others work; where there is no terminal, lines as things happen."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from edgelm.cli.show import table

if TYPE_CHECKING:
    from edgelm.fleet.progress import Standing

_EVERY = 0.25  # seconds between two drawings
_ORDER = ("measuring", "retrying", "connecting", "waiting", "gone", "failed", "done")
_HEAD = ("board", "state", "jobs", "failed", "for", "now")

Lines = Callable[[int, float], list[str]]
"""The table in as many lines as there is room for, at a time of `time.monotonic`."""


class Live:
    """What is shown on stderr meanwhile; nothing at all if `silent`."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._drawing = not silent and sys.stderr is not None and sys.stderr.isatty()
        self._height, self._lock = 0, threading.Lock()
        self._shown: list[str] = []

    def say(self, line: str) -> None:
        """A line that stays, above the table."""
        if not self._silent:
            with self._lock:
                self._clear()
                click.echo(" ".join(line.split()), err=True)
                self._draw()

    @contextmanager
    def showing(self, lines: Lines) -> Iterator[None]:
        """Draw while the block runs."""
        if not self._drawing:
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._loop, args=(lines, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with self._lock:
                self._clear()
                self._shown = []

    def _loop(self, lines: Lines, ended: threading.Event) -> None:
        while not ended.wait(_EVERY):
            columns, rows = shutil.get_terminal_size()
            found = [line[: columns - 1] for line in lines(rows - 2, time.monotonic())]
            with self._lock:
                self._clear()
                self._shown = found
                self._draw()

    def _clear(self) -> None:
        if self._height:
            click.echo(f"\x1b[{self._height}F\x1b[J", nl=False, err=True)
            self._height = 0

    def _draw(self) -> None:
        if self._shown:
            click.echo("\n".join(self._shown), err=True)
            self._height = len(self._shown)


def board_lines(standings: Sequence[Standing], room: int, now: float) -> list[str]:
    """A fleet; where there is too little room, active boards come first, and the others are counted."""
    shown = list(standings)
    if len(shown) + 1 > room:
        shown = sorted(shown, key=lambda one: _ORDER.index(one.state))[: max(1, room - 2)]
    cells = [_HEAD, *(_row(one, now) for one in shown)]
    lines = table(cells, left=(0, 1, 5), keep=(0, 1, 5))
    if more := len(standings) - len(shown):
        done = sum(one.done for one in standings)
        lines.append(f"and {more} more; {done} of {sum(one.total for one in standings)} jobs are done")
    return lines


def _row(one: Standing, now: float) -> tuple[str, ...]:
    resting = one.state in ("done", "failed", "gone", "waiting")
    seconds = "" if resting else f"{now - one.since:.0f} s"
    said = f"{one.job}: {one.detail}" if one.job and one.detail else one.job or one.detail
    return one.board, one.state, f"{one.done}/{one.total}", str(one.failed or ""), seconds, said
