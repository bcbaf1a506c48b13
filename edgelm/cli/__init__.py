"""The command line. One module a command; each parses, calls the library and prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` where none is given.

    Returns:
        the exit code: 0, 1 for an error that was told, 2 for wrong usage, 130 after Ctrl-C, 141 after a broken pipe.
    """
    try:  # around the imports too: they take long enough for a Ctrl-C
        from edgelm.cli import failures, group

        # Not list(): a command of that name is a module of this package.
        return failures.guard(lambda: group.invoke([*(sys.argv[1:] if args is None else args)]))
    except KeyboardInterrupt:
        return 130
