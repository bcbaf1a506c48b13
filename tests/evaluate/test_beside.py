"""Two models on one task: differences, their errors, what changed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from edgelm.evaluate import comparison
from edgelm.evaluate.comparison import Comparison
from edgelm.evaluate.outcome import Metric, Outcome, TaskResult

ACC = Metric("acc")


def result(right: list[int], answers: list[int] | None = None, kinds: str = "") -> TaskResult:
    outcomes = tuple(
        Outcome(n + 1, {"kind": kinds[n]} if kinds else {}, {"acc": float(r)}, a, bool(r), "q", "e", str(a))
        for n, (r, a) in enumerate(zip(right, answers or right, strict=True))
    )
    return TaskResult("multiple choice", (ACC,), outcomes)


def test_differences_and_changes():
    both = Comparison(
        result([1, 1, 0, 0, 1], [0, 0, 1, 2, 0], "aabbb"), result([1, 0, 1, 0, 1], [0, 3, 0, 1, 0], "aabbb")
    )
    found = both.difference(ACC)
    assert (found.base.value, found.quantised.value, found.value) == (0.6, 0.6, 0.0)
    assert found.error == pytest.approx(np.std([0, -1, 1, 0, 0]) / math.sqrt(5))
    assert (len(both.changed), both.lost, both.gained) == (3, 1, 1)
    parts = both.parts("kind")
    assert {name: part.difference(ACC).value for name, part in parts.items()} == {"a": -0.5, "b": pytest.approx(1 / 3)}
    facts = both.to_dict()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["groups"]["kind"]["a"] == {
        "total": 2,
        "changed": 1,
        "lost": 1,
        "gained": 0,
        "metrics": {"acc": parts["a"].difference(ACC).to_dict()},
    }


def test_the_interval_is_that_of_a_paired_bootstrap():
    random = np.random.default_rng(0)
    before, after = random.integers(0, 2, (2, 200)).tolist()
    low, high = Comparison(result(before), result(after)).difference(ACC).interval
    change = np.array(after) - np.array(before)
    expected = stats.bootstrap((change,), np.mean, method="percentile", n_resamples=2000, rng=1).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert low < change.mean() < high


def test_the_seed_decides_the_interval():
    before, after = result([0, 1] * 30), result([1, 0, 1] * 20)
    intervals = [Comparison(before, after, seed).difference(ACC).interval for seed in (0, 0, 1)]
    assert intervals[0] == intervals[1]
    assert intervals[0] != intervals[2]


def test_no_change_has_no_interval():
    both = Comparison(result([0, 1, 1]), result([0, 1, 1]))
    assert (both.difference(ACC).interval, both.difference(ACC).error, both.changed) == ((0.0, 0.0), 0.0, [])


def test_many_items_are_drawn_in_pieces(monkeypatch):

    both = Comparison(result([0, 1] * 30), result([1, 0, 1] * 20))
    whole = both.difference(ACC).interval
    monkeypatch.setattr(comparison, "_AT_ONCE", 100)
    assert both.difference(ACC).interval == pytest.approx(whole, abs=0.05)
