"""lm-evaluation-harness where it is not installed; with it: tests/test_lm_eval.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgelm.errors import DependencyError


@pytest.fixture(autouse=True)
def no_harness(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval" or name == "edgelm.lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)


def test_importing_names_what_to_install():
    with pytest.raises(DependencyError, match="lm-evaluation-harness cannot be loaded") as caught:
        import edgelm.lm_eval  # noqa: F401
    assert caught.value.hint == "pip install 'edgelm[lm-eval]'"


def test_running_does_too(tmp_path: Path) -> None:
    (tmp_path / "lm_eval.py").touch()  # is found in place of an installed one, and is not it
    command = [sys.executable, "-m", "edgelm.lm_eval", "--tasks", "x"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.fullmatch(r"error: lm-evaluation-harness cannot be loaded.*\nhint: pip install.*\n", ended.stderr)
