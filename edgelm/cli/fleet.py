"""``edgelm fleet``: many boards, bundles and settings measured by one plan."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from edgelm.cli.bundles import stored_bundle
from edgelm.cli.failures import say
from edgelm.cli.live import Live, board_lines
from edgelm.cli.options import json_option
from edgelm.cli.show import print_lines, table
from edgelm.errors import DependencyError, FleetError, near

if TYPE_CHECKING:
    from edgelm.fleet.jobs import Job
    from edgelm.fleet.page import Found, Outcome
    from edgelm.fleet.plan import Plan
    from edgelm.fleet.progress import Progress, Standing
    from edgelm.results.store import Store


@click.command("fleet")
@click.argument("plan_file", metavar="PLAN.toml", type=click.Path(path_type=Path))
@click.option("--board", "boards", multiple=True, metavar="NAME", help="This board alone; may be given several times.")
@click.option("--list", "only_list", is_flag=True, help="Print the jobs and which are done, and do nothing.")
@click.option("--again", is_flag=True, help="Measure anew what was measured.")
@click.option(
    "--page", type=click.Path(path_type=Path), metavar="FILE.html", help="Where the page goes.  [default: PLAN.html]"
)
@json_option
def command(
    plan_file: Path, boards: tuple[str, ...], only_list: bool, again: bool, page: Path | None, as_json: bool
) -> None:
    """Measure bundles on many boards, by a plan.

    Boards are worked on side by side, one job a board at a time; what fails is tried again. Results are kept as those of
    edgelm bench are; jobs whose result is there are not done again, so that the same command goes on after Ctrl-C, or
    when a board is back. At the end there is a page: one HTML file.

    The plan is TOML: docs/how-to/fleet.md describes it. This needs pip install 'edgelm[fleet]' here, and nothing on the
    boards.

    \b
    Examples:
      edgelm fleet boards.toml
      edgelm fleet boards.toml --list
      edgelm fleet boards.toml --board kitchen --again
    """
    from edgelm.fleet.jobs import done, jobs_of
    from edgelm.fleet.page import counted
    from edgelm.fleet.plan import read_plan
    from edgelm.results.store import Store

    plan, store = read_plan(plan_file, stored_bundle), Store.default()
    known = [board.name for board in plan.boards]
    for name in boards:
        if name not in known:
            raise FleetError(f"the plan has no board {name!r}", hint=near(name, known, listing="boards"))
    jobs = [job for job in jobs_of(plan) if not boards or job.board in boards]
    before = done(jobs, store)
    if only_list:
        _list(jobs, before, as_json=as_json)
        return
    missing = jobs if again else [job for job in jobs if job.key not in before]
    if missing:
        _expect_pyinfra()
    if not as_json:
        there = f"{len(jobs) - len(missing)} of {len(jobs)} jobs are done already" if len(missing) < len(jobs) else ""
        say("note", there or f"{counted(len(jobs), 'job')} on {counted(len({job.board for job in jobs}), 'board')}")
    progress = _measured(plan, jobs, missing, {} if again else before, store, silent=as_json)
    outcome = _outcome(plan, jobs, progress, store, missing if again else [])
    path = page or plan_file.with_suffix(".html")
    _tell(outcome, path, as_json=as_json)


def _expect_pyinfra() -> None:
    """DependencyError where what leads the boards is not installed."""
    try:
        import edgelm.fleet.crew  # noqa: F401
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("pyinfra", "gevent"):
            raise
        raise DependencyError("edgelm fleet needs pyinfra", hint="pip install 'edgelm[fleet]'") from None


def _measured(
    plan: Plan, jobs: Sequence[Job], missing: Sequence[Job], before: Mapping[str, str], store: Store, *, silent: bool
) -> Progress:
    """Do what is missing; Ctrl-C says what is kept."""
    from edgelm.fleet.jobs import kept_meanwhile
    from edgelm.fleet.progress import Progress, standings

    live = Live(silent=silent)

    def changed(one: Standing, line: str | None) -> None:
        if line is not None:
            live.say(f"{one.board}: {line} ({one.done}/{one.total})")

    progress = Progress(standings(jobs, before), changed)
    if not missing:
        return progress
    from edgelm.fleet.crew import Crew, run

    with _held(missing), _ended_as_by_ctrl_c(), live.showing(lambda room, now: board_lines(progress.all(), room, now)):
        try:
            run(Crew(plan, progress, _Keeper(store, plan)), kept_meanwhile(missing))
        except KeyboardInterrupt:
            count = sum(standing.done for standing in progress.all())
            say("note", f"{count} of {len(jobs)} jobs are done; the same command goes on from there")
            raise
    return progress


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """A service that is stopped, or a terminal that is closed, ends the block as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Keeper:
    """Adds reports to the file of results, with the job that they are of."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store = store
        self._manifests = {b.digest: b.manifest.to_dict() for board in plan.boards for b in board.bundles}

    def __call__(self, job: Job, report: Mapping[str, Any]) -> str:
        self._store.add({**report, "fleet": job.facts()}, self._manifests.get(job.digest), job.place)
        return ", ".join(f"{test['test']} {test['avg_ts']:.2f} t/s" for test in report["results"])


@contextmanager
def _held(jobs: Sequence[Job]) -> Iterator[None]:
    """The boards of these jobs for this process alone.

    Raises:
        FleetError: another fleet measures on one of them.
    """
    from edgelm.files import locked

    base = os.environ.get("XDG_CACHE_HOME") or ""
    folder = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "edgelm" / "fleet"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for place, board in {job.place: job.board for job in jobs}.items():
            path = folder / (hashlib.sha256(place.encode()).hexdigest()[:16] + ".lock")
            path.touch()
            if not stack.enter_context(locked(path)):
                raise FleetError(
                    f"board {board} ({place}) is measured by another edgelm fleet", hint="wait until that one ends"
                )
        yield


def _outcome(plan: Plan, jobs: Sequence[Job], progress: Progress, store: Store, anew: Sequence[Job]) -> Outcome:
    """What the file of results has now."""
    from edgelm.fleet.jobs import done
    from edgelm.fleet.page import Found, Outcome
    from edgelm.version import __version__

    runs = done(jobs, store)
    failed = {failure.job.key for failure in progress.failures if failure.job is not None}
    gone = {failure.board for failure in progress.failures if failure.job is None}
    for job in anew:  # an earlier result does not stand for one that was to be measured anew
        if job.key in failed or job.board in gone:
            runs = {key: run for key, run in runs.items() if key != job.key}
    rows = store.rows()
    found = [Found(job, tuple(r for r in rows if r.run == runs[job.key])) for job in jobs if job.key in runs]
    at = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return Outcome(plan.name, jobs, found, progress.failures, store.path, at, __version__)


def _tell(outcome: Outcome, path: Path, *, as_json: bool) -> None:
    """The page, and what is left.

    Raises:
        FleetError: not all is done.
    """
    from edgelm.fleet.page import write

    write(path, outcome)
    left = outcome.left
    if as_json:
        click.echo(json.dumps(_facts(outcome, path), indent=2, ensure_ascii=False))
    else:
        print_lines(_lines(outcome.found))
        click.echo(f"page: {path}")
    if left:
        boards = list(dict.fromkeys(job.board for job in left))
        shown = ", ".join(boards[:5]) + (f" and {len(boards) - 5} more" if len(boards) > 5 else "")
        raise FleetError(
            f"{len(left)} of {len(outcome.jobs)} jobs are not done, on {shown}",
            hint="the page says why; the same command goes on from there",
        )


def _facts(outcome: Outcome, path: Path) -> dict[str, Any]:
    why = {failure.job.key: failure for failure in outcome.failures if failure.job is not None}
    unreached = {failure.board: failure for failure in outcome.failures if failure.job is None}
    found = {one.job.key: one.rows for one in outcome.found}
    jobs = []
    for job in outcome.jobs:
        failure = why.get(job.key) or unreached.get(job.board)
        facts = {**job.facts(), "place": job.place, "bundle_sha256": job.digest, "done": job.key in found}
        if job.key in found:
            facts["results"] = [row.to_dict() for row in found[job.key]]
        elif failure is not None:
            facts |= {"error": failure.why, "hint": failure.hint, "tries": failure.tries}
        jobs.append(facts)
    counts = {"jobs": len(outcome.jobs), "done": len(found), "left": len(outcome.left)}
    return {"plan": outcome.name, **counts, "page": str(path), "file": str(outcome.kept), "results": jobs}


def _lines(found: Sequence[Found]) -> Iterator[str]:
    if not found:
        return
    rows = [("board", "bundle", "settings", "threads", "test", "t/s", "±", "run")]
    for one in found:
        for row in one.rows:
            figures = f"{row.avg_ts:.2f}", f"{row.stddev_ts:.2f}", row.run
            rows.append(
                (one.job.board, one.job.bundle.name, one.job.settings.name, str(row.threads), row.test, *figures)
            )
    yield from table(rows, left=(0, 1, 2, 4, 7), drop=(7, 2))
    yield ""


def _list(jobs: Sequence[Job], before: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        told = [{**job.facts(), "place": job.place, "done": job.key in before} for job in jobs]
        click.echo(json.dumps({"jobs": told}, indent=2, ensure_ascii=False))
        return
    rows = [("board", "place", "bundle", "settings", "run", "done")]
    for job in jobs:
        state = before.get(job.key, "no")
        rows.append((job.board, job.place, job.bundle.name, job.settings.name, str(job.run), state))
    print_lines(table(rows, left=(0, 1, 2, 3, 5)))
