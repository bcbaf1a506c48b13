"""lm-evaluation-harness where it is not installed; with it: tests/test_lm_eval.py."""

from __future__ import annotations

import runpy
import sys

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


def test_running_does_too():
    with pytest.raises(SystemExit, match=r"error: lm-evaluation-harness cannot be loaded.*\nhint: pip install"):
        runpy.run_module("edgelm.lm_eval", run_name="__main__")
