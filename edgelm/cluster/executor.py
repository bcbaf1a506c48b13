"""What does tasks: here, one after another, or a cluster (`edgelm.cluster.workers`); whoever has tasks need not know which.

A task is a frozen dataclass that holds all that its function needs, but for files, which it names. Its outcome depends on
nothing else, so that it does not matter who does it, when, in which order, or how often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgelm.errors import EdgeLMError
from edgelm.exporter.progress import Progress

R = TypeVar("R")


class Task(Protocol):
    """What is to be done."""

    @property
    def name(self) -> str:
        """In words."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files and folders that it reads."""

    def moved(self, paths: Mapping[str, str]) -> Any:
        """The same task, its inputs being at other paths."""


T = TypeVar("T", bound=Task)


class Executor(Protocol):
    """Does tasks."""

    @property
    def workers(self) -> int:
        """How many tasks are done at a time."""

    @property
    def local(self) -> bool:
        """Whether it is this process that does them, and sees its files."""

    def run(
        self, function: Callable[[T, Progress], R], tasks: Sequence[T], progress: Progress
    ) -> Iterator[tuple[int, R | EdgeLMError]]:
        """Do tasks.

        Yields:
            the place of a task, and what came out or why nothing did, as each is done.

        Raises:
            ClusterError: the cluster cannot do them.
        """

    def check_folder(self, folder: Path) -> None:
        """ClusterError where not every worker sees a folder of ours at the same path."""

    def everywhere(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function in every process that does tasks."""


class Local:
    """Does tasks in this process, in their order."""

    workers = 1
    local = True

    def run(
        self, function: Callable[[T, Progress], R], tasks: Sequence[T], progress: Progress
    ) -> Iterator[tuple[int, R | EdgeLMError]]:
        """See `Executor`."""
        for place, task in enumerate(tasks):
            try:
                found: R | EdgeLMError = function(task, progress)
            except EdgeLMError as error:
                found = error
            yield place, found

    def check_folder(self, folder: Path) -> None:
        """This process sees its folders."""

    def everywhere(self, function: Callable[..., Any], *args: Any) -> None:
        """Here."""
        function(*args)


LOCAL = Local()
