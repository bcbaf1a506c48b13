"""Reports and rows as edgelm bench makes them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from bench_report import REPORT

from edgelm.results.row import Row, of_report


@pytest.fixture
def report() -> dict[str, Any]:
    return copy.deepcopy(REPORT)


@pytest.fixture
def row(report: dict[str, Any]) -> Callable[..., Row]:
    """``row(avg_ts=40.0, run="b")``: a decode test, some of it changed."""
    from dataclasses import replace

    (_, decode) = of_report(report, "a", "2026-11-29T18:00:00+00:00", "here")
    return lambda **changed: replace(decode, **changed)
