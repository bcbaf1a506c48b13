"""One try of a job: the same `edgelm bench` that one would type, as a process of its own, and what it said."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

from edgelm.errors import FleetError
from edgelm.fleet.jobs import Job
from edgelm.json_text import json_value
from edgelm.results.store import SWITCH

_libc = ctypes.CDLL(None)  # before a process is forked, which must not load anything
_GRACE = 8.0  # seconds in which a process that is to end may tidy up the board
Says = Callable[[str], None]


@dataclass
class Processes:
    """Those that are running, so that all of them can be ended."""

    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    ended: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, args: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start edgelm with arguments.

        Raises:
            FleetError: no more are to be started.
        """
        # What is measured is kept by the fleet, with the job's name.
        environment = os.environ | {SWITCH: "off", "EDGELM_PROGRESS": "lines"}
        with self._lock:
            if self.ended:
                raise FleetError("interrupted")
            process = subprocess.Popen(
                [sys.executable, "-m", "edgelm", *args],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C comes from here, once
                preexec_fn=_end_with_parent,
            )
            self.running.add(process)
        return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        """It has ended."""
        with self._lock:
            self.running.discard(process)

    def end(self) -> None:
        """End all, as Ctrl-C would; those that do not are killed. None is started from now on."""
        with self._lock:
            self.ended, running = True, list(self.running)
        for process in running:
            _signal(process, signal.SIGINT)
        until = time.monotonic() + _GRACE
        for process in running:
            if not _waited(process, until - time.monotonic()):
                _signal(process, signal.SIGKILL)
                _waited(process, 2)


def _end_with_parent() -> None:
    """In a new process: Ctrl-C ends it, also where a shell let this one ignore it, and the kernel sends it if this one dies.

    The signal comes with the end of the thread that starts the process, which waits for it.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _libc.prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


def attempt(job: Job, timeout: float, processes: Processes, says: Says) -> Mapping[str, Any]:
    """Run a job once.

    Args:
        job: what.
        timeout: seconds it may take.
        processes: it is among these while it runs.
        says: is told every line of its progress.

    Returns:
        the report, as ``edgelm bench -o json`` writes it.

    Raises:
        FleetError: it failed, took too long, or was ended; in its own words.
    """
    until = time.monotonic() + timeout
    for args in job.steps():
        out = _run(args, until - time.monotonic(), timeout, processes, says)
    return _report(out)


def _run(args: Sequence[str], left: float, timeout: float, processes: Processes, says: Says) -> bytes:
    """Run a command, of whose time `left` seconds are left; what it printed."""
    process = processes.start(args)
    said = list[str]()
    reader = threading.Thread(target=_read, args=(process.stderr, said, says), daemon=True)
    out = list[bytes]()
    collector = threading.Thread(target=_collect, args=(process.stdout, out), daemon=True)
    reader.start()
    collector.start()
    try:
        if not _waited(process, left):
            _signal(process, signal.SIGINT)
            if not _waited(process, _GRACE):
                _signal(process, signal.SIGKILL)
                _waited(process, 2)
            raise FleetError(f"took longer than {timeout:g} seconds", hint="timeout in the plan says how long it may")
    finally:
        processes.forget(process)
        reader.join(2)
        collector.join(2)
    if process.returncode:
        raise _failure(process.returncode, said)
    return b"".join(out)


def _report(data: bytes) -> Mapping[str, Any]:
    try:
        report = json_value(data, constants=True)
    except ValueError:
        report = None
    if not isinstance(report, dict):
        raise FleetError("ended without a report")
    return report


def _failure(code: int, said: list[str]) -> FleetError:
    """The last error in what a process said."""
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    hints = [line.removeprefix("hint: ") for line in said if line.startswith("hint: ")]
    if errors:
        return FleetError(errors[-1], hint=hints[-1] if hints else None)
    last = f": {said[-1]}" if said else ""
    return FleetError(f"ended with {code}{last}")


def _read(source: IO[bytes] | None, said: list[str], says: Says) -> None:
    assert source is not None
    for line in source:
        text = line.decode(errors="replace").strip()
        if text:
            said.append(text)
            del said[:-50]
            says(text)


def _collect(source: IO[bytes] | None, out: list[bytes]) -> None:
    assert source is not None
    out.append(source.read())


def _waited(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process has ended within so many seconds."""
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return False
    return True


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
