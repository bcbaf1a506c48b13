"""Sizes, tables and the progress bar."""

from __future__ import annotations

import io
import sys

import pytest

from edgelm.cli import show


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345, "12.3 kB"), (999_600, "1.00 MB"), (7.34e9, "7.34 GB")],
)
def test_size(count, said):
    assert show.size(count) == said


@pytest.mark.parametrize(("count", "said"), [(260_032, "260 k"), (134_515_008, "135 M"), (1_240_000_000, "1.24 B")])
def test_parameters(count, said):
    assert show.parameters(count) == said


def test_table():
    assert show.table([("name", "n"), ("a", "10"), ("longer", "5")]) == ["name     n", "a       10", "longer   5"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_drawn_on_a_terminal_and_taken_away(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(show, "_EVERY", 0.0)
    with show.Bar() as bar:
        bar.start("weights", 10)
        bar.advance(5, "layer 3")
        assert terminal.getvalue().endswith("\r\x1b[Kweights  [############------------]  50%  layer 3")
        bar.say("a line")
    assert terminal.getvalue().endswith("\r\x1b[Knote: a line\n")


def test_no_bar_elsewhere(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with show.Bar() as bar:
        bar.start("weights", 0)
        bar.advance(5, "layer 3")
    assert stream.getvalue() == ""


def test_without_a_terminal_a_long_stage_tells_now_and_then_how_far_it_is(monkeypatch):
    stream, now = io.StringIO(), [100.0]
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(show.time, "monotonic", lambda: now[0])
    with show.Bar() as bar:
        bar.start("calibrating", 100)
        for _ in range(10):
            now[0] += 10.0
            bar.advance(2, "a matrix")
    assert stream.getvalue() == "calibrating: 4% about 8 min left\ncalibrating: 16% about 7 min left\n"


def test_the_time_left_is_told_on_a_terminal_too(monkeypatch):
    terminal, now = Terminal(), [0.0]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(show.time, "monotonic", lambda: now[0])
    with show.Bar() as bar:
        bar.start("calibrating", 4)
        now[0] = 30.0
        bar.advance(1, "a matrix")
        assert terminal.getvalue().endswith("]  25%  about 2 min left  a matrix")
