"""Tasks on the workers of a Dask cluster. What is lost with a worker is done again by another one, which Dask sees to.

A task goes as it is; its inputs by their path, or as bytes where they are small and not there (`edgelm.cluster.inputs`).
Workers tell their progress as events of the scheduler.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import distributed
from distributed import Client, Future
from distributed.client import FutureCancelledError
from distributed.comm.addressing import get_address_host_port
from distributed.scheduler import KilledWorker

from edgelm.cluster.executor import Task
from edgelm.cluster.inputs import SMALL, Input, describe, located, pack
from edgelm.cluster.versions import Versions, check, versions
from edgelm.errors import ClusterError, EdgeLMError
from edgelm.exporter.progress import Progress

T = TypeVar("T", bound=Task)
R = TypeVar("R")

_CONNECT = 15  # seconds for the scheduler to answer, and for a first worker to be there
_ALONE = 120.0  # seconds without a worker, after which no one is waited for
_POLL = 2.0
_EVERY = 0.5  # seconds between two words of a worker
_one_at_a_time = threading.Lock()  # a task uses all cores that its process may


@dataclass(frozen=True)
class Word:
    """What a worker does: a task (none: it is done), a stage of it, and how far it is, from 0 to 1."""

    worker: str
    task: str
    stage: str = ""
    share: float = 0.0


class Workers:
    """An `Executor` whose tasks are done by a cluster. Use it as a context manager."""

    local = False

    def __init__(self, address: str, on_word: Callable[[Word], None] = lambda word: None) -> None:
        """Connect.

        Args:
            address: of the scheduler, such as ``tcp://127.0.0.1:8786``.
            on_word: is told what workers do, from a thread of its own.

        Raises:
            ClusterError: there is no scheduler, no worker, or one with other versions.
        """
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self._address, self._topic = address, f"edgelm-{uuid.uuid4().hex}"
        try:
            if address.partition("://")[0] in ("tcp", "tls", address):
                # First by itself: a client that does not come about ends in messages of its own.
                socket.create_connection(get_address_host_port(address, strict=True), timeout=_CONNECT).close()
            self._client = Client(address, timeout=_CONNECT, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            why = "does not answer" if isinstance(error, OSError | TimeoutError) else f"is no address: {error}"
            hint = "dask scheduler --host 127.0.0.1 starts one, dask worker ADDRESS --nthreads 1 its workers"
            raise ClusterError(f"the scheduler {address} {why}", hint=hint) from None
        try:
            self.notes = self._ready()
        except BaseException:
            self._client.close()
            raise
        self._client.subscribe_topic(self._topic, lambda event: on_word(Word(**event[1])))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):  # the scheduler may be gone
            self._client.unsubscribe_topic(self._topic)
        self._client.close()

    @property
    def workers(self) -> int:
        """See `Executor`."""
        return max(1, len(self._threads()))

    def run(
        self, function: Callable[[T, Progress], R], tasks: Sequence[T], progress: Progress
    ) -> Iterator[tuple[int, R | EdgeLMError]]:
        """See `Executor`."""
        inputs = {path: describe(path) for path in dict.fromkeys(p for task in tasks for p in task.inputs)}
        blobs = self._sent(inputs)
        batch, waiting = uuid.uuid4().hex[:12], dict[Future, int]()
        try:
            for place, task in enumerate(tasks):
                mine = {path: inputs[path] for path in task.inputs}
                sent = {found.digest: blobs[found.digest] for found in mine.values() if found.digest in blobs}
                future = self._client.submit(
                    _do,
                    function,
                    task,
                    mine,
                    sent,
                    versions(),
                    self._topic,
                    key=f"edgelm-{batch}-{place}",
                    pure=False,
                    priority=-place,
                )
                waiting[future] = place
            while waiting:
                for future in self._some_done(list(waiting)):
                    place = waiting.pop(future)
                    yield place, _outcome(future, tasks[place].name)
                    future.release()
        finally:
            if waiting:
                self._client.cancel(list(waiting), force=True)

    def check_folder(self, folder: Path) -> None:
        """See `Executor`."""
        token = uuid.uuid4().hex
        mark = folder.absolute() / f".edgelm-{token}"
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(token)
        try:
            there = self._everyone(_sees, str(mark), token)
        finally:
            mark.unlink()
        for worker, sees in there.items():
            if not sees:
                raise ClusterError(
                    f"worker {worker} does not see {folder.absolute()}, where bundles are to be kept",
                    hint="give a folder that all workers share, at the same path",
                )

    def everywhere(self, function: Callable[..., Any], *args: Any) -> None:
        """See `Executor`."""
        self._everyone(function, *args)

    def _ready(self) -> list[str]:
        """Wait for a worker, and compare versions; what is to be said of the cluster."""
        until = time.monotonic() + _CONNECT
        while not self._threads():
            if time.monotonic() > until:
                raise ClusterError(
                    f"the scheduler {self._address} has no workers",
                    hint=f"start some: dask worker {self._address} --nthreads 1",
                )
            time.sleep(0.1)
        here, notes = versions(), list[str]()
        for worker, found in self._everyone(versions).items():
            check(here, found, worker)
            if found.features != here.features:
                notes.append(
                    f"worker {worker} has another kind of processor: its figures may differ in the last digits"
                )
        for worker, threads in self._threads().items():
            if threads > 1:
                notes.append(
                    f"worker {worker} has {threads} threads, and does one task at a time: start it with --nthreads 1"
                )
        return notes

    def _threads(self) -> Mapping[str, int]:
        """Threads of every worker, by its address."""
        try:
            found: Mapping[str, int] = self._client.nthreads()
        except (OSError, TimeoutError, RuntimeError) as error:
            raise ClusterError(f"the scheduler {self._address} is gone: {error}") from None
        return found

    def _everyone(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._client.run(function, *args)
        except ImportError as error:
            raise ClusterError(
                f"edgelm is not installed on a worker of {self._address}: {error}",
                hint="pip install 'edgelm[cluster,export]' there",
            ) from None
        except (OSError, TimeoutError, RuntimeError) as error:
            raise ClusterError(f"a worker of {self._address} does not answer: {error}") from None
        return found

    def _sent(self, inputs: Mapping[str, Input]) -> dict[str, Future]:
        """Bytes of small inputs that a worker has not, by their digest."""
        found = dict[str, Future]()
        for one in inputs.values():
            if one.size <= SMALL and not all(self._everyone(_has, one).values()):
                found[one.digest] = self._client.scatter(pack(one), broadcast=True, hash=False)
        return found

    def _some_done(self, futures: Sequence[Future]) -> list[Future]:
        """Wait until at least one of them is done.

        Raises:
            ClusterError: no worker is left, and none comes.
        """
        alone: float | None = None
        while True:
            with suppress(TimeoutError), self._client.as_current():
                distributed.wait(futures, timeout=_POLL, return_when="FIRST_COMPLETED")
            if done := [future for future in futures if future.done()]:
                return done
            if self._threads():
                alone = None
            elif alone is None:
                alone = time.monotonic()
            elif time.monotonic() - alone > _ALONE:
                raise ClusterError(
                    f"no worker of {self._address} is left",
                    hint="start some, and run it again: it goes on where it was",
                )


def _outcome(future: Future, name: str) -> Any:
    try:
        return future.result()
    except KilledWorker as error:
        hint = "was there memory enough? dask worker --memory-limit says how much it may take"
        return ClusterError(
            f"{name}: the workers that did it were lost, the last one {error.last_worker.address}", hint=hint
        )
    except (FutureCancelledError, OSError) as error:
        raise ClusterError(f"the scheduler has lost {name}: {error}", hint="run it again") from None


def _do(
    function: Callable[[Any, Progress], Any],
    task: Any,
    inputs: Mapping[str, Input],
    blobs: Mapping[str, bytes],
    expected: Versions,
    topic: str,
) -> Any:
    """On a worker: do a task; an error of edgelm's is an outcome."""
    worker = distributed.get_worker()
    with _one_at_a_time:
        told = _Told(worker, task.name, topic)
        try:
            check(expected, versions(), worker.address)
            return function(
                task.moved({p: located(found, blobs.get(found.digest)) for p, found in inputs.items()}), told
            )
        except EdgeLMError as error:
            return error
        finally:
            told.end()


def _has(wanted: Input) -> bool:
    """On a worker: whether an input is there."""
    try:
        located(wanted, None)
    except (ClusterError, OSError):
        return False
    return True


def _sees(path: str, token: str) -> bool:
    """On a worker: whether a file of the host's is there, and its folder may be written to."""
    try:
        return Path(path).read_text() == token and os.access(Path(path).parent, os.W_OK)
    except OSError:
        return False


class _Told(Progress):
    """Progress on a worker, told to the host now and then."""

    def __init__(self, worker: Any, task: str, topic: str) -> None:
        self._worker, self._task, self._topic = worker, task, topic
        self._stage, self._total, self._done, self._last = "", 0, 0, 0.0
        self._tell()

    def start(self, what: str, total: int) -> None:
        """A stage begins."""
        self._stage, self._total, self._done = what.removeprefix(f"{self._task}: "), total, 0
        self._tell()

    def advance(self, units: int, detail: str = "") -> None:
        """Some units are done."""
        self._done += units
        if time.monotonic() - self._last >= _EVERY:
            self._tell()

    def end(self) -> None:
        """The task is done."""
        self._task, self._stage, self._total = "", "", 0
        self._tell()

    def _tell(self) -> None:
        self._last = time.monotonic()
        share = min(1.0, self._done / self._total) if self._total > 0 else 0.0
        word = {"worker": self._worker.address, "task": self._task, "stage": self._stage, "share": share}
        self._worker.log_event(self._topic, word)
