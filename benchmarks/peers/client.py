"""The coordinator's end of a worker process."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.engines import EngineSpec

ROOT = Path(__file__).parents[2]
_PATIENCE = 1800  # seconds for one answer
_QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "ORT_DISABLE_TELEMETRY": "1"}


class WorkerError(Exception):
    """A worker that cannot go on; the text says why."""


class Worker:
    """One engine in a process of its own. It only runs while it is asked something: otherwise it is stopped.

    A stopped process computes nothing at all, so that threads which spin for a while after their work, as onnxruntime's
    and OpenMP's do, take nothing from the engine whose turn it is.

    Attributes:
        version: of the engine.
        import_seconds: what importing its library took.
    """

    def __init__(self, spec: EngineSpec, python: str) -> None:
        environment = {**os.environ, **_QUIET, "PYTHONPATH": str(ROOT), "PEERS_WEIGHTS": spec.weights}
        environment["PEERS_OPTIONS"] = " ".join(spec.options)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.peers.worker", spec.worker],
                cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            )  # fmt: skip
        except OSError as error:
            self._errors.close()
            raise WorkerError(f"{python} cannot be started: {error.strerror}") from None
        try:
            facts = self._answer()
        except BaseException:
            self.close()
            raise
        self.version, self.import_seconds = str(facts["version"]), float(facts["import_seconds"])
        self._stop()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Wake it, ask, wait for the answer, stop it.

        Raises:
            WorkerError: it failed, ended, or took half an hour.
        """
        os.kill(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerError(self._last_words()) from None
        answer = self._answer()
        self._stop()
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()  # also ends one that is stopped
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # what was not written yet finds no reader
                    continue

    def _stop(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(_PATIENCE):
                raise WorkerError(f"no answer in {_PATIENCE} seconds")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        facts: dict[str, Any] = json.loads(line)
        if "error" in facts:
            raise WorkerError(facts["error"])
        return facts

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"the worker ended ({ended}): {lines[-1] if lines else 'no message'}"


@contextmanager
def worker(spec: EngineSpec, python: str) -> Iterator[Worker]:
    """A worker for the time of a with block."""
    process = Worker(spec, python)
    try:
        yield process
    finally:
        process.close()
