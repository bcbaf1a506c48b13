"""Running command lines: in this process, and as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from command_line import Ended

from edgelm.cli import main

SHELL_ENV = {**os.environ, "PYTHONUNBUFFERED": ""}


@pytest.fixture
def edgelm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs a command line in this process: `edgelm("run", bundle, …)` → (exit code, stdout, stderr)."""
    import warnings

    monkeypatch.delenv("EDGELM_DEBUG", raising=False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which main replaces

    def run(*args: object) -> Ended:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[bytes]]:
    """Starts a program of its own: Python with these arguments, stdout and stderr on pipes."""

    def run(*args: object, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        command: Sequence[str] = [sys.executable, *map(str, args)]
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=SHELL_ENV)

    return run
