"""A clock at the head of a prompt is told of, once."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("starlette")

from edgelm.serve.clocks import ClockWatch

REST = "You control a house. " + "The lamp in the kitchen is on. " * 20


def look(watch: ClockWatch, text: str) -> str | None:
    return watch.look("m", [{"role": "system", "content": text}, {"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("It is 12:03.", "It is 12:04."),
        ("Now: 2026-11-29T18:57:01+00:00.", "Now: 2026-11-29T18:57:09+00:00."),
        ("Today is Monday, November 2, 2026 at 6:57 pm.", "Today is Tuesday, November 3, 2026 at 7:01 am."),
        ("29.11.2026", "30.11.2026"),
        ("t=1795977520", "t=1795977580"),
        ("Am 3 May 2026:", "Am 4 May 2026:"),
    ],
)
def test_a_clock_is_found_and_told_once(first: str, second: str, caplog: pytest.LogCaptureFixture) -> None:
    watch = ClockWatch()
    assert look(watch, f"{first} {REST}") is None
    assert look(watch, f"{first} {REST}") is None
    told = look(watch, f"{second} {REST}")
    assert told is not None
    assert "are computed anew for every request. Put it at the end" in told
    assert told in caplog.text
    assert look(watch, f"{first} {REST}") is None


def test_what_harms_nothing_is_not_told() -> None:
    watch = ClockWatch()
    for text in (f"{REST} It is 12:03.", f"{REST} It is 12:04.", "It is 12:03.", "It is 12:04.", REST, REST):
        assert look(watch, text) is None
    assert look(watch, f"It is 12:03. {REST} A") is None
    assert look(watch, f"It is 12:04. {REST} B") is None  # another prompt altogether


def test_what_is_kept_is_bounded() -> None:
    watch = ClockWatch()
    for number in range(100):
        look(watch, f"It is 12:03. {REST} {'x' * number}")
    assert len(watch._seen) == 32
    empty: list[Any] = []
    assert watch.look("m", empty) is None
