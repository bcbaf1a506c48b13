"""Active boards, as pyinfra leads them: side by side, retried, given up, interrupted and gone on with."""

from __future__ import annotations

import copy
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_report import REPORT

from edgelm.bundle.reader import Bundle
from edgelm.errors import FleetError, RemoteError
from edgelm.fleet.jobs import Job, done, jobs_of, kept_meanwhile
from edgelm.fleet.page import Found, Outcome, page
from edgelm.fleet.progress import Progress, standings
from edgelm.results.store import Store

pytest.importorskip("pyinfra")
from edgelm.fleet.crew import Crew, run


def report_of(job: Job, speed: float = 50.0) -> dict[str, Any]:
    """What `edgelm bench` would have said of a job."""
    report = copy.deepcopy(REPORT)
    report["bundle_sha256"] = Bundle.open(job.bundle).digest
    for test in report["results"]:
        test["avg_ts"] = speed
    return report


TWO = "[settings.one]\nthreads = 1\n[settings.two]\nthreads = 2\n"


class Boards:
    """Stands for all boards: counts tries, and sees how many work at a time."""

    def __init__(self, plan, store: Store, *, broken=(), absent=(), flaky=0, seconds=0.01) -> None:
        self.plan, self.store, self.jobs = plan, store, jobs_of(plan)
        self.broken, self.absent, self.flaky, self.seconds = broken, absent, flaky, seconds
        self.tries, self.probes, self.lines = Counter[str](), Counter[str](), list[str]()
        self.working, self.most, self.clash = set[str](), 0, False
        self.lock = threading.Lock()
        self.stop_after = 0

    def probe(self, place: str) -> None:
        self.probes[place] += 1
        if place in self.absent:
            raise RemoteError(f"{place} does not answer", hint="is it on?")

    def attempt(self, job, timeout, processes, says):
        with self.lock:
            self.clash |= job.board in self.working
            self.working.add(job.board)
            self.most = max(self.most, len(self.working))
            self.tries[job.key] += 1
        says("bench: 50%")
        time.sleep(self.seconds)
        with self.lock:
            self.working.discard(job.board)
        if processes.ended:
            raise FleetError("interrupted")
        if job.board in self.broken or self.tries[job.key] <= self.flaky:
            raise FleetError("the card is full", hint="make room")
        return report_of(job)

    def keep(self, job, report) -> str:
        self.store.add({**report, "fleet": job.facts()}, None, job.place)
        with self.lock:  # several boards may pass the mark at once
            if self.stop_after and self.done >= self.stop_after:
                self.stop_after = 0
                os.kill(os.getpid(), signal.SIGINT)
        return "50 t/s"

    def go(self) -> Progress:
        before = done(self.jobs, self.store)
        progress = Progress(standings(self.jobs, before), lambda s, line: line and self.lines.append(line))
        crew = Crew(self.plan, progress, self.keep, probe=self.probe, attempt=self.attempt)
        run(crew, kept_meanwhile([job for job in self.jobs if job.key not in before]))
        return progress

    @property
    def done(self) -> int:
        return len(done(self.jobs, self.store))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results.sqlite3")


def test_boards_work_side_by_side_one_job_each(plan, store):
    boards = Boards(plan(4, TWO), store, seconds=0.05)
    progress = boards.go()
    assert boards.done == len(boards.jobs) == 8
    assert (boards.most, boards.clash) == (4, False)
    assert {(s.state, s.done, s.total) for s in progress.all()} == {("done", 2, 2)}
    assert set(boards.tries.values()) == {1}
    boards.go()
    assert set(boards.tries.values()) == {1}  # nothing was missing


def test_no_more_at_a_time_than_the_plan_allows(plan, store):
    boards = Boards(plan(5, "parallel = 2"), store, seconds=0.02)
    boards.go()
    assert (boards.done, boards.most) == (5, 2)


def test_what_fails_is_tried_again(plan, store):
    boards = Boards(plan(2), store, flaky=2)
    boards.go()
    assert boards.done == 2
    assert set(boards.tries.values()) == {3}
    assert sum("tried again (1 of 2)" in line for line in boards.lines) == 2


def test_boards_that_fail_or_are_absent_hold_nobody_up(plan, store):
    boards = Boards(plan(4, TWO + "[settings.three]\nthreads = 3\n"), store, broken=("b1",), absent=("ssh:pi@b2",))
    progress = boards.go()
    assert boards.done == 6
    by_board = {s.board: (s.state, s.done) for s in progress.all()}
    assert by_board == {"b0": ("done", 3), "b1": ("gone", 0), "b2": ("gone", 0), "b3": ("done", 3)}
    assert [(f.board, f.job and f.job.settings.name, f.why, f.tries) for f in progress.failures] == [
        ("b2", None, "ssh:pi@b2 does not answer", 3),
        ("b1", "one", "the card is full", 3),
        ("b1", "two", "the card is full", 3),
    ]
    assert boards.probes["ssh:pi@b2"] == 3
    html = page(_outcome(boards, progress))
    assert "6 of 12 jobs" in html
    assert "the card is full" in html
    assert "not come to" in html


def test_not_one_board_answers(plan, store):
    boards = Boards(plan(2), store, absent=("ssh:pi@b0", "ssh:pi@b1"))
    progress = boards.go()
    assert (boards.done, len(progress.failures)) == (0, 2)


def test_ctrl_c_leaves_what_the_next_call_goes_on_with(plan, store):
    boards = Boards(plan(3, "".join(f"[settings.s{i}]\nthreads = {i + 1}\n" for i in range(6))), store, seconds=0.1)
    boards.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        boards.go()
    first, tried = boards.done, set(boards.tries)
    assert 4 <= first < 18
    boards.go()
    assert boards.done == 18
    again = [key for key, count in boards.tries.items() if count > 1]
    assert len(again) <= 3  # those that were interrupted
    assert set(again) <= tried


def test_bundles_stay_until_the_last_job_that_needs_them(plan):
    jobs = jobs_of(plan(2, TWO))
    assert [(job.board, job.keep) for job in kept_meanwhile(jobs)] == [
        ("b0", True),
        ("b0", False),
        ("b1", True),
        ("b1", False),
    ]


def test_the_page_stands_alone(plan, store):
    boards = Boards(plan(2, TWO), store)
    boards.jobs = [replace(job, board=f"<b>{job.board}") for job in boards.jobs]
    for job in boards.jobs:
        boards.keep(job, report_of(job))
    html = page(_outcome(boards, Progress(standings(boards.jobs, {}))))
    assert "All jobs are done." in html
    assert "<b>b0" not in html
    assert "&lt;b&gt;b0" in html
    for outside in ("src=", "href=", "url(", "@import", "<script"):
        assert outside not in html
    assert html.count("<svg") == 2 * (1 + 2)  # of two settings one for screens, and one a test for phones


def _outcome(boards: Boards, progress: Progress) -> Outcome:
    runs = done(boards.jobs, boards.store)
    rows = boards.store.rows()
    found = [
        Found(job, tuple(row for row in rows if row.run == runs[job.key])) for job in boards.jobs if job.key in runs
    ]
    return Outcome("winter", boards.jobs, found, progress.failures, boards.store.path, "now", "0.1.0")
