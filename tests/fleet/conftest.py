"""Plans of boards that are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgelm.fleet.plan import Plan, read_plan

BUNDLE = Path(__file__).parents[1] / "frozen" / "format1"


@pytest.fixture
def write_plan(tmp_path: Path) -> Callable[[str], Path]:
    """A plan's file; BUNDLE in it stands for a bundle that is there."""

    def write(text: str) -> Path:
        path = tmp_path / "boards.toml"
        path.write_text(text.replace("BUNDLE", str(BUNDLE)))
        return path

    return write


@pytest.fixture
def plan(write_plan: Callable[[str], Path]) -> Callable[..., Plan]:
    """A plan of so many boards, which has no patience."""

    def make(boards: int, more: str = "") -> Plan:
        places = "".join(f'[boards.b{i}]\nplace = "ssh:pi@b{i}"\n' for i in range(boards))
        return read_plan(write_plan(f'retry_delay = 0\nbundles = ["BUNDLE"]\n{more}\n{places}'))

    return make
