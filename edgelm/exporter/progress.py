"""How a long export tells where it is; the command line draws a bar from it, a program may draw its own."""

from __future__ import annotations

from collections.abc import Callable


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


def counted(progress: Progress, what: str) -> Callable[[int, int], None]:
    """What is called with how many of how many are done, 0 before the first: a stage of `progress`, from begin to end."""

    def step(done: int, total: int) -> None:
        if done == 0:
            progress.start(what, total)
        progress.advance(int(done > 0), f"{done}/{total}")

    return step
