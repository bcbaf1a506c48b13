"""How a long export tells where it is; the command line draws a bar from it, a program may draw its own."""

from __future__ import annotations


class Progress:
    """Is called with how far an export is; this one says nothing.

    Attributes:
        visible: whether it shows bars; then libraries that have their own may show them, too.
    """

    visible = False

    def start(self, what: str, total: int) -> None:
        """A stage of `total` units begins; 0 where nobody knows how many."""

    def advance(self, units: int, detail: str = "") -> None:
        """Some units are done."""

    def finish(self) -> None:
        """The stage is over."""

    def say(self, line: str) -> None:
        """Something the user should know."""
