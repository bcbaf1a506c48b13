"""The boards of a fleet as pyinfra sees them: connected, and worked through side by side, one job a board at a time.

pyinfra has the inventory, the pool of active boards, the order of operations on each, and their retries. How a board is
reached is `edgelm.remote`'s: pyinfra's own SSH is paramiko's, which knows less of the user's configuration than OpenSSH, and
it has none for emulated boards and adb. So boards have a connector of ours (`connector.Reached`), for any place that --on
takes; a job is an operation that starts `edgelm bench --on` in a thread beside gevent's loop, which is not patched into
anything.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from gevent import get_hub
from gevent.threadpool import ThreadPool
from pyinfra.api import Config, FunctionCommand, Inventory, State, operation
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops

from edgelm.errors import EdgeLMError, FleetError
from edgelm.fleet.attempt import Processes, attempt
from edgelm.fleet.connector import Reached, probe
from edgelm.fleet.jobs import Job
from edgelm.fleet.plan import Plan
from edgelm.fleet.progress import Failure, Progress

T = TypeVar("T")
Keep = Callable[[Job, Mapping[str, Any]], str]
"""Is given a job's report, keeps it, and says what came out, in a line."""
Try = Callable[[Job, float, Processes, Callable[[str], None]], Mapping[str, Any]]
Probe = Callable[[str], None]


@dataclass
class Crew:
    """What the jobs of a fleet share.

    Attributes:
        plan: for its patience.
        progress: is told of everything.
        keep: keeps results.
        processes: those of the jobs.
        probe, attempt: how a board is reached, and a job tried.
    """

    plan: Plan
    progress: Progress
    keep: Keep
    processes: Processes = field(default_factory=Processes)
    probe: Probe = probe
    attempt: Try = attempt
    pool: ThreadPool = field(init=False)

    def __post_init__(self) -> None:
        self.pool = ThreadPool(self.plan.parallel)

    def beside(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in a thread of its own, while gevent's loop goes on."""
        found: T = self.pool.apply(function, args)
        return found

    def wait(self, tries: int) -> None:
        """Before another try: longer each time."""
        until = time.monotonic() + self.plan.retry_delay * 2 ** (tries - 1)
        while time.monotonic() < until and not self.processes.ended:
            time.sleep(0.05)


def run(crew: Crew, jobs: Sequence[Job]) -> None:
    """Do jobs; what becomes of each is told to the crew's progress.

    Args:
        crew: what they share.
        jobs: those that are to be done.

    Raises:
        KeyboardInterrupt: Ctrl-C; all processes have ended, and what is done is kept.
    """
    if not jobs:
        return
    boards = {name: [job for job in jobs if job.board == name] for name in dict.fromkeys(job.board for job in jobs)}
    groups = {board.name: board.groups for board in crew.plan.boards}
    inventory = _Boards(
        [(name, {"jobs": mine, "place": mine[0].place, "groups": groups[name]}) for name, mine in boards.items()]
    )
    with _quiet():
        state = State(inventory, Config(PARALLEL=crew.plan.parallel), check_for_changes=False)
        for host in inventory:
            host.connector_data |= {"crew": crew, "reach": partial(_reached, crew, host.name)}
        try:
            try:
                connect_all(state)
            except PyinfraError:
                return  # no board is left: its failures are told
            for host in list(state.active_hosts):
                for job in host.data.jobs:
                    add_op(
                        state,
                        _measure,
                        job,
                        host=host,
                        name=job.name,
                        _retries=crew.plan.retries,
                        _retry_delay=0,  # pyinfra would wait in gevent's loop: `Crew.wait` does it beside
                        _ignore_errors=True,
                    )
            run_ops(state, no_wait=True)
        finally:
            crew.processes.end()
            state.pool.kill(block=False)
        disconnect_all(state)


class _Boards(Inventory):  # type: ignore[misc]
    """An inventory whose hosts are reached as --on reaches them."""

    def __init__(self, boards: Sequence[tuple[str, dict[str, Any]]]) -> None:
        super().__init__((list(boards), {}))

    def make_hosts_and_groups(self, names: Sequence[tuple[str, dict[str, Any]]], groups: Mapping[str, Any]) -> None:
        """As pyinfra does for names of its own connectors."""
        self.hosts = {}
        for name, data in names:
            self.host_data[name] = data
            host = Host(name, inventory=self, groups=list(data["groups"]), connector_cls=Reached)
            self.hosts[name] = host
            for group in data["groups"]:
                self.groups[group].append(host)


@operation(is_idempotent=False)  # type: ignore[untyped-decorator]
def _measure(job: Job) -> Iterator[Any]:
    """A job as an operation of pyinfra."""
    yield FunctionCommand(_do, (job,), {})


def _do(state: State, host: Host, job: Job) -> bool:
    """Try a job; False lets pyinfra try it again."""
    crew: Crew = host.connector_data["crew"]
    if crew.processes.ended or host.connector_data.get("given up"):
        return True
    count = host.connector_data.setdefault("tries", {})
    count[job.key] = count.get(job.key, 0) + 1
    return crew.beside(_tried, crew, host.connector_data, job, count[job.key])


def _tried(crew: Crew, about: dict[str, Any], job: Job, tries: int) -> bool:
    """One try, in a thread; whether no other one is needed."""
    progress, last = crew.progress, tries > crew.plan.retries
    if tries > 1:
        crew.wait(tries - 1)
    progress.set(job.board, "measuring", job=job.name)
    try:
        line = crew.keep(
            job, crew.attempt(job, crew.plan.timeout, crew.processes, lambda t: progress.say(job.board, t))
        )
    except EdgeLMError as error:
        if crew.processes.ended:
            return True
        if not last:
            again = f"{job.name}: {error}; tried again ({tries} of {crew.plan.retries})"
            progress.set(job.board, "retrying", job=job.name, detail=str(error), line=again)
            return False
        progress.add_failure(Failure(job.board, job, str(error), error.hint, tries), f"{job.name}: {error}")
        about["in a row"] = about.get("in a row", 0) + 1
        return _given_up(crew, about, job)
    about["in a row"] = 0
    progress.add_done(job.board, f"{job.name}: {line}")
    _rest(crew, job.board)
    return True


def _given_up(crew: Crew, about: dict[str, Any], job: Job) -> bool:
    """After a failure: whether the board's other jobs are left alone; True, as this job is not tried again."""
    standing = crew.progress.of(job.board)
    left = standing.total - standing.done - standing.failed
    if about["in a row"] >= crew.plan.give_up and left:
        about["given up"] = True
        why = f"given up after {about['in a row']} jobs that failed, {left} left"
        crew.progress.set(job.board, "gone", detail=why, line=why)
    else:
        _rest(crew, job.board)
    return True


def _rest(crew: Crew, board: str) -> None:
    """What a board does behind a job."""
    standing = crew.progress.of(board)
    if standing.done + standing.failed < standing.total:
        crew.progress.set(board, "waiting", detail=standing.detail)
    else:
        crew.progress.set(board, "failed" if standing.failed else "done", detail=standing.detail)


def _reached(crew: Crew, board: str, place: str) -> None:
    """Reach a board, as often as the plan says, in a thread; raises what `Reached` tells pyinfra."""
    if (error := crew.beside(_connected, crew, board, place)) is not None:
        raise error


def _connected(crew: Crew, board: str, place: str) -> EdgeLMError | None:
    """Try to reach a board; why it could not be reached."""
    for tries in range(1, crew.plan.retries + 2):
        if tries > 1:
            crew.wait(tries - 1)
        if crew.processes.ended:
            return FleetError("interrupted")
        crew.progress.set(board, "connecting")
        try:
            crew.probe(place)
        except EdgeLMError as error:
            last = error
            again = f"{error}; tried again ({tries} of {crew.plan.retries})" if tries <= crew.plan.retries else None
            crew.progress.set(board, "retrying", detail=str(error), line=again)
        else:
            crew.progress.set(board, "waiting")
            return None
    crew.progress.add_failure(Failure(board, None, str(last), last.hint, tries), f"cannot be reached: {last}")
    crew.progress.set(board, "gone", detail=str(last))
    return last


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence pyinfra, and gevent's word on Ctrl-C: what there is to tell is told by the progress."""
    logger, hub = logging.getLogger("pyinfra"), get_hub()
    before = logger.level, logger.propagate
    hub.NOT_ERROR = (*type(hub).NOT_ERROR, KeyboardInterrupt)
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    os.environ["PYINFRA_PROGRESS"] = "off"
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
