"""The table that is drawn again in its place, and the lines above it."""

from __future__ import annotations

import io
import sys
import time

import pytest

from edgelm.cli.live import Live
from edgelm.cli.scheduler import _Table

Word = pytest.importorskip("edgelm.cluster.workers").Word


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_lines_stay_above_the_table(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("edgelm.cli.live._EVERY", 0.01)
    live = Live()
    with live.showing(lambda room, now: ["board  state", "a      measuring"]):
        until = time.monotonic() + 10
        while "measuring" not in screen.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        live.say("a: a line\nthat stays")
    drawn = screen.getvalue()
    assert "\x1b[2F\x1b[Ja: a line that stays\nboard  state\na      measuring\n" in drawn
    assert drawn.endswith("\x1b[2F\x1b[J"), "nothing of the table is left"


def test_elsewhere_there_are_lines_alone(capsys):
    for silent in (False, True):
        live = Live(silent=silent)
        with live.showing(lambda room, now: ["never"]):
            live.say("a line")
    assert capsys.readouterr().err == "a line\n"


def test_workers_on_one_screen():
    table = _Table()
    assert table.lines(10, 0.0) == []
    table.hear(Word("tcp://one", ""))
    table.hear(Word("tcp://two", "int8", "measuring", 0.5))
    assert [line.split() for line in table.lines(10, 0.0)] == [
        ["worker", "task", "stage"],
        ["tcp://two", "int8", "measuring", "50%"],
        ["tcp://one", "idle"],
    ]
    assert len(table.lines(2, 0.0)) == 2
