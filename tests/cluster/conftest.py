"""A Dask cluster: two workers in this process, or three processes on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

distributed = pytest.importorskip("distributed")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Of a scheduler with two workers, all in this process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, memory_limit=0
    ) as cluster:
        yield cluster.scheduler_address


class Processes:
    """A scheduler and workers as processes of their own, on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, dict[str, subprocess.Popen[bytes]]()
        self.address = ""

    def start(self, name: str, *args: str, module: str) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{name}.log").open("wb")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", module, *args]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder)
        self.started[name] = process
        return process

    def begin(self, workers: int) -> None:
        file = self.folder / "scheduler.json"
        options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        self.start("scheduler", *options, module="distributed.cli.dask_scheduler")
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]
        for number in range(workers):
            self.worker(f"worker{number}")

    def worker(self, name: str) -> None:
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--host", "127.0.0.1")
        self.start(name, self.address, *options, "--name", name, module="distributed.cli.dask_worker")

    def end(self) -> None:
        for process in self.started.values():
            process.kill()  # asked to end, a worker waits for a scheduler that is gone
        for process in self.started.values():
            process.wait(10)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Three worker processes."""
    found = Processes(tmp_path)
    try:
        found.begin(3)
        yield found
    finally:
        found.end()
