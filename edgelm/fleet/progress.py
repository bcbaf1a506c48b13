"""How far each board is: told by the threads that do the jobs, read by what shows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from edgelm.fleet.jobs import Job

State = Literal["waiting", "connecting", "measuring", "retrying", "done", "failed", "gone"]


@dataclass(frozen=True)
class Standing:
    """A board.

    Attributes:
        board, place: which.
        total, done, failed: its jobs; `done` has those of earlier calls.
        state: what it does: ``gone`` is one that could not be reached, or was given up.
        job: at which it is.
        detail: the last that was said of it.
        since: when the state began, in seconds of `time.monotonic`.
    """

    board: str
    place: str
    total: int
    done: int
    failed: int = 0
    state: State = "waiting"
    job: str = ""
    detail: str = ""
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Failure:
    """Why a job is not done; `job` is None where the board could not be reached."""

    board: str
    job: Job | None
    why: str
    hint: str | None
    tries: int


Changed = Callable[[Standing, str | None], None]
"""Is told how a board stands, and a line where there is something to say."""


class Progress:
    """The standings of all boards."""

    def __init__(self, standings: Sequence[Standing], changed: Changed = lambda standing, line: None) -> None:
        self._standings = {standing.board: standing for standing in standings}
        self._changed = changed
        self._lock = threading.RLock()
        self.failures = list[Failure]()

    def all(self) -> list[Standing]:
        """Of all boards, in the order of the plan."""
        with self._lock:
            return list(self._standings.values())

    def of(self, board: str) -> Standing:
        """Of one."""
        with self._lock:
            return self._standings[board]

    def set(self, board: str, state: State, *, job: str = "", detail: str = "", line: str | None = None) -> None:
        """A board does something else now."""
        self._replace(board, line, state=state, job=job, detail=detail, since=time.monotonic())

    def say(self, board: str, detail: str) -> None:
        """The last that was said of a board."""
        self._replace(board, None, detail=detail)

    def add_done(self, board: str, line: str) -> None:
        """A job is done."""
        with self._lock:
            self._replace(board, line, done=self._standings[board].done + 1)

    def add_failure(self, failure: Failure, line: str) -> None:
        """A job has failed in all its tries."""
        with self._lock:
            self.failures.append(failure)
            self._replace(failure.board, line, failed=self._standings[failure.board].failed + 1)

    def _replace(self, board: str, line: str | None, **changes: object) -> None:
        with self._lock:
            standing = replace(self._standings[board], **changes)  # type: ignore[arg-type]
            self._standings[board] = standing
            self._changed(standing, line)


def standings(jobs: Sequence[Job], finished: Mapping[str, str]) -> list[Standing]:
    """How the boards of these jobs stand before anything is done; `finished` has the keys of what is there."""
    found = dict[str, Standing]()
    for job in jobs:
        before = found.get(job.board) or Standing(job.board, job.place, 0, 0)
        found[job.board] = replace(before, total=before.total + 1, done=before.done + (job.key in finished))
    return [replace(one, state="done") if one.done == one.total else one for one in found.values()]
