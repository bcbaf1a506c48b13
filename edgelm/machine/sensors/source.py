"""Where readings come from: files under a root, and a board's own programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelm.machine.host import ROOT, read_int, read_text

Run = Callable[[Sequence[str]], str | None]
"""Runs a program with its arguments; its output, or None where it is not there or fails."""

_PATIENCE = 2.0  # seconds that a board's program may take


@dataclass(frozen=True)
class Missing:
    """Why something cannot be told; a dash with this reason is what users see."""

    reason: str


@dataclass(frozen=True)
class System:
    """A machine, or what was recorded of one.

    Attributes:
        root: under which its /proc and /sys lie.
        run: runs its programs.
    """

    root: Path
    run: Run

    @classmethod
    def of(cls, root: Path = ROOT) -> System:
        """This machine; or under another root a recorded one, which has no programs but what ``commands/`` recorded.

        The output of ``vcgencmd get_throttled`` is recorded in ``commands/vcgencmd get_throttled``.
        """
        return cls(root, _run if root == ROOT else lambda args: read_text(root / "commands" / " ".join(args)))

    def text(self, path: str) -> str | None:
        """A small file, or None."""
        return read_text(self.root / path)

    def number(self, path: str) -> int | None:
        """A file holding one whole number, or None."""
        return read_int(self.root / path)

    def folders(self, pattern: str) -> Iterator[str]:
        """The paths that match a pattern under the root, sorted."""
        try:
            yield from sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))
        except OSError:
            return

    def exists(self, path: str) -> bool:
        """Whether there is such a file, readable or not."""
        try:
            return (self.root / path).exists()
        except OSError:
            return False


def _run(args: Sequence[str]) -> str | None:
    program = shutil.which(args[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *args[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
