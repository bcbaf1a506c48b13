"""Which format for which matrix: never over a budget, and as good as trying all of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.errors import ExportError
from edgelm.exporter.mixed.assignment import Frontier, frontier
from edgelm.exporter.mixed.budget import Budget
from edgelm.exporter.mixed.recipes import DEFAULT, Attempt, search

Options = list[list[tuple[int, float]]]

option = st.tuples(st.integers(0, 1000), st.integers(0, 1000).map(float))
options = st.lists(st.lists(option, min_size=1, max_size=4), min_size=1, max_size=5)


def totals(given: Options) -> list[tuple[int, float]]:
    """Bytes and loss of every assignment there is."""
    return [(sum(b for b, _ in picked), sum(x for _, x in picked)) for picked in itertools.product(*given)]


def at(found: Frontier, given: Options, point: int) -> tuple[int, float]:
    """Bytes and loss of a point, added up from its options."""
    picked = [own[number] for own, number in zip(given, found.choice(point), strict=True)]
    return sum(b for b, _ in picked), sum(x for _, x in picked)


@given(options, st.integers(0, 5000))
def test_the_least_loss_within_bytes_is_that_of_trying_all(given: Options, most: int) -> None:
    found = frontier(given)
    fitting = [(loss, size) for size, loss in totals(given) if size <= most]
    point = found.within_bytes(most)
    if not fitting:
        assert point is None
        return
    assert point is not None
    size, loss = at(found, given, point)
    assert size <= most
    assert (loss, size) == min(fitting)
    assert (size, loss) == (found.nbytes[point], found.loss[point])


@given(options, st.integers(0, 5000))
def test_the_fewest_bytes_within_a_loss_are_those_of_trying_all(given: Options, most: int) -> None:
    found = frontier(given)
    fitting = [pair for pair in totals(given) if pair[1] <= most]
    point = found.within_loss(most)
    assert (point is None) == (not fitting)
    if point is not None:
        assert at(found, given, point) == min(fitting)


@given(options, st.integers(0, 5000), st.integers(3, 12))
def test_where_points_are_left_out_budgets_are_kept_all_the_same(given: Options, most: int, points: int) -> None:
    found = frontier(given, points)
    assert len(found.nbytes) <= points
    smallest, best = min(totals(given)), min(totals(given), key=lambda pair: (pair[1], pair[0]))
    assert at(found, given, 0) == smallest
    assert at(found, given, len(found.nbytes) - 1) == best
    point = found.within_bytes(most)
    assert (point is None) == (smallest[0] > most)
    if point is not None:
        assert at(found, given, point)[0] <= most


def test_a_large_model_stays_close_to_what_can_be_had() -> None:
    """Against the bound of the linear relaxation: a model of 200 matrices loses hardly more."""
    given = [[(100_000 + 977 * i, 4.0 + i), (170_001 + 990 * i, 0.5 + i / 9), (400_000, 0.0)] for i in range(200)]
    found = frontier(given)
    for most in (40_000_000, 50_000_000, 60_000_000):
        point = found.within_bytes(most)
        assert point is not None
        size, loss = at(found, given, point)
        assert size <= most
        bound = max(
            sum(min(x + price * b for b, x in own) for own in given) - price * most
            for price in (10.0**-exponent for exponent in [i / 20 for i in range(40, 160)])
        )
        assert loss <= 1.02 * bound


@dataclass
class Writing:
    """Candidates over a frontier, whose bundles lose `factor` times what is predicted."""

    frontier: Frontier
    factor: float
    rest: int = 100
    default_loss: float | None = None
    written: list[int] = field(default_factory=list)
    target: Any = field(default_factory=lambda: SimpleNamespace(name="board", recipes={}, recipe=lambda: 0))

    @property
    def last(self) -> int:
        return len(self.frontier.nbytes) - 1

    def recipe(self, point: int) -> int:
        return point if point != DEFAULT else self.last

    def weigh(self, recipe: int) -> int:
        return int(self.frontier.nbytes[recipe]) + self.rest

    def write(self, point: int) -> Attempt:
        self.written.append(point)
        return Attempt(point, self.weigh(self.recipe(point)), float(self.factor * self.frontier.loss[point]))


@given(options, st.floats(0.3, 3), st.floats(0.1, 3000))
def test_what_is_measured_corrects_what_was_predicted(given: Options, factor: float, most: float) -> None:
    candidates = Writing(frontier(given), factor)
    reachable = factor * candidates.frontier.loss[-1] <= most
    if not reachable:
        with pytest.raises(ExportError, match=r"no recipe of board reaches --max-kld .*: the best, .* has a KLD of"):
            search(candidates, Budget(kld=most), candidates.weigh, candidates.write)  # type: ignore[arg-type]
        return
    found = search(candidates, Budget(kld=most), candidates.weigh, candidates.write)  # type: ignore[arg-type]
    assert found.kld is not None
    assert found.kld <= most
    assert candidates.written[-1] == found.point, "what was written last stays"
    enough = candidates.frontier.within_loss(0.85 * most / factor)
    assert enough is None or found.size <= candidates.weigh(enough)


@given(options, st.integers(100, 5000), st.floats(0.1, 3000))
@settings(max_examples=60)
def test_two_limits_are_both_kept_or_neither(given: Options, size: int, most: float) -> None:
    candidates = Writing(frontier(given), 1.0)
    fits = candidates.frontier.within_bytes(size - candidates.rest)
    if fits is None or candidates.frontier.loss[fits] > most:
        with pytest.raises(ExportError, match="no recipe of board"):
            search(candidates, Budget(size, most), candidates.weigh, candidates.write)  # type: ignore[arg-type]
        return
    found = search(candidates, Budget(size, most), candidates.weigh, candidates.write)  # type: ignore[arg-type]
    assert found.size <= size
    assert found.kld is not None
    assert found.kld <= most


@given(options, st.integers(100, 5000))
@settings(max_examples=60)
def test_a_limit_of_bytes_is_used_up_by_what_loses_least(given: Options, size: int) -> None:
    candidates = Writing(frontier(given), 1.0)
    fits = candidates.frontier.within_bytes(size - candidates.rest)
    if fits is None:
        with pytest.raises(ExportError, match=r"no recipe of board keeps --max-size .*: the smallest takes"):
            search(candidates, Budget(size), candidates.weigh, candidates.write)  # type: ignore[arg-type]
    else:
        assert search(candidates, Budget(size), candidates.weigh, candidates.write).point == fits  # type: ignore[arg-type]
    assert len(candidates.written) == (fits is not None), "written once"


@pytest.mark.parametrize(("default", "taken"), [(50.0, DEFAULT), (60.0, 1), (None, 1)])
def test_a_mixture_that_loses_hardly_less_than_the_default_is_not_taken(default: float | None, taken: int) -> None:
    candidates = Writing(frontier([[(10, 100.0), (20, 49.0)]]), 1.0, default_loss=default)
    assert search(candidates, Budget(200), candidates.weigh, candidates.write).point == taken  # type: ignore[arg-type]
