"""``--scheduler``: the same work on a Dask cluster, and what its workers do on one screen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from edgelm.cli.failures import say
from edgelm.cli.live import Live
from edgelm.cli.show import table
from edgelm.errors import DependencyError
from edgelm.exporter.progress import Progress

if TYPE_CHECKING:
    from edgelm.cluster.executor import Executor
    from edgelm.cluster.workers import Word

scheduler_option = click.option(
    "--scheduler", metavar="ADDRESS", help="Work on a Dask cluster: tcp://HOST:PORT of its scheduler."
)
_EXTRA = ("distributed", "dask", "tornado")


@contextmanager
def executor(address: str | None, progress: Progress, *, silent: bool = False) -> Iterator[tuple[Executor, Progress]]:
    """What does the work, and the progress to give it.

    Args:
        address: of the scheduler; None for this process.
        progress: of this process.
        silent: show nothing.

    Raises:
        DependencyError: Dask is not installed.
        ClusterError: there is no such cluster, or it has other versions.
    """
    from edgelm.cluster.executor import LOCAL

    if address is None:
        yield LOCAL, progress
        return
    try:
        from edgelm.cluster.workers import Workers
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise DependencyError("--scheduler needs Dask", hint="pip install 'edgelm[cluster,export]'") from None
    live, table_of = Live(silent=silent), _Table()
    with Workers(address, table_of.hear) as workers:
        count = workers.workers
        for note in workers.notes:
            say("warning", note)
        if not silent:
            say("note", f"{count} worker{'' if count == 1 else 's'} of {address}")
        with live.showing(table_of.lines):
            yield workers, _Said(live)


class _Said(Progress):
    """Lines that stay; the stages are the workers', and in the table."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def say(self, line: str) -> None:
        """As a note."""
        self._live.say(f"note: {line}")


class _Table:
    """The last word of every worker."""

    def __init__(self) -> None:
        self._words: dict[str, Word] = {}
        self._lock = threading.Lock()

    def hear(self, word: Word) -> None:
        """A worker has told how far it is."""
        with self._lock:
            self._words[word.worker] = word

    def lines(self, room: int, now: float) -> list[str]:
        """Active workers first, as many as there is room for."""
        with self._lock:
            words = sorted(self._words.values(), key=lambda word: (not word.task, word.worker))
        rows = [("worker", "task", "stage", "")]
        for word in words[: max(1, room - 1)]:
            share = f"{word.share:.0%}" if word.task and word.share else ""
            rows.append((word.worker, word.task or "idle", word.stage, share))
        return table(rows, left=(0, 1, 2), keep=(0, 1)) if words else []
