"""A search that takes a moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgelm.tuning import rig
from edgelm.tuning.search import BUDGETS


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Turns of a moment, and a folder of profiles."""
    for goal, budget in list(BUDGETS.items()):
        short = replace(budget, turn=0.001, rounds=2, final=2, hot=0.01 if budget.hot else 0.0)
        monkeypatch.setitem(BUDGETS, goal, short)
    monkeypatch.setattr(rig, "_WARM", 0.0)
    monkeypatch.setenv("EDGELM_PROFILES", str(tmp_path / "profiles"))
    return tmp_path / "profiles"
