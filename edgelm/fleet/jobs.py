"""The jobs of a plan, and which of them the file of results has already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgelm.fleet.plan import HERE, Board, Plan, Settings
from edgelm.results.store import Store
from edgelm.version import __version__


@dataclass(frozen=True)
class Job:
    """One benchmark on one board.

    Attributes:
        plan: the name of the plan.
        board, place: where.
        bundle: the folder; `digest` of its manifest.
        settings: of the benchmark.
        run: which of several, from 1.
        keep, wheels: as the board has them.
    """

    plan: str
    board: str
    place: str
    bundle: Path
    digest: str
    settings: Settings
    run: int
    keep: bool
    wheels: Path | None

    @property
    def name(self) -> str:
        """In words: the bundle, the settings, and which run where there are several."""
        return f"{self.bundle.name} {self.settings.name}" + (f" {self.run}" if self.run > 1 else "")

    @property
    def key(self) -> str:
        """The job among results: another bundle, setting, place, plan or version of edgelm is another job."""
        facts = [self.plan, self.place, self.digest, self.settings.facts(), self.run, __version__]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def steps(self) -> list[list[str]]:
        """Command lines, without the program; the last one prints the report."""
        tune = self.settings.tune_args()
        first = [] if tune is None else [["tune", str(self.bundle), *tune, "--json", *self._where(keep=True)]]
        return [*first, ["bench", str(self.bundle), *self.settings.args(), "--output", "json", *self._where(self.keep)]]

    def _where(self, keep: bool) -> list[str]:
        if self.place == HERE:
            return []
        wheels = ["--offline-wheels", str(self.wheels)] if self.wheels is not None else []
        return ["--on", self.place, *(["--keep"] if keep else []), *wheels]

    def facts(self) -> dict[str, Any]:
        """What is kept with the result."""
        told = {"plan": self.plan, "board": self.board, "settings": self.settings.name, "run": self.run}
        return {"job": self.key, **told, "bundle": self.bundle.name}


def jobs_of(plan: Plan) -> list[Job]:
    """All jobs: those of a board stand together; each bundle is sent once for all its settings and runs."""
    return [job for board in plan.boards for job in _of_board(plan, board)]


def _of_board(plan: Plan, board: Board) -> Iterable[Job]:
    seen = set[str]()
    for bundle in board.bundles:
        for settings in board.settings:
            for run in range(1, board.runs + 1):
                job = Job(
                    plan.name,
                    board.name,
                    board.place,
                    bundle.path,
                    bundle.digest,
                    settings,
                    run,
                    board.keep,
                    board.wheels,
                )
                if job.key not in seen:  # settings of two names may be the same
                    seen.add(job.key)
                    yield job


def kept_meanwhile(jobs: Sequence[Job]) -> list[Job]:
    """Jobs, in their order, that leave a bundle on the board for as long as one of the jobs behind them needs it."""
    behind = set[tuple[str, str]]()
    found = list[Job]()
    for job in reversed(jobs):
        found.append(replace(job, keep=job.keep or (job.board, job.digest) in behind))
        behind.add((job.board, job.digest))
    return found[::-1]


def done(jobs: Iterable[Job], store: Store) -> Mapping[str, str]:
    """Key → run of the jobs whose results are there."""
    there = store.tagged("fleet", "job")
    return {job.key: there[job.key] for job in jobs if job.key in there}
